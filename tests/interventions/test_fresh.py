"""Drawing weights anew: as a newly built network has them, from the generator alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest
import torch
from torch import nn

from lop_ray.interventions import SpectralNorm, Training
from lop_ray.interventions.fresh import FreshWeights
from lop_ray.networks import MLP, NetworkOptions, trainable_weight
from lop_ray.networks.activations import ActivationName
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions
from lop_ray.networks.initialisation import InitName
from tests.cases import NETWORKS

WIDE = (200, 300)


def _training(net: nn.Module, fresh: bool | nn.Module = False) -> Training:
    def build(_: torch.Generator) -> Mapping[str, nn.Module]:
        assert isinstance(fresh, nn.Module)
        return {"net": fresh}

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return Training({"net": net}, optimizer, torch.Generator(), build if fresh else None)


def _drawn(net: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    fresh = FreshWeights(_training(net))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    values = fresh.draw(fresh.drawables, torch.Generator().manual_seed(seed))
    return {names[id(d.parameter)]: value for d, value in zip(fresh.drawables, values, strict=True)}


@pytest.mark.parametrize("init", get_args(InitName))
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_an_mlp_is_drawn_in_the_distribution_of_a_new_one(init: InitName, activation: ActivationName) -> None:
    options = NetworkOptions(hidden=WIDE, init=init, activation=activation, normalisation="layernorm")
    new, drawn = MLP(100, 250, options, seed=5), _drawn(MLP(100, 250, options, seed=5))
    assert drawn.keys() == dict(new.named_parameters()).keys()
    for name, value in new.named_parameters():
        assert drawn[name].shape == value.shape
        if "norm" in name or (name.endswith("bias") and init != "torch_default"):
            assert torch.equal(drawn[name], value)  # constants
            continue
        assert not torch.equal(drawn[name], value)
        wide = name.endswith("weight")
        torch.testing.assert_close(drawn[name].std(), value.std(), rtol=0.02 if wide else 0.2, atol=0)
        if "uniform" in init:
            torch.testing.assert_close(drawn[name].abs().max(), value.abs().max(), rtol=0.02 if wide else 0.1, atol=0)


@pytest.mark.parametrize("case", NETWORKS)
def test_every_parameter_of_every_network_can_be_drawn(case: str) -> None:
    net = NETWORKS[case].make(0)
    fresh = FreshWeights(_training(net, NETWORKS[case].make(1)))
    values = fresh.draw(fresh.drawables, torch.Generator())
    assert {id(drawable.parameter) for drawable in fresh.drawables} == set(map(id, net.parameters()))
    for drawable, value in zip(fresh.drawables, values, strict=True):
        assert value.shape == drawable.parameter.shape
        assert drawable.parameter.ndim == 1 or not torch.equal(value, drawable.parameter)


def test_one_generator_one_draw() -> None:
    net = MLP(3, 2, NetworkOptions(hidden=(4,)), seed=0)
    first, same, other = _drawn(net, 1), _drawn(net, 1), _drawn(net, 2)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_behind_a_parametrised_weight_its_original_is_meant() -> None:
    net = MLP(3, 2, NetworkOptions(hidden=(4,)), seed=0)
    SpectralNorm().build({"net": net}, torch.Generator())
    first = FreshWeights(_training(net)).drawables[0]
    assert first.parameter is trainable_weight(net.body.linear_0)


def _impala(seed: int) -> ImpalaNet:
    return ImpalaNet((8, 8, 3), {"q": 2}, ImpalaOptions(channels=(4,), blocks=1, hidden=(8,)), seed=seed)


@pytest.mark.parametrize("normed", [False, True])
def test_what_the_view_does_not_know_is_taken_from_a_new_network(normed: bool) -> None:
    net, other = _impala(0), _impala(1)
    if normed:
        SpectralNorm(heads=True).build({"net": net}, torch.Generator())
    fresh = FreshWeights(_training(net, other))
    unknown = [drawable for drawable in fresh.drawables if drawable.role == "other"]
    values = fresh.draw(unknown, torch.Generator())
    expected = [p for layer in (other.body[0], other.body[2].conv_b) for p in (layer.weight, layer.bias)]
    assert len(values) == 4
    for value in expected:
        assert any(torch.equal(value, found) for found in values)
    assert len(fresh.drawables) == len(list(net.parameters()))


def test_without_a_new_network_it_is_refused() -> None:
    message = r"'net' has parameters outside its view .*body.stage_0.weight.* give Training"
    with pytest.raises(ValueError, match=message):
        FreshWeights(_training(_impala(0)))


def test_a_new_network_of_another_shape_is_refused() -> None:
    fresh = FreshWeights(_training(_impala(0), MLP(3, 2, NetworkOptions(), seed=0)))
    with pytest.raises(ValueError, match=r"net.body.stage_0.weight \(4, 3, 3, 3\) cannot be drawn anew: .* no such"):
        fresh.draw(fresh.drawables, torch.Generator())
