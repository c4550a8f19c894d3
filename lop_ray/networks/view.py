"""The view of hidden layers: the one door through which methods and measures see a network.

A network lists its hidden layers in order; margins, dormancy, continual backprop, ReDo and all
others use only this list, so they work on every network that has a `hidden_layers()` method.

The *pre-activation* of a unit is what its activation function sees, after normalisation. A
convolution's channel is one unit: its positions are reduced like samples. So are the two numbers that
a unit hands on after CReLU or sine and cosine (`lop_ray.networks.activations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lop_ray.networks.activations import PairedActivation
from lop_ray.networks.initialisation import Initialiser
from lop_ray.networks.parameters import trainable_weight


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """One hidden layer of a network.

    Attributes:
        name: Unique within the network, such as "hidden_0".
        incoming: The Linear or Conv2d whose output rows (channels) are the units.
        normalisation: What stands between `incoming` and `activation`, or None.
        activation: The module whose input is the pre-activation; owned by this layer alone, not in place. Of a
            `PairedActivation` its `inner`.
        readers: The Linear or Conv2d modules that read the units (their outgoing weights).
        initialiser: Draws incoming weights as the network's own initialisation did.
        outputs: How many numbers each unit hands on; 2 with a `PairedActivation`, and then what `activation` gives
            is [N, units, 2] or [N, channels, 2, H, W].
        whole: What stands between normalisation and readers: `activation`, or the `PairedActivation` around it.
    """

    name: str
    incoming: nn.Linear | nn.Conv2d
    activation: nn.Module
    readers: tuple[nn.Linear | nn.Conv2d, ...]
    initialiser: Initialiser
    normalisation: nn.Module | None = None
    outputs: int = field(default=1, init=False)
    whole: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "whole", self.activation)
        if isinstance(self.activation, PairedActivation):
            object.__setattr__(self, "outputs", self.activation.outputs)
            object.__setattr__(self, "activation", self.activation.inner)
        if getattr(self.activation, "inplace", False):
            raise ValueError(
                f"layer {self.name}: {self.activation} overwrites the pre-activations that measures read; "
                "use inplace=False"
            )

    @property
    def units(self) -> int:
        """Number of units: output features, or channels of a convolution."""
        return trainable_weight(self.incoming).shape[0]


@runtime_checkable
class Network(Protocol):
    """What a network must offer: being a module, and the list of its hidden layers."""

    def hidden_layers(self) -> Sequence[HiddenLayer]:
        """The hidden layers, first to last."""
        ...


def hidden_layers(network: nn.Module) -> Sequence[HiddenLayer]:
    """The hidden layers of `network`, first to last.

    Args:
        network: Any module with a `hidden_layers()` method.

    Returns:
        Its layers.

    Raises:
        TypeError: `network` has no such method.
        ValueError: Two layers share one activation module, so their activations cannot be told apart.
    """
    if not isinstance(network, Network):
        raise TypeError(
            f"{type(network).__name__} has no view of its hidden layers: give it a method "
            "hidden_layers() that returns a list of lop_ray.networks.HiddenLayer, first layer first"
        )
    layers = network.hidden_layers()
    if len({id(layer.activation) for layer in layers}) < len(layers):
        raise ValueError(f"{type(network).__name__}: hidden layers share an activation module; give each its own")
    return layers


def outgoing_columns(reader: nn.Linear | nn.Conv2d, units: int, weight: Tensor | None = None) -> Tensor:
    """The weights with which `reader` reads each unit, as a view [outputs, units, taps].

    A Linear after a flattened convolution reads each channel at every position: those are its taps.
    A Conv2d reads each channel through its kernel. Both read every number that a unit hands on, if there are
    several. Writing into the view writes into the weight.

    Args:
        reader: A module that reads the layer's units.
        units: Number of units of the layer.
        weight: What to view; default the trainable weight of `reader`, detached.

    Returns:
        View of shape [outputs, units, taps].

    Raises:
        ValueError: The width that `reader` expects is not a multiple of `units`.
    """
    weight = trainable_weight(reader).detach() if weight is None else weight
    if weight.shape[1] % units:
        raise ValueError(f"a reader with {weight.shape[1]} inputs cannot read {units} units: not a multiple")
    return weight.view(weight.shape[0], units, -1)


def by_unit(values: Tensor) -> Tensor:
    """Activations [N, units] as they are, or [N, channels, H, W] with positions as samples [N*H*W, channels].

    The two numbers of a unit that hands on two, [N, units, 2], are samples too.
    """
    return values.movedim(1, -1).flatten(0, -2) if values.ndim > 2 else values


def features_of(layer: HiddenLayer, activations: Tensor) -> Tensor:
    """What the layer's readers read: [N, features] or [N, features, H, W], of all numbers that its units hand on.

    Args:
        layer: The layer.
        activations: What its `activation` gave: [N, units], [N, channels, H, W], or with `layer.outputs` after those.

    Returns:
        A view.
    """
    return activations.flatten(1, 2) if layer.outputs > 1 else activations


def projections_of(layer: HiddenLayer, pre_activations: Tensor) -> Tensor:
    """One pre-activation a unit, [N, units] or [N, channels, H, W]: of CReLU's z and -z the first.

    Args:
        layer: The layer.
        pre_activations: What its `activation` saw.

    Returns:
        A view.
    """
    paired = layer.outputs > 1 and pre_activations.ndim in (3, 5)
    return pre_activations.select(2, 0) if paired else pre_activations


@dataclass
class Recording:
    """What one forward pass showed.

    Attributes:
        output: The network's output.
        pre_activations: Per hidden layer, [N, units] or [N, channels, H, W].
        activations: The same, after the activation.
    """

    output: Tensor
    pre_activations: list[Tensor]
    activations: list[Tensor]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every submodule has the mode it had."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def record(network: nn.Module, inputs: Tensor) -> Recording:
    """Runs `network` on `inputs` in evaluation mode and keeps what every hidden layer saw and gave.

    Neither weights, buffers, modes, gradients nor random generators change.

    Args:
        network: A network with a view of its hidden layers.
        inputs: [N, ...], what the network reads.

    Returns:
        The recording, layers in order.
    """
    layers = hidden_layers(network)
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[index] = (args[0], output)

        return hook

    handles = [layer.activation.register_forward_hook(keep(i)) for i, layer in enumerate(layers)]
    try:
        with evaluation_mode(network):
            output = network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Recording(output, [seen[i][0] for i in range(len(layers))], [seen[i][1] for i in range(len(layers))])


class ActivationTap:
    """Keeps the activations of the latest training forward pass, for methods that score units on it.

    `latest[i]` is the detached output of hidden layer i. Passes in evaluation mode are not kept.
    """

    def __init__(self, network: nn.Module):
        self.latest: list[Tensor] = []
        layers = hidden_layers(network)
        self.latest = [torch.empty(0)] * len(layers)
        self._handles = [layer.activation.register_forward_hook(self._keep(i)) for i, layer in enumerate(layers)]

    def _keep(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training:
                self.latest[index] = output.detach()

        return hook

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
