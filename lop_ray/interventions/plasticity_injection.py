"""Plasticity injection: new weights in the head of a network, which go on from its present function.

Nikishin et al. 2023 (arXiv 2305.15555, Expression 1). With the encoder's features x and the head h_theta,

    output = h_theta(x) + h_theta'_1(x) - h_theta'_2(x),      theta'_1 = theta'_2 newly drawn,

so that nothing changes at the moment of the injection; from then on theta and theta'_2 are frozen and theta'_1
learns, as many weights as before. Every later injection freezes the head that learns now, and adds a new pair.

Public codes differ; each difference is an option, and this is how to get each:

| source | options |
|---|---|
| Nikishin et al.: once, at a set time; the head is a hidden layer and the output layer | `when: update, every: N, times: 1` |
| timoklein/plasticity-injection-torch | the same |
| Juliani & Ash 2024 (`inject`), Plasticine: at every shift, in the output layers, W + W_a - sg(W_b), W learns too | `head: 1, original: trained, copy_gradient: false` |

Juliani & Ash's code makes a new AdamW at every shift; `reset: {weights: none, optimizer: all}` does that.

With `head: 1` and a frozen original the injected head is W + W_a - W_b with one learning term, and has the gradient
of W itself: nothing but the optimiser's state (and what weight decay pulls at) is new. It takes a hidden layer in the
head, the default, to bring new features.
"""  # noqa: E501

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn.functional import linear

from lop_ray.interventions.base import GradientStep, Training
from lop_ray.interventions.occasional import Occasional, OccasionalOptions
from lop_ray.interventions.optimizer_state import forget
from lop_ray.interventions.spectral_norm import settle_spectral_norms
from lop_ray.networks import HiddenLayer, Initialiser, hidden_layers


class PlasticityInjectionOptions(OccasionalOptions):
    """The options of `plasticity_injection`."""

    when: Literal["task_change", "update"] = "task_change"
    """At a task change, or after an update."""
    times: Annotated[int, Ge(1)] | None = None
    """At most so many injections; each leaves two more frozen heads to compute, but for `head: 1`, whose weights are
    added up. null: no limit."""
    head: Annotated[int, Ge(1)] = 2
    """How many layers the head has, counted from the output: 2 is the last hidden layer and the output layer."""
    original: Literal["frozen", "trained"] = "frozen"
    """Whether the head from before the injection goes on learning (`head: 1` only)."""
    copy_gradient: bool = True
    """Whether the gradient reaches the encoder through the frozen copy h_theta'_2, too. True: parameters alone are
    frozen, and the encoder's gradient is at first what it was; false: the copy's output is detached (Juliani & Ash)."""

    @model_validator(mode="after")
    def _trained_only_if_linear(self) -> PlasticityInjectionOptions:
        if self.original == "trained" and self.head > 1:
            raise ValueError(
                f"original: trained adds up weights of a linear head, not of head: {self.head}; use head: 1"
            )
        return self


class PlasticityInjection(Occasional):
    """Injects into every network.

    The modules of the network's head are always those that learn, so that measures and other methods see the new
    weights, and no parameter is added to the optimiser; their state in the optimiser starts anew. What is frozen
    lies in buffers, under `injection` in the network's `state_dict`.

    Attributes:
        injections: How many there have been.
    """

    Options = PlasticityInjectionOptions
    options: PlasticityInjectionOptions

    def build(self, networks: Mapping[str, nn.Module], generator: torch.Generator) -> None:
        """Lets each network's head have frozen parts; there are none yet.

        Raises:
            ValueError: A head of so many layers is not a chain of fully connected ones.
        """
        for name, network in networks.items():
            if hasattr(network, "injection"):
                raise ValueError(f"network {name!r} can be injected into already; use plasticity_injection once")
            try:
                head = Head(hidden_layers(network), self.options.head)
            except ValueError as error:
                raise ValueError(f"plasticity_injection, network {name!r}: {error}") from error
            network.injection = Injection(head, self.options.original == "trained", self.options.copy_gradient)

    def attach(self, training: Training) -> None:
        """Finds the heads.

        Raises:
            ValueError: `build` was not called, or another intervention has changed the head's activations since.
        """
        super().attach(training)
        self.injections = 0
        self._sites: list[Injection] = []
        for name, network in training.networks.items():
            site = getattr(network, "injection", None)
            if not isinstance(site, Injection):
                raise ValueError(
                    f"network {name!r} has no place for an injection; call build before the optimiser is made"
                )
            if site.head.changed():
                raise ValueError(
                    f"the activations of network {name!r} were changed after plasticity_injection had copied them; "
                    "list it after activation_clamping, kill_units and their like"
                )
            self._sites.append(site)

    @torch.no_grad()
    def act(self, step: GradientStep | None) -> None:
        """Injects, unless that has been done `times` times."""
        if self.options.times is not None and self.injections >= self.options.times:
            return
        self.injections += 1
        for site in self._sites:
            site.freeze_head()
            site.head.draw(self.training.generator)
        settle_spectral_norms(self.training.networks)
        for site in self._sites:
            site.freeze_copy()
            forget(self.training.optimizer, [*site.head.parameters(), *site.parameters()])

    def state_dict(self) -> dict[str, Any]:
        """Counts of moments and injections; what is frozen is in the networks."""
        return {**super().state_dict(), "injections": self.injections}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict(state)
        self.injections = state["injections"]


class Head:
    """The last layers of a network, as modules that learn and as a function of weights given from outside.

    Args:
        layers: The network's hidden layers.
        depth: How many layers, the output layer included.

    Raises:
        ValueError: There are not so many, or they are not fully connected, each read by the next alone.
    """

    def __init__(self, layers: Sequence[HiddenLayer], depth: int):
        if depth > len(layers) + 1:
            raise ValueError(f"head: {depth} is more than the network's {len(layers) + 1} layers; use fewer")
        self.layers = list(layers[len(layers) + 1 - depth :])
        self.readers = list(layers[-1].readers)
        chained = all(layer.readers == (after.incoming,) for layer, after in pairwise(self.layers))
        modules = [layer.incoming for layer in self.layers] + self.readers
        if not chained or not all(isinstance(module, nn.Linear) for module in modules):
            raise ValueError(
                f"the last {depth} layers are not a chain of fully connected ones; give head a smaller number"
            )
        self._output_initialiser = Initialiser(layers[-1].initialiser.name, 1.0)
        # Copied before anything listens to the activations, so that frozen heads stay unheard.
        self.activations = [copy.deepcopy(layer.whole) for layer in self.layers]

    def changed(self) -> bool:
        """Whether the activations have been given other hooks since they were copied."""
        pairs = zip((layer.whole for layer in self.layers), self.activations, strict=True)
        return any(_hooks(live) != _hooks(kept) for live, kept in pairs)

    def parameters(self) -> list[nn.Parameter]:
        """Those of the modules that learn."""
        norms = [layer.normalisation for layer in self.layers if layer.normalisation is not None]
        modules = [*(layer.incoming for layer in self.layers), *norms, *self.readers]
        return [parameter for module in modules for parameter in module.parameters()]

    def values(self) -> dict[str, Tensor]:
        """All weights that the head's function has now, as they are used (behind a spectral norm: normalised)."""
        found: dict[str, Tensor | None] = {}
        for i, layer in enumerate(self.layers):
            found |= {f"hidden_{i}_weight": layer.incoming.weight, f"hidden_{i}_bias": layer.incoming.bias}
            for module, kind in ((layer.normalisation, "norm"), (layer.whole, "activation")):
                if module is not None:
                    found |= {_key(kind, i, name): value for name, value in _tensors(module)}
        for i, reader in enumerate(self.readers):
            found |= {f"output_{i}_weight": reader.weight, f"output_{i}_bias": reader.bias}
        return {name: value.detach() for name, value in found.items() if value is not None}

    def hidden(self, values: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """What the output layers read, with `values` in place of the head's own weights.

        Args:
            values: As `values()` gave them.
            features: [..., features], what the encoder gives.

        Returns:
            [..., features of the last hidden layer].
        """
        for i, layer in enumerate(self.layers):
            features = linear(features, values[f"hidden_{i}_weight"], values.get(f"hidden_{i}_bias"))
            for module, kind in ((layer.normalisation, "norm"), (self.activations[i], "activation")):
                if module is not None:
                    own = {name: values[_key(kind, i, name)] for name, _ in _tensors(module)}
                    features = torch.func.functional_call(module, own, (features,)) if own else module(features)
        return features

    def output(self, values: Mapping[str, Tensor], reader: int, hidden: Tensor) -> Tensor:
        """The output of one reader, [..., outputs], with `values` in place of its own weights."""
        return linear(hidden, values[f"output_{reader}_weight"], values.get(f"output_{reader}_bias"))

    def draw(self, generator: torch.Generator) -> None:
        """Draws the modules' weights anew, as the network's first ones were."""
        for layer in self.layers:
            layer.initialiser.apply(layer.incoming, generator)
            if layer.normalisation is not None:
                for name, parameter in layer.normalisation.named_parameters():
                    parameter.fill_(float(name == "weight"))
        for reader in self.readers:
            self._output_initialiser.apply(reader, generator)


class Injection(nn.Module):
    """What is frozen of a network's head, and how it takes part in the forward pass.

    It listens to the head: the first of its layers tells the encoder's features, and every output layer's result is
    completed. Copies of the network follow by `state_dict`, which may hold more frozen heads than they had.

    Attributes:
        originals: Weights of h_theta, one a frozen head.
        copies: Weights of h_theta'_2.
        learning: The weights of a linear h_theta that goes on learning; else None.
    """

    def __init__(self, head: Head, trained: bool, copy_gradient: bool):
        super().__init__()
        self.head, self.copy_gradient = head, copy_gradient
        self.originals, self.copies = nn.ModuleList(), nn.ModuleList()
        zeros = {name: torch.zeros_like(value) for name, value in head.values().items()}
        self.learning = Weights(zeros, learn=True) if trained else None
        self._hidden: list[tuple[Tensor, Tensor]] = []
        if head.layers:
            head.layers[0].incoming.register_forward_pre_hook(self._enter)
        for reader in head.readers:
            reader.register_forward_hook(self._complete)

    def freeze_head(self) -> None:
        """Makes the head as it is now a part of the function that stays (or goes on learning apart)."""
        values = self.head.values()
        if self.head.layers:
            self.originals.append(Weights(values))
            return
        for original, copied in self._pairs():  # at most one
            values = {name: value + original[name] - copied[name] for name, value in values.items()}
        if self.learning is not None:
            self.learning.take(values)
        else:
            self.originals = nn.ModuleList([Weights(values)])

    def freeze_copy(self) -> None:
        """Makes the head as it is now a part that is taken off."""
        frozen = Weights(self.head.values())
        self.copies = nn.ModuleList([*self.copies, frozen] if self.head.layers else [frozen])

    def _pairs(self) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        copies = [dict(_tensors(frozen)) for frozen in self.copies]
        if self.learning is not None:
            return [(self.learning.values(), copied) for copied in copies]
        return list(zip([dict(_tensors(frozen)) for frozen in self.originals], copies, strict=True))

    def _enter(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        head = self.head
        self._hidden = [tuple(head.hidden(values, args[0]) for values in pair) for pair in self._pairs()]  # type: ignore[misc]

    def _complete(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        head = self.head
        reader = next(i for i, each in enumerate(head.readers) if each is module)
        pairs = self._pairs()
        if not pairs and self.learning is not None:
            # No part yet, but a gradient of 0 for what will learn.
            return output + 0.0 * head.output(self.learning.values(), reader, args[0])
        hidden = self._hidden if head.layers else [(args[0], args[0])] * len(pairs)
        # Newest first: at its injection a pair gives the very numbers that the head gave before.
        for (original, copied), (of_original, of_copy) in zip(reversed(pairs), reversed(hidden), strict=True):
            taken_off = head.output(copied, reader, of_copy)
            output = output - (taken_off if self.copy_gradient else taken_off.detach())
            output = output + head.output(original, reader, of_original)
        return output

    def __getstate__(self) -> dict[str, Any]:
        # What the latest pass left must not be in the way of copies of the network.
        return {**self.__dict__, "_hidden": []}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("originals", "copies"):
            start = f"{prefix}{name}."
            count = len({key.removeprefix(start).split(".")[0] for key in state_dict if key.startswith(start)})
            have: nn.ModuleList = getattr(self, name)
            more = [Weights(self.head.values()) for _ in range(count - len(have))]
            setattr(self, name, nn.ModuleList([*list(have)[:count], *more]))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Weights(nn.Module):
    """Weights of a head, in buffers, or in parameters if they are to learn.

    Args:
        values: By name, as `Head.values` gives them; they are copied.
        learn: Whether they learn.
    """

    def __init__(self, values: Mapping[str, Tensor], learn: bool = False):
        super().__init__()
        for name, value in values.items():
            if learn:
                self.register_parameter(name, nn.Parameter(value.clone()))
            else:
                self.register_buffer(name, value.clone())

    def values(self) -> dict[str, Tensor]:
        """By name."""
        return dict(_tensors(self))

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Overwrites them."""
        for name, value in self.values().items():
            value.copy_(values[name])


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _key(kind: str, layer: int, name: str) -> str:
    return f"{kind}_{layer}_{name.replace('.', '_')}"


def _hooks(module: nn.Module) -> int:
    return sum(len(each._forward_pre_hooks) + len(each._forward_hooks) for each in module.modules())
