"""Activation clamping: every hidden unit gives at least a small positive number, h <- max(h, minimum)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from lop_ray.interventions.base import Intervention
from lop_ray.networks import hidden_layers
from lop_ray.options import Options


class ActivationClampingOptions(Options):
    """The options of `activation_clamping`."""

    minimum: Annotated[float, Gt(0.0)] = 0.01
    """The least output of a unit."""
    gradient: Literal["zero", "through"] = "zero"
    """Of a clamped output with respect to its pre-activation. zero: that of a constant, so that a unit which is clamped
    on every sample reads out as `minimum` but does not learn. through: 1, so that it learns as a linear unit would and
    can come back."""


class ActivationClamping(Intervention):
    """Clamps the output of every hidden activation from below, in training and in evaluation mode.

    Pre-activations stay as they are: by its margin a unit may still count as dead, by its output none does.
    """

    Options = ActivationClampingOptions
    options: ActivationClampingOptions

    def build(self, networks: Mapping[str, nn.Module], generator: torch.Generator) -> None:
        """Clamps the networks' activations."""
        clamp = partial(_clamp, minimum=self.options.minimum, through=self.options.gradient == "through")
        for network in networks.values():
            for layer in hidden_layers(network):
                layer.activation.register_forward_hook(clamp)


def _clamp(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor, *, minimum: float, through: bool) -> Tensor:
    if not through:
        return output.clamp(min=minimum)
    (pre_activation,) = args
    if pre_activation.ndim < output.ndim:  # each unit hands on several numbers
        pre_activation = pre_activation.unsqueeze(2)
    return torch.where(output < minimum, minimum + pre_activation - pre_activation.detach(), output)
