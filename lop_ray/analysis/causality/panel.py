"""What every trial was like in each of its tasks: dead units, ranks, how well the task was learned. Any problem.

One row a trial and task:

| column | meaning |
|---|---|
| dead_start, dead_end | dead units (margin < 0) in the first and the last measurement of the task, % of the units |
| rank_start, rank_end | effective rank of the features then (stable rank where that was off), % of the units |
| hessian_start, hessian_end | share of the Hessian's spectrum with magnitude above epsilon then, % |
| margin_start, margin_end | mean margin then |
| outcome | how well the task was learned; higher is better |
| distance | from the task before: measured by a stream, or the change of ln(friction); NaN in the first |

Means over the hidden layers of one network. The first measurement of a task is on its own data; how early it is depends
on the grid (`update_at_task_start` of supervised training: before the first gradient step).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lop_ray.analysis.curves import networks
from lop_ray.analysis.frictions import task_frictions
from lop_ray.analysis.statistics import Floats

if TYPE_CHECKING:
    import duckdb

OUTCOMES = {
    "test_accuracy": ("test accuracy at the task's end (%)", "100 * test_accuracy"),
    "final_accuracy": ("accuracy at the task's end (%)", "100 * final_accuracy"),
    "online_accuracy": ("accuracy when first shown (%)", "100 * online_accuracy"),
    "final_loss": ("minus the loss at the task's end", "-final_loss"),
    "min_loss": ("minus the task's least loss", "-min_loss"),
}
"""Columns of table `tasks` that say how well a task was learned: label and SQL, higher is better."""

_USUAL = ("test_accuracy", "final_accuracy", "final_loss")
RETURN = "episode_return"
_MEASURES = ("dead", "rank", "margin", "hessian")


@dataclass(frozen=True)
class Panel:
    """Trials by tasks.

    Attributes:
        rows: As the module says, with variant, seed, trial_id and task, in that order.
        outcome: What the column `outcome` holds, in words with its unit.
        rank: Which rank the columns rank_* hold.
        network: The network that was looked at.
    """

    rows: pd.DataFrame
    outcome: str
    rank: str
    network: str

    def of(self, trials: set[str] | list[str]) -> Panel:
        """Only these trials."""
        return Panel(self.rows[self.rows["trial_id"].isin(set(trials))], self.outcome, self.rank, self.network)

    def series(self, column: str, variant: str) -> dict[int, Floats]:
        """A column over tasks, by seed, for a variant with one trial a seed.

        Raises:
            ValueError: Several trials of a seed.
        """
        own = self.rows[self.rows["variant"] == variant]
        found = {}
        for seed, rows in own.groupby("seed"):
            if rows["trial_id"].nunique() > 1:
                raise ValueError(
                    f"variant {variant} has several trials of seed {seed}: the grid has further axes; give one setting"
                )
            found[int(str(seed))] = rows.sort_values("task")[column].to_numpy(dtype=np.float64)
        return found


def read_panel(store: duckdb.DuckDBPyConnection, outcome: str | None = None, network: str | None = None) -> Panel:
    """The panel of a store.

    Args:
        store: Connection with the store's views.
        outcome: A key of OUTCOMES, or "episode_return" (mean return of a task's episodes, weighted by their lengths:
            the area under the return curve, divided by its steps). None: the first of test accuracy, accuracy and
            loss at the task's end that there are rows of, else the return.
        network: Name of the network; None: classifier, policy, or whichever there is.

    Returns:
        The panel; tasks that a trial didn't go through are left out.

    Raises:
        ValueError: The outcome isn't known, or there is nothing to read.
    """
    name = _outcome(store, outcome)
    names = networks(store)
    if not names:
        raise ValueError("no rows in table layers: switch diagnostics margins and ranks on in the grid")
    chosen = network or next((each for each in ("classifier", "policy") if each in names), names[0])
    if chosen not in names:
        raise ValueError(f"no network '{chosen}' was measured; there are {', '.join(names)}")
    scores = _scores(store, name)
    effective = _one(store, "SELECT count(effective_rank) FROM layers WHERE network = ?", [chosen])
    rank = "effective_rank" if effective else "stable_rank"
    measured = _measured(store, chosen, rank)
    rows = scores.merge(measured, on=["trial_id", "task"], how="left")
    trials = store.execute("SELECT trial_id, variant, seed FROM trials").df()
    rows = trials.merge(rows, on="trial_id")
    frictions = task_frictions(store) if rows["distance"].isna().all() else {}
    if frictions:
        steps = zip(rows["seed"], rows["task"], strict=True)
        rows["distance"] = [_friction_distance(frictions, int(seed), int(task)) for seed, task in steps]
    rows = rows.sort_values(["variant", "seed", "trial_id", "task"], ignore_index=True)
    label = "return (area under the curve / steps)" if name == RETURN else OUTCOMES[name][0]
    return Panel(rows, label, rank.replace("_", " "), chosen)


def settings(store: duckdb.DuckDBPyConnection, *paths: str) -> dict[str, Any]:
    """A setting of every trial, from its resolved configuration.

    Args:
        store: Connection with the view `trials`.
        paths: Where it may stand, dotted, such as "problem_options.schedule.tasks"; the first that is there counts.

    Returns:
        The value by trial_id; trials without it are left out.
    """
    found: dict[str, Any] = {}
    for trial, config in store.execute("SELECT trial_id, config FROM trials WHERE config IS NOT NULL").fetchall():
        for path in paths:
            value = _at(json.loads(config), path)
            if value is not None:
                found[trial] = value
                break
    return found


def drift(series: Floats) -> float:
    """Change from the first to the last task on the line of least squares; NaN with fewer than three values.

    Args:
        series: [K], a value a task; NaN where there is none.

    Returns:
        Slope times (K - 1), in the unit of the series.
    """
    there = np.isfinite(series)
    if there.sum() < 3:
        return np.nan
    return float(np.polynomial.polynomial.polyfit(np.flatnonzero(there), series[there], 1)[1]) * (len(series) - 1)


def late(series: Floats) -> float:
    """Mean over the second half of the tasks; NaN without a value there."""
    half = series[len(series) // 2 :]
    half = half[np.isfinite(half)]
    return float(half.mean()) if len(half) else np.nan


def trial_numbers(panel: Panel, columns: tuple[str, ...], summary: Callable[[Floats], float] = late) -> pd.DataFrame:
    """One number a trial and column.

    Args:
        panel: Of any trials.
        columns: Of its rows.
        summary: From a series over tasks to a number, such as `late` or `drift`.

    Returns:
        A row a trial: variant, seed, trial_id, and the columns.
    """
    rows = []
    for (variant, seed, trial), own in panel.rows.groupby(["variant", "seed", "trial_id"], sort=False):
        ordered = own.sort_values("task")
        numbers = {name: summary(ordered[name].to_numpy(dtype=np.float64)) for name in columns}
        rows.append({"variant": variant, "seed": int(str(seed)), "trial_id": trial} | numbers)
    return pd.DataFrame(rows, columns=["variant", "seed", "trial_id", *columns])


def _outcome(store: duckdb.DuckDBPyConnection, asked: str | None) -> str:
    if asked is not None:
        if asked not in OUTCOMES and asked != RETURN:
            raise ValueError(f"outcome is '{asked}'; it must be one of {', '.join(OUTCOMES)}, {RETURN}")
        return asked
    for name in _USUAL:
        if _one(store, f"SELECT count({name}) FROM tasks"):
            return name
    if _one(store, "SELECT count(*) FROM episodes"):
        return RETURN
    raise ValueError("no rows in tables tasks and episodes: no trial has gone through a task yet")


def _scores(store: duckdb.DuckDBPyConnection, name: str) -> pd.DataFrame:
    """trial_id, task, outcome, distance of every task that a trial went through."""
    if name != RETURN:
        return store.execute(f"SELECT trial_id, task, {OUTCOMES[name][1]} AS outcome, distance FROM tasks").df()
    return store.execute(
        """
        WITH found AS (
            SELECT trial_id, task, sum(episode_return * length) / sum(length) AS outcome, NULL::DOUBLE AS distance
            FROM episodes WHERE isfinite(episode_return) AND length > 0 GROUP BY ALL
        ), latest AS (SELECT trial_id, max(task) AS last FROM updates GROUP BY ALL)
        SELECT found.* FROM found JOIN latest USING (trial_id)
        JOIN (SELECT trial_id, status FROM trials) USING (trial_id)
        WHERE task < last OR status = 'finished'
        """
    ).df()


def _measured(store: duckdb.DuckDBPyConnection, network: str, rank: str) -> pd.DataFrame:
    """trial_id, task, and every measure in the task's first and last measurement."""
    first_and_last = ", ".join(
        f"arg_min({name}, moment) AS {name}_start, arg_max({name}, moment) AS {name}_end" for name in _MEASURES
    )
    return store.execute(
        f"""
        WITH layered AS (
            SELECT trial_id, task, "update" AS moment, avg(100.0 * dead / units) AS dead,
                   avg(100.0 * {rank} / units) AS rank, avg(mean_margin) AS margin
            FROM layers WHERE network = $network GROUP BY ALL
        ), probed AS (
            SELECT trial_id, task, "update" AS moment, avg(100.0 * value) AS hessian
            FROM probes WHERE network = $network AND probe = 'hessian_density' AND metric = 'epsilon_rank'
            AND isfinite(value) GROUP BY ALL
        ), all_rows AS (
            SELECT trial_id, task, moment, dead, rank, margin, NULL::DOUBLE AS hessian FROM layered
            UNION ALL SELECT trial_id, task, moment, NULL, NULL, NULL, hessian FROM probed
        )
        SELECT trial_id, task, {first_and_last} FROM all_rows GROUP BY ALL
        """,
        {"network": network},
    ).df()


def _friction_distance(frictions: Mapping[tuple[int, int], float], seed: int, task: int) -> float:
    both = frictions.get((seed, task)), frictions.get((seed, task - 1))
    return abs(float(np.log(both[0] / both[1]))) if both[0] is not None and both[1] is not None else np.nan


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _one(store: duckdb.DuckDBPyConnection, query: str, values: list[Any] | None = None) -> Any:
    row = store.execute(query, values or []).fetchone()
    assert row is not None  # an aggregate always gives one
    return row[0]
