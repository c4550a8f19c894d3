"""Resurrection: who is dead, and what being made anew does."""

from __future__ import annotations

import pytest
import torch

from lop_ray.interventions import Resurrection
from lop_ray.interventions.resurrection import dead_units
from lop_ray.networks import MLP, NetworkOptions
from tests.interventions import tiny


def _net_with_dead_unit_1() -> MLP:
    net = tiny.network()
    with torch.no_grad():
        net.body.linear_0.bias.copy_(torch.tensor([0.5, -100.0]))
    return net


def test_dead_is_silent_on_every_sample_and_position() -> None:
    assert dead_units(torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])).tolist() == [0]
    images = torch.zeros(2, 3, 2, 2)
    images[1, 1, 0, 1] = 1e-6
    assert dead_units(images).tolist() == [0, 2]


def test_a_dead_unit_is_made_anew_and_the_function_stays() -> None:
    net = _net_with_dead_unit_1()
    adam = tiny.adam_with_moments(net)
    resurrection = Resurrection()
    tiny.attached(resurrection, net, adam)
    before, outputs = tiny.snapshot(net), net(tiny.INPUTS)
    resurrection.after_update(tiny.step())
    assert tiny.rows_changed(net, before) == [1]
    assert net.body.linear_0.weight[1].abs().max() <= (3 / 2) ** 0.5
    assert net.body.linear_0.bias.tolist() == [0.5, 0.0]
    assert net.head.weight.tolist() == [[3.0, 0.0], [1.0, 0.0]]
    assert torch.equal(net(tiny.INPUTS), outputs)
    assert resurrection.replaced == 1
    assert tiny.zero_moments(adam, net.body.linear_0.weight).tolist() == [[False, False], [True, True]]
    assert tiny.zero_moments(adam, net.body.linear_0.bias).tolist() == [False, True]
    assert tiny.zero_moments(adam, net.head.weight).tolist() == [[False, True], [False, True]]
    assert not tiny.zero_moments(adam, net.head.bias).any()


def test_moments_may_be_kept() -> None:
    net = _net_with_dead_unit_1()
    adam = tiny.adam_with_moments(net)
    resurrection = Resurrection(moments="keep")
    tiny.attached(resurrection, net, adam)
    resurrection.after_update(tiny.step())
    assert resurrection.replaced == 1
    assert not tiny.zero_moments(adam, net.body.linear_0.weight).any()


def test_living_units_are_left_alone() -> None:
    net = tiny.network()  # unit 1 gives 2 and 0
    resurrection = Resurrection()
    tiny.attached(resurrection, net)
    before = tiny.snapshot(net)
    resurrection.after_update(tiny.step())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert resurrection.replaced == 0


def test_a_layer_that_is_silent_as_a_whole_is_made_anew() -> None:
    net = MLP(2, 2, NetworkOptions(hidden=(3, 4)), seed=0)
    with torch.no_grad():
        net.body.linear_1.bias.fill_(-100.0)
    resurrection = Resurrection()
    tiny.attached(resurrection, net)
    resurrection.after_update(tiny.step())
    assert net.body.linear_1.bias.tolist() == [0.0] * 4
    assert resurrection.replaced >= 4


WHEN = [("update", [False, False, False, True]), ("gradient_step", [False, True, False, False])]


@pytest.mark.parametrize(("when", "acts"), WHEN)
def test_when(when: str, acts: list[bool]) -> None:
    net = _net_with_dead_unit_1()
    resurrection = Resurrection(when=when, every=2)
    tiny.attached(resurrection, net)
    seen = []
    for moment in ("after_gradient_step", "after_gradient_step", "after_update", "after_update"):
        before = resurrection.replaced
        getattr(resurrection, moment)(tiny.step())
        seen.append(resurrection.replaced > before)
    assert seen == acts
