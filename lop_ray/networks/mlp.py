"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Len
from pydantic import model_validator
from torch import Tensor, nn

from lop_ray.networks.activations import ActivationName, gain_of, make_activation, outputs_of, units_of
from lop_ray.networks.initialisation import Initialiser, InitName
from lop_ray.networks.normalisation import NormalisationName, make_normalisation
from lop_ray.networks.view import HiddenLayer
from lop_ray.options import Options
from lop_ray.seeding import torch_generator


class NetworkOptions(Options):
    """The `network:` section of a grid."""

    kind: Literal["mlp"] = "mlp"
    """Fully connected, policy and value separate."""
    hidden: Annotated[tuple[Annotated[int, Gt(0)], ...], Len(1)] = (256, 256)
    """Width of each hidden layer: what it hands on. With `crelu` and `fourier` it has half as many units."""
    activation: ActivationName = "relu"
    normalisation: NormalisationName = "none"
    """What stands before each hidden activation."""
    init: InitName = "lecun_uniform"
    """How weights are drawn; heads with gain 1."""
    log_std_init: float = 0.0
    """First value of the state-independent log standard deviation (continuous actions)."""

    @model_validator(mode="after")
    def _widths_can_be_halved(self) -> NetworkOptions:
        for width in self.hidden:
            units_of(self.activation, width)
        return self


class MLP(nn.Module):
    """Linear -> [normalisation] -> activation, repeated, then a linear head.

    Args:
        inputs: Width of the input.
        outputs: Width of the output.
        options: Widths, activation, normalisation, initialisation.
        seed: Seed of the initial weights. Each layer has a stream of its own, so networks that
            differ in one layer agree in all others.
        name: Name of the network, part of the streams' names.
    """

    def __init__(self, inputs: int, outputs: int, options: NetworkOptions, *, seed: int, name: str = "network"):
        super().__init__()
        self.name = name
        hidden_init = Initialiser(options.init, gain_of(options.activation))
        body = nn.Sequential()
        parts: list[tuple[str, nn.Linear, nn.Module | None, nn.Module]] = []
        width = inputs
        for i, out in enumerate(options.hidden):
            units = units_of(options.activation, out)
            linear = nn.utils.skip_init(nn.Linear, width, units)
            hidden_init.apply(linear, torch_generator(seed, "network", name, f"hidden_{i}"))
            body.add_module(f"linear_{i}", linear)
            norm = make_normalisation(options.normalisation, units)
            if norm is not None:
                body.add_module(f"norm_{i}", norm)
            activation = make_activation(options.activation)
            body.add_module(f"activation_{i}", activation)
            parts.append((f"hidden_{i}", linear, norm, activation))
            width = units * outputs_of(activation)
        self.body = body
        self.head = nn.utils.skip_init(nn.Linear, width, outputs)
        Initialiser(options.init, 1.0).apply(self.head, torch_generator(seed, "network", name, "head"))
        readers = [part[1] for part in parts[1:]] + [self.head]
        self._layers = tuple(
            HiddenLayer(layer, linear, activation, (reader,), hidden_init, norm)
            for (layer, linear, norm, activation), reader in zip(parts, readers, strict=True)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.head(self.body(inputs))

    def hidden_layers(self) -> Sequence[HiddenLayer]:
        """The hidden layers, first to last."""
        return self._layers
