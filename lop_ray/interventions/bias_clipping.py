"""Bias clipping: no hidden bias falls below a bound, so that no unit is switched off by its bias."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Le
from torch import Tensor

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.networks import hidden_layers
from lop_ray.options import Options


class BiasClippingOptions(Options):
    """The options of `bias_clipping`."""

    minimum: Annotated[float, Le(0.0)] = -0.1
    """The least value of a bias, at most 0."""


class BiasClipping(Intervention):
    """After every gradient step, b <- max(b, minimum) for every bias of a hidden layer and every shift of its
    normalisation. Output layers are free.
    """

    Options = BiasClippingOptions
    options: BiasClippingOptions

    def attach(self, training: Training) -> None:
        """Remembers the biases."""
        super().attach(training)
        self._biases: list[Tensor] = []
        for network in training.networks.values():
            for layer in hidden_layers(network):
                found = (layer.incoming.bias, getattr(layer.normalisation, "bias", None))
                self._biases += [bias for bias in found if isinstance(bias, Tensor)]

    @torch.no_grad()
    def after_gradient_step(self, step: GradientStep) -> None:
        """Clips."""
        torch._foreach_clamp_min_(self._biases, self.options.minimum)
