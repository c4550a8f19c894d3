"""Normalisation before a hidden activation, by name."""

from __future__ import annotations

from typing import Literal

from torch import nn

NormalisationName = Literal["none", "layernorm", "rmsnorm"]


def make_normalisation(name: NormalisationName, units: int) -> nn.Module | None:
    """A normalisation over the last dimension of [..., units], or None.

    `layernorm`: (z - mean) / sqrt(var + 1e-5) times a learned scale plus a learned shift (Ba et al. 2016).
    `rmsnorm`: z / sqrt(mean(z^2) + 1e-5) times a learned scale (Zhang & Sennrich 2019).
    """
    if name == "layernorm":
        return nn.LayerNorm(units)
    if name == "rmsnorm":
        return nn.RMSNorm(units, eps=1e-5)
    return None
