"""What all networks that read images share: their options, the input, and the layers after the encoder.

Images are [B, height, width, channels], as environments give them. In this order of memory a convolution is also
fastest on a CPU, and a view is enough to get from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Len
from pydantic import model_validator
from torch import Tensor, nn

from lop_ray.networks.activations import ActivationName, gain_of, make_activation, outputs_of, units_of
from lop_ray.networks.initialisation import Initialiser, InitName
from lop_ray.networks.normalisation import NormalisationName, make_channel_normalisation, make_normalisation
from lop_ray.networks.parameters import trainable_weight
from lop_ray.networks.view import HiddenLayer
from lop_ray.options import Options
from lop_ray.seeding import torch_generator

Widths = Annotated[tuple[Annotated[int, Gt(0)], ...], Len(1)]


class ImageOptions(Options):
    """Options of all networks that read images; each kind adds its own.

    Layers are of two sorts, convolutional and fully connected. `activation` and `normalisation` are for both, unless
    the `conv_` options say otherwise for the convolutional ones.
    """

    channels: Widths
    """Widths of the convolutional part."""
    hidden: Widths = (256,)
    """Width of each fully connected layer between encoder and heads: what it hands on. With `crelu` and `fourier` a
    layer has half as many units as it is wide, convolutional or not."""
    activation: ActivationName = "relu"
    """Of every hidden layer."""
    conv_activation: ActivationName | None = None
    """Of the convolutional layers; null: the same."""
    normalisation: NormalisationName = "none"
    """What stands before each hidden activation. A convolution has its counterpart over channels and positions:
    `layernorm` is there `GroupNorm(1, channels)`."""
    conv_normalisation: NormalisationName | None = None
    """What stands before the activation of the convolutional layers; null: the same. `none` with
    `normalisation: rmsnorm` is what the code of the spectral norm study calls RMSNorm."""
    init: InitName = "torch_default"
    """How weights are drawn, the heads' with gain 1."""

    @model_validator(mode="after")
    def _widths_can_be_halved(self) -> ImageOptions:
        for activation, widths in ((self.for_convolutions[0], self.channels), (self.activation, self.hidden)):
            for width in widths:
                units_of(activation, width)
        return self

    @property
    def for_convolutions(self) -> tuple[ActivationName, NormalisationName]:
        """Activation and normalisation of the convolutional layers."""
        return (
            self.activation if self.conv_activation is None else self.conv_activation,
            self.normalisation if self.conv_normalisation is None else self.conv_normalisation,
        )


@dataclass(frozen=True)
class Part:
    """A hidden layer in the making, whose readers are not known yet."""

    name: str
    incoming: nn.Linear | nn.Conv2d
    normalisation: nn.Module | None
    activation: nn.Module
    initialiser: Initialiser

    def read_by(self, *readers: nn.Linear | nn.Conv2d) -> HiddenLayer:
        """The layer."""
        return HiddenLayer(self.name, self.incoming, self.activation, readers, self.initialiser, self.normalisation)

    def append_to(self, body: nn.Sequential, name: str | None = None) -> int:
        """Adds the layer's modules in the order in which they act; returns how many numbers or channels come out."""
        name = name or self.name
        body.add_module(name, self.incoming)
        if self.normalisation is not None:
            body.add_module(f"{name}_norm", self.normalisation)
        body.add_module(f"{name}_activation", self.activation)
        return trainable_weight(self.incoming).shape[0] * outputs_of(self.activation)


class LayerMaker:
    """Makes the layers of one network, each with initial weights from a stream of its own.

    Args:
        options: The network's.
        seed: Seed of the initial weights.
        name: The network's name, part of the streams' names.
    """

    def __init__(self, options: ImageOptions, seed: int, name: str):
        self._options, self._seed, self._name = options, seed, name
        self._conv_activation, self._conv_normalisation = options.for_convolutions
        self._conv_initialiser = Initialiser(options.init, gain_of(self._conv_activation))

    def convolution(self, name: str, inputs: int, width: int, *, kernel: int, stride: int) -> Part:
        """Conv2d with padding 1, its normalisation and its activation, which hands on `width` channels."""
        channels = units_of(self._conv_activation, width)
        conv = self.plain_convolution(name, inputs, channels, kernel=kernel, stride=stride)
        return Part(name, conv, *self.rectifier(channels), self._conv_initialiser)

    def plain_convolution(
        self, name: str, inputs: int, channels: int, *, kernel: int = 3, stride: int = 1
    ) -> nn.Conv2d:
        """Conv2d with padding 1, and nothing after it."""
        conv = nn.utils.skip_init(nn.Conv2d, inputs, channels, kernel, stride, padding=1)
        self._draw(conv, self._conv_initialiser, name)
        return conv

    def rectifier(self, channels: int) -> tuple[nn.Module | None, nn.Module]:
        """Normalisation, if any, and activation of `channels` channels."""
        return make_channel_normalisation(self._conv_normalisation, channels), make_activation(self._conv_activation)

    def hidden(self, name: str, inputs: int, width: int) -> Part:
        """Linear, its normalisation and its activation, which hands on `width` numbers."""
        units = units_of(self._options.activation, width)
        linear = nn.utils.skip_init(nn.Linear, inputs, units)
        initialiser = Initialiser(self._options.init, gain_of(self._options.activation))
        self._draw(linear, initialiser, name)
        norm = make_normalisation(self._options.normalisation, units)
        return Part(name, linear, norm, make_activation(self._options.activation), initialiser)

    def head(self, name: str, inputs: int, outputs: int) -> nn.Linear:
        """Linear, drawn with gain 1."""
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        self._draw(linear, Initialiser(self._options.init, 1.0), f"head_{name}")
        return linear

    def _draw(self, layer: nn.Linear | nn.Conv2d, initialiser: Initialiser, name: str) -> None:
        initialiser.apply(layer, torch_generator(self._seed, "network", self._name, name))


class ImageInput(nn.Module):
    """[B, height, width, channels] -> [B, channels, height, width], bytes scaled to [0, 1].

    Args:
        shape: (height, width, channels).

    Raises:
        ValueError: That is not the shape of an image.
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        if len(shape) != 3:
            raise ValueError(
                f"an image network reads observations [height, width, channels], not {list(shape)}; "
                "use network.kind: mlp"
            )
        self.shape = tuple(shape)

    def scaled(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Bytes as floats in [0, 1], x / 255; floats are taken as they are. The shape stays."""
        return images.to(dtype).div_(255) if images.dtype == torch.uint8 else images.to(dtype)

    def forward(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Scales, and puts channels first.

        Raises:
            ValueError: Another shape.
        """
        if images.ndim != 4 or images.shape[1:] != self.shape:
            raise ValueError(
                f"the network was built for observations [B, {', '.join(map(str, self.shape))}] (height, width, "
                f"channels), but got {list(images.shape)}"
            )
        return self.scaled(images, dtype).permute(0, 3, 1, 2)


class Top(nn.Module):
    """What stands after the encoder: flatten -> (Linear -> [normalisation] -> activation), ... -> linear heads.

    Args:
        maker: Makes the layers.
        inputs: Width of the flattened encoding.
        options: The network's.
        heads: Outputs of each head, by name.

    Attributes:
        heads: The head modules, by name.
        layers: The hidden layers, the last of them read by all heads.
    """

    def __init__(self, maker: LayerMaker, inputs: int, options: ImageOptions, heads: Mapping[str, int]):
        super().__init__()
        parts: list[Part] = []
        self.body = nn.Sequential()
        for i, width in enumerate(options.hidden):
            parts.append(maker.hidden(f"hidden_{i}", inputs, width))
            inputs = parts[-1].append_to(self.body)
        self.heads = nn.ModuleDict({name: maker.head(name, inputs, outputs) for name, outputs in heads.items()})
        self.layers = chain(parts, *self.heads.values())

    def features(self, encoding: Tensor) -> Tensor:
        """[B, channels, H, W] -> what the heads read."""
        return self.body(encoding.flatten(1))

    def forward(self, encoding: Tensor) -> Tensor:
        """[B, channels, H, W] -> the heads' outputs side by side [B, outputs]."""
        features = self.features(encoding)
        outputs = [head(features) for head in self.heads.values()]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


class ImageNetwork(nn.Module):
    """Images -> encoder `body` -> `top`; the kinds build the two and list the hidden layers.

    Args:
        input_shape: (height, width, channels) of an observation.
        name: Name of the network, part of the streams' names.

    Raises:
        ValueError: Observations are no images.
    """

    body: nn.Sequential
    top: Top
    _layers: tuple[HiddenLayer, ...]

    def __init__(self, input_shape: Sequence[int], name: str):
        super().__init__()
        self.name = name
        self.input = ImageInput(input_shape)

    @property
    def heads(self) -> nn.ModuleDict:
        """The linear layers that give the outputs, by name."""
        return self.top.heads

    def features(self, images: Tensor) -> Tensor:
        """Images [B, height, width, channels] -> what the heads read [B, features]."""
        return self.top.features(self.body(self.input(images, self._dtype)))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, height, width, channels] -> the heads' outputs side by side [B, outputs]; bytes are scaled."""
        return self.top(self.body(self.input(images, self._dtype)))

    def scaled(self, images: Tensor) -> Tensor:
        """Bytes as the floats in [0, 1] that the network works on; it gives the same for either."""
        return self.input.scaled(images, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        bias = self._layers[0].incoming.bias  # looking at a weight may compute it anew (spectral norm)
        assert bias is not None
        return bias.dtype

    def hidden_layers(self) -> Sequence[HiddenLayer]:
        """The hidden layers, first to last; the last is read by all heads."""
        return self._layers


def chain(parts: Sequence[Part], *readers: nn.Module) -> tuple[HiddenLayer, ...]:
    """Layers in a row, each read by the next, and the last by `readers`."""
    following = [(part.incoming,) for part in parts[1:]]
    return tuple(part.read_by(*after) for part, after in zip(parts, [*following, readers], strict=True))  # type: ignore[arg-type]
