"""Activation functions written over their pre-activations, with the derivative read off what they put out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Tanh)
"""Activation functions whose derivative can be read off what they put out."""


def activate_(activation: nn.Module, values: Tensor) -> Tensor:
    """One of `ACTIVATIONS`, written over `values`."""
    if isinstance(activation, nn.Tanh):
        return values.tanh_()
    if isinstance(activation, nn.LeakyReLU):
        return nn.functional.leaky_relu_(values, activation.negative_slope)
    return values.relu_()


def activation_gradient(activation: nn.Module, gradient: Tensor, activations: Tensor, out: Tensor) -> Tensor:
    """The gradient in the pre-activations.

    Args:
        activation: One of `ACTIVATIONS`.
        gradient: That in the activations.
        activations: What it gave.
        out: Is written over; may be `gradient`.

    Returns:
        `out`.
    """
    aten: Any = torch.ops.aten
    if isinstance(activation, nn.Tanh):
        return aten.tanh_backward.grad_input(gradient, activations, grad_input=out)
    if isinstance(activation, nn.LeakyReLU):
        slope = activation.negative_slope
        return aten.leaky_relu_backward.grad_input(gradient, activations, slope, True, grad_input=out)
    return aten.threshold_backward.grad_input(gradient, activations, 0.0, grad_input=out)
