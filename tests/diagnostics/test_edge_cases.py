"""Every registered diagnostic at the edges: one sample, samples that are all the same, dead networks, damaged input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from lop_ray.diagnostics import DIAGNOSTICS, DiagnosticSuite
from lop_ray.diagnostics.suite import Rows
from lop_ray.networks import HiddenLayer, hidden_layers, outgoing_columns, record
from tests.diagnostics.conftest import NETWORKS

# Small enough to run together; anything registered and not named here runs with its defaults.
SMALL: dict[str, dict[str, object]] = {
    "gradient_covariance": {"clusters": 2},
    "hessian_density": {"order": 4},
    "top_eigenvalues": {"k": 1},
    "ranks": {"ratio": 0, "kinds": ["stable_rank", "effective_rank", "feature_rank", "pca_rank", "covariance_rank",
                                    "numerical_rank", "relative_rank"]},
    "probe": {"targets": 2, "steps": 3},
}  # fmt: skip
NOT_LOOKING = ("weights", "weight_spectrum", "spectral_norm_error", "trust_region")
LOOKING = [name for name in DIAGNOSTICS if name not in NOT_LOOKING]
LOSSES = [name for name in DIAGNOSTICS if "loss" in DIAGNOSTICS[name].model_fields]


def measure(name: str, network: nn.Module, inputs: Tensor, before: nn.Module | None = None) -> Rows:
    """On one network, with everything that a diagnostic may ask for."""
    options = {"every": 1, **SMALL.get(name, {})}
    if name in LOSSES:
        options["loss"] = "perturbed_output"
    extra = {
        "before": {"q": copy.deepcopy(network) if before is None else before},
        "initial": {"q": copy.deepcopy(network)},
        "optimizers": {"q": torch.optim.Adam(network.parameters(), lr=1e-3)},
        "ratios": {"q": torch.ones(len(inputs))},
    }
    return DiagnosticSuite({name: options}).measure(update=1, networks={"q": network}, observations=inputs, extra=extra)


def numbers(rows: Rows) -> dict[str, float]:
    """Every number by column and layer, or by probe and metric."""
    found = {
        f"{column} {row['layer']}": row[column]
        for row in rows.layers
        for column in row
        if column not in ("network", "layer", "units", "rank_refusal")
    }
    return found | {f"{row['probe']} {row['metric']}": row["value"] for row in rows.probes}


@pytest.fixture(params=["mlp", "layernorm", "conv"])
def case(request) -> tuple[nn.Module, Tensor]:
    make, shape = NETWORKS[request.param]
    return make(), torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))


def kill(layer: HiddenLayer) -> None:
    """Every unit of the layer is below zero on every input of moderate size."""
    with torch.no_grad():
        (layer.normalisation or layer.incoming).bias.fill_(-1e4)


def hands_on_nothing(layer: HiddenLayer) -> None:
    with torch.no_grad():
        for reader in layer.readers:
            outgoing_columns(reader, layer.units).zero_()


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_one_sample_is_enough(name, case):
    network, inputs = case
    found = numbers(measure(name, network, inputs[:1]))
    # One sample has no pairs, and no noise among gradients.
    unknown = {"gradient_covariance negative_share", "gradient_covariance mean_cosine"}
    for key, value in found.items():
        assert math.isnan(value) == (key in unknown), key
        assert math.isfinite(value) or key in unknown or key.startswith(("gradient_snr", "condition_number")), key


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_samples_that_are_all_the_same_are_no_trouble(name, case):
    network, inputs = case
    found = numbers(measure(name, network, inputs[:1].repeat(6, *[1] * (inputs.ndim - 1))))
    assert not [key for key, value in found.items() if math.isnan(value)]
    flat = inputs.ndim == 2  # a convolution's positions differ
    for layer in (0, 1):
        if name == "ranks" and (flat or layer == 1):
            any_active = int(bool((record(network, inputs[:1]).activations[layer] != 0).any()))
            assert found[f"effective_rank {layer}"] == pytest.approx(any_active, abs=1e-4)
            assert found[f"stable_rank {layer}"] == found[f"numerical_rank {layer}"] == any_active
        if name == "features" and (flat or layer == 1):
            assert found[f"duplicates {layer}"] == 0


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_a_network_whose_units_are_all_dead_is_measured(name, case):
    network, inputs = case
    for layer in hidden_layers(network):
        kill(layer)
    found = numbers(measure(name, network, inputs))
    assert not [key for key, value in found.items() if math.isnan(value)]
    units = [layer.units for layer in hidden_layers(network)]
    expected = {
        "margins": {"dead": units, "at_risk": [0, 0], "always_on": [0, 0], "selective": [0, 0]},
        "dormant": {"dormant": units, "silent": units, "activity": [0, 0], "activation_rate": [0, 0]},
        "features": {"never_active": units, "duplicates": [0, 0], "sparsity": [1, 1], "saturation": [1, 1]},
        "predictive_margins": {"predictive_dead": units, "died": [0, 0], "revived": [0, 0]},
        "ranks": {"stable_rank": [0, 0], "effective_rank": [0, 0], "feature_rank": [0, 0], "numerical_rank": [0, 0]},
        "gradients": {"gradient_norm": [0, 0], "gradient_snr": [0, 0]},
        "kfac_ranks": {"kfac_gradient_rank": [0, 0], "kfac_gradient_effective_rank": [0, 0]},
    }
    for column, values in expected.get(name, {}).items():
        assert [found[f"{column} {layer}"] for layer in (0, 1)] == values
    if name == "hessian_density":
        assert found["hessian_density dead_units"] == sum(units)
        # Everything is flat but the head's two biases; a LayerNorm couples its units, so there only its scales and
        # shifts and what reads dead units are counted: 4 x 6 + 6 weights and biases and 5 biases are left.
        normed = hidden_layers(network)[0].normalisation is not None
        assert found["hessian_density rank_bound"] == (2 + 30 + 5 if normed else 2)
    if name == "gradient_covariance":  # gradients of the two biases alone
        assert found["gradient_covariance effective_rank"] <= 2 + 1e-6
    if name == "input_curvature":
        assert found["input_curvature maximum"] == 0


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_a_network_that_ignores_its_input_is_measured(name, case):
    network, inputs = case
    hands_on_nothing(hidden_layers(network)[-1])
    found = numbers(measure(name, network, inputs))
    assert not [key for key, value in found.items() if math.isnan(value)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", LOOKING)
def test_damaged_observations_are_refused_by_name(name, bad, case):
    network, inputs = case
    inputs[2].view(-1)[1] = bad
    with pytest.raises(ValueError, match=rf"diagnostic {name} of network q, update 1: .*(NaN or infinity|finite)"):
        measure(name, network, inputs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", [name for name in DIAGNOSTICS if name not in ("trust_region", "spectral_norm_error")])
def test_diverged_weights_are_refused_by_name(name, bad, case):
    network, inputs = case
    before = copy.deepcopy(network)
    with torch.no_grad():
        hidden_layers(network)[0].incoming.weight.view(-1)[3] = bad
    with pytest.raises(ValueError, match=rf"diagnostic {name} of network q, update 1: .*(NaN or infinity|finite)"):
        measure(name, network, inputs, before)


@pytest.mark.parametrize("name", LOOKING)
def test_observations_of_another_shape_are_said_in_one_line(name, case):
    network, _ = case
    with pytest.raises(ValueError, match=r"network q cannot read observations \[6, 3\]") as caught:
        measure(name, network, torch.zeros(6, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LOOKING)
def test_no_observations_are_said(name, case):
    network, inputs = case
    with pytest.raises(ValueError, match=rf"diagnostic {name} of network q, update 1: there are no observations"):
        measure(name, network, inputs[:0])
