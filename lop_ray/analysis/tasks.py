"""Tasks of a problem that changes: when each began, and the area under the return curve within each.

The curve is the one that the figures draw (`lop_ray.analysis.curves`): within a bin b of environment steps, the mean
return of the episodes that end there. The area under it over a task, divided by the task's steps, is

    auc = sum_b S_b mean_{e in b}(R_e) / sum_b S_b,    S_b = sum_{e in b} L_e

over the bins b of the task, with returns R_e and lengths L_e; a bin that a boundary cuts counts in both tasks, each
time with the episodes of that task. It has the unit of the return. On a problem that never changes there is one task,
the whole run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lop_ray.analysis.curves import BIN_STEPS, variant_order
from lop_ray.analysis.statistics import Estimate, Floats, Statistic, estimate, mean
from lop_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class TaskScores:
    """Area under the return curve of every task, for the trials of one variant.

    Attributes:
        variant: Name of the variant.
        trials: [n], ids of the trials, in the order of their seeds.
        seeds: [n], their seeds.
        tasks: [K], numbers of the tasks.
        values: [n, K], area under the curve divided by steps; NaN where the trial had no episode in the task.
        complete: [n, K], whether the trial went through the whole task: it came to a later one, or finished.
        env_steps: [n, K], steps of the episodes that the value rests on.
        problems: [n], the problem's options as JSON, from which the sequence of tasks follows together with the
            seed; None where the trial's row doesn't say.
    """

    variant: str
    trials: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks: tuple[int, ...]
    values: Floats
    complete: NDArray[np.bool_]
    env_steps: NDArray[np.int64]
    problems: tuple[str | None, ...]

    @property
    def n(self) -> int:
        """Number of seeds with a value in some task."""
        return len(self.trials)

    @property
    def whole(self) -> Floats:
        """[n, K], `values` of complete tasks; NaN elsewhere. Part of a task is no fair score for it."""
        return np.where(self.complete, self.values, np.nan)

    @property
    def incomplete(self) -> list[tuple[int, int]]:
        """(seed, task) of every task that a trial entered and didn't go through."""
        rows, columns = np.nonzero(~self.complete & np.isfinite(self.values))
        return [(self.seeds[row], self.tasks[column]) for row, column in zip(rows, columns, strict=True)]

    def estimate(self, statistic: Statistic = mean, *, seed: int = 0, resamples: int = 2000) -> Estimate:
        """The statistic over the seeds that completed a task, with its 95 % bootstrap interval.

        Args:
            statistic: `mean` or `interquartile_mean`.
            seed: Of the bootstrap's generator.
            resamples: Number of draws.

        Returns:
            The estimate, of shape [K]; `n` says how many seeds completed each task.
        """
        return estimate(self.whole, numpy_generator(seed, "bootstrap"), statistic=statistic, resamples=resamples)


def task_scores(store: duckdb.DuckDBPyConnection, bin_steps: int = BIN_STEPS) -> list[TaskScores]:
    """Area under the return curve of every trial and task.

    Episodes whose return is no finite number are left out (a diverging trial can end with one).

    Args:
        store: Connection with the views `trials` and `episodes`.
        bin_steps: Bin width of the curve, in environment steps.

    Returns:
        Scores in the order of `variant_order`; empty without episodes.

    Raises:
        ValueError: `bin_steps` is not positive, or a variant has several trials of a seed (narrow the store).
    """
    if bin_steps < 1:
        raise ValueError(f"bin_steps is {bin_steps}; a bin must cover at least 1 environment step")
    rows = store.execute(
        f"""
        WITH bins AS (
            SELECT trial_id, coalesce(task, 0) AS task, (env_steps + {bin_steps - 1}) // {bin_steps} AS bin,
                   avg(episode_return) AS height, sum(length) AS width
            FROM episodes WHERE isfinite(episode_return) AND length > 0 GROUP BY ALL
        ), areas AS (
            SELECT trial_id, task, sum(height * width) / sum(width) AS auc, sum(width) AS env_steps
            FROM bins GROUP BY ALL
        )
        SELECT variant, seed, trial_id, status, config, task, auc, areas.env_steps
        FROM areas JOIN (SELECT trial_id, variant, seed, status, config FROM trials) USING (trial_id)
        ORDER BY variant, seed, trial_id, task
        """
    ).fetchall()
    tasks = tuple(sorted({row[5] for row in rows}))
    variants: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        variants.setdefault(row[0], {}).setdefault(row[2], []).append(row)
    return [_scores(variant, variants[variant], tasks) for variant in variant_order(variants)]


def task_starts(store: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """When each task began, trial by trial.

    A change falls within an update; the start given is the end of the last update before the first one that
    carries the new task, so it is early by less than one update. The first task starts at 0.

    Args:
        store: Connection with the views `trials` and `updates`.

    Returns:
        variant, seed, trial_id, task, env_steps; by variant, seed and task.
    """
    starts = store.execute(
        """
        WITH steps AS (
            SELECT trial_id, task, env_steps,
                   lag(env_steps, 1, 0) OVER (PARTITION BY trial_id ORDER BY "update") AS before
            FROM updates WHERE task IS NOT NULL
        )
        SELECT variant, seed, trial_id, task, min(before) AS env_steps
        FROM steps JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        GROUP BY ALL ORDER BY variant, seed, trial_id, task
        """
    ).df()
    order = {name: place for place, name in enumerate(variant_order(starts["variant"]))}
    return starts.sort_values(["variant", "seed", "task"], key=lambda x: x.map(order) if x.name == "variant" else x)


def boundaries_of(starts: pd.DataFrame) -> NDArray[np.float64]:
    """Where figures draw the task boundaries: for each task but the first, the median start over trials.

    Args:
        starts: From `task_starts`.

    Returns:
        [K - 1], environment steps.
    """
    later = starts[starts["task"] > starts["task"].min()]
    return later.groupby("task")["env_steps"].median().to_numpy(dtype=np.float64)


def task_table(scores: list[TaskScores], seed: int = 0) -> pd.DataFrame:
    """Area under the curve per task, by variant: mean over the seeds that completed the task, with intervals.

    Args:
        scores: From `task_scores`.
        seed: Of the bootstrap's generator.

    Returns:
        A row for each variant and task: n (seeds that completed it), incomplete (seeds that entered it and
        did not), auc, auc_low, auc_high.
    """
    rows = []
    for each in scores:
        result = each.estimate(seed=seed)
        entered = (np.isfinite(each.values) & ~each.complete).sum(axis=0)
        for place, task in enumerate(each.tasks):
            numbers = {"n": int(result.n[place]), "incomplete": int(entered[place])}
            interval = {"auc": result.value[place], "auc_low": result.low[place], "auc_high": result.high[place]}
            rows.append({"variant": each.variant, "task": task} | numbers | interval)
    columns = ["variant", "task", "n", "incomplete", "auc", "auc_low", "auc_high"]
    return pd.DataFrame(rows, columns=columns).set_index(["variant", "task"])


def _scores(variant: str, trials: dict[str, list[Any]], tasks: tuple[int, ...]) -> TaskScores:
    seeds = [rows[0][1] for rows in trials.values()]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"variant {variant} has several trials a seed ({len(seeds)} trials, {len(set(seeds))} seeds): the grid has "
            "further axes; compare one setting at a time, such as narrow(store, \"problem = 'slippery_ant'\")"
        )
    shape = (len(trials), len(tasks))
    values, complete, steps = np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.int64)
    for place, rows in enumerate(trials.values()):
        last = rows[-1][5]
        for *_, status, _config, task, auc, env_steps in rows:
            column = tasks.index(task)
            values[place, column], steps[place, column] = auc, env_steps
            complete[place, column] = task < last or status == "finished"
    problems = tuple(_problem(rows[0][4]) for rows in trials.values())
    return TaskScores(variant, tuple(trials), tuple(seeds), tasks, values, complete, steps, problems)


def _problem(config: str | None) -> str | None:
    """The part of a trial's configuration that, with the seed, fixes the sequence of its tasks."""
    settings = json.loads(config) if config else {}
    if not {"problem", "problem_options"} <= settings.keys():
        return None
    return json.dumps([settings["problem"], settings["problem_options"]], sort_keys=True)
