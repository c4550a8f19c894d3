"""Reaching the trainable tensor behind a module's weight."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize


def trainable_weight(module: nn.Module) -> nn.Parameter:
    """The parameter behind `module.weight`: itself, or the original under a parametrisation.

    What the optimiser changes and what a reset writes to; `module.weight` is what the forward pass uses.
    """
    if parametrize.is_parametrized(module, "weight"):
        original = module.parametrizations["weight"].original  # type: ignore[index, union-attr]
        assert isinstance(original, nn.Parameter)
        return original
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight
