"""Weight clipping: after every gradient step, w <- clamp(w, -kappa s, kappa s).

Elsayed et al. 2024 (arXiv 2407.01704, Algorithm 1).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.interventions.layers import affine_layers
from lop_ray.networks import trainable_weight
from lop_ray.options import Options


class WeightClippingOptions(Options):
    """The options of `weight_clipping`; the defaults are those of its PPO runs."""

    kappa: Annotated[float, Gt(0.0)] = 3.0
    """Bound in units of s."""
    bound: Literal["fan_in", "fan_sum"] = "fan_in"
    """fan_in: s = 1 / sqrt(fan_in), torch's default initialisation, for a layer's weight and bias (the paper,
    `rl_experiments/weight_clipping.py`). fan_sum: s = 1 / sqrt(shape[0] + shape[1]) for weights, 1 for biases (the
    supervised code, `core/optim/weight_clipping.py`)."""
    heads: bool = True
    """Also the output layers (`clip_last_layer`)."""


class WeightClipping(Intervention):
    """Keeps weights and biases of Linear and Conv2d layers within +-kappa s.

    Scales and shifts of normalisations, and PPO's log standard deviation, are free. (The RL code clips the latter
    too, by the accident of its being a matrix [1, actions] with "fan_in" = actions.)
    """

    Options = WeightClippingOptions
    options: WeightClippingOptions

    def attach(self, training: Training) -> None:
        """Sizes the bounds."""
        super().attach(training)
        options = self.options
        self._bounds: list[tuple[Tensor, float]] = []
        for network in training.networks.values():
            for module in affine_layers(network, heads=options.heads).values():
                weight = trainable_weight(module)
                wide = weight[0].numel() if options.bound == "fan_in" else weight.shape[0] + weight.shape[1]
                bound = options.kappa / math.sqrt(wide)
                self._bounds.append((weight, bound))
                if module.bias is not None:
                    self._bounds.append((module.bias, bound if options.bound == "fan_in" else options.kappa))

    @torch.no_grad()
    def after_gradient_step(self, step: GradientStep) -> None:
        """Clips."""
        for parameter, bound in self._bounds:
            parameter.clamp_(-bound, bound)
