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
it is not given, and is refused if no network has it.

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
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lop_ray.diagnostics.base import Diagnostic, DiagnosticOptions, Findings, Row, Subject
from lop_ray.diagnostics.registry import find_diagnostic


@dataclass
class Rows:
    """Rows by table, without trial_id, update, env_steps and task: the caller adds those.

    Attributes:
        layers: One per (network, layer), with the columns of all diagnostics that were due.
        neurons: One per (network, layer).
        probes: One per (network, probe, metric).
        spectra: One per (network, spectrum).
        seconds: Wall time of the measurement.
    """

    layers: list[Row] = field(default_factory=list)
    neurons: list[Row] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    spectra: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def tables(self) -> dict[str, list[Row]]:
        """The tables that have rows, by name."""
        tables = {"layers": self.layers, "neurons": self.neurons, "probes": self.probes, "spectra": self.spectra}
        return {name: rows for name, rows in tables.items() if rows}


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
        for name, values in options.items():
            diagnostic = find_diagnostic(name)
            self._members.append((diagnostic, diagnostic.options(**values)))

    @property
    def samples(self) -> int:
        """How many of the latest observations the caller should keep: the most that a member looks at."""
        return max((options.observations() for _, options in self._members), default=0)

    def due(self, update: int) -> bool:
        """Whether anything is measured at `update`."""
        return any(update % options.every == 0 for _, options in self._members)

    def needs(self, update: int) -> frozenset[str]:
        """The entries of `extra` that the diagnostics due at `update` need or can use."""
        return frozenset().union(*(options.needs() | options.uses() for _, options in self._due(update)))

    def remember(self, update: int, networks: Mapping[str, nn.Module]) -> None:
        """Copies the networks just before `update` if what is due then compares with them.

        Args:
            update: Number of the update that is about to be made.
            networks: As they are now.
        """
        if "before" in self.needs(update):
            self._before = (update, {name: copy.deepcopy(network) for name, network in networks.items()})

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
        start = time.perf_counter()
        extra = dict(extra or {})
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
                    found = diagnostic.measure(subject, options)
                except ValueError as error:
                    raise ValueError(
                        f"diagnostic {diagnostic.name} of network {name}, update {update}: {error}"
                    ) from error
                measured |= bool(found.layers)
                _merge(rows, merged, found, name)
            if measured:
                rows.layers += merged
        rows.seconds = time.perf_counter() - start
        return rows


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
    rows.neurons += [{"network": network, **row} for row in found.neurons]
    rows.probes += [{"network": network, **row} for row in found.probes]
    rows.spectra += [{"network": network, **row} for row in found.spectra]
