"""Spectral norm: power iteration by hand, against SVD, and against torch's own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from lop_ray.interventions import GradientStep, SpectralNorm, Training, exact_spectral_norm
from lop_ray.networks import MLP, NetworkOptions, hidden_layers, record, trainable_weight
from lop_ray.networks.conv import ConvNet, ConvOptions
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions
from tests.cases import SmallConvNet
from tests.interventions import tiny

STEP = GradientStep(1, {}, torch.empty(0))


def _built(net: nn.Module, seed: int = 0, **options: Any) -> SpectralNorm:
    norm = SpectralNorm(**options)
    norm.build({"net": net}, torch.Generator().manual_seed(seed))
    tiny.attached(norm, net)
    return norm


def _parametrised(net: nn.Module) -> set[str]:
    return {name for name, module in net.named_modules() if parametrize.is_parametrized(module)}


def _vectors(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    normed = module.parametrizations["weight"][0]
    return normed.u, normed.v


def test_defaults() -> None:
    assert SpectralNorm().options.model_dump() == {"layers": "hidden", "heads": False, "power_iterations": 1}


def test_a_diagonal_weight_is_divided_by_its_largest_entry() -> None:
    net = tiny.network()
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    _built(net)
    torch.testing.assert_close(net.body.linear_0.weight, torch.tensor([[1.0, 0.0], [0.0, 1 / 3]]))
    assert trainable_weight(net.body.linear_0).tolist() == [[3.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(("iterations", "u", "v"), [(1, [3.0, 4.0], [15.0, 16.0]), (2, [75.0, 64.0], [375.0, 256.0])])
def test_power_iterations_by_hand(iterations: int, u: list[float], v: list[float]) -> None:
    # W = diag(5, 4), v ~ (3, 5): W v ~ (15, 20) ~ (3, 4) = u; W' u ~ (15, 16) = v; W v ~ (75, 64) = u; ...
    net = tiny.network()
    norm = _built(net, power_iterations=iterations)
    weight = torch.tensor([[5.0, 0.0], [0.0, 4.0]])
    with torch.no_grad():
        trainable_weight(net.body.linear_0).copy_(weight)
        _vectors(net.body.linear_0)[1].copy_(torch.tensor([3.0, 5.0]) / 34**0.5)
    norm.after_gradient_step(STEP)
    expected_u, expected_v = (torch.tensor(x) / torch.tensor(x).norm() for x in (u, v))
    got_u, got_v = _vectors(net.body.linear_0)
    torch.testing.assert_close(got_u, expected_u)
    torch.testing.assert_close(got_v, expected_v)
    torch.testing.assert_close(net.body.linear_0.weight, weight / (expected_u @ weight @ expected_v))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"body.linear_0", "body.linear_1"}),
        ({"layers": "first"}, {"body.linear_0"}),
        ({"heads": True}, {"body.linear_0", "body.linear_1", "head"}),
        ({"layers": "first", "heads": True}, {"body.linear_0", "head"}),
    ],
)
def test_which_layers_are_normalised(options: dict[str, Any], names: set[str]) -> None:
    net = MLP(4, 2, NetworkOptions(hidden=(8, 6)), seed=0)
    _built(net, **options)
    assert _parametrised(net) == names


def _conv_net() -> ConvNet:
    options = ConvOptions(channels=(4, 6), hidden=(8,))
    return ConvNet((8, 8, 2), {"policy": 3, "value": 1}, options, seed=0)


def _impala_net() -> ImpalaNet:
    options = ImpalaOptions(channels=(4, 6), blocks=1, hidden=(8,))
    return ImpalaNet((8, 8, 2), {"policy": 3, "value": 1}, options, seed=0)


_CONV = {"body.conv_0", "body.conv_1", "top.body.hidden_0"}
_IMPALA = {
    *(f"body.stage_{i}{part}" for i in range(2) for part in ("", "_block_0.inner.conv_a", "_block_0.conv_b")),
    "top.body.hidden_0",
}
_HEADS = {"top.heads.policy", "top.heads.value"}


@pytest.mark.parametrize(
    ("make", "options", "names"),
    [
        (_conv_net, {}, _CONV),
        (_conv_net, {"heads": True}, _CONV | _HEADS),
        (_conv_net, {"heads": ["value"]}, _CONV | {"top.heads.value"}),
        (_conv_net, {"layers": "first", "heads": ["policy", "value"]}, {"body.conv_0"} | _HEADS),
        (_impala_net, {}, _IMPALA),
        (_impala_net, {"heads": True}, _IMPALA | _HEADS),
        (_impala_net, {"layers": "first", "heads": ["value"]}, {"body.stage_0", "top.heads.value"}),
    ],
)
def test_of_image_networks_the_whole_trunk_and_the_heads_that_are_named(
    make: Any, options: dict[str, Any], names: set[str]
) -> None:
    net = make()
    _built(net, **options)
    assert _parametrised(net) == names
    assert net(torch.zeros(2, 8, 8, 2, dtype=torch.uint8)).shape == (2, 4)


def test_the_only_head_of_a_network_has_its_name() -> None:
    networks = {name: tiny.network() for name in ("policy", "value")}
    SpectralNorm(heads=["value"]).build(networks, torch.Generator())
    assert _parametrised(networks["policy"]) == {"body.linear_0"}
    assert _parametrised(networks["value"]) == {"body.linear_0", "head"}


def test_a_head_that_no_network_has_is_refused() -> None:
    message = "heads: unknown head 'valve'; did you mean 'value'\\? known: policy, value"
    with pytest.raises(ValueError, match=message):
        SpectralNorm(heads=["valve"]).build({"policy_value": _conv_net()}, torch.Generator())


@pytest.mark.parametrize("make", [_conv_net, _impala_net])
def test_every_weight_of_the_trunk_comes_to_norm_1(make: Any) -> None:
    net = make()
    norm = _built(net)
    for _ in range(300):
        norm.after_gradient_step(STEP)
    for name in _parametrised(net):
        assert exact_spectral_norm(net.get_submodule(name).weight) == pytest.approx(1.0, abs=1e-4), name


@pytest.mark.parametrize(
    ("heads", "dumped"),
    [(False, False), (True, True), (["value"], ["value"]), (("policy", "value"), ["policy", "value"])],
)
def test_heads_are_dumped_as_a_grid_writes_them(heads: Any, dumped: Any) -> None:
    options = SpectralNorm(heads=heads).options
    assert options.model_dump(mode="json") == {"layers": "hidden", "heads": dumped, "power_iterations": 1}


def test_converges_to_the_exact_norm_and_follows_the_weights() -> None:
    net = MLP(30, 2, NetworkOptions(hidden=(20, 10)), seed=0)
    norm = _built(net)
    generator = torch.Generator().manual_seed(1)
    for layer in hidden_layers(net):
        with torch.no_grad():
            trainable_weight(layer.incoming).normal_(generator=generator)
    for _ in range(300):
        norm.after_gradient_step(STEP)
    for layer in hidden_layers(net):
        assert exact_spectral_norm(layer.incoming.weight) == pytest.approx(1.0, abs=1e-5)


def test_a_kernel_is_normalised_as_a_matrix_of_its_output_channels() -> None:
    net = SmallConvNet(0)
    norm = _built(net)
    for _ in range(300):
        norm.after_gradient_step(STEP)
    raw = trainable_weight(net.conv_1)
    matrix = raw.detach().double().numpy().reshape(4, 27)
    sigma = np.linalg.norm(matrix, ord=2)
    assert exact_spectral_norm(raw) == pytest.approx(sigma, rel=1e-12)
    np.testing.assert_allclose(net.conv_1.weight.detach().numpy(), raw.detach().numpy() / sigma, rtol=1e-5)
    assert _parametrised(net) == {"conv_0", "conv_1", "linear"}


def test_gradient_flows_through_sigma() -> None:
    # d/dW <G, W / sigma> with sigma = u' W v and u, v fixed: (G - <G, W / sigma> u v') / sigma
    net = tiny.network()
    _built(net)
    weight, (u, v) = trainable_weight(net.body.linear_0), _vectors(net.body.linear_0)
    g = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    (net.body.linear_0.weight * g).sum().backward()
    sigma = u @ weight.detach() @ v
    expected = (g - (g * weight.detach() / sigma).sum() * torch.outer(u, v)) / sigma
    torch.testing.assert_close(weight.grad, expected)


def test_no_forward_pass_and_no_look_at_a_weight_changes_the_network() -> None:
    net = MLP(4, 2, NetworkOptions(hidden=(8, 6)), seed=0)
    norm = _built(net)
    norm.after_gradient_step(STEP)
    before = tiny.snapshot(net)
    inputs = torch.ones(3, 4)
    for training in (True, False):
        net.train(training)
        first = net(inputs)
        assert net.body.linear_0.weight.shape == (8, 4)
        assert [layer.units for layer in hidden_layers(net)] == [8, 6]
        record(net, inputs)
        assert torch.equal(net(inputs), first)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_equals_torch_with_one_forward_pass_a_step() -> None:
    ours, theirs = (MLP(4, 2, NetworkOptions(hidden=(8, 6)), seed=0) for _ in range(2))
    norm = _built(ours)
    pairs = [(layer.incoming, other.incoming) for layer, other in zip(*map(hidden_layers, (ours, theirs)), strict=True)]
    for mine, other in pairs:
        other.eval()  # registering in training mode would iterate
        with torch.random.fork_rng():
            nn.utils.parametrizations.spectral_norm(other)
        u, v = _vectors(mine)
        other.parametrizations["weight"][0]._u.copy_(u)
        other.parametrizations["weight"][0]._v.copy_(v)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (ours, theirs)]
    data = torch.Generator().manual_seed(2)
    for step in range(20):
        inputs = torch.randn(8, 4, generator=data)
        for net, optimizer in zip((ours, theirs), optimizers, strict=True):
            if net is theirs and step > 0:  # torch's first pass would iterate once more than ours has
                net.train()
            loss = (net(inputs) - inputs[:, :2]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        norm.after_gradient_step(STEP)
    for mine, other in pairs:
        torch.testing.assert_close(trainable_weight(mine), trainable_weight(other), rtol=1e-5, atol=1e-6)


def test_first_vectors_come_from_the_generator_alone() -> None:
    networks = [MLP(4, 2, NetworkOptions(hidden=(8, 6)), seed=0) for _ in range(3)]
    state = torch.get_rng_state()
    for net, seed in zip(networks, (0, 0, 1), strict=True):
        _built(net, seed)
    assert torch.equal(state, torch.get_rng_state())
    (same, _), (again, _), (other, _) = (_vectors(net.body.linear_1) for net in networks)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_vectors_are_saved_with_the_network_and_copied_with_it() -> None:
    net, other = (MLP(4, 2, NetworkOptions(hidden=(8,)), seed=seed) for seed in (0, 1))
    norm = _built(net)
    _built(other, seed=5)
    norm.after_gradient_step(STEP)
    other.load_state_dict(net.state_dict())
    inputs = torch.ones(1, 4)
    assert torch.equal(net(inputs), other(inputs))
    assert torch.equal(net(inputs), copy.deepcopy(net)(inputs))


def test_build_is_for_fresh_networks_and_comes_before_attach() -> None:
    net = tiny.network()
    norm = SpectralNorm()
    with pytest.raises(ValueError, match="call build before the optimiser is made"):
        tiny.attached(norm, net)
    _built(net)
    with pytest.raises(ValueError, match="network 'net' has a parametrised weight already"):
        norm.build({"net": net}, torch.Generator())


def test_attaches_to_the_networks_it_is_given() -> None:
    net = tiny.network()
    norm = _built(net)
    copied = copy.deepcopy(net)
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.1)
    norm.attach(Training({"net": copied}, optimizer, torch.Generator()))
    with torch.no_grad():
        trainable_weight(copied.body.linear_0).copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    before = tiny.snapshot(net)
    norm.after_gradient_step(STEP)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not torch.equal(_vectors(copied.body.linear_0)[0], _vectors(net.body.linear_0)[0])


@pytest.mark.parametrize("options", [{"power_iterations": 0}, {"layers": "all"}, {"heads": []}, {"n": 1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SpectralNorm(**options)
