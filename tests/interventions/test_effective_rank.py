"""The effective-rank penalty: against numpy's SVD and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lop_ray.interventions import EffectiveRank, LossStep, Training
from lop_ray.interventions.effective_rank import effective_rank
from lop_ray.networks import MLP, ActivationTap, NetworkOptions
from tests.interventions import tiny


def _by_svd(features: np.ndarray) -> float:
    sigma = np.linalg.svd(features, compute_uv=False)
    p = sigma[sigma > 1e-9] / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _net(**options: object) -> MLP:
    return MLP(3, 2, NetworkOptions(hidden=(6, 5, 4), activation="tanh", **options), seed=0).double()


def _inputs(count: int = 20) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _features(net: MLP, inputs: torch.Tensor) -> list[np.ndarray]:
    found, h = [], inputs
    for module in net.body:
        h = module(h)
        if isinstance(module, torch.nn.Tanh):
            found.append(h.detach().numpy())
    return found


@pytest.mark.parametrize("shape", [(30, 7), (5, 9)])
def test_the_rank_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).standard_normal(shape)
    assert effective_rank(torch.from_numpy(features)).item() == pytest.approx(_by_svd(features), rel=1e-9)


def test_equal_singular_values_count_as_dimensions_and_zeros_as_none() -> None:
    features = torch.zeros(6, 5)
    features[:3, :3] = torch.eye(3)
    assert effective_rank(features).item() == pytest.approx(3.0, rel=1e-6)
    assert effective_rank(torch.zeros(6, 5)).item() == 0.0


def test_positions_are_samples() -> None:
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = images.numpy().transpose(0, 2, 3, 1).reshape(-1, 3)
    assert effective_rank(images).item() == pytest.approx(_by_svd(rows), rel=1e-9)


def test_its_gradient_is_that_through_an_svd() -> None:
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(effective_rank(features), features)
    sigma = torch.linalg.svdvals(features)
    p = sigma / sigma.sum()
    (expected,) = torch.autograd.grad(torch.exp(-(p * p.log()).sum()), features)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


def test_silent_units_give_finite_gradients() -> None:
    features = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    features[:, 2] = 0.0
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(effective_rank(features), features)
    assert gradient.isfinite().all()
    assert (torch.autograd.grad((rank := effective_rank(features * 0)), features)[0] == 0).all()
    assert rank.item() == 0.0


@pytest.mark.parametrize(("layers", "count"), [("all", 3), ("last_two", 2)])
def test_r_is_the_mean_over_layers_summed_over_networks(layers: str, count: int) -> None:
    nets, inputs = {"policy": _net(), "value": _net(init="orthogonal")}, _inputs()
    optimizer = torch.optim.Adam([p for net in nets.values() for p in net.parameters()])
    penalty = EffectiveRank(layers=layers)
    penalty.attach(Training(nets, optimizer, torch.Generator()))
    expected = sum(np.mean([_by_svd(f) for f in _features(net, inputs)[-count:]]) for net in nets.values())
    assert penalty.rank(inputs).item() == pytest.approx(expected, rel=1e-9)


def test_both_numbers_of_a_paired_activation_are_features() -> None:
    net = MLP(3, 2, NetworkOptions(hidden=(8,), activation="crelu"), seed=0).double()
    penalty = EffectiveRank()
    tiny.attached(penalty, net)
    inputs = _inputs()
    features = net.body(inputs).detach().numpy()  # [20, 8] of 4 units
    assert penalty.rank(inputs).item() == pytest.approx(_by_svd(features), rel=1e-9)


def _ascent_by_finite_differences(net: MLP, inputs: torch.Tensor) -> dict[str, np.ndarray]:
    found = {}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            found[name] = np.zeros(tuple(parameter.shape))
            for i in range(parameter.numel()):
                for sign in (1.0, -1.0):
                    parameter.view(-1)[i] += sign * 1e-6
                    rank = np.mean([_by_svd(f) for f in _features(net, inputs)])
                    found[name].reshape(-1)[i] += sign * rank / 2e-6
                    parameter.view(-1)[i] -= sign * 1e-6
    return found


def test_a_step_is_plain_gradient_ascent_on_all_observations_and_leaves_the_optimiser_alone() -> None:
    net, inputs = _net(), _inputs()
    optimizer = torch.optim.Adam(net.parameters())
    penalty = EffectiveRank(strength=0.1, period=4)
    tiny.attached(penalty, net, optimizer)
    gradient = _ascent_by_finite_differences(net, inputs)
    before = tiny.snapshot(net)
    penalty.after_gradient_step(tiny.step(3, inputs=inputs))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    penalty.after_gradient_step(tiny.step(4, inputs=inputs))
    for name, value in net.state_dict().items():
        np.testing.assert_allclose(value, before[name] + 0.1 * gradient[name], rtol=1e-5, atol=1e-8)
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in net.parameters())
    assert penalty.loss_term(LossStep(inputs, inputs, {}, {})) is None


def test_steps_raise_the_rank() -> None:
    net, inputs = _net(), _inputs()
    penalty = EffectiveRank(strength=0.05, period=1)
    tiny.attached(penalty, net)
    ranks = []
    for count in range(1, 6):
        ranks.append(penalty.rank(inputs).item())
        penalty.after_gradient_step(tiny.step(count, inputs=inputs))
    assert ranks == sorted(ranks)
    assert ranks[-1] > ranks[0] + 0.05


def test_as_a_loss_term_it_is_minus_the_rank_of_the_minibatch() -> None:
    net, inputs = _net(), _inputs()
    penalty = EffectiveRank(strength=0.1, form="loss_term")
    tiny.attached(penalty, net)
    minibatch = inputs[:8]
    term = penalty.loss_term(LossStep(inputs, minibatch, {}, {}))
    assert term is not None
    assert term.item() == pytest.approx(-0.1 * np.mean([_by_svd(f) for f in _features(net, minibatch)]), rel=1e-9)
    term.backward()
    gradient = _ascent_by_finite_differences(net, minibatch)
    for name, parameter in net.named_parameters():
        if "head" not in name:
            np.testing.assert_allclose(parameter.grad, -0.1 * gradient[name], rtol=1e-5, atol=1e-8)
    before = tiny.snapshot(net)
    penalty.after_gradient_step(tiny.step(16, inputs=inputs))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_its_own_passes_are_not_taken_for_training() -> None:
    net = _net()
    tap = ActivationTap(net)
    penalty = EffectiveRank(period=1)
    tiny.attached(penalty, net)
    net(_inputs(2))
    penalty.after_gradient_step(tiny.step(1, inputs=_inputs()))
    assert [len(latest) for latest in tap.latest] == [2, 2, 2]
    assert net.training


def test_a_period_of_a_loss_term_is_refused() -> None:
    with pytest.raises(ValidationError, match="period belongs to form: step"):
        EffectiveRank(form="loss_term", period=4)
