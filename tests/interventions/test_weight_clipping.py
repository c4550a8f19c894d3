"""Weight clipping: bounds from fan-in, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lop_ray.interventions import WeightClipping
from lop_ray.networks import MLP, NetworkOptions
from tests.cases import SmallConvNet
from tests.interventions import tiny


def _clipped(net: nn.Module, **options: object) -> None:
    clipping = WeightClipping(**options)
    tiny.attached(clipping, net)
    with torch.no_grad():
        for sign, parameter in zip([1.0, -1.0] * 20, net.parameters(), strict=False):
            parameter.fill_(sign * 100.0)
    clipping.after_gradient_step(tiny.step())


def test_defaults_are_those_of_the_ppo_runs() -> None:
    assert WeightClipping().options.model_dump() == {"kappa": 3.0, "bound": "fan_in", "heads": True}


@pytest.mark.parametrize(
    ("bound", "limits"),
    [
        # fan_in 3 and 4: kappa / sqrt(3), kappa / 2; or sqrt(4 + 3), sqrt(2 + 4), and biases at kappa.
        ("fan_in", [2 / 3**0.5, -2 / 3**0.5, 1.0, -1.0]),
        ("fan_sum", [2 / 7**0.5, -2.0, 2 / 6**0.5, -2.0]),
    ],
)
def test_every_weight_and_bias_ends_at_its_bound(bound: str, limits: list[float]) -> None:
    net = MLP(3, 2, NetworkOptions(hidden=(4,)), seed=0)
    _clipped(net, kappa=2.0, bound=bound)
    for parameter, limit in zip(net.parameters(), limits, strict=True):
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, limit))


def test_within_the_bounds_nothing_changes() -> None:
    net = tiny.network()
    clipping = WeightClipping(kappa=5.0)  # 5 / sqrt(2) = 3.54
    tiny.attached(clipping, net)
    clipping.after_gradient_step(tiny.step())
    assert net.body.linear_0.weight.tolist() == tiny.INCOMING
    assert net.head.weight.tolist() == tiny.OUTGOING


def test_heads_and_normalisation_may_be_free() -> None:
    net = MLP(4, 2, NetworkOptions(hidden=(4,), normalisation="layernorm"), seed=0)
    _clipped(net, kappa=1.0, heads=False)
    assert (net.body.linear_0.weight.abs() == 0.5).all()
    assert (net.body.norm_0.weight.abs() == 100).all()
    assert (net.head.weight.abs() == 100).all()


def test_the_fan_in_of_a_kernel() -> None:
    net = SmallConvNet(0)
    _clipped(net, kappa=1.0)
    torch.testing.assert_close(net.conv_1.weight.abs().max().item(), 1 / 27**0.5)  # 3 channels of 3 x 3
