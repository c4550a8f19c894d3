"""The kinds of network that a grid's `network:` section can ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from lop_ray.networks.conv import ConvNet, ConvOptions
from lop_ray.networks.image import ImageNetwork
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions
from lop_ray.networks.mlp import NetworkOptions
from lop_ray.options import Options

NETWORK_KINDS: dict[str, type[Options]] = {"mlp": NetworkOptions, "conv": ConvOptions, "impala": ImpalaOptions}
"""Class of the options of every kind; without `kind` it is mlp."""


def _kind(section: Any) -> str:
    return section.get("kind", "mlp") if isinstance(section, Mapping) else section.kind


AnyNetworkOptions = Annotated[
    Annotated[NetworkOptions, Tag("mlp")]
    | Annotated[ConvOptions, Tag("conv")]
    | Annotated[ImpalaOptions, Tag("impala")],
    Discriminator(_kind),
]
"""For a field that takes the options of any kind, told apart by their `kind`."""


def make_image_network(
    options: ConvOptions | ImpalaOptions,
    input_shape: Sequence[int],
    heads: Mapping[str, int],
    *,
    seed: int,
    name: str = "network",
) -> ImageNetwork:
    """The network that reads images, with one trunk under all heads.

    Args:
        options: Of its kind.
        input_shape: (height, width, channels) of an observation.
        heads: Outputs of each head, by name.
        seed: Seed of the initial weights.
        name: Name of the network, part of the streams' names.

    Returns:
        A module from images [B, height, width, channels] to the heads' outputs side by side.

    Raises:
        ValueError: Observations are no images, or too small ones.
    """
    if isinstance(options, ConvOptions):
        return ConvNet(input_shape, heads, options, seed=seed, name=name)
    return ImpalaNet(input_shape, heads, options, seed=seed, name=name)
