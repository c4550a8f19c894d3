"""Drawing all weights of a network anew, in the distribution of its first ones.

Where a weight's rule is known it is drawn alone, without building a network: a hidden layer by the initialiser of
its view, an output layer by the same rule with gain 1 (as `lop_ray.networks` draws heads), a normalisation's scale
1 and shift 0. What the view does not know (a shortcut's convolution, a position embedding) is taken from the networks
that `Training.fresh` builds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lop_ray.interventions.base import Training
from lop_ray.interventions.layers import Affine, output_layers
from lop_ray.networks import Initialiser, hidden_layers, trainable_weight

Role = Literal["weight", "bias", "normalisation", "other"]


@dataclass(frozen=True, eq=False)
class Drawable:
    """A parameter that can be drawn anew.

    Attributes:
        parameter: What is trained; behind a parametrised weight, its original.
        role: weight and bias of a Linear or Conv2d; normalisation: a scale or shift; other: outside the view.
        head: Whether it belongs to an output layer.
        draw: Gives a fresh value of the parameter's shape, type and device from a generator on the CPU. None for
            role other.
    """

    parameter: nn.Parameter
    role: Role
    head: bool
    draw: Callable[[torch.Generator], Tensor] | None


class FreshWeights:
    """Draws the parameters of all networks of a training, as often as asked.

    Args:
        training: Gives the networks, and `fresh` where a parameter lies outside the view of hidden layers.

    Raises:
        ValueError: A parameter lies outside the view and the training has no `fresh`.
    """

    def __init__(self, training: Training):
        self._fresh = training.fresh
        self.drawables: list[Drawable] = []
        self._others: dict[int, tuple[str, str]] = {}
        for name, network in training.networks.items():
            known = list(_known(network))
            ids = {id(drawable.parameter) for drawable in known}
            others = {path: p for path, p in _paths(network).items() if id(p) not in ids}
            if others and training.fresh is None:
                raise ValueError(
                    f"network {name!r} has parameters outside its view of hidden layers ({', '.join(others)}), so they "
                    "cannot be drawn anew; give Training a `fresh` that builds new networks"
                )
            self._others |= {id(parameter): (name, path) for path, parameter in others.items()}
            self.drawables += known + [Drawable(parameter, "other", False, None) for parameter in others.values()]

    def draw(self, drawables: list[Drawable], generator: torch.Generator) -> list[Tensor]:
        """A fresh value for each of `drawables`, in order.

        Args:
            drawables: Some of `self.drawables`.
            generator: On the CPU.

        Returns:
            Values of the parameters' shapes, types and devices.

        Raises:
            ValueError: The networks that `Training.fresh` builds lack a parameter, or have it in another shape.
        """
        built = {}
        if any(drawable.draw is None for drawable in drawables):
            assert self._fresh is not None
            built = {name: _paths(network) for name, network in self._fresh(generator).items()}
        return [
            self._taken(drawable.parameter, built) if drawable.draw is None else drawable.draw(generator)
            for drawable in drawables
        ]

    def _taken(self, parameter: nn.Parameter, built: Mapping[str, Mapping[str, nn.Parameter]]) -> Tensor:
        network, path = self._others[id(parameter)]
        found = built.get(network, {}).get(path)
        if found is None or found.shape != parameter.shape:
            what = "no such parameter" if found is None else f"the shape {tuple(found.shape)}"
            raise ValueError(
                f"{network}.{path} {tuple(parameter.shape)} cannot be drawn anew: a newly built network has {what}; "
                "another intervention has changed the network there"
            )
        return found.detach().to(parameter)


def _known(network: nn.Module) -> Iterator[Drawable]:
    layers = hidden_layers(network)
    for layer in layers:
        yield from _affine(layer.incoming, layer.initialiser, head=False)
        if layer.normalisation is not None:
            for name, parameter in layer.normalisation.named_parameters():
                yield Drawable(parameter, "normalisation", False, _constant(parameter, float(name == "weight")))
    for head in output_layers(network):
        yield from _affine(head, replace(layers[-1].initialiser, gain=1.0), head=True)


def _affine(module: Affine, initialiser: Initialiser, *, head: bool) -> Iterator[Drawable]:
    weight, bias = trainable_weight(module), module.bias
    yield Drawable(weight, "weight", head, lambda generator: initialiser.weight(weight.detach(), generator))
    if isinstance(bias, nn.Parameter):
        fan_in = weight[0].numel()
        yield Drawable(bias, "bias", head, lambda generator: initialiser.bias(bias.detach(), fan_in, generator))


def _constant(parameter: nn.Parameter, value: float) -> Callable[[torch.Generator], Tensor]:
    return lambda _: torch.full_like(parameter.detach(), value)


def _paths(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name; a parametrised weight has the name that it has without."""
    return {
        name.replace("parametrizations.", "").removesuffix(".original") if "parametrizations." in name else name: value
        for name, value in network.named_parameters()
    }
