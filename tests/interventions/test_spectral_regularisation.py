"""Spectral regularisation: (sigma^k - target)^2 and its neighbours, against SVD and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lop_ray.interventions import LossStep, SpectralRegularisation
from lop_ray.networks import MLP, NetworkOptions
from tests.cases import SmallConvNet
from tests.interventions import tiny

STEP = LossStep(tiny.INPUTS, tiny.INPUTS, {}, {})
HEAD = np.linalg.svd(np.array(tiny.OUTGOING), compute_uv=False)[0]


def _penalty(net: torch.nn.Module, **options: object) -> SpectralRegularisation:
    penalty = SpectralRegularisation(**{"strength": 0.1, "power_iterations": 200, **options})
    tiny.attached(penalty, net)
    return penalty


@pytest.mark.parametrize(
    ("options", "value"),
    [  # the first layer is diag(1, 2)
        ({"heads": False}, (2**2 - 1) ** 2),
        ({"heads": False, "target": 2.0}, (2**2 - 2) ** 2),
        ({"heads": False, "exponent": 1, "target": 0.5}, 1.5**2),
        ({}, 9 + (HEAD**2 - 1) ** 2),
    ],
)
def test_by_hand(options: dict[str, object], value: float) -> None:
    assert _penalty(tiny.network(), **options).loss_term(STEP).item() == pytest.approx(0.1 * value, rel=1e-5)


def test_biases_go_to_0_and_scales_to_1() -> None:
    net = tiny.network(normalisation="layernorm")
    plain = _penalty(net).loss_term(STEP).item()
    with torch.no_grad():
        net.body.linear_0.bias.copy_(torch.tensor([1.0, 2.0]))
        net.head.bias.copy_(torch.tensor([0.0, -3.0]))
        net.body.norm_0.weight.copy_(torch.tensor([3.0, 1.0]))
        net.body.norm_0.bias.copy_(torch.tensor([0.5, 0.0]))
    assert _penalty(net).loss_term(STEP).item() - plain == pytest.approx(0.1 * (1 + 4 + 9 + 4 + 0.25), rel=1e-4)


def test_kernels_are_matrices() -> None:
    net = SmallConvNet(0)
    weights = [m.weight.detach().double().numpy() for m in (net.conv_0, net.conv_1, net.linear, net.head)]
    sigmas = [np.linalg.svd(w.reshape(len(w), -1), compute_uv=False)[0] for w in weights]
    assert _penalty(net).loss_term(STEP).item() == pytest.approx(0.1 * sum((s**2 - 1) ** 2 for s in sigmas), rel=1e-4)


def test_the_gradient_is_that_of_the_largest_singular_value() -> None:
    net = tiny.network()
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[1.0, 0.5], [-0.25, 2.0]]))
    u, s, vt = np.linalg.svd(net.body.linear_0.weight.detach().numpy())
    _penalty(net, heads=False).loss_term(STEP).backward()
    expected = 0.1 * 2 * (s[0] ** 2 - 1) * 2 * s[0] * np.outer(u[:, 0], vt[0])
    np.testing.assert_allclose(net.body.linear_0.weight.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("gradient", "agrees"), [("through_iterations", True), ("singular_vectors", False)])
def test_only_through_iterations_differentiates_a_rough_iteration(gradient: str, agrees: bool) -> None:
    net = MLP(3, 2, NetworkOptions(hidden=(3,)), seed=0).double()
    penalty = _penalty(net, power_iterations=1, gradient=gradient, heads=False)
    weight = net.body.linear_0.weight
    penalty.loss_term(STEP).backward()
    differences = torch.zeros_like(weight)
    with torch.no_grad():
        for i in range(weight.numel()):
            for sign in (1.0, -1.0):
                weight.view(-1)[i] += sign * 1e-6
                differences.view(-1)[i] += sign * penalty.loss_term(STEP) / 2e-6
                weight.view(-1)[i] -= sign * 1e-6
    assert torch.allclose(weight.grad, differences, rtol=1e-5, atol=1e-7) == agrees


def test_one_iteration_by_hand() -> None:
    # W = diag(1, 2), v ~ (1, 1): W'W v ~ (1, 4), and |W v| = sqrt(1 + 64) / sqrt(17).
    net = tiny.network()
    penalty = _penalty(net, power_iterations=1, heads=False, exponent=1, strength=1.0)
    penalty.load_state_dict({"vectors": [torch.tensor([1.0, 1.0]) / 2**0.5]})
    for _ in range(2):  # a fixed start gives the same again
        assert penalty.loss_term(STEP).item() == pytest.approx(((65 / 17) ** 0.5 - 1) ** 2, rel=1e-5)


def test_a_running_start_goes_on_where_it_was_and_survives_a_restart() -> None:
    net = MLP(20, 20, NetworkOptions(hidden=(20,)), seed=0)
    penalty = _penalty(net, power_iterations=1, start="running", strength=1.0)
    sigmas = [np.linalg.svd(w.detach(), compute_uv=False)[0] for w in (net.body.linear_0.weight, net.head.weight)]
    exact = sum((sigma**2 - 1) ** 2 for sigma in sigmas)
    errors = []
    for _ in range(60):
        errors.append(abs(penalty.loss_term(STEP).item() - exact))
    assert errors[-1] < 1e-3 * exact
    assert errors[-1] < errors[0]
    resumed = _penalty(net, power_iterations=1, start="running", strength=1.0)
    resumed.load_state_dict(penalty.state_dict())
    assert torch.equal(resumed.loss_term(STEP), penalty.loss_term(STEP))
