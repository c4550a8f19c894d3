"""Many observations in pieces: what a convolution gives for a thousand images is too much to hold several times over.

Layers of images hold a number per unit and position: the convolutions of `ConvNet` give 60,000 numbers an image of
64 x 64 pixels. So networks are run on a piece of the observations at a time, and what is reduced over samples is
reduced block by block. Vectors by the thousand are one piece and one block, as if there were none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lop_ray.networks import HiddenLayer, Recording, by_unit, evaluation_mode, hidden_layers, record

_PIECE = 2**20
"""Numbers of a piece of observations: 85 images of 64 x 64 x 3, 9,446 of Ant's observations."""
_BLOCK = 2**20
"""Numbers of a block of activations: 4 MB in float32, 4,096 rows of 256 units."""


def record_pieces(network: nn.Module, inputs: Tensor) -> Iterator[Recording]:
    """What `network` shows on one piece of the inputs after the other.

    Args:
        network: With a view of its hidden layers.
        inputs: [N, ...].

    Yields:
        The recording of each piece, in order; at least one.
    """
    for piece in inputs.split(rows_at_once(inputs)):
        yield record(network, piece)


def rows_at_once(inputs: Tensor) -> int:
    """Rows of a piece of `inputs` [N, ...]."""
    return max(1, _PIECE // max(1, inputs[:1].numel()))


@dataclass
class Passed:
    """One forward pass over all observations. What activations give is computed again when asked for.

    Attributes:
        layers: The network's hidden layers.
        output: [N, outputs].
        pre_activations: Per hidden layer, [N, units] or [N, channels, H, W].
    """

    layers: Sequence[HiddenLayer]
    output: Tensor
    pre_activations: list[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, network: nn.Module, inputs: Tensor) -> Passed:
        """Runs `network` on `inputs` [N, ...] in evaluation mode; nothing of it changes."""
        kept: list[Tensor] = []
        start = 0
        for piece in record_pieces(network, inputs):
            parts = [piece.output, *piece.pre_activations]
            if len(parts[0]) == len(inputs):
                kept = parts
                break
            kept = kept or [_room(part, len(inputs)) for part in parts]
            for whole, part in zip(kept, parts, strict=True):
                whole[start : start + len(part)] = part
            start += len(parts[0])
        return cls(hidden_layers(network), kept[0], kept[1:])

    @torch.no_grad()
    def activations(self, samples: int) -> Iterator[Tensor]:
        """What each activation gives on the last `samples` observations.

        Yields:
            Of one layer after the other.
        """
        for layer, values in zip(self.layers, self.pre_activations, strict=True):
            with evaluation_mode(layer.activation):
                yield layer.activation(values[-samples:])


def _room(part: Tensor, rows: int) -> Tensor:
    """For so many rows of the kind of `part`, in its order of memory: channels last, mostly, where there are some."""
    last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty((rows, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=order)


def blocks(values: Tensor) -> Iterator[Tensor]:
    """Rows of samples (and positions), a block at a time: [n, units] of [N, units] or [N, channels, ...].

    Args:
        values: At least one sample, of at least one number.

    Yields:
        `by_unit` of each block.
    """
    for block in values.split(max(1, _BLOCK // values[0].numel())):
        yield by_unit(block)


def mean_over(means: Iterable[tuple[int, Tensor]]) -> Tensor:
    """The mean over all rows out of the means of blocks.

    Args:
        means: Number of rows of each block, and their mean.

    Returns:
        Of the means' type; of a single block its own mean, bit for bit.
    """
    rows, total, mean = 0, torch.zeros(()), torch.zeros(())
    for count, mean in means:
        # A float32 times a count of rows is exact in float64.
        rows, total = rows + count, total.to(mean.device) + mean.double() * count
    return (total / rows).to(mean.dtype)
