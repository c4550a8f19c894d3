"""What a diagnostic is: a name, options, and a function from one network to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lop_ray.diagnostics.pieces import Passed
from lop_ray.networks import HiddenLayer, features_of, hidden_layers, record
from lop_ray.options import Options
from lop_ray.seeding import torch_generator

Row = dict[str, Any]
"""Columns of one row, without trial_id, update, env_steps and task: the caller adds those."""


class DiagnosticOptions(Options):
    """What every diagnostic can be told."""

    every: Annotated[int, Ge(1)] = 1
    """Updates between two measurements: due at updates 0, every, 2 every, ..."""

    def needs(self) -> frozenset[str]:
        """Entries of `extra` without which it cannot be done for a network; see `lop_ray.diagnostics.suite`."""
        return frozenset()

    def uses(self) -> frozenset[str]:
        """Entries of `extra` that it uses if they are there."""
        return frozenset()

    def observations(self) -> int:
        """How many of the latest observations it looks at."""
        return 0


class ObservingOptions(DiagnosticOptions):
    """Options of a diagnostic that looks at the latest observations."""

    samples: Annotated[int, Ge(1)] = 1000
    """How many of the latest observations it looks at (fewer while fewer were made)."""

    def observations(self) -> int:
        """That many."""
        return self.samples


@dataclass
class Findings:
    """What a diagnostic found in one network; column `network` is added later.

    Attributes:
        layers: One dict of columns per hidden layer, in order; or empty.
        neurons: Rows with a `layer` and lists with an entry a unit.
        probes: Rows with `probe`, `metric`, `value`.
        spectra: Rows with `spectrum`, `layer` (None: the whole network), and lists `x` and `y` (or None).
    """

    layers: list[Row] = field(default_factory=list)
    neurons: list[Row] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    spectra: list[Row] = field(default_factory=list)

    def add_spectrum(self, spectrum: str, x: Tensor, y: Tensor | None = None, *, layer: int | None = None) -> None:
        """Adds one row to `spectra`: values, or abscissa and weight of each; tensors are flattened."""
        lists = [None if each is None else each.flatten().tolist() for each in (x, y)]
        self.spectra.append({"spectrum": spectrum, "layer": layer, "x": lists[0], "y": lists[1]})

    def add_probe(self, probe: str, **metrics: float) -> None:
        """Adds one row to `probes` per metric."""
        self.probes += [{"probe": probe, "metric": name, "value": float(value)} for name, value in metrics.items()]


class Subject:
    """One network at one update, as a diagnostic sees it.

    The forward pass is made once, when first asked for, and shared by all diagnostics that are due.

    Args:
        name: Name of the network ("policy").
        network: The network; diagnostics must leave it as it is.
        observations: [N, ...], oldest first.
        update: Number of the update.
        extra: What else the caller gave; see `lop_ray.diagnostics.suite`.
        seed: Seed of the diagnostics' own random streams.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        observations: Tensor,
        *,
        update: int = 0,
        extra: Mapping[str, Any] | None = None,
        seed: int = 0,
    ):
        self.name, self.network, self.update, self.seed = name, network, update, seed
        self.observations = observations
        self.extra = {} if extra is None else extra

    @cached_property
    def layers(self) -> list[HiddenLayer]:
        """The hidden layers, first to last."""
        return list(hidden_layers(self.network))

    @cached_property
    def _passed(self) -> Passed:
        return Passed.of(self.network, self.observations)

    def pre_activations(self, samples: int) -> list[Tensor]:
        """Per hidden layer, what the activations see on the latest `samples` observations."""
        return [values[-samples:] for values in self._passed.pre_activations]

    def activations(self, samples: int) -> Iterator[Tensor]:
        """Per hidden layer, what the activations give on the latest `samples` observations; one layer at a time."""
        return self._passed.activations(samples)

    def features(self, samples: int) -> Iterator[Tensor]:
        """Per hidden layer, what the next one reads: the activations, with every number that a unit hands on."""
        return (features_of(*pair) for pair in zip(self.layers, self.activations(samples), strict=True))

    def outputs(self, samples: int) -> Tensor:
        """The network's output on the latest `samples` observations."""
        return self._passed.output[-samples:]

    def unreadable(self) -> ValueError | None:
        """What is wrong, in one line, if the network cannot read the observations; it explains other errors."""
        try:
            record(self.network, self.observations[:1])
        except RuntimeError as error:
            return ValueError(
                f"network {self.name} cannot read observations {list(self.observations.shape)}: give them in the shape "
                f"and type that it was made for ({' '.join(str(error).split())})"
            )
        return None

    def of_network(self, key: str) -> Any:
        """What the caller gave under `extra[key]` for this network, or None."""
        return self.extra.get(key, {}).get(self.name)

    def generator(self, diagnostic: str, *, every_update: bool = True) -> torch.Generator:
        """The random stream of `diagnostic` on this network, from its start.

        Args:
            diagnostic: Name of the stream.
            every_update: Whether each update has a stream of its own.

        Returns:
            A generator on the CPU.
        """
        stream: list[str | int] = ["diagnostics", diagnostic, self.name]
        return torch_generator(self.seed, *stream, *([self.update] if every_update else []))


@dataclass(frozen=True)
class Diagnostic:
    """A measurement that a grid can switch on.

    Attributes:
        name: Its key under `diagnostics:`.
        options: Class of its options.
        measure: From a subject and options to findings; pure.
    """

    name: str
    options: type[DiagnosticOptions]
    measure: Callable[[Subject, Any], Findings]


class NonFiniteError(ValueError):
    """NaN or infinity in what was to be measured."""


def check_finite(summary: Tensor, what: str) -> None:
    """Raises if `summary`, any reduction that non-finite numbers survive, is not finite.

    Args:
        summary: Such as the maximum per unit.
        what: What it was computed from, for the message.

    Raises:
        NonFiniteError: NaN or infinity in `summary`.
    """
    if not bool(torch.isfinite(summary).all()):
        bad = int((~torch.isfinite(summary)).sum())
        raise NonFiniteError(
            f"{what} hold NaN or infinity (seen in {bad} of {summary.numel()} columns): the network has "
            "diverged or its input is damaged; measure before that update, or check the input"
        )


def check_samples(values: Tensor, what: str) -> None:
    """Raises unless `values` has at least one sample and one unit.

    Args:
        values: [N, units] or [N, channels, ...].
        what: Its name, for the message.

    Raises:
        ValueError: Wrong number of dimensions, or nothing in it.
    """
    if values.ndim < 2 or 0 in values.shape:
        raise ValueError(f"{what} must be [samples, units] or [samples, channels, ...], not {list(values.shape)}")
