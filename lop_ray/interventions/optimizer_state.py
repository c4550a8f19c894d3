"""Zeroing parts of an optimiser's state, for units that start anew.

Works with every torch optimiser that keeps tensors of the parameter's shape: Adam's `exp_avg`,
`exp_avg_sq` (and `max_exp_avg_sq`), SGD's and RMSprop's buffers. Before the first step there is
nothing to zero, and nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def moments_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[Tensor]:
    """The tensors of `parameter`'s shape in the optimiser's state, such as Adam's two moments."""
    state = optimizer.state.get(parameter, {})
    return [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]


def zero_rows(optimizer: torch.optim.Optimizer, parameter: Tensor, rows: Tensor) -> None:
    """Zeroes the moments of `parameter[rows]`.

    Args:
        optimizer: Owner of the state.
        parameter: [out, ...], a weight or a bias.
        rows: [n], indices of units.
    """
    for moment in moments_of(optimizer, parameter):
        moment[rows] = 0.0


def zero_columns(optimizer: torch.optim.Optimizer, parameter: Tensor, units: int, columns: Tensor) -> None:
    """Zeroes the moments of the weights with which `parameter` reads some units.

    Args:
        optimizer: Owner of the state.
        parameter: [out, units * taps] or [out, units, height, width], the weight of a reader.
        units: How many units the reader reads.
        columns: [n], indices of units.
    """
    for moment in moments_of(optimizer, parameter):
        moment.view(moment.shape[0], units, -1)[:, columns] = 0.0


def zero_step(optimizer: torch.optim.Optimizer, parameter: Tensor) -> None:
    """Starts Adam's count of steps (its bias correction) of the whole `parameter` again.

    torch keeps one count a parameter, so that the count of single units can't be zeroed.
    """
    step = optimizer.state.get(parameter, {}).get("step")
    if isinstance(step, Tensor):
        step.zero_()


def optimizer_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters of an optimiser, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def forget(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Makes the optimiser treat `parameters` as if it had never stepped them."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)
