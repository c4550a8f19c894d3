"""Zeroing moments of rows, columns and taps, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lop_ray.interventions.optimizer_state import (
    forget,
    moments_of,
    optimizer_parameters,
    zero_columns,
    zero_rows,
    zero_step,
)
from tests.interventions import tiny


def test_rows_of_a_weight_and_of_a_bias() -> None:
    layer = nn.Linear(2, 3)
    optimizer = tiny.adam_with_moments(layer)
    zero_rows(optimizer, layer.weight, torch.tensor([0, 2]))
    zero_rows(optimizer, layer.bias, torch.tensor([1]))
    assert tiny.zero_moments(optimizer, layer.weight).tolist() == [[True, True], [False, False], [True, True]]
    assert tiny.zero_moments(optimizer, layer.bias).tolist() == [False, True, False]


def test_columns_cover_all_taps_of_a_unit() -> None:
    layer = nn.Linear(6, 2)
    optimizer = tiny.adam_with_moments(layer)
    zero_columns(optimizer, layer.weight, 3, torch.tensor([1]))
    assert tiny.zero_moments(optimizer, layer.weight).tolist() == [[False, False, True, True, False, False]] * 2


def test_columns_of_a_kernel() -> None:
    layer = nn.Conv2d(3, 2, kernel_size=2)
    optimizer = tiny.adam_with_moments(layer)
    zero_columns(optimizer, layer.weight, 3, torch.tensor([0, 2]))
    zero = tiny.zero_moments(optimizer, layer.weight)
    assert zero[:, [0, 2]].all()
    assert not zero[:, 1].any()


def test_step_starts_again_for_one_parameter() -> None:
    layer = nn.Linear(2, 3)
    optimizer = tiny.adam_with_moments(layer)
    zero_step(optimizer, layer.weight)
    assert optimizer.state[layer.weight]["step"] == 0
    assert optimizer.state[layer.bias]["step"] == 7


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (lambda p: torch.optim.Adam(p, amsgrad=True), {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), {"momentum_buffer"}),
        (lambda p: torch.optim.SGD(p, lr=0.1), set()),
    ],
)
def test_every_moment_of_every_optimiser_is_found(optimizer, names: set[str]) -> None:
    layer = nn.Linear(2, 3)
    optimizer = optimizer(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state[layer.weight]
    expected = {id(state[name]) for name in names}
    assert {id(moment) for moment in moments_of(optimizer, layer.weight)} == expected


def test_before_the_first_step_there_is_nothing_to_zero() -> None:
    layer = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(layer.parameters())
    zero_rows(optimizer, layer.weight, torch.tensor([0]))
    zero_step(optimizer, layer.weight)
    assert not optimizer.state_dict()["state"]


def test_what_is_forgotten_has_no_state_and_the_rest_keeps_its_own() -> None:
    layer = nn.Linear(2, 3)
    optimizer = tiny.adam_with_moments(layer)
    forget(optimizer, [layer.weight])
    assert list(optimizer.state) == [layer.bias]
    assert optimizer.state[layer.bias]["step"] == 7
    forget(optimizer, [layer.weight])  # once more does no harm


def test_all_parameters_of_all_groups() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 1)
    groups = [{"params": first.parameters()}, {"params": second.parameters(), "lr": 0.1}]
    found = optimizer_parameters(torch.optim.SGD(groups, lr=1.0))
    assert [id(p) for p in found] == [id(p) for p in (first.weight, first.bias, second.weight, second.bias)]
