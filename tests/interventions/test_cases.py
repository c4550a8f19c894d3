"""Every network with every intervention: trains, changes only what it should, continues bit for bit."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from lop_ray.networks import hidden_layers, outgoing_columns, trainable_weight
from tests.cases import INTERVENTIONS, NETWORKS, Trainer

ALL_NETWORKS = pytest.mark.parametrize(
    "network", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("impala") else n for n in NETWORKS]
)
STEPS = 30

# These renew units after a gradient step or an update, and change weights there in no other way.
_RENEW = {"cbp", "redo", "resurrection"}
RENEWING = [
    name
    for name, spec in INTERVENTIONS.items()
    if not spec or (spec.keys() & _RENEW and spec.keys() <= _RENEW | {"spectral_norm", "kill_units"})
]


def _on_disk(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _assert_identical(first: Any, second: Any) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            _assert_identical(first[key], second[key])
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            _assert_identical(a, b)
    else:
        assert first == second


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@ALL_NETWORKS
def test_continues_bit_for_bit_from_a_saved_state(network: str, intervention: str) -> None:
    case, spec = NETWORKS[network], INTERVENTIONS[intervention]
    straight = Trainer(case, spec)
    straight.train(STEPS // 2)
    resumed = Trainer(case, spec)
    resumed.load_state_dict(_on_disk(straight.state_dict()))
    for trainer in (straight, resumed):
        trainer.train(STEPS - STEPS // 2)

    _assert_identical(straight.state_dict(), resumed.state_dict())
    assert all(p.isfinite().all() for p in straight.network.parameters())
    trained = straight.network.state_dict()
    assert all(not torch.equal(v, trained[k]) for k, v in Trainer(case, spec).network.state_dict().items())


@pytest.mark.parametrize("intervention", RENEWING)
@ALL_NETWORKS
def test_changes_only_the_units_that_it_renews(network: str, intervention: str) -> None:
    trainer = Trainer(NETWORKS[network], INTERVENTIONS[intervention])
    corrects = any(options.get("correct_next_bias") for options in INTERVENTIONS[intervention].values())
    layers = hidden_layers(trainer.network)
    renewed = 0
    for _ in range(STEPS):
        inputs = trainer.gradient_step()
        before = {id(p): p.detach().clone() for p in trainer.network.parameters()}
        state = copy.deepcopy(trainer.optimizer.state_dict())
        trainer.interventions.after_gradient_step(trainer.count, inputs)
        if trainer.count % 5 == 0:
            trainer.interventions.after_update(trainer.count, inputs)

        allowed = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in trainer.network.parameters()}
        changed = {id(p): before[id(p)] != p for p in trainer.network.parameters()}
        any_renewed = False
        for layer in layers:
            weight = trainable_weight(layer.incoming)
            # Renewed are the units with a changed weight outside the columns that a renewed unit below has zeroed.
            own = changed[id(weight)] & ~allowed[id(weight)]
            units = own.flatten(1).any(dim=1)
            allowed[id(weight)][units] = True
            norm = layer.normalisation.parameters() if layer.normalisation is not None else ()
            for per_unit in (layer.incoming.bias, *norm):
                allowed[id(per_unit)][units] = True
            for reader in layer.readers:
                mask = allowed[id(trainable_weight(reader))]
                outgoing_columns(reader, layer.units, mask)[:, units] = True
                if corrects and units.any():
                    allowed[id(reader.bias)][:] = True
            renewed += int(units.sum())
            any_renewed |= bool(units.any())
        for p in trainer.network.parameters():
            assert not (changed[id(p)] & ~allowed[id(p)]).any()
        outgoing = outgoing_columns(layers[-1].readers[0], layers[-1].units)
        assert (outgoing[:, units] == 0).all()
        if not any_renewed:
            _assert_identical(state, trainer.optimizer.state_dict())

    members = trainer.interventions.members
    assert renewed == sum(getattr(member, "replaced", 0) for member in members.values())
    assert renewed > 0 or not {"cbp", "redo"} & members.keys()


@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_never_touches_the_global_random_generator(intervention: str) -> None:
    state = torch.get_rng_state()
    trainer = Trainer(NETWORKS["mlp_relu"], INTERVENTIONS[intervention])
    trainer.train(10)
    assert torch.equal(state, torch.get_rng_state())
