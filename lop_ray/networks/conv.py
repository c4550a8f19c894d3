"""The convolutional network of the ProcGen studies of plasticity: halving convolutions under a shared trunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from lop_ray.networks.image import ImageNetwork, ImageOptions, LayerMaker, Part, Top, Widths, chain


class ConvOptions(ImageOptions):
    """The `network:` section of a grid with `kind: conv`. Defaults are those of Juliani & Ash (2024)."""

    kind: Literal["conv"] = "conv"
    """Convolutions that each halve the image, then fully connected layers; policy and value share all but the heads."""
    channels: Widths = (32, 64, 128, 128)
    """Width of each convolution: the channels that it hands on."""


class ConvNet(ImageNetwork):
    """(Conv -> [normalisation] -> activation), ... -> (Linear -> [normalisation] -> activation), ... -> linear heads.

    Every convolution has kernel 4, stride 2 and padding 1, so it halves the image. With the default options and
    images of 64 x 64 pixels: 32 x 32 x 32, 64 x 16 x 16, 128 x 8 x 8, 128 x 4 x 4, flattened to 2048, then 256 units.
    This is `conv64` of awjuliani/deep-rl-plasticity (Juliani & Ash 2024, arXiv 2405.19153), which the spectral norm
    study kai666-song/rl-plasticity-specnorm took over.

    Args:
        input_shape: (height, width, channels) of an observation.
        heads: Outputs of each head, by name, such as {"policy": 9, "value": 1}.
        options: Channels, widths, activations, normalisations, initialisation.
        seed: Seed of the initial weights. Each layer has a stream of its own, so networks that differ in one
            layer agree in all others.
        name: Name of the network, part of the streams' names.

    Raises:
        ValueError: Observations are no images, or too small ones.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        heads: Mapping[str, int],
        options: ConvOptions,
        *,
        seed: int,
        name: str = "network",
    ):
        super().__init__(input_shape, name)
        rows, columns, inputs = self.input.shape
        depth = len(options.channels)
        if min(rows, columns) < 2**depth:
            raise ValueError(
                f"{depth} convolutions that each halve the image need at least {2**depth} x {2**depth} pixels, "
                f"not {rows} x {columns}; give network.channels fewer entries"
            )
        maker = LayerMaker(options, seed, name)
        parts: list[Part] = []
        self.body = nn.Sequential()
        for i, width in enumerate(options.channels):
            parts.append(maker.convolution(f"conv_{i}", inputs, width, kernel=4, stride=2))
            inputs = parts[-1].append_to(self.body)
        self.top = Top(maker, inputs * (rows >> depth) * (columns >> depth), options, heads)
        self._layers = (*chain(parts, self.top.layers[0].incoming), *self.top.layers)
