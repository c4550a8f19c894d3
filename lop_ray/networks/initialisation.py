"""How weights are drawn, at the start of a run and whenever a unit is made anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lop_ray.networks.parameters import trainable_weight

InitName = Literal[
    "lecun_uniform",
    "kaiming_uniform",
    "xavier_uniform",
    "xavier_normal",
    "glorot_normal",
    "orthogonal",
    "torch_default",
]


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    receptive_field = math.prod(shape[2:])
    return shape[1] * receptive_field, shape[0] * receptive_field


@dataclass(frozen=True)
class Initialiser:
    """Draws weights [out, in, ...] and biases [out] by a named rule.

    | name | weight | bias |
    |---|---|---|
    | lecun_uniform | U(+-sqrt(3 / fan_in)) (`lecun_init` of the loss-of-plasticity code) | 0 |
    | kaiming_uniform | U(+-gain sqrt(3 / fan_in)) (He et al. 2015) | 0 |
    | xavier_uniform | U(+-gain sqrt(6 / (fan_in + fan_out))) (Glorot & Bengio 2010) | 0 |
    | xavier_normal | N(0, gain^2 2 / (fan_in + fan_out)) | 0 |
    | glorot_normal | N(0, 2 / (fan_in + fan_out)) whatever the gain (`nn.init.xavier_normal_` as it comes) | 0 |
    | orthogonal | gain times a random (semi-)orthogonal matrix (Saxe et al. 2014) | 0 |
    | torch_default | U(+-1 / sqrt(fan_in)) (`nn.Linear`, `nn.Conv2d`) | U(+-1 / sqrt(fan_in)) |

    Attributes:
        name: The rule.
        gain: sqrt(2) before a ReLU, 5/3 before a tanh, 1 before a linear output.
    """

    name: InitName
    gain: float = 1.0

    def weight(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """A fresh weight of the shape, type and device of `like`; `generator` is on the CPU."""
        return self.rows(like, like.shape[0], generator)

    def rows(self, like: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Fresh incoming weights of `count` units of a layer with weight `like`.

        They are distributed as any `count` rows of a fresh `weight`. Only these rows are drawn, except
        by the orthogonal rule, which needs the whole matrix.

        Args:
            like: The layer's weight, [out, in, ...]; gives fans, type and device.
            count: Number of units, at most `out`.
            generator: On the CPU.

        Returns:
            Weights [count, in, ...].
        """
        shape = tuple(like.shape)
        fan_in, fan_out = _fans(shape)
        if self.name == "orthogonal":
            whole = torch.empty(shape, dtype=like.dtype)
            nn.init.orthogonal_(whole, gain=self.gain, generator=generator)
            return whole[:count].to(like.device)
        draw = torch.empty((count, *shape[1:]), dtype=like.dtype)
        if self.name in ("xavier_normal", "glorot_normal"):
            gain = self.gain if self.name == "xavier_normal" else 1.0
            draw.normal_(0.0, gain * math.sqrt(2 / (fan_in + fan_out)), generator=generator)
        else:
            bound = {
                "lecun_uniform": math.sqrt(3 / fan_in),
                "kaiming_uniform": self.gain * math.sqrt(3 / fan_in),
                "xavier_uniform": self.gain * math.sqrt(6 / (fan_in + fan_out)),
                "torch_default": math.sqrt(1 / fan_in),
            }[self.name]
            draw.uniform_(-bound, bound, generator=generator)
        return draw.to(like.device)

    def bias(self, like: Tensor, fan_in: int, generator: torch.Generator) -> Tensor:
        """A fresh bias of the shape, type and device of `like`, for a layer of `fan_in` inputs a unit."""
        if self.name != "torch_default":
            return torch.zeros_like(like)
        bound = math.sqrt(1 / fan_in)
        return torch.empty(like.shape, dtype=like.dtype).uniform_(-bound, bound, generator=generator).to(like.device)

    @torch.no_grad()
    def apply(self, layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
        """Draws weight and bias of `layer` in place (under a parametrisation: the trainable weight)."""
        weight = trainable_weight(layer)
        weight.copy_(self.weight(weight, generator))
        if layer.bias is not None:
            layer.bias.copy_(self.bias(layer.bias, weight[0].numel(), generator))
