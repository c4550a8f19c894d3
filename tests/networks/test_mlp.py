"""Fully connected networks: what they compute, where normalisation stands, and paired randomness."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lop_ray.networks import MLP, NetworkOptions, hidden_layers, record


def _mlp(*, seed: int = 0, name: str = "network", inputs: int = 3, **options: object) -> MLP:
    return MLP(inputs, 2, NetworkOptions(**{"hidden": (5, 4), **options}), seed=seed, name=name)


def test_computes_its_layers_in_order() -> None:
    net = _mlp()
    inputs = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    first, second = net.body.linear_0, net.body.linear_1
    hidden = (inputs @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(net(inputs), hidden @ net.head.weight.T + net.head.bias)
    assert net(inputs.view(7, 1, 3)).shape == (7, 1, 2)


def test_the_default_is_the_papers_network() -> None:
    net = MLP(111, 8, NetworkOptions(), seed=0)
    assert [tuple(p.shape) for p in net.parameters()] == [(256, 111), (256,), (256, 256), (256,), (8, 256), (8,)]
    for layer in (net.body.linear_0, net.body.linear_1, net.head):
        bound = math.sqrt(3 / layer.in_features)
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    assert isinstance(net.body.activation_1, nn.ReLU)


def test_hidden_layers_name_their_readers() -> None:
    net = _mlp(normalisation="layernorm")
    first, second = hidden_layers(net)
    assert (first.name, first.units, first.incoming, first.readers) == (
        "hidden_0",
        5,
        net.body.linear_0,
        (net.body.linear_1,),
    )
    assert (second.name, second.units, second.readers) == ("hidden_1", 4, (net.head,))
    assert second.normalisation is net.body.norm_1
    assert second.activation is net.body.activation_1


@pytest.mark.parametrize(
    ("normalisation", "pre_activation"),
    [
        # z = (1, 3): mean 2, variance 1, mean square 5; scale (2, 2), shift (0, 1)
        ("none", [1.0, 3.0]),
        ("layernorm", [-2 / math.sqrt(1 + 1e-5), 2 / math.sqrt(1 + 1e-5) + 1]),
        ("rmsnorm", [2 / math.sqrt(5 + 1e-5), 6 / math.sqrt(5 + 1e-5)]),
    ],
)
def test_the_pre_activation_is_what_the_activation_sees(normalisation: str, pre_activation: list[float]) -> None:
    net = _mlp(inputs=2, hidden=(2,), normalisation=normalisation)
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        if normalisation != "none":
            net.body.norm_0.weight.fill_(2.0)
        if normalisation == "layernorm":
            net.body.norm_0.bias.copy_(torch.tensor([0.0, 1.0]))
    seen = record(net, torch.ones(1, 2))
    torch.testing.assert_close(seen.pre_activations[0], torch.tensor([pre_activation]))
    torch.testing.assert_close(seen.activations[0], torch.tensor([pre_activation]).clamp(min=0))


@pytest.mark.parametrize("other", [{"normalisation": "layernorm"}, {"normalisation": "rmsnorm"}, {"log_std_init": 1.0}])
def test_networks_that_differ_in_an_option_share_their_linear_weights(other: dict[str, object]) -> None:
    plain, changed = _mlp().state_dict(), _mlp(**other).state_dict()
    assert all(torch.equal(weight, changed[name]) for name, weight in plain.items())


def test_networks_that_differ_in_one_layer_share_the_others() -> None:
    plain, wider = _mlp(), _mlp(inputs=9)
    assert torch.equal(plain.body.linear_1.weight, wider.body.linear_1.weight)
    assert torch.equal(plain.head.weight, wider.head.weight)
    deeper = _mlp(hidden=(5, 4, 4))
    assert torch.equal(plain.body.linear_1.weight, deeper.body.linear_1.weight)


def test_layers_of_one_shape_have_weights_of_their_own() -> None:
    net = _mlp(hidden=(4, 4, 4))
    assert not torch.equal(net.body.linear_1.weight, net.body.linear_2.weight)


def test_seed_and_name_choose_the_stream_and_the_global_generator_has_no_part() -> None:
    state = torch.get_rng_state()
    weights = [net.body.linear_0.weight for net in (_mlp(), _mlp(), _mlp(seed=1), _mlp(name="value"))]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])


@pytest.mark.parametrize("options", [{"hidden": ()}, {"hidden": (0,)}, {"activation": "swish"}, {"width": 3}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NetworkOptions(**options)
