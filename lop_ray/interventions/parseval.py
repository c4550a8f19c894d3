"""Parseval regularisation: lambda sum_W |W W' - s I|_F^2 over all weights but the output layers'.

Chung et al. 2024 (arXiv 2412.07224); its code is `wechu/parseval_reg`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from pydantic import model_validator
from torch import Tensor

from lop_ray.interventions.base import Intervention, LossStep, Training
from lop_ray.interventions.layers import affine_layers
from lop_ray.networks import trainable_weight
from lop_ray.options import Options

_WIDTH = 64


class ParsevalOptions(Options):
    """The options of `parseval`."""

    strength: Annotated[float, Gt(0.0)] = 1e-3
    """lambda: 1e-3 on Meta-World and gridworld, 1e-4 on CARL's quadruped and lunar lander."""
    scale: Annotated[float, Gt(0.0)] = 2.0
    """s, what |w_i|^2 is drawn to: the square of the initialisation's gain, sqrt(2)."""
    width_scaling: bool = True
    """Multiply each layer's term by (64 / units)^2, as the code does: lambda was tuned for 64 units."""
    rows: Literal["raw", "unit"] = "raw"
    """unit: every row is divided by its norm first, so that only angles count (`parseval_norm`, an ablation)."""
    groups: Annotated[int, Gt(0)] = 1
    """Units are orthogonal to those of their own group alone: entries of W W' between consecutive groups of equal size
    count as 0 (`parseval_num_groups`, an ablation)."""

    @model_validator(mode="after")
    def _reachable(self) -> ParsevalOptions:
        if self.rows == "unit" and self.scale != 1.0:
            raise ValueError(f"rows: unit makes every |w|^2 = 1, so scale: {self.scale:g} cannot be met; use scale: 1")
        return self


class Parseval(Intervention):
    """Draws the rows of every weight but the output layers' towards being orthogonal and of norm sqrt(s).

    A kernel is taken as the matrix [out, in * height * width].
    """

    Options = ParsevalOptions
    options: ParsevalOptions

    def attach(self, training: Training) -> None:
        """Sizes targets and masks.

        Raises:
            ValueError: A layer's units cannot be split into `groups` groups.
        """
        super().attach(training)
        self._terms = [
            self._term(f"{name}.{path}", trainable_weight(module))
            for name, network in training.networks.items()
            for path, module in affine_layers(network, heads=False).items()
        ]

    def _term(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None, float]:
        """Weight [units, ...], target s I, mask of the groups, factor.

        Raises:
            ValueError: `groups` does not divide the units.
        """
        options, units = self.options, weight.shape[0]
        if units % options.groups:
            raise ValueError(f"groups: {options.groups} does not divide the {units} units of {name}; use a divisor")
        mask = None
        if options.groups > 1:
            block = torch.ones(units // options.groups, units // options.groups)
            mask = torch.block_diag(*[block] * options.groups).to(weight)
        factor = (_WIDTH / units) ** 2 if options.width_scaling else 1.0
        eye = torch.eye(units, dtype=weight.dtype, device=weight.device)
        return weight, options.scale * eye, mask, options.strength * factor

    def loss_term(self, step: LossStep) -> Tensor:
        """The penalty, a scalar."""
        terms = []
        for weight, target, mask, factor in self._terms:
            matrix = weight.flatten(1)
            if self.options.rows == "unit":
                matrix = matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True)
            gram = matrix @ matrix.T
            terms.append(factor * ((gram if mask is None else gram * mask) - target).square().sum())
        return torch.stack(terms).sum()
