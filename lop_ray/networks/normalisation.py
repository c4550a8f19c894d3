"""Normalisation before a hidden activation, by name."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

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


def make_channel_normalisation(name: NormalisationName, channels: int) -> nn.Module | None:
    """The counterpart for images [B, channels, H, W], or None: statistics over channels and positions of one image.

    `layernorm`: `GroupNorm` with a single group, which is what Juliani & Ash (2024) put after their convolutions.
    `rmsnorm`: `ChannelRMSNorm`. Scale and shift are learned for each channel.
    """
    if name == "layernorm":
        return nn.GroupNorm(1, channels)
    if name == "rmsnorm":
        return ChannelRMSNorm(channels)
    return None


class ChannelRMSNorm(nn.Module):
    """z / sqrt(mean(z^2) + eps) times a learned scale for each channel; the mean is over channels and positions.

    Args:
        channels: C of [B, C, H, W].
        eps: Added to the mean square.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, values: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        mean_square = values.square().mean(dim=(1, 2, 3), keepdim=True)
        return values * torch.rsqrt(mean_square + self.eps) * self.weight[:, None, None]
