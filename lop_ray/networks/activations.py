"""Activation functions by name, with the gain that keeps their variance."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

ActivationName = Literal["relu", "leaky_relu", "tanh", "gelu", "elu", "mish", "silu"]

_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "mish": nn.Mish,
    "silu": nn.SiLU,
}


def make_activation(name: ActivationName) -> nn.Module:
    """A new activation module; each hidden layer owns one."""
    return _MODULES[name]()


def gain_of(name: ActivationName) -> float:
    """Gain of `torch.nn.init.calculate_gain`; activations it does not know count as ReLU."""
    if name == "tanh":
        return 5 / 3
    if name == "leaky_relu":
        return nn.init.calculate_gain("leaky_relu", 0.01)
    return math.sqrt(2)
