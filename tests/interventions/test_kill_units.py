"""Killing units by hand: how many, when, and that they stay dead."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lop_ray.interventions import ContinualBackprop, KillUnits, Training
from lop_ray.networks import MLP, NetworkOptions, hidden_layers, record
from tests.cases import SmallConvNet
from tests.interventions import tiny


def _built(net: nn.Module, seed: int = 0, **options: Any) -> KillUnits:
    kill = KillUnits(**options)
    kill.build({"net": net}, torch.Generator())
    tiny.attached(kill, net, seed=seed)
    return kill


def _killed(net: nn.Module) -> list[list[int]]:
    return [layer.activation.killed.nonzero().flatten().tolist() for layer in hidden_layers(net)]


def _mlp(**options: Any) -> MLP:
    return MLP(2, 2, NetworkOptions(hidden=(20, 40), **options), seed=0)


@pytest.mark.parametrize(
    ("percent", "counts"), [(0, [0, 0]), (10, [2, 4]), (25, [5, 10]), (33.3, [7, 13]), (75, [15, 30]), (100, [20, 40])]
)
def test_how_many(percent: float, counts: list[int]) -> None:
    net = _mlp()
    _built(net, percent=percent).kill()
    assert [len(units) for units in _killed(net)] == counts


def test_larger_doses_contain_smaller_ones_and_seeds_differ() -> None:
    small, large, other = _mlp(), _mlp(), _mlp()
    _built(small, percent=10).kill()
    _built(large, percent=25).kill()
    _built(other, percent=10, seed=1).kill()
    for few, many in zip(_killed(small), _killed(large), strict=True):
        assert set(few) < set(many)
    assert _killed(small) != _killed(other)


@pytest.mark.parametrize("activation", ["relu", "tanh", "crelu", "fourier"])
def test_a_killed_unit_gives_0_gets_no_gradient_and_measures_as_dead(activation: str) -> None:
    net = _mlp(activation=activation)
    _built(net, percent=50).kill()
    seen = record(net, tiny.INPUTS)
    outputs = net(tiny.INPUTS)
    outputs.square().sum().backward()
    for layer, units, pre, post in zip(
        hidden_layers(net), _killed(net), seen.pre_activations, seen.activations, strict=True
    ):
        alive = [unit for unit in range(layer.units) if unit not in units]
        assert len(units) == layer.units // 2
        assert (post[:, units] == 0).all()
        assert (pre[:, units] == -1).all()
        assert (post[:, alive] != 0).any()
        assert (layer.incoming.weight.grad[units] == 0).all()
        assert (layer.incoming.bias.grad[units] == 0).all()
        assert (layer.incoming.weight.grad[alive] != 0).any()


def test_the_output_is_that_of_a_network_without_these_units() -> None:
    net = tiny.network()
    _built(net, percent=50).kill()
    (unit,) = _killed(net)[0]
    without = tiny.ACTIVATIONS.clone()
    without[:, unit] = 0.0
    torch.testing.assert_close(net(tiny.INPUTS).detach(), without @ torch.tensor(tiny.OUTGOING).T)


def test_before_it_happens_nothing_is_changed() -> None:
    net, plain = _mlp(), _mlp()
    _built(net, percent=50)
    assert torch.equal(net(tiny.INPUTS), plain(tiny.INPUTS))


def test_channels_die_at_all_positions() -> None:
    net = SmallConvNet(0)
    _built(net, percent=50).kill()
    activations = record(net, torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))).activations
    for units, values in zip(_killed(net), activations, strict=True):
        assert (values[:, units] == 0).all()
    assert [len(units) for units in _killed(net)] == [2, 2, 3]  # of 3, 4 and 6


def test_they_stay_dead_when_their_weights_are_drawn_anew() -> None:
    net = _mlp()
    kill = _built(net, percent=50)
    cbp = ContinualBackprop(maturity_threshold=0, replacement_rate=0.5, reset_moments=True)
    tiny.attached(cbp, net)
    kill.kill()
    units = _killed(net)
    before = tiny.snapshot(net)
    for count in range(1, 5):
        activations = record(net, tiny.INPUTS).activations
        cbp.after_gradient_step(tiny.step(count, *activations))
    assert set(tiny.rows_changed(net, before)) & set(units[0])
    for dead, values in zip(units, record(net, tiny.INPUTS).activations, strict=True):
        assert (values[:, dead] == 0).all()


@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({}, "task 1"),
        ({"at_task": 2}, "task 2"),
        ({"at_update": 3}, "update 3"),
    ],
)
def test_when_and_only_once(options: dict[str, int], at: str) -> None:
    net = _mlp()
    kill = _built(net, percent=50, **options)
    deaths = []
    seen = _killed(net)
    for moment in ("update 1", "task 1", "update 2", "task 2", "update 3", "task 3", "update 4"):
        kind, number = moment.split()
        if kind == "task":
            kill.at_task_change(int(number))
        else:
            kill.after_update(tiny.step())
        deaths += [moment] if _killed(net) != seen else []
        seen = _killed(net)
    assert deaths == [at]


def test_a_skipped_task_counts_as_reached() -> None:
    net = _mlp()
    _built(net, at_task=2).at_task_change(3)
    assert _killed(net) != [[], []]


def test_copies_and_saved_weights_carry_who_is_dead() -> None:
    net, other = _mlp(), _mlp()
    _built(net).kill()
    _built(other, seed=1)
    other.load_state_dict(net.state_dict())
    copied = copy.deepcopy(net)
    assert _killed(other) == _killed(net) == _killed(copied)
    assert torch.equal(other(tiny.INPUTS), net(tiny.INPUTS))
    assert torch.equal(copied(tiny.INPUTS), net(tiny.INPUTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percent": 101}, "less than or equal to 100"),
        ({"percent": -1}, "greater than or equal to 0"),
        ({"at_task": 0}, "greater than or equal to 1"),
        ({"at_task": 1, "at_update": 2}, "two moments, units are killed at one"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        KillUnits(**options)


def test_without_build_it_is_refused() -> None:
    net = _mlp()
    with pytest.raises(ValueError, match=r"no switch in net/hidden_0; call build"):
        KillUnits().attach(Training({"net": net}, torch.optim.Adam(net.parameters()), torch.Generator()))
