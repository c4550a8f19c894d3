"""The view of hidden layers: recording without a trace, outgoing weights as views, clear refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lop_ray.networks import (
    ActivationTap,
    HiddenLayer,
    Initialiser,
    by_unit,
    hidden_layers,
    outgoing_columns,
    record,
    trainable_weight,
)
from tests.cases import NETWORKS, SmallConvNet

INITIALISER = Initialiser("lecun_uniform")


class Restless(nn.Module):
    """A network that every forward pass in training mode would change: batch norm, dropout, and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.norm.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.dropout(self.activation(self.norm(self.linear(inputs)))))

    def hidden_layers(self) -> Sequence[HiddenLayer]:
        return (HiddenLayer("hidden_0", self.linear, self.activation, (self.head,), INITIALISER, self.norm),)


def _inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_record_sees_every_hidden_layer(name: str) -> None:
    case = NETWORKS[name]
    net = case.make(0)
    seen = record(net, _inputs(5, *case.input_shape))
    torch.testing.assert_close(seen.output, net(_inputs(5, *case.input_shape)))
    layers = hidden_layers(net)
    assert len(seen.pre_activations) == len(seen.activations) == len(layers)
    for layer, before, after in zip(layers, seen.pre_activations, seen.activations, strict=True):
        assert before.shape[:2] == (5, layer.units)
        assert torch.equal(layer.activation(before), after)


def test_record_leaves_modes_buffers_gradients_hooks_and_random_generators() -> None:
    net = Restless()
    net(_inputs(6, 3)).sum().backward()
    modes = {name: module.training for name, module in net.named_modules()}
    assert modes[""]
    assert not modes["norm"]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters()]
    generator = torch.get_rng_state()

    first, second = record(net, _inputs(6, 3)), record(net, _inputs(6, 3))
    assert torch.equal(first.output, second.output)  # no dropout
    assert not first.output.requires_grad
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, net.parameters(), strict=True))
    assert torch.equal(generator, torch.get_rng_state())
    assert not net.activation._forward_hooks


def test_record_restores_modes_and_hooks_when_the_network_fails() -> None:
    net = Restless()
    with pytest.raises(RuntimeError):
        record(net, _inputs(6, 5))
    assert net.training
    assert not net.norm.training
    assert not net.activation._forward_hooks


def test_a_network_without_a_view_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Sequential has no view of its hidden layers: give it a method hidden_layers"):
        hidden_layers(nn.Sequential(nn.Linear(2, 2)))


def test_a_shared_activation_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.relu = nn.ReLU()

        def hidden_layers(self) -> Sequence[HiddenLayer]:
            return [
                HiddenLayer("a", self.a, self.relu, (self.b,), INITIALISER),
                HiddenLayer("b", self.b, self.relu, (self.c,), INITIALISER),
            ]

    with pytest.raises(ValueError, match="Shared: hidden layers share an activation module; give each its own"):
        hidden_layers(Shared())


def test_an_activation_in_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer a: ReLU\(inplace=True\) overwrites .* use inplace=False"):
        HiddenLayer("a", nn.Linear(2, 2), nn.ReLU(inplace=True), (nn.Linear(2, 2),), INITIALISER)


def test_outgoing_columns_of_a_linear_write_through() -> None:
    reader = nn.Linear(3, 2)
    columns = outgoing_columns(reader, 3)
    assert columns.shape == (2, 3, 1)
    columns[:, 1] = 7.0
    assert (reader.weight[:, 1] == 7).all()
    assert (reader.weight[:, [0, 2]] != 7).all()


def test_outgoing_columns_of_a_convolution_are_its_kernels() -> None:
    reader = nn.Conv2d(3, 2, kernel_size=(2, 5))
    columns = outgoing_columns(reader, 3)
    assert columns.shape == (2, 3, 10)
    assert torch.equal(columns[1, 2], reader.weight[1, 2].flatten())
    columns[:, 0] = 7.0
    assert (reader.weight[:, 0] == 7).all()


def test_taps_of_a_reader_after_flatten_are_the_positions_of_a_channel() -> None:
    net = SmallConvNet(0)
    outgoing_columns(net.linear, 4)[:, 2] = 0.0
    image = torch.zeros(1, 4, 2, 2)
    image[:, 2] = _inputs(1, 2, 2)
    torch.testing.assert_close(net.linear(image.flatten(1)), net.linear.bias[None])
    assert (net.linear(image.roll(1, dims=1).flatten(1)) != net.linear.bias).any()


def test_outgoing_columns_write_into_the_trainable_weight_or_view_what_they_are_given() -> None:
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    reader = nn.Linear(3, 2)
    original = reader.weight
    parametrize.register_parametrization(reader, "weight", Double())
    assert trainable_weight(reader) is original
    outgoing_columns(reader, 3)[:, 1] = 5.0
    assert (reader.weight[:, 1] == 10).all()
    assert (outgoing_columns(reader, 3, reader.weight)[:, 1] == 10).all()


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (nn.Linear(7, 2), "a reader with 7 inputs cannot read 3 units: not a multiple"),
        (nn.Conv2d(7, 2, 1), "a reader with 7 inputs cannot read 3 units: not a multiple"),
    ],
)
def test_a_reader_that_does_not_fit_is_refused(reader: nn.Linear | nn.Conv2d, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outgoing_columns(reader, 3)


def test_by_unit_counts_positions_as_samples() -> None:
    flat = _inputs(4, 3)
    assert by_unit(flat) is flat
    image = _inputs(4, 3, 2, 5)
    values = by_unit(image)
    assert values.shape == (40, 3)
    assert torch.equal(values[10 * 2 + 5 * 1 + 3], image[2, :, 1, 3])


def test_a_tap_keeps_the_latest_pass_in_training_mode_until_closed() -> None:
    net = NETWORKS["mlp_tanh"].make(0)
    tap = ActivationTap(net)
    first, second = _inputs(3, 4), _inputs(5, 4)
    expected = record(net, second).activations
    net(first)
    net(second)
    net.eval()(first)
    assert [h.shape[0] for h in tap.latest] == [5, 5]
    for kept, right in zip(tap.latest, expected, strict=True):
        torch.testing.assert_close(kept, right)
        assert not kept.requires_grad
    tap.close()
    net.train()(first)
    assert [h.shape[0] for h in tap.latest] == [5, 5]
