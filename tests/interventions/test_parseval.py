"""Parseval regularisation: |W W' - s I|_F^2 by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lop_ray.interventions import LossStep, Parseval
from tests.cases import SmallConvNet
from tests.interventions import tiny

STEP = LossStep(tiny.INPUTS, tiny.INPUTS, {}, {})
ROWS = [[1.0, 0.0], [1.0, 2.0]]  # W W' = [[1, 1], [1, 5]]


def _term(weight: list[list[float]] = ROWS, **options: object) -> float:
    net = tiny.network()
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor(weight))
    penalty = Parseval(**{"strength": 0.1, "width_scaling": False, **options})
    tiny.attached(penalty, net)
    return penalty.loss_term(STEP).item()


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, (1 - 2) ** 2 + 1 + 1 + (5 - 2) ** 2),
        ({"scale": 5.0}, (1 - 5) ** 2 + 1 + 1),
        ({"width_scaling": True}, 32**2 * 12),  # (64 / 2)^2
        ({"rows": "unit", "scale": 1.0}, 2 * 1 / 5),  # cosine 1 / sqrt(5), twice
        ({"groups": 2}, (1 - 2) ** 2 + (5 - 2) ** 2),  # each unit alone: only norms count
    ],
)
def test_by_hand(options: dict[str, object], value: float) -> None:
    assert _term(**options) == pytest.approx(0.1 * value, rel=1e-5)


def test_orthogonal_rows_of_norm_sqrt_2_are_the_minimum() -> None:
    assert _term([[1.0, 1.0], [1.0, -1.0]]) == pytest.approx(0.0, abs=1e-6)


def test_the_gradient() -> None:
    # d/dW |W W' - s I|^2 = 4 (W W' - s I) W
    net = tiny.network()
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor(ROWS))
    penalty = Parseval(strength=0.1, width_scaling=False)
    tiny.attached(penalty, net)
    penalty.loss_term(STEP).backward()
    expected = 0.1 * 4 * np.array([[-1.0, 1.0], [1.0, 3.0]]) @ np.array(ROWS)
    np.testing.assert_allclose(net.body.linear_0.weight.grad, expected, rtol=1e-5)
    assert net.head.weight.grad is None
    assert net.body.linear_0.bias.grad is None


def test_kernels_are_matrices_and_groups_are_blocks() -> None:
    net = SmallConvNet(0)
    penalty = Parseval(strength=1.0)
    tiny.attached(penalty, net)
    expected = 0.0
    for weight in (net.conv_0.weight, net.conv_1.weight, net.linear.weight):
        w = weight.detach().double().numpy().reshape(len(weight), -1)
        expected += (64 / len(w)) ** 2 * ((w @ w.T - 2 * np.eye(len(w))) ** 2).sum()
    assert penalty.loss_term(STEP).item() == pytest.approx(expected, rel=1e-5)

    grouped = Parseval(strength=1.0, groups=3, width_scaling=False)
    with pytest.raises(ValueError, match=r"groups: 3 does not divide the 4 units of net.conv_1; use a divisor"):
        tiny.attached(grouped, net)


def test_a_target_out_of_reach_is_refused() -> None:
    with pytest.raises(ValidationError, match="scale: 2 cannot be met; use scale: 1"):
        Parseval(rows="unit")
