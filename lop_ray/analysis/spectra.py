"""Spectra and margins of single units, from the tables `spectra` and `neurons`: how a network looks from the inside at
the beginning and at the end of training.
"""

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
class Spectrum:
    """One row of `spectra`.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the trial.
        env_steps: Environment steps at which it was taken.
        task: Task at that time.
        x: Its values, or its abscissa.
        y: Weight or density at each x; empty where x stands alone.
    """

    variant: str
    seed: int
    env_steps: int
    task: int
    x: Floats
    y: Floats


def read_spectra(
    store: duckdb.DuckDBPyConnection, spectrum: str, network: str = "policy", layer: int | None = None
) -> list[Spectrum]:
    """The rows of one spectrum, in the figures' order of variants, then by seed and time.

    Args:
        store: Connection with the views `trials` and `spectra`.
        spectrum: Its name, such as "hessian_density".
        network: Name of the network.
        layer: Hidden layer, counted from 0; None for spectra of the whole network.

    Returns:
        Spectra; empty without rows.
    """
    rows = store.execute(
        """
        SELECT variant, seed, spectra.env_steps, task, x, coalesce(y, [])
        FROM spectra JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        WHERE spectrum = ? AND network = ? AND layer IS NOT DISTINCT FROM ?
        ORDER BY seed, spectra.env_steps
        """,
        [spectrum, network, layer],
    ).fetchall()
    order = variant_order({row[0] for row in rows})
    found = [
        Spectrum(variant, seed, env_steps, task, np.asarray(x, np.float64), np.asarray(y, np.float64))
        for variant, seed, env_steps, task, x, y in rows
    ]
    return sorted(found, key=lambda each: order.index(each.variant))


def first_and_last(spectra: list[Spectrum]) -> dict[tuple[str, int], tuple[Spectrum, Spectrum]]:
    """The earliest and the latest spectrum of every variant and seed that has two."""
    by_trial: dict[tuple[str, int], list[Spectrum]] = {}
    for each in spectra:
        by_trial.setdefault((each.variant, each.seed), []).append(each)
    return {trial: (rows[0], rows[-1]) for trial, rows in by_trial.items() if len(rows) > 1}


@dataclass(frozen=True)
class UnitMargins:
    """Margins of all units of one layer of one trial through training.

    Attributes:
        variant: Name of the variant.
        seed: Seed of the trial.
        env_steps: [T], when they were taken.
        margins: [T, units], the largest pre-activation of each unit over the buffer.
    """

    variant: str
    seed: int
    env_steps: NDArray[np.int64]
    margins: Floats

    def nearest_to_death(self) -> int:
        """Of the units that begin alive the one that is dead longest; if none dies, the least margin at the end."""
        alive = self.margins[0] >= 0
        dead_for = np.where(alive, (self.margins < 0).sum(0), -1)
        return int(dead_for.argmax()) if dead_for.max() > 0 else int(self.margins[-1].argmin())


def unit_margins(store: duckdb.DuckDBPyConnection, network: str = "policy", layer: int = 0) -> list[UnitMargins]:
    """Every unit's margin over time, trial by trial, in the figures' order of variants, then by seed.

    Args:
        store: Connection with the views `trials` and `neurons`.
        network: Name of the network.
        layer: Hidden layer, counted from 0.

    Returns:
        One entry a trial; empty without rows.
    """
    rows = store.execute(
        """
        SELECT variant, seed, trial_id, list(neurons.env_steps ORDER BY neurons.env_steps),
               list(margin ORDER BY neurons.env_steps)
        FROM neurons JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        WHERE network = ? AND layer = ? AND margin IS NOT NULL
        GROUP BY ALL ORDER BY seed
        """,
        [network, layer],
    ).fetchall()
    order = variant_order({row[0] for row in rows})
    found = [UnitMargins(row[0], row[1], np.asarray(row[3]), np.asarray(row[4], np.float64)) for row in rows]
    return sorted(found, key=lambda each: order.index(each.variant))
