"""Activation functions by name, with the gain that keeps their variance.

Most map each unit's pre-activation z to one number. These hand on two numbers a unit, side by side, so that unit i
of U is read at inputs 2i and 2i + 1 of the next layer (the published codes put all first halves before all second
ones, which is another order of the same weights):

| name | what unit i hands on | units of a layer of width W |
|---|---|---|
| crelu | max(z, 0), max(-z, 0) | W / 2: the layer's output stays W wide (Juliani & Ash 2024) |
| crelu_wide | max(z, 0), max(-z, 0) | W: the output is 2 W wide (Shang et al. 2016; plain exchange of the activation) |
| fourier | sin z, cos z | W / 2 (deep Fourier features, Lewandowski et al. 2025) |

Abbas et al. 2023 (arXiv 2303.07507), who brought CReLU to this field, define it as [ReLU(z), ReLU(-z)].
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

ActivationName = Literal[
    "relu",
    "leaky_relu",
    "tanh",
    "gelu",
    "elu",
    "selu",
    "mish",
    "silu",
    "crelu",
    "crelu_wide",
    "fourier",
]


class PairedActivation(nn.Module):
    """An activation that hands on two numbers a unit.

    Attributes:
        inner: The module between the pre-activations and [N, units, 2] (images: [N, units, 2, H, W]), which is what
            measures of units see: both numbers of a unit count as its samples, like the positions of a channel.
    """

    outputs: ClassVar[int] = 2
    inner: nn.Module

    def forward(self, values: Tensor) -> Tensor:
        """[..., units] -> [..., 2 units]; an image's [N, units, H, W] -> [N, 2 units, H, W]."""
        raise NotImplementedError


class CReLU(PairedActivation):
    """max(z, 0) and max(-z, 0); `inner` is the ReLU over z and -z, the unit's two pre-activations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ReLU()

    def forward(self, values: Tensor) -> Tensor:
        """As `PairedActivation` says."""
        return _side_by_side(self.inner(_pairs(values, -values)))


class FourierFeatures(PairedActivation):
    """sin z and cos z; `inner` gives both from z."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = SineCosine()

    def forward(self, values: Tensor) -> Tensor:
        """As `PairedActivation` says."""
        return _side_by_side(self.inner(values))


class SineCosine(nn.Module):
    """[..., units] -> [..., units, 2]; an image's [N, units, H, W] -> [N, units, 2, H, W]."""

    def forward(self, values: Tensor) -> Tensor:
        """Sine and cosine of every value."""
        return _pairs(values.sin(), values.cos())


def _pairs(first: Tensor, second: Tensor) -> Tensor:
    """Four dimensions are an image's, whose units stand second; else units stand last."""
    return torch.stack((first, second), 2 if first.ndim == 4 else -1)


def _side_by_side(pairs: Tensor) -> Tensor:
    return pairs.flatten(1, 2) if pairs.ndim == 5 else pairs.flatten(-2)


_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "mish": nn.Mish,
    "silu": nn.SiLU,
    "crelu": CReLU,
    "crelu_wide": CReLU,
    "fourier": FourierFeatures,
}

_GAINS = {
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "tanh": 5 / 3,
    "gelu": 1.5335304411955353,
    "elu": 1.2451983007007066,
    "selu": 1.0,
    "mish": 1.4868475812732078,
    "silu": 1.6765324703310913,
}


def make_activation(name: ActivationName) -> nn.Module:
    """A new activation module; each hidden layer owns one."""
    return _MODULES[name]()


def gain_of(name: ActivationName) -> float:
    """1 / sqrt(E[phi(z)^2]) for z ~ N(0, 1), over all numbers that a unit hands on (He et al. 2015, section 2.2).

    With it a layer's pre-activations have the variance of the layer's before. That is sqrt(2) for ReLU, CReLU and
    sine with cosine; tanh has the 5/3 of `torch.nn.init.calculate_gain` instead of 1.59.
    """
    return _GAINS.get(name, math.sqrt(2))


def outputs_of(activation: nn.Module) -> int:
    """How many numbers each unit hands on."""
    return activation.outputs if isinstance(activation, PairedActivation) else 1


def units_of(name: ActivationName, width: int) -> int:
    """Units of a layer of `width`, as the module's table says.

    Args:
        name: Its activation.
        width: As options give it.

    Returns:
        Their number.

    Raises:
        ValueError: The activation halves the width, which is odd.
    """
    if name not in ("crelu", "fourier"):
        return width
    if width % 2:
        raise ValueError(f"a layer of width {width} cannot be halved for {name}, which hands on two numbers a unit")
    return width // 2
