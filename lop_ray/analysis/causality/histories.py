"""Every unit's margin through training, the gradient on it, and when it dies and comes back, from table `neurons`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.statistics import Floats

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class History:
    """All units of one hidden layer of one trial.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the trial.
        trial_id: Its id.
        layer: Hidden layer, counted from 0.
        updates: [T], updates after which units were measured.
        tasks: [T], the task at each.
        margins: [T, U].
        gradients: [T, U], norm of the gradient on each unit; NaN where it wasn't measured.
        pushes: [T, U], above 0 a gradient step lowers the pre-activations; NaN where it wasn't measured.
    """

    variant: str
    seed: int
    trial_id: str
    layer: int
    updates: NDArray[np.int64]
    tasks: NDArray[np.int64]
    margins: Floats
    gradients: Floats
    pushes: Floats

    @property
    def dead(self) -> NDArray[np.bool_]:
        """[T, U], margin < 0."""
        return self.margins < 0

    def deaths(self) -> NDArray[np.int64]:
        """[n, 2], (time, unit): alive in the measurement before, dead in this one."""
        return _crossings(~self.dead[:-1] & self.dead[1:])

    def recoveries(self) -> NDArray[np.int64]:
        """[n, 2], (time, unit): dead in the measurement before, alive in this one."""
        return _crossings(self.dead[:-1] & ~self.dead[1:])

    def task_ends(self) -> NDArray[np.int64]:
        """Index of the last measurement of each task."""
        return np.flatnonzero(np.append(np.diff(self.tasks) != 0, True))

    def task_starts(self) -> NDArray[np.int64]:
        """Index of the first measurement of each task."""
        return np.flatnonzero(np.append(True, np.diff(self.tasks) != 0))


def read_histories(
    store: duckdb.DuckDBPyConnection, variant: str | None = None, network: str | None = None
) -> list[History]:
    """The histories of all units of one network, trial by trial and layer by layer.

    Args:
        store: Connection with the views `trials` and `neurons`.
        variant: Only this variant; None: all.
        network: Which network; None: classifier, policy, or whichever there is.

    Returns:
        By variant, seed and layer.

    Raises:
        ValueError: Table `neurons` has no rows.
    """
    names = [row[0] for row in store.execute("SELECT DISTINCT network FROM neurons").fetchall()]
    if not names:
        raise ValueError("no rows in table neurons: set diagnostics.margins.neurons_every in the grid")
    chosen = network or next((each for each in ("classifier", "policy") if each in names), sorted(names)[0])
    rows = store.execute(
        """
        SELECT variant, seed, trial_id, layer, list("update" ORDER BY "update"), list(task ORDER BY "update"),
               list(margin ORDER BY "update"), list(gradient ORDER BY "update"), list(push ORDER BY "update")
        FROM neurons JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        WHERE network = ? AND margin IS NOT NULL AND (? IS NULL OR variant = ?)
        GROUP BY ALL ORDER BY seed, trial_id, layer
        """,
        [chosen, variant, variant],
    ).fetchall()
    order = variant_order({row[0] for row in rows})
    found = [
        History(
            name,
            seed,
            trial,
            layer,
            np.asarray(updates, np.int64),
            np.asarray(tasks, np.int64),
            np.asarray(margins, np.float64),
            *(_filled(each, len(margins[0])) for each in (gradients, pushes)),
        )
        for name, seed, trial, layer, updates, tasks, margins, gradients, pushes in rows
    ]
    return sorted(found, key=lambda each: order.index(each.variant))


def _crossings(crossed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[n, 2] of (time, unit) from [T - 1, U]; the time is the second of the two measurements."""
    return np.argwhere(crossed) + np.array([1, 0])


def _filled(rows: list[list[float] | None], units: int) -> Floats:
    """[T, U], NaN where a row has no list."""
    nothing = [np.nan] * units
    return np.asarray([nothing if row is None else row for row in rows], np.float64)
