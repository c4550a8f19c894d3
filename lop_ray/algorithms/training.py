"""What every kind of training offers to the trial that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lop_ray.algorithms.spec import TrialSpec

Rows = dict[str, list[dict[str, Any]]]
"""Rows by table, without the trial's id."""


def dead_fraction(rows: Rows) -> float | None:
    """Share of dead units over all hidden layers of an update's rows; None where margins were not due."""
    layers = [row for row in rows.get("layers", []) if row.get("dead") is not None]
    units = sum(row["units"] for row in layers)
    return sum(row["dead"] for row in layers) / units if units else None


class Training(Protocol):
    """A network in training, one update at a time.

    Attributes:
        updates: Updates so far.
    """

    updates: int

    @property
    def env_steps(self) -> int:
        """Environment steps (examples, for supervised problems) so far."""
        ...

    def update(self) -> Rows:
        """Trains once; returns the update's rows, exactly one of them in table `updates`."""
        ...

    def state(self) -> dict[str, bytes]:
        """Files from which `restore` continues bit for bit."""
        ...

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Takes back what `state` gave, before the first update."""
        ...

    def close(self) -> None:
        """Ends workers and frees what it holds."""
        ...


TrainingFactory = Callable[[TrialSpec], Training]
