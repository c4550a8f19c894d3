"""The parts of a network by role: what holds weights, what reads out, what normalises."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lop_ray.networks import hidden_layers
from lop_ray.networks.normalisation import ChannelRMSNorm

Affine = nn.Linear | nn.Conv2d
_NORMALISATIONS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, ChannelRMSNorm)


def output_layers(network: nn.Module) -> list[Affine]:
    """The heads: what reads the last hidden layer, each once."""
    return list({id(reader): reader for reader in hidden_layers(network)[-1].readers}.values())


def affine_layers(network: nn.Module, *, heads: bool) -> dict[str, Affine]:
    """All Linear and Conv2d modules by path, the output layers only if `heads`.

    Beside the hidden layers of the view these may be others, such as those that write into a residual stream.
    """
    left_out = set() if heads else {id(head) for head in output_layers(network)}
    modules = network.named_modules()
    return {path: m for path, m in modules if isinstance(m, nn.Linear | nn.Conv2d) and id(m) not in left_out}


def normalisations(network: nn.Module) -> list[nn.Module]:
    """All normalisation modules, in order."""
    viewed = {id(layer.normalisation) for layer in hidden_layers(network)}
    return [m for m in network.modules() if id(m) in viewed or isinstance(m, _NORMALISATIONS)]


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those that are trained."""
    return [parameter for parameter in parameters if parameter.requires_grad]
