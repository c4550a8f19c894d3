"""What a change of the task does to the units: margins and deaths at every boundary, from the table `boundaries`.

Three moments: the old weights on the old task's observations; the old weights on the new task's (predictive: what the
shift alone does); the new weights on the new task's (actual: what the first updates add). Counts are given in per cent
of the layer's units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lop_ray.analysis.curves import network_place, variant_order
from lop_ray.analysis.statistics import Estimate, Floats, estimate
from lop_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import duckdb

MARGINS = ("old_mean_margin", "predictive_mean_margin", "actual_mean_margin")
DEAD = ("old_dead", "predictive_dead", "actual_dead")
CHANGES = ("killed_by_shift", "revived_by_shift", "killed_by_adaptation", "revived_by_adaptation")
_PERCENT = (*DEAD, *CHANGES)


@dataclass(frozen=True)
class Boundaries:
    """Everything that was measured at the task boundaries of one layer, for the trials of one variant.

    Attributes:
        variant: Name of the variant.
        seeds: [n], seeds of the trials with a boundary.
        tasks: [K], the tasks that began there.
        values: For each column of `boundaries` (see MARGINS, DEAD and CHANGES) an array [n, K]; NaN where the trial did
            not come to that boundary. Counts are in per cent of the units.
    """

    variant: str
    seeds: tuple[int, ...]
    tasks: tuple[int, ...]
    values: dict[str, Floats]

    @property
    def n(self) -> int:
        """Number of seeds with a boundary."""
        return len(self.seeds)

    def estimate(self, column: str, *, seed: int = 0, resamples: int = 2000) -> Estimate:
        """Mean over seeds at each boundary, with its 95 % bootstrap interval; of shape [K]."""
        return estimate(self.values[column], numpy_generator(seed, "bootstrap"), resamples=resamples)

    def overall(self, column: str, *, seed: int = 0, resamples: int = 2000) -> Estimate:
        """Mean over the boundaries of a seed, then over seeds, with its interval over seeds; a scalar."""
        values = self.values[column]
        there = np.isfinite(values)
        counts = there.sum(axis=1)
        sums = np.where(there, values, 0.0).sum(axis=1)
        means = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
        return estimate(means, numpy_generator(seed, "bootstrap"), resamples=resamples)


LayerBoundaries = dict[tuple[str, int], list[Boundaries]]
"""Boundaries by (network, layer), policy first."""


def layer_boundaries(store: duckdb.DuckDBPyConnection) -> LayerBoundaries:
    """The rows of `boundaries`, by layer and variant.

    Args:
        store: Connection with the views `trials` and `boundaries`.

    Returns:
        Boundaries by network and layer; empty without rows.

    Raises:
        ValueError: A variant has several trials of a seed (narrow the store).
    """
    columns = [*MARGINS, *DEAD, *CHANGES]
    wanted = ", ".join(f"avg(100.0 * {name} / units)" if name in _PERCENT else f"avg({name})" for name in columns)
    rows = store.execute(
        f"""
        SELECT network, layer, variant, seed, trial_id, task, {wanted}
        FROM boundaries JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        GROUP BY ALL ORDER BY network, layer, variant, seed, trial_id, task
        """
    ).fetchall()
    tasks = tuple(sorted({row[5] for row in rows}))
    grouped: dict[tuple[str, int], dict[str, dict[str, list[Any]]]] = {}
    for row in rows:
        grouped.setdefault((row[0], row[1]), {}).setdefault(row[2], {}).setdefault(row[4], []).append(row)
    ordered = sorted(grouped, key=lambda key: (network_place(key[0]), key[1]))
    return {
        layer: [
            _boundaries(variant, grouped[layer][variant], tasks, columns) for variant in variant_order(grouped[layer])
        ]
        for layer in ordered
    }


def boundary_table(layers: LayerBoundaries, seed: int = 0) -> pd.DataFrame:
    """Units killed and revived at a boundary, in per cent of the layer, mean over boundaries and seeds.

    Args:
        layers: From `layer_boundaries`.
        seed: Of the bootstrap's generator.

    Returns:
        A row for each layer and variant: n (seeds), boundaries (over all seeds), each of CHANGES with its interval, and
        the mean margin at the three moments with theirs.
    """
    rows = []
    for (network, layer), variants in layers.items():
        for each in variants:
            row: dict[str, Any] = {"network": network, "layer": layer + 1, "variant": each.variant, "n": each.n}
            row["boundaries"] = int(np.isfinite(each.values[MARGINS[0]]).sum())
            for name in (*CHANGES, *MARGINS):
                result = each.overall(name, seed=seed)
                row |= {name: float(result.value), f"{name}_low": float(result.low), f"{name}_high": float(result.high)}
            rows.append(row)
    columns = ["network", "layer", "variant", "n", "boundaries"]
    columns += [f"{name}{end}" for name in (*CHANGES, *MARGINS) for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=columns).set_index(["network", "layer", "variant"])


def _boundaries(variant: str, trials: dict[str, list[Any]], tasks: tuple[int, ...], columns: list[str]) -> Boundaries:
    seeds = tuple(rows[0][3] for rows in trials.values())
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"variant {variant} has several trials a seed ({len(seeds)} trials, {len(set(seeds))} seeds): the grid has "
            "further axes; look at one setting at a time, such as narrow(store, \"problem = 'slippery_ant'\")"
        )
    values = {name: np.full((len(trials), len(tasks)), np.nan) for name in columns}
    for place, rows in enumerate(trials.values()):
        for row in rows:
            for name, value in zip(columns, row[6:], strict=True):
                values[name][place, tasks.index(row[5])] = np.nan if value is None else value
    return Boundaries(variant, seeds, tasks, values)
