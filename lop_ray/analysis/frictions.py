"""Which friction a task had, from the trials' own configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lop_ray.problems.friction import FrictionOptions, Frictions
from lop_ray.problems.schedule import ScheduleOptions

if TYPE_CHECKING:
    import duckdb


def task_frictions(store: duckdb.DuckDBPyConnection) -> dict[tuple[int, int], float]:
    """The friction of every task that a trial entered, by seed and task.

    All variants of a seed go through the same sequence, so one number a seed and task is enough; where trials of a
    seed were configured differently (the grid has further axes: narrow the store), the seed is left out.

    Args:
        store: Connection with the views `trials` and `updates`.

    Returns:
        Frictions, as multiples of the model's own; empty for a problem without friction.
    """
    rows = store.execute(
        """
        SELECT seed, config, max(task) FROM trials JOIN updates USING (trial_id)
        WHERE config IS NOT NULL AND task IS NOT NULL GROUP BY ALL
        """
    ).fetchall()
    options: dict[int, set[str]] = {}
    last: dict[int, int] = {}
    for seed, config, task in rows:
        problem = json.loads(config).get("problem_options") or {}
        if "friction" in problem:
            chosen = {"friction": problem["friction"], "schedule": problem.get("schedule") or {}}
            options.setdefault(seed, set()).add(json.dumps(chosen, sort_keys=True))
            last[seed] = max(task, last.get(seed, 0))
    values: dict[tuple[int, int], float] = {}
    for seed, found in options.items():
        if len(found) > 1:
            continue
        chosen = json.loads(next(iter(found)))
        frictions = Frictions(FrictionOptions(**chosen["friction"]), seed)
        again = ScheduleOptions(**chosen["schedule"]).tasks == "same"
        values |= {(seed, task): frictions[0 if again else task] for task in range(last[seed] + 1)}
    return values
