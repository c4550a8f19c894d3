"""Stores of synthetic runs whose causes are known; every trial is measured at the start and the end of each task."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from lop_ray.results import Store
from lop_ray.results.schema import SCHEMAS, schema_of

STEPS = 1000
UNITS = 20


@dataclass(frozen=True)
class Run:
    """What was measured in a trial of K tasks with L layers of U units.

    Attributes:
        margins: [2 K, L, U], at the start and the end of each task.
        rank: [2 K], effective rank of every layer, in % of its units.
        outcome: [K], share of a task's examples right at its end.
        distance: [K], from the task before.
        hessian: [2 K], share of the Hessian's spectrum above epsilon; None: not measured.
        pushes: [2 K, L, U]; None: not measured.
        gradients: [2 K, L, U].
        config: What the resolved configuration holds beside the usual.
    """

    margins: np.ndarray
    rank: np.ndarray
    outcome: np.ndarray
    distance: np.ndarray | None = None
    hessian: np.ndarray | None = None
    pushes: np.ndarray | None = None
    gradients: np.ndarray | None = None
    config: dict[str, Any] = field(default_factory=dict)


def margins_of(dead: np.ndarray, draw: np.random.Generator, layers: int = 2) -> np.ndarray:
    """[T, L, U] with `dead` [T] units (of UNITS) dead in every layer, always the first ones."""
    sizes = draw.uniform(0.3, 2.0, size=(len(dead), layers, UNITS))
    below = np.arange(UNITS)[None, None, :] < np.asarray(dead)[:, None, None]
    return np.where(below, -sizes, sizes)


def at_ends(values: np.ndarray) -> np.ndarray:
    """[K] -> [2 K]: the same at a task's start and end."""
    return np.repeat(values, 2)


class Rows:
    """The rows of a store in memory, in the types of the real one."""

    def __init__(self, trials: dict[tuple[str, int], Run] | None = None):
        self.tables: dict[str, list[dict[str, Any]]] = {table: [] for table in SCHEMAS}
        self.add(trials or {})

    def add(self, trials: dict[tuple[str, int], Run], suffix: str = "") -> Rows:
        """Adds runs by variant and seed; `suffix` tells trials of one seed on a further axis apart."""
        for (variant, seed), run in trials.items():
            self._add(f"{variant}-{seed}{suffix}", variant, seed, run)
        return self

    def connect(self) -> duckdb.DuckDBPyConnection:
        """As `lop_ray.results.connect`."""
        connection = duckdb.connect(":memory:")
        for table, rows in self.tables.items():
            connection.register(table, pa.Table.from_pylist(rows, schema=schema_of(table)))
        return connection

    def _add(self, trial: str, variant: str, seed: int, run: Run) -> None:
        layers, units = run.margins.shape[1:]
        for place in range(len(run.margins)):
            task, ends = divmod(place, 2)
            when = {"trial_id": trial, "update": place + 1, "env_steps": (task + ends) * STEPS, "task": task}
            self.tables["updates"].append(when)
            for layer in range(layers):
                where = when | {"network": "classifier", "layer": layer}
                margins = run.margins[place, layer]
                row = {"units": units, "dead": int((margins < 0).sum()), "mean_margin": margins.mean()}
                self.tables["layers"].append(where | row | {"effective_rank": run.rank[place] * units / 100})
                lists = {"margin": margins}
                if run.pushes is not None and run.gradients is not None:
                    lists |= {"push": run.pushes[place, layer], "gradient": run.gradients[place, layer]}
                self.tables["neurons"].append(where | lists)
            if run.hessian is not None:
                probe = {"network": "classifier", "probe": "hessian_density", "metric": "epsilon_rank"}
                self.tables["probes"].append(when | probe | {"value": run.hessian[place]})
            if ends:
                distance = None if run.distance is None or task == 0 else run.distance[task]
                numbers = {"examples": STEPS, "final_accuracy": run.outcome[task], "distance": distance}
                self.tables["tasks"].append(when | numbers)
        config = {"problem": "labelled_images", "problem_options": {}, "network": {"activation": "relu"}} | run.config
        about = {"trial_id": trial, "variant": variant, "seed": seed, "problem": "labelled_images"}
        self.tables["trials"].append(about | {"status": "finished", "config": json.dumps(config)})


def written(rows: Rows, results: Path, grid: str) -> None:
    """Writes rows with the real writer."""
    store = Store(results, grid)
    for trial in rows.tables["trials"]:
        writer = store.trial_writer(trial["trial_id"])
        writer.rewind(0)
        own = [(table, row) for table, some in rows.tables.items() if table != "trials" for row in some]
        mine = [(table, row) for table, row in own if row["trial_id"] == trial["trial_id"]]
        for table, row in sorted(mine, key=lambda pair: pair[1]["update"]):
            writer.append(table, {name: value for name, value in row.items() if name != "trial_id"})
        about = {name: value for name, value in trial.items() if name not in ("trial_id", "status")}
        writer.set_status(trial["status"], None, **about, versions={"python": "3.11"}, hardware="2 cores")
        writer.close()
