"""Networks that read images: what they compute, what counts as a unit, what they refuse."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.networks import NetworkOptions, hidden_layers, outgoing_columns, record
from lop_ray.networks.conv import ConvNet, ConvOptions
from lop_ray.networks.image import ImageOptions
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions
from lop_ray.networks.kinds import NETWORK_KINDS, AnyNetworkOptions, make_image_network

HEADS = {"policy": 9, "value": 1}


def conv(*, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3), name: str = "network", **options: object) -> ConvNet:
    return ConvNet(shape, HEADS, ConvOptions(**{"channels": (8, 6), "hidden": (10,), **options}), seed=seed, name=name)


def impala(*, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3), **options: object) -> ImpalaNet:
    return ImpalaNet(shape, HEADS, ImpalaOptions(**{"channels": (4, 6), "hidden": (10,), **options}), seed=seed)


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def named_weights(net: nn.Module) -> dict[str, Tensor]:
    return dict(net.state_dict())


def test_conv_computes_its_layers_in_order() -> None:
    net, inputs = conv(), images(5, 16, 16, 3)
    w = named_weights(net)
    h = inputs.permute(0, 3, 1, 2).contiguous() / 255
    for name in "body.conv_0", "body.conv_1":
        h = F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1).clamp(min=0)
    assert h.shape == (5, 6, 4, 4)
    h = (h.reshape(5, 96) @ w["top.body.hidden_0.weight"].T + w["top.body.hidden_0.bias"]).clamp(min=0)
    torch.testing.assert_close(net.features(inputs), h)
    outputs = [h @ w[f"top.heads.{head}.weight"].T + w[f"top.heads.{head}.bias"] for head in HEADS]
    torch.testing.assert_close(net(inputs), torch.cat(outputs, 1))


def test_the_defaults_of_conv_are_the_studys() -> None:
    net = ConvNet((64, 64, 3), HEADS, ConvOptions(), seed=0)
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim > 1]
    convolutions = [(32, 3, 4, 4), (64, 32, 4, 4), (128, 64, 4, 4), (128, 128, 4, 4)]
    assert shapes == [*convolutions, (256, 2048), (9, 256), (1, 256)]
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):  # torch's own rule, as in the study
            bound = 1 / math.sqrt(layer.weight[0].numel())
            assert 0.98 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            assert layer.bias.any()
            assert layer.bias.abs().max() <= bound
    assert [type(layer.activation) for layer in hidden_layers(net)] == [nn.ReLU] * 5
    assert [layer.normalisation for layer in hidden_layers(net)] == [None] * 5


def test_the_trunk_is_there_once_and_both_heads_read_it() -> None:
    net = conv(normalisation="layernorm")
    layers = hidden_layers(net)
    assert [(layer.name, layer.units) for layer in layers] == [("conv_0", 8), ("conv_1", 6), ("hidden_0", 10)]
    assert [layer.incoming for layer in layers] == [net.body.conv_0, net.body.conv_1, net.top.body.hidden_0]
    assert layers[0].readers == (net.body.conv_1,)
    assert layers[1].readers == (net.top.body.hidden_0,)
    assert layers[2].readers == (net.heads["policy"], net.heads["value"])
    assert isinstance(layers[0].normalisation, nn.GroupNorm)
    assert layers[0].normalisation.num_groups == 1
    assert isinstance(layers[2].normalisation, nn.LayerNorm)


def test_impala_computes_its_layers_in_order() -> None:
    net, inputs = impala(blocks=1), images(5, 16, 16, 3)
    w = named_weights(net)

    def convolution(h: Tensor, name: str) -> Tensor:
        return F.conv2d(h, w[f"body.{name}.weight"], w[f"body.{name}.bias"], padding=1)

    h = inputs.permute(0, 3, 1, 2).contiguous() / 255
    for i in range(2):
        h = F.max_pool2d(convolution(h, f"stage_{i}"), 3, 2, 1)
        inner = convolution(h.clamp(min=0), f"stage_{i}_block_0.inner.conv_a").clamp(min=0)
        h = h + convolution(inner, f"stage_{i}_block_0.conv_b")
    assert h.shape == (5, 6, 4, 4)
    h = h.clamp(min=0).reshape(5, 96)
    h = (h @ w["top.body.hidden_0.weight"].T + w["top.body.hidden_0.bias"]).clamp(min=0)
    torch.testing.assert_close(net.features(inputs), h)
    assert net(inputs).shape == (5, 10)


def test_impala_has_the_published_number_of_parameters() -> None:
    net = ImpalaNet((64, 64, 3), {"policy": 15, "value": 1}, ImpalaOptions(), seed=0)
    stages = (3 * 9 * 16 + 16) + (16 * 9 * 32 + 32) + (32 * 9 * 32 + 32)
    blocks = 4 * (16 * 9 * 16 + 16) + 8 * (32 * 9 * 32 + 32)
    assert stages + blocks + (32 * 8 * 8 * 256 + 256) + 16 * 257 == 626_256  # as ProcGen's papers give it
    assert sum(p.numel() for p in net.parameters()) == 626_256


def test_units_of_impala_are_inside_the_blocks_and_at_the_top() -> None:
    net = impala()
    names = [f"stage_{i}_block_{k}" for i in range(2) for k in range(2)]
    layers = hidden_layers(net)
    assert [layer.name for layer in layers] == [*names, "hidden_0"]
    assert [layer.units for layer in layers] == [4, 4, 6, 6, 10]
    for layer in layers[:-1]:
        block = getattr(net.body, layer.name)
        assert layer.incoming is block.inner.conv_a
        assert layer.readers == (block.conv_b,)
    assert layers[-1].readers == tuple(net.heads.values())


@pytest.mark.parametrize(
    "net",
    [
        conv(normalisation="layernorm"),
        conv(activation="crelu", normalisation="rmsnorm"),
        conv(hidden=(8, 6), activation="tanh"),
        impala(normalisation="rmsnorm"),
        impala(activation="crelu"),
    ],
    ids=["conv", "conv_crelu", "conv_deep", "impala", "impala_crelu"],
)
def test_the_order_of_units_does_not_matter(net: nn.Module) -> None:
    inputs, generator = images(4, 16, 16, 3), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
        before = net(inputs)
        for layer in hidden_layers(net):
            order = torch.randperm(layer.units, generator=generator)
            norm = () if layer.normalisation is None else layer.normalisation.parameters()
            for parameter in (layer.incoming.weight, layer.incoming.bias, *norm):
                parameter.copy_(parameter[order])
            for reader in layer.readers:
                columns = outgoing_columns(reader, layer.units)
                columns.copy_(columns[:, order].clone())
        torch.testing.assert_close(net(inputs), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("net", [conv(activation="crelu"), impala(activation="crelu")], ids=["conv", "impala"])
def test_crelu_halves_the_units_and_keeps_the_widths(net: nn.Module) -> None:
    plain = conv() if isinstance(net, ConvNet) else impala()
    for layer, other in zip(hidden_layers(net), hidden_layers(plain), strict=True):
        assert 2 * layer.units == other.units
    assert net.top.body.hidden_0.in_features == plain.top.body.hidden_0.in_features * (1 + isinstance(net, ImpalaNet))
    assert net.features(images(2, 16, 16, 3)).shape == (2, 10)


ACTIVATIONS = ["relu", "leaky_relu", "mish", "gelu", "tanh", "crelu"]


@pytest.mark.parametrize("make", [conv, impala])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalisation", ["none", "layernorm", "rmsnorm"])
def test_gradients_reach_every_parameter_from_bytes(make, activation: str, normalisation: str) -> None:
    net = make(activation=activation, normalisation=normalisation)
    (net(images(16, 16, 16, 3)) ** 2).mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("make", [conv, impala])
def test_bytes_are_scaled_and_floats_are_taken_as_they_are(make) -> None:
    net, inputs = make(), images(3, 16, 16, 3)
    torch.testing.assert_close(net(inputs), net(inputs.double() / 255))
    assert torch.equal(net.scaled(inputs), inputs / 255)
    assert torch.equal(net(net.scaled(inputs)), net(inputs))
    kept = inputs.float()
    net(kept)
    assert torch.equal(kept, inputs.float())
    double = make().double()
    torch.testing.assert_close(double(inputs), net(inputs).double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "convolutional", "connected"),
    [
        ({"normalisation": "layernorm"}, nn.GroupNorm, nn.LayerNorm),
        ({"normalisation": "rmsnorm", "conv_normalisation": "none"}, type(None), nn.RMSNorm),
        ({"conv_normalisation": "layernorm"}, nn.GroupNorm, type(None)),
    ],
)
@pytest.mark.parametrize("make", [conv, impala])
def test_each_sort_of_layer_has_its_own_normalisation(make, options, convolutional, connected) -> None:
    *first, last = hidden_layers(make(**options))
    assert all(isinstance(layer.normalisation, convolutional) for layer in first)
    assert isinstance(last.normalisation, connected)


def test_each_sort_of_layer_has_its_own_activation() -> None:
    for net in conv(conv_activation="mish"), impala(conv_activation="mish"):
        *first, last = hidden_layers(net)
        assert all(isinstance(layer.activation, nn.Mish) for layer in first)
        assert isinstance(last.activation, nn.ReLU)
        assert first[0].initialiser.gain != last.initialiser.gain


@pytest.mark.parametrize("normalisation", ["layernorm", "rmsnorm"])
def test_images_are_normalised_over_channels_and_positions(normalisation: str) -> None:
    net, inputs = conv(normalisation=normalisation), images(3, 16, 16, 3)
    w = named_weights(net)
    z = F.conv2d(inputs.permute(0, 3, 1, 2) / 255, w["body.conv_0.weight"], w["body.conv_0.bias"], 2, 1).double()
    with torch.no_grad():
        net.body.conv_0_norm.weight.copy_(torch.arange(8.0))
    centre = z.mean((1, 2, 3), keepdim=True) if normalisation == "layernorm" else 0.0
    spread = ((z - centre) ** 2).mean((1, 2, 3), keepdim=True)
    expected = (z - centre) / (spread + 1e-5).sqrt() * torch.arange(8.0).view(1, 8, 1, 1)
    torch.testing.assert_close(record(net, inputs).pre_activations[0].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [conv, impala])
def test_networks_that_differ_in_an_option_share_their_weights(make) -> None:
    plain = named_weights(make())
    for other in make(normalisation="layernorm"), make(activation="leaky_relu"):
        changed = named_weights(other)
        assert all(torch.equal(weight, changed[name]) for name, weight in plain.items())
    deeper, heads = named_weights(make(shape=(16, 16, 4))), named_weights(make(hidden=(10, 10)))
    first = "body.conv_0." if make is conv else "body.stage_0."
    assert all(torch.equal(plain[name], deeper[name]) for name in plain if not name.startswith(first))
    assert all(torch.equal(weight, heads[name]) for name, weight in plain.items())


@pytest.mark.parametrize("make", [conv, impala])
def test_the_seed_chooses_the_weights_and_the_global_generator_has_no_part(make) -> None:
    state = torch.get_rng_state()
    nets = [named_weights(make()), named_weights(make()), named_weights(make(seed=1))]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weight, nets[1][name]) for name, weight in nets[0].items())
    assert not any(torch.equal(weight, nets[2][name]) for name, weight in nets[0].items())
    drawn = [weight for name, weight in nets[0].items() if name.endswith("weight")]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(drawn, 2) if a.shape == b.shape)


def test_the_networks_name_is_part_of_the_streams() -> None:
    assert not torch.equal(conv(name="policy").body.conv_0.weight, conv(name="value").body.conv_0.weight)


@pytest.mark.parametrize("make", [conv, impala])
def test_a_copy_lives_on_its_own(make) -> None:
    net, inputs = make(), images(2, 16, 16, 3)
    other = copy.deepcopy(net)
    with torch.no_grad():
        for layer in hidden_layers(other):
            layer.incoming.weight.zero_()
    assert not torch.equal(net(inputs), other(inputs))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(inputs), other(inputs))


@pytest.mark.parametrize("make", [conv, impala])
def test_diagnostics_measure_every_layer_on_bytes(make) -> None:
    net, observations = make(), images(50, 16, 16, 3)
    names = ("margins", "dormant", "ranks", "features", "weights", "weight_spectrum")
    suite = DiagnosticSuite({name: {} for name in names})
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    rows = suite.measure(update=0, networks={"policy_value": net}, observations=observations).layers
    assert [row["units"] for row in rows] == [layer.units for layer in hidden_layers(net)]
    seen = record(net, observations)
    for row, z, h in zip(rows, seen.pre_activations, seen.activations, strict=True):
        by_unit = z.transpose(0, 1).flatten(1)
        assert row["dead"] == (by_unit.amax(1) < 0).sum()
        assert row["mean_margin"] == pytest.approx(by_unit.amax(1).mean().item(), rel=1e-5)
        assert row["activity"] == pytest.approx(h.abs().mean().item(), rel=1e-5)
        assert 1 <= row["effective_rank"] <= row["units"]
    assert all(torch.equal(before[name], weight) for name, weight in net.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: conv(shape=(111,)),
            r"reads observations \[height, width, channels\], not \[111\]; use network.kind: mlp",
        ),
        (lambda: impala(shape=(3, 64)), r"not \[3, 64\]"),
        (
            lambda: conv(shape=(3, 64, 64)),
            r"2 convolutions .* need at least 4 x 4 pixels, not 3 x 64; give network.chan",
        ),
        (lambda: conv(channels=(3,), activation="crelu"), "a layer of width 3 cannot be halved for crelu"),
        (lambda: impala(hidden=(5,), activation="crelu"), "a layer of width 5 cannot be halved for crelu"),
        (lambda: conv(channels=()), "at least 1 item"),
        (lambda: conv(hidden=(0,)), "greater than 0"),
        (lambda: impala(blocks=0), "greater than 0"),
        (lambda: conv(width=3), "Extra inputs are not permitted"),
        (lambda: conv(activation="swish"), "'relu', 'leaky_relu'"),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [conv, impala])
@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (16, 16, 3), (2, 16, 16, 4)])
def test_observations_of_another_shape_are_refused(make, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"built for observations \[B, 16, 16, 3\] .* but got \[") as raised:
        make()(images(*shape))
    assert str(list(shape)) in str(raised.value)


def test_a_network_section_is_told_apart_by_its_kind() -> None:
    adapter: TypeAdapter[ImageOptions | NetworkOptions] = TypeAdapter(AnyNetworkOptions)
    assert adapter.validate_python({"hidden": [8]}) == NetworkOptions(hidden=(8,))
    for kind, options in NETWORK_KINDS.items():
        section = adapter.validate_python({"kind": kind})
        assert section == options()
        assert adapter.validate_python(section) is section
        assert adapter.validate_json(adapter.dump_json(section)) == section
    with pytest.raises(ValidationError, match="'mlp', 'conv', 'impala'"):
        adapter.validate_python({"kind": "conf"})
    with pytest.raises(ValidationError, match="blocks"):
        adapter.validate_python({"kind": "conv", "blocks": 2})


def test_the_options_choose_the_network() -> None:
    for options, kind in ((ConvOptions(), ConvNet), (ImpalaOptions(), ImpalaNet)):
        net = make_image_network(options, (64, 64, 3), HEADS, seed=0, name="q")
        assert type(net) is kind
        assert net.name == "q"
