import copy
import typing

import numpy as np
import pydantic
import pytest
import torch
from torch import nn

from lop_ray.diagnostics import DIAGNOSTICS, DiagnosticSuite
from lop_ray.diagnostics.losses import squared_error
from lop_ray.diagnostics.ranks import RankName
from lop_ray.diagnostics.registry import find_diagnostic
from lop_ray.networks import MLP, NetworkOptions
from lop_ray.results import Store, read_table, schema_of

DEFAULT = {"margins": {}, "dormant": {}, "ranks": {}, "weights": {}}


def networks(**options: object) -> dict[str, nn.Module]:
    chosen = NetworkOptions.model_validate({"hidden": (16, 8), **options})
    return {name: MLP(4, size, chosen, seed=3, name=name) for name, size in [("policy", 2), ("value", 1)]}


def observations(samples: int = 50) -> torch.Tensor:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))


def test_a_row_per_network_and_layer_with_the_columns_of_all_diagnostics():
    nets = networks()
    extra = {"before": copy.deepcopy(nets)}
    rows = DiagnosticSuite(DEFAULT).measure(update=10, networks=nets, observations=observations(), extra=extra)
    assert [(row["network"], row["layer"], row["units"]) for row in rows.layers] == [
        ("policy", 0, 16),
        ("policy", 1, 8),
        ("value", 0, 16),
        ("value", 1, 8),
    ]
    promised = "units dead at_risk always_on selective mean_margin dormant activity stable_rank effective_rank "
    promised += "feature_rank weight_magnitude silent activation_rate weight_change network layer"
    assert set(promised.split()) <= set(rows.layers[0])
    assert [(row["network"], row["layer"], len(row["margin"])) for row in rows.neurons] == [
        ("policy", 0, 16),
        ("policy", 1, 8),
        ("value", 0, 16),
        ("value", 1, 8),
    ]
    assert set(rows.tables()) == {"layers", "neurons"}
    assert rows.seconds > 0


def test_each_diagnostic_is_measured_when_it_is_due():
    suite = DiagnosticSuite({"margins": {"every": 2, "neurons_every": 4}, "ranks": {"every": 3}})
    assert [suite.due(update) for update in range(7)] == [True, False, True, True, True, False, True]
    nets = networks()
    columns = {}
    for update in range(7):
        rows = suite.measure(update=update, networks=nets, observations=observations())
        columns[update] = (
            {"dead" in row for row in rows.layers},
            {"stable_rank" in row for row in rows.layers},
            len(rows.neurons),
        )
    assert columns[1] == (set(), set(), 0)
    assert columns[2] == ({True}, {False}, 0)
    assert columns[3] == ({False}, {True}, 0)
    assert columns[4] == ({True}, {False}, 4)
    assert columns[6] == ({True}, {True}, 0)


def test_the_forward_pass_is_made_once_per_network():
    nets = networks()
    passes = dict.fromkeys(nets, 0)
    for name, network in nets.items():
        network.register_forward_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    DiagnosticSuite(DEFAULT).measure(update=0, networks=nets, observations=observations())
    assert passes == {"policy": 1, "value": 1}


def test_the_buffer_is_as_large_as_the_largest_need():
    assert DiagnosticSuite({"margins": {"samples": 20}, "ranks": {"samples": 40}, "weights": {}}).samples == 40
    assert DiagnosticSuite(DEFAULT).samples == 1000
    assert DiagnosticSuite({"weights": {}}).samples == 0


def test_each_diagnostic_looks_at_its_own_number_of_samples():
    nets, seen = networks(), observations(50)
    both = DiagnosticSuite({"margins": {"samples": 7}, "ranks": {"samples": 30}})
    rows = both.measure(update=0, networks=nets, observations=seen).layers
    margins = DiagnosticSuite({"margins": {}}).measure(update=0, networks=nets, observations=seen[-7:]).layers
    ranks = DiagnosticSuite({"ranks": {}}).measure(update=0, networks=nets, observations=seen[-30:]).layers
    assert rows == [pytest.approx({**a, **b}) for a, b in zip(margins, ranks, strict=True)]


# Small enough to run together; anything registered and not named here runs with its defaults.
SMALL: dict[str, dict[str, object]] = {
    "gradient_covariance": {"clusters": 2},
    "hessian_density": {"order": 4},
    "top_eigenvalues": {"k": 1},
    "probe": {"targets": 2, "steps": 3},
}
ALL = {name: {"every": 1, **SMALL.get(name, {})} for name in DIAGNOSTICS}


def everything_wanted(nets: dict[str, nn.Module], seen: torch.Tensor) -> dict[str, object]:
    batches = {
        name: {"inputs": seen, "targets": torch.zeros(len(seen), size)} for name, size in [("policy", 2), ("value", 1)]
    }
    optimizer = torch.optim.Adam([p for network in nets.values() for p in network.parameters()], lr=1e-3)
    return {
        "losses": dict.fromkeys(nets, squared_error),
        "batches": batches,
        "before": copy.deepcopy(nets),
        "initial": copy.deepcopy(nets),
        "optimizers": dict.fromkeys(nets, optimizer),
        "ratios": {"policy": torch.ones(len(seen))},
    }


@pytest.mark.parametrize("kind", ["plain", "layernorm", "spectral_norm"])
@pytest.mark.parametrize("options", [DEFAULT, ALL], ids=["default", "all"])
def test_measuring_changes_nothing(options, kind):
    nets = networks(normalisation="layernorm" if kind == "layernorm" else "none")
    if kind == "spectral_norm":
        for network in nets.values():
            nn.utils.parametrizations.spectral_norm(network.body[0])
    nets["value"].eval()
    nets["policy"].body[1].eval()
    seen = observations()
    extra = everything_wanted(nets, seen)
    for network in nets.values():
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
    state = {name: copy.deepcopy(network.state_dict()) for name, network in nets.items()}
    modes = {name: [module.training for module in network.modules()] for name, network in nets.items()}
    hooks = {name: [len(module._forward_hooks) for module in network.modules()] for name, network in nets.items()}
    seen_before, random, numpy_random = seen.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()
    rows = DiagnosticSuite(options).measure(update=0, networks=nets, observations=seen, extra=extra)
    assert len(rows.layers) == 4
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_random).all()
    assert torch.equal(seen, seen_before)
    assert not seen.requires_grad
    for name, network in nets.items():
        assert all(torch.equal(value, state[name][key]) for key, value in network.state_dict().items())
        assert [module.training for module in network.modules()] == modes[name]
        assert [len(module._forward_hooks) for module in network.modules()] == hooks[name]
        assert all(torch.equal(p.grad, torch.ones_like(p)) for p in network.parameters())
        assert all(p.requires_grad for p in network.parameters())


def test_all_diagnostics_fill_their_tables_for_the_networks_that_have_what_they_need():
    nets, seen = networks(), observations()
    rows = DiagnosticSuite(ALL, seed=5).measure(
        update=0, networks=nets, observations=seen, extra=everything_wanted(nets, seen)
    )
    probes = {(row["network"], row["probe"]) for row in rows.probes}
    assert ("policy", "trust_region") in probes
    assert ("value", "trust_region") not in probes  # it has no ratios
    assert {("value", "hessian_density"), ("value", "probe_functions"), ("policy", "churn")} <= probes
    assert all(row.keys() == {"network", "probe", "metric", "value"} for row in rows.probes)
    assert all(row.keys() == {"network", "spectrum", "layer", "x", "y"} for row in rows.spectra)
    assert all(row.keys() == rows.layers[0].keys() for row in rows.layers)


MOST: dict[str, dict[str, object]] = {  # what writes more columns and rows than the defaults
    "margins": {"neurons_every": 1},
    "ranks": {"kinds": typing.get_args(RankName), "spectra_every": 1},
    "weight_spectrum": {"store": True},
    "input_curvature": {"store": True},
}


def test_every_column_of_every_diagnostic_is_in_the_store(tmp_path):
    nets, seen = networks(), observations()
    written = {}
    for kind in ("functions", "labels"):
        options = {name: {**values, **MOST.get(name, {})} for name, values in ALL.items()}
        options["probe"] |= {"kind": kind}
        suite = DiagnosticSuite(options)
        rows = suite.measure(update=1, networks=nets, observations=seen, extra=everything_wanted(nets, seen))
        trial = Store(tmp_path, kind).trial_writer("t1")
        for table, some in rows.tables().items():
            trial.append_many(table, [{"update": 1, "env_steps": 50, "task": 0, **row} for row in some])
        trial.close()
        for table, some in rows.tables().items():
            back = read_table(tmp_path, kind, table).to_pylist()
            for row, expected in zip(back, some, strict=True):
                assert repr({key: row[key] for key in expected}) == repr(expected)  # repr: NaN equals NaN
            written[table] = written.get(table, set()) | {key for row in some for key in row}
    assert set(written) == {"layers", "neurons", "probes", "spectra"}
    # And no column of `layers` that no diagnostic fills.
    assert written["layers"] == set(schema_of("layers").names) - {"trial_id", "update", "env_steps", "task"}


def test_measuring_twice_gives_the_same_rows():
    nets = networks()
    first, second = (
        DiagnosticSuite(DEFAULT).measure(update=0, networks=nets, observations=observations()) for _ in "ab"
    )
    assert first.tables() == second.tables()


def test_needs_name_what_the_due_diagnostics_want():
    suite = DiagnosticSuite({"margins": {}, "weights": {"every": 2}})
    assert suite.needs(1) == frozenset()
    assert suite.needs(2) == {"before", "initial"}


def test_what_was_remembered_before_the_update_is_compared_with():
    nets, suite = networks(), DiagnosticSuite({"weights": {}, "predictive_margins": {"every": 2}})
    suite.remember(2, nets)
    with torch.no_grad():
        nets["policy"].body[0].weight += 0.25
        nets["policy"].body[0].bias -= 1000.0
    rows = suite.measure(update=2, networks=nets, observations=observations()).layers
    assert [row["weight_change"] for row in rows] == pytest.approx([0.25 * 64, 0.0, 0.0, 0.0], rel=1e-6)
    assert rows[0]["died"] + rows[0]["predictive_dead"] == 16
    assert [row["died"] for row in rows[2:]] == [0, 0]
    later = suite.measure(update=3, networks=nets, observations=observations()).layers
    assert "weight_change" not in later[0]


def test_what_is_needed_and_not_given_is_named():
    with pytest.raises(
        ValueError, match=r"predictive_margins needs extra\['before'\] for at least one of the networks policy"
    ):
        DiagnosticSuite({"predictive_margins": {}}).measure(update=0, networks=networks(), observations=observations())


def test_unknown_diagnostics_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown diagnostic 'margin'; did you mean 'margins'"):
        DiagnosticSuite({"margin": {}})
    with pytest.raises(pydantic.ValidationError, match="evry"):
        DiagnosticSuite({"margins": {"evry": 2}})
    with pytest.raises(pydantic.ValidationError, match="greater than or equal to 1"):
        DiagnosticSuite({"margins": {"every": 0}})


def test_a_network_without_a_view_is_told_how_to_get_one():
    with pytest.raises(TypeError, match=r"give it a method hidden_layers\(\)"):
        DiagnosticSuite({"margins": {}}).measure(update=0, networks={"q": nn.Linear(4, 2)}, observations=observations())


def test_non_finite_observations_name_diagnostic_network_and_update():
    seen = observations()
    seen[3, 1] = float("nan")
    with pytest.raises(ValueError, match="diagnostic margins of network policy, update 7: pre-activations hold NaN"):
        DiagnosticSuite({"margins": {}}).measure(update=7, networks=networks(), observations=seen)


@pytest.mark.parametrize("name", list(DIAGNOSTICS))
def test_every_registered_diagnostic_is_found_under_its_name(name):
    diagnostic = find_diagnostic(name)
    assert diagnostic.name == name
    assert diagnostic.options is DIAGNOSTICS[name]
    assert diagnostic.options().every >= 1
