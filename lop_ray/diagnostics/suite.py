"""All diagnostics of a run: when each is due, one forward pass for all, and the rows they make.

    suite = DiagnosticSuite({"margins": {}, "ranks": {"every": 5}}, seed=0)
    suite.remember(update, {"policy": policy})  # before the update
    ...
    if suite.due(update):
        rows = suite.measure(update=update, networks={"policy": policy}, observations=latest)

**What the caller gives besides networks and observations** stands in `extra`, a mapping; each entry
is itself a mapping from a network's name. `suite.needs(update)` names the entries that the due
diagnostics need or can use, so that the caller prepares only those (ask it for the coming update
*before* training, because of `before`). A diagnostic that needs an entry skips the networks for which
it is not given, and is refused if no network has it. A training that is `Diagnosable` is asked for what
is needed by `suite.prepare` and `suite.diagnose`; with it, `boundaries` follows changes of task.

| entry | per network | what for |
|---|---|---|
| `before` | a copy of the network from just before the update; made by `remember` | changes, predictive margins |
| `initial` | the network as it was initialised (built again from the seed) | distance from the start |
| `losses` | `loss(output, batch) -> scalar`, the mean over rows; see `losses.py` | gradients, curvature |
| `batches` | a mapping of columns [N, ...] that its loss reads, among them `inputs` | gradients, curvature |
| `optimizers` | the torch optimiser that trains the network; it is copied | plasticity probe |
| `ratios` | pi_new(a|s) / pi_old(a|s) on the update's batch, under the new policy [N] | trust region |

Measuring leaves weights, buffers, gradients, modes and all random generators as they are. Diagnostics
that draw random numbers have streams of their own, derived from `seed`, name, network and update, so a
resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lop_ray.denormals import denormals_as_zero
from lop_ray.diagnostics.base import Diagnostic, DiagnosticOptions, Findings, NonFiniteError, Row, Subject
from lop_ray.diagnostics.boundaries import BoundaryOptions, BoundaryWatch
from lop_ray.diagnostics.diagnosable import ENTRIES, Diagnosable
from lop_ray.diagnostics.registry import find_diagnostic

logger = logging.getLogger(__name__)


@dataclass
class Rows:
    """Rows by table, without trial_id, update, env_steps and task: the caller adds those.

    Attributes:
        layers: One per (network, layer), with the columns of all diagnostics that were due.
        neurons: One per (network, layer).
        probes: One per (network, probe, metric).
        spectra: One per (network, spectrum).
        boundaries: One per (network, layer) of every change of task that was completed.
        seconds: Wall time of the measurement.
    """

    layers: list[Row] = field(default_factory=list)
    neurons: list[Row] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    spectra: list[Row] = field(default_factory=list)
    boundaries: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def tables(self) -> dict[str, list[Row]]:
        """The tables that have rows, by name."""
        names = ("layers", "neurons", "probes", "spectra", "boundaries")
        return {name: rows for name in names if (rows := getattr(self, name))}


class DiagnosticSuite:
    """The diagnostics that one run has switched on.

    Args:
        options: By name of the diagnostic, its options; the `diagnostics:` section of a grid.
        seed: The trial's seed.

    Raises:
        ValueError: Unknown diagnostic.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]], *, seed: int = 0):
        self.seed = seed
        self._before: tuple[int, dict[str, nn.Module]] = (-1, {})
        self._members: list[tuple[Diagnostic, DiagnosticOptions]] = []
        self._watch: BoundaryWatch | None = None
        for name, values in options.items():
            if name == "boundaries":
                self._watch = BoundaryWatch(BoundaryOptions(**values))
            else:
                diagnostic = find_diagnostic(name)
                self._members.append((diagnostic, diagnostic.options(**values)))

    @property
    def samples(self) -> int:
        """How many of the latest observations the caller should keep: the most that a member looks at."""
        return max((options.observations() for _, options in self._members), default=0)

    def due(self, update: int) -> bool:
        """Whether there is anything to do at `update`: always, where changes of task are followed."""
        return self._watch is not None or bool(self._due(update))

    def observes(self, update: int) -> bool:
        """Whether what is due at `update` looks at the latest observations."""
        return any(options.observations() for _, options in self._due(update))

    def needs(self, update: int) -> frozenset[str]:
        """The entries of `extra` that what is due at `update` needs or can use, and `steps`."""
        needs = [options.needs() | options.uses() for _, options in self._due(update)]
        return frozenset().union(*needs, self._watch.options.needs() if self._watch else ())

    def remember(self, update: int, networks: Mapping[str, nn.Module]) -> None:
        """Copies the networks just before `update` if what is due then compares with them.

        Args:
            update: Number of the update that is about to be made.
            networks: As they are now.
        """
        if "before" in self.needs(update):
            self._before = (update, {name: copy.deepcopy(network) for name, network in networks.items()})

    def prepare(self, update: int, training: Diagnosable) -> None:
        """Makes ready, just before `update`, for what is due after it.

        Args:
            update: Number of the update that is about to be made.
            training: What will make it.
        """
        self.remember(update, training.networks())
        training.prepare(self.needs(update))

    @denormals_as_zero()
    def diagnose(self, update: int, training: Diagnosable, observations: Tensor) -> Rows:
        """Measures everything that is due at `update` on a training that `prepare` was called for.

        What fails on the numbers themselves (NaN or infinity, no convergence, no memory) must not end a training:
        the diagnostic's columns are left out for that network, and table `probes` has a row with the diagnostic's
        name, metric `failed` and the reason.

        Args:
            update: Number of the update that was just made.
            training: What made it.
            observations: [N, ...], the latest, oldest first.

        Returns:
            The rows.

        Raises:
            ValueError: As `measure` does, except on non-finite values.
        """
        extra = {entry: getattr(training, entry)() for entry in sorted(self.needs(update) & frozenset(ENTRIES))}
        rows = self._measure(update, training.networks(), observations, extra, go_on=True)
        if self._watch is not None:
            self._follow(self._watch, update, training, rows)
        return rows

    def _follow(self, watch: BoundaryWatch, update: int, training: Diagnosable, rows: Rows) -> None:
        start = time.perf_counter()
        assert self._before[0] == update, "prepare() was not called before this update"
        observations, tasks = training.steps()
        try:
            found = watch.follow(update, observations, tasks, before=self._before[1], now=training.networks())
            rows.boundaries += found
        except NonFiniteError as error:
            logger.warning("boundaries, update %d: %s", update, error)
            rows.probes += _failure("boundaries", error).probes
        rows.seconds += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart, as tensors, arrays and plain numbers; empty for most."""
        return {} if self._watch is None else {"boundaries": self._watch.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> None:
        """Takes back what `state_dict` gave; the networks are those in training."""
        if self._watch is not None and "boundaries" in state:
            self._watch.load_state_dict(state["boundaries"], networks)

    def _due(self, update: int) -> list[tuple[Diagnostic, DiagnosticOptions]]:
        return [(diagnostic, options) for diagnostic, options in self._members if update % options.every == 0]

    def measure(
        self,
        *,
        update: int,
        networks: Mapping[str, nn.Module],
        observations: Tensor,
        extra: Mapping[str, Any] | None = None,
    ) -> Rows:
        """Measures everything that is due at `update`.

        Args:
            update: Number of the update that was just made; 0 before the first.
            networks: By name, each with a view of its hidden layers.
            observations: [N, ...], the latest, oldest first; networks read them as they are.
            extra: What else some diagnostics need; see the module's docstring.

        Returns:
            The rows.

        Raises:
            ValueError: No observations, non-finite values, or an entry of `extra` that is needed and not there.
        """
        return self._measure(update, networks, observations, dict(extra or {}), go_on=False)

    def _measure(
        self,
        update: int,
        networks: Mapping[str, nn.Module],
        observations: Tensor,
        extra: dict[str, Any],
        *,
        go_on: bool,
    ) -> Rows:
        start = time.perf_counter()
        if self._before[0] == update:
            extra.setdefault("before", self._before[1])
        due = self._due(update)
        for diagnostic, options in due:
            _check_needs(diagnostic.name, options.needs(), extra, networks)
        rows = Rows()
        for name, network in networks.items():
            subject = Subject(name, network, observations, update=update, extra=extra, seed=self.seed)
            merged: list[Row] = [
                {"network": name, "layer": index, "units": layer.units} for index, layer in enumerate(subject.layers)
            ]
            measured = False
            for diagnostic, options in due:
                if not all(name in extra[key] for key in options.needs()):
                    continue
                try:
                    if options.observations() and not len(observations):
                        raise ValueError("there are no observations")
                    found = diagnostic.measure(subject, options)
                except (ValueError, RuntimeError) as raised:
                    error = (subject.unreadable() if options.observations() else None) or raised
                    where = f"diagnostic {diagnostic.name} of network {name}, update {update}: {error}"
                    if isinstance(error, ValueError) and not (go_on and isinstance(error, NonFiniteError)):
                        raise ValueError(where) from error
                    if not go_on:
                        raise
                    logger.warning("%s", where)
                    found = _failure(diagnostic.name, error)
                measured |= bool(found.layers)
                _merge(rows, merged, found, name)
            if measured:
                rows.layers += merged
        rows.seconds = time.perf_counter() - start
        return rows


def _failure(name: str, error: Exception) -> Findings:
    """One row that says why there are no others."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return Findings(probes=[{"probe": name, "metric": "failed", "value": math.nan, "reason": reason}])


def _check_needs(name: str, keys: frozenset[str], extra: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> None:
    for key in sorted(keys):
        if not set(extra.get(key, {})) & set(networks):
            raise ValueError(
                f"diagnostic {name} needs extra['{key}'] for at least one of the networks "
                f"{', '.join(networks)}: give it, or switch {name} off"
            )


def _merge(rows: Rows, merged: list[Row], found: Findings, network: str) -> None:
    for row, columns in zip(merged, found.layers, strict=True) if found.layers else ():
        twice = row.keys() & columns.keys()
        assert not twice, f"two diagnostics write the columns {sorted(twice)}"
        row.update(columns)
    for row in found.neurons:  # what several diagnostics measured of the units of a layer is one row
        same = [each for each in rows.neurons if (each["network"], each["layer"]) == (network, row["layer"])]
        if same:
            same[0].update(row)
        else:
            rows.neurons.append({"network": network, **row})
    rows.probes += [{"network": network, **row} for row in found.probes]
    rows.spectra += [{"network": network, **row} for row in found.spectra]
