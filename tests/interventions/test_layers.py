"""The parts of a network by role."""

from __future__ import annotations

from torch import nn

from lop_ray.interventions.layers import affine_layers, normalisations, output_layers
from lop_ray.networks import MLP, NetworkOptions
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions
from tests.cases import SmallConvNet

IMPALA = ImpalaOptions(channels=(4,), blocks=1, hidden=(8,), normalisation="layernorm")


def test_of_an_mlp() -> None:
    net = MLP(3, 2, NetworkOptions(hidden=(4, 5), normalisation="rmsnorm"), seed=0)
    assert output_layers(net) == [net.head]
    assert list(affine_layers(net, heads=True).values()) == [net.body.linear_0, net.body.linear_1, net.head]
    assert list(affine_layers(net, heads=False)) == ["body.linear_0", "body.linear_1"]
    assert normalisations(net) == [net.body.norm_0, net.body.norm_1]


def test_of_convolutions() -> None:
    net = SmallConvNet(0)
    assert output_layers(net) == [net.head]
    assert list(affine_layers(net, heads=False)) == ["conv_0", "conv_1", "linear"]
    assert normalisations(net) == [net.norm_0]


def test_of_a_residual_network_with_two_heads() -> None:
    net = ImpalaNet((8, 8, 3), {"policy": 3, "value": 1}, IMPALA, seed=0)
    assert output_layers(net) == list(net.heads.values())
    every = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert list(affine_layers(net, heads=True).values()) == every
    assert len(affine_layers(net, heads=False)) == len(every) - 2
    assert len(normalisations(net)) == 4  # of the residual stream in the block and at its end, of conv_a, of the top
