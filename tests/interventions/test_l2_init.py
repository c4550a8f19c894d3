"""L2-Init: three distances from the initial weights, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lop_ray.interventions import L2Init, LossStep, Training
from lop_ray.networks import MLP, NetworkOptions
from tests.interventions import tiny

STEP = LossStep(tiny.INPUTS, tiny.INPUTS, {}, {})


def _moved(norm: bool = False, **options: object) -> tuple[L2Init, MLP]:
    """Away from its initial weights by (1, 2) in two weights and 2 in both biases of the first layer."""
    net = tiny.network(normalisation="layernorm" if norm else "none")
    penalty = L2Init(strength=0.1, **options)
    tiny.attached(penalty, net)
    with torch.no_grad():
        net.body.linear_0.weight += torch.tensor([[1.0, 0.0], [0.0, -2.0]])
        net.body.linear_0.bias += 2.0
        if norm:
            net.body.norm_0.weight += 3.0
    return penalty, net


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("squared", 0.1 / 2 * (1 + 4 + 4 + 4)),
        ("norm", 0.1 * math.sqrt(13)),
        ("mean", 0.1 * ((1 + 4) / 4 + (4 + 4) / 2)),
    ],
)
def test_the_forms(form: str, value: float) -> None:
    penalty, _ = _moved(form=form)
    assert penalty.loss_term(STEP).item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("form", "weight", "bias"),
    [("squared", 0.1 * 1, 0.1 * 2), ("norm", 0.1 / 13**0.5, 0.1 * 2 / 13**0.5), ("mean", 0.1 * 2 / 4, 0.1 * 2 * 2 / 2)],
)
def test_their_gradients(form: str, weight: float, bias: float) -> None:
    penalty, net = _moved(form=form)
    penalty.loss_term(STEP).backward()
    assert net.body.linear_0.weight.grad[0, 0].item() == pytest.approx(weight, rel=1e-6)
    assert net.body.linear_0.weight.grad[0, 1].item() == 0.0
    assert net.body.linear_0.bias.grad.tolist() == pytest.approx([bias, bias], rel=1e-6)
    assert (net.head.weight.grad == 0).all()


@pytest.mark.parametrize("form", ["squared", "norm", "mean"])
@pytest.mark.parametrize("compare", ["elementwise", "sorted"])
def test_at_the_initial_weights_there_is_no_penalty_and_no_gradient(form: str, compare: str) -> None:
    penalty = L2Init(form=form, compare=compare)
    net = tiny.network()
    tiny.attached(penalty, net)
    term = penalty.loss_term(STEP)
    term.backward()
    assert term.item() == 0.0
    assert all((parameter.grad == 0).all() for parameter in net.parameters())


@pytest.mark.parametrize(("normalisation", "value"), [("exclude", 13.0), ("include", 13.0 + 2 * 9.0)])
def test_normalisation_counts_only_when_asked(normalisation: str, value: float) -> None:
    penalty, _ = _moved(norm=True, normalisation=normalisation)
    assert penalty.loss_term(STEP).item() == pytest.approx(0.05 * value, rel=1e-6)


def test_sorted_compares_histograms() -> None:
    # Initially [1, 0, 0, 2], sorted 0 0 1 2. Permuted: nothing. Then sorted (0, 0, 1, 5): 3 away.
    penalty, net = L2Init(strength=2.0, compare="sorted"), tiny.network()
    tiny.attached(penalty, net)
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[2.0, 1.0], [0.0, 0.0]]))
    assert penalty.loss_term(STEP).item() == 0.0
    with torch.no_grad():
        net.body.linear_0.weight[0, 0] = 5.0
    term = penalty.loss_term(STEP)
    term.backward()
    assert term.item() == pytest.approx(9.0)
    assert net.body.linear_0.weight.grad.tolist() == [[6.0, 0.0], [0.0, 0.0]]


def test_norm_is_one_norm_over_all_networks() -> None:
    nets = {"policy": tiny.network(), "value": tiny.network()}
    optimizer = torch.optim.Adam([p for net in nets.values() for p in net.parameters()])
    penalty = L2Init(form="norm", strength=1.0)
    penalty.attach(Training(nets, optimizer, torch.Generator()))
    with torch.no_grad():
        nets["policy"].head.bias[0] += 3.0
        nets["value"].head.bias[1] += 4.0
    assert penalty.loss_term(STEP).item() == pytest.approx(5.0)


def test_the_initial_weights_survive_a_restart_with_moved_ones() -> None:
    penalty, net = _moved()
    resumed = L2Init(strength=0.1)
    tiny.attached(resumed, net)
    assert resumed.loss_term(STEP).item() == 0.0
    resumed.load_state_dict(penalty.state_dict())
    assert resumed.loss_term(STEP).item() == pytest.approx(0.05 * 13)


def test_initial_weights_do_not_follow_training() -> None:
    net = MLP(2, 2, NetworkOptions(hidden=(2,)), seed=0)
    penalty = L2Init(strength=1.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    tiny.attached(penalty, net, optimizer)
    start = tiny.snapshot(net)
    with torch.no_grad():
        net.head.weight += 1.0
    penalty.loss_term(STEP).backward()
    optimizer.step()  # theta <- theta - 0.5 (theta - theta_0): half the way back
    torch.testing.assert_close(net.head.weight.detach(), start["head.weight"] + 0.5)
