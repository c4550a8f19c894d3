"""The residual network of IMPALA, a larger encoder for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor, nn

from lop_ray.networks.activations import outputs_of
from lop_ray.networks.image import ImageNetwork, ImageOptions, LayerMaker, Top, Widths
from lop_ray.networks.view import HiddenLayer


class ImpalaOptions(ImageOptions):
    """The `network:` section of a grid with `kind: impala`. Defaults are those of Espeholt et al. (2018)."""

    kind: Literal["impala"] = "impala"
    """Residual blocks, then fully connected layers; policy and value share all but the heads."""
    channels: Widths = (16, 32, 32)
    """Channels of the residual stream in each stage, which halves the image."""
    blocks: Annotated[int, Gt(0)] = 2
    """Residual blocks a stage."""


class ImpalaNet(ImageNetwork):
    """Stages of residual blocks, then (Linear -> [normalisation] -> activation), ... -> linear heads.

        stage:  x <- max_pool(conv(x)), then `blocks` times  x <- x + conv_b(a(n(conv_a(a(n(x))))))
        top:    Linear layers and heads on a(n(x)), flattened

    with a the activation, n the normalisation if any, convolutions with kernel 3, stride 1 and padding 1, and
    pooling with kernel 3, stride 2 and padding 1. Source: Espeholt et al. 2018 (arXiv 1802.01561), Figure 3 right,
    without the LSTM.

    **What a unit is here.** `hidden_layers` lists what stands between two weights: the channels of every block's
    `conv_a`, read by its `conv_b`, and the fully connected layers. A channel of the residual stream x is not
    listed: the stage's convolution and every `conv_b` add to it and several convolutions read it, so it has no
    incoming weights of its own that could be drawn again, and no reader to be cut off from without changing what the
    other writers gave. Methods that renew units therefore leave the stage's convolutions and every `conv_b` alone, as
    ReDo's code does (dopamine's `weight_recyclers.py`: the first convolution of each block, and the dense layer).

    Args:
        input_shape: (height, width, channels) of an observation.
        heads: Outputs of each head, by name, such as {"policy": 9, "value": 1}.
        options: Channels, blocks, widths, activations, normalisations, initialisation.
        seed: Seed of the initial weights; each layer has a stream of its own.
        name: Name of the network, part of the streams' names.

    Raises:
        ValueError: Observations are no images.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        heads: Mapping[str, int],
        options: ImpalaOptions,
        *,
        seed: int,
        name: str = "network",
    ):
        super().__init__(input_shape, name)
        height, width, inputs = self.input.shape
        maker = LayerMaker(options, seed, name)
        self.body = nn.Sequential()
        layers: list[HiddenLayer] = []
        for i, channels in enumerate(options.channels):
            self.body.add_module(f"stage_{i}", maker.plain_convolution(f"stage_{i}", inputs, channels))
            self.body.add_module(f"stage_{i}_pool", nn.MaxPool2d(3, stride=2, padding=1))
            for k in range(options.blocks):
                block = ResidualBlock(maker, f"stage_{i}_block_{k}", channels)
                self.body.add_module(block.name, block)
                layers.append(block.layer)
            inputs, height, width = channels, (height + 1) // 2, (width + 1) // 2
        end = Rectifier(maker, inputs)
        self.body.add_module("end", end)
        self.top = Top(maker, end.outputs * height * width, options, heads)
        self._layers = (*layers, *self.top.layers)


class Rectifier(nn.Module):
    """Normalisation, if any, and activation of the residual stream.

    Attributes:
        outputs: Channels that come out.
    """

    def __init__(self, maker: LayerMaker, channels: int):
        super().__init__()
        norm, self.activation = maker.rectifier(channels)
        self.norm = nn.Identity() if norm is None else norm
        self.outputs = channels * outputs_of(self.activation)

    def forward(self, stream: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, outputs, H, W]."""
        return self.activation(self.norm(stream))


class ResidualBlock(nn.Module):
    """x + conv_b(a(n(conv_a(a(n(x)))))), with `channels` channels in and out.

    Attributes:
        name: Unique within the network.
        layer: The hidden layer between the two convolutions.
    """

    def __init__(self, maker: LayerMaker, name: str, channels: int):
        super().__init__()
        self.name = name
        self.rectify = Rectifier(maker, channels)
        part = maker.convolution(name, self.rectify.outputs, channels, kernel=3, stride=1)
        self.inner = nn.Sequential()
        width = part.append_to(self.inner, "conv_a")
        self.conv_b = maker.plain_convolution(f"{name}_out", width, channels)
        self.layer = part.read_by(self.conv_b)

    def forward(self, stream: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same shape."""
        return stream + self.conv_b(self.inner(self.rectify(stream)))
