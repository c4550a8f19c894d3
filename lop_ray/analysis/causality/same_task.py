"""Experiment 2: whether units die, and plasticity is lost, where every change is to the same task again.

Paired by seed, changing against repeated tasks: if a shift of the data kills units, they accumulate where tasks change
and not where the first one comes again, though both train as long. That nothing accumulates is a hypothesis of no
effect; it is supported only where the interval shows that less than `negligible` accumulates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from lop_ray.analysis.causality.panel import Panel, drift, late, read_panel, settings, trial_numbers
from lop_ray.analysis.causality.result import Result, interval_table
from lop_ray.analysis.causality.verdict import Direction, Interval, Verdict, over_seeds, verdict_of
from lop_ray.analysis.curves import variant_order

if TYPE_CHECKING:
    import duckdb

NAME = "same_task_control"
SETTING = ("problem_options.tasks", "problem_options.schedule.tasks")
_COLUMNS = ("dead_end", "rank_end", "outcome")
_SUMMARIES = {"change over the run": drift, "late tasks": late}


def same_task(
    changing: duckdb.DuckDBPyConnection,
    repeated: duckdb.DuckDBPyConnection | None = None,
    variant: str | None = None,
    outcome: str | None = None,
    negligible: float = 2.0,
) -> Result:
    """Compares changing with repeated tasks.

    Args:
        changing: The store of a grid that has both on an axis, or only the changing tasks.
        repeated: The store of the control, where it is a grid of its own.
        variant: Which variant; None: the first.
        outcome: As of `read_panel`.
        negligible: Fewer dead units, in % of the units over the whole run, don't matter.

    Returns:
        Verdicts on deaths and outcome under both, and on the differences.

    Raises:
        ValueError: One of the two is missing.
    """
    stores = [store for store in (changing, repeated) if store is not None]
    panels = dict(each for store in stores for each in _by_kind(store, outcome))
    missing = {"new", "same"} - set(panels)
    if missing:
        raise ValueError(f"no trials with tasks: {', '.join(sorted(missing))}; the grid needs both, or give two stores")
    name = variant or variant_order(panels["new"].rows["variant"])[0]
    numbers = {(kind, what): _numbers(panel, name, what) for kind, panel in panels.items() for what in _SUMMARIES}
    new, same = (numbers[kind, "change over the run"] for kind in ("new", "same"))
    between = new - same
    dead = "dead units, change from the first to the last task in % of units"
    label = panels["new"].outcome
    repeated_deaths = over_seeds(same["dead_end"])
    verdicts = [
        _verdict("dead units accumulate where tasks change", dead, new["dead_end"], "above"),
        Verdict(
            NAME,
            "no dead units accumulate where the task stays the same",
            dead,
            repeated_deaths.value,
            repeated_deaths.low,
            repeated_deaths.high,
            repeated_deaths.n,
            repeated_deaths.p,
            _nothing(repeated_deaths, negligible),
            note=f"Less than {negligible:g} points count as none.",
        ),
        _verdict("changes of the task kill units", f"changing - same: {dead}", between["dead_end"], "above"),
        _verdict(
            "plasticity is lost where tasks change",
            f"change of {label} from first to last task",
            new["outcome"],
            "below",
        ),
        _verdict(
            "more than where the task stays the same",
            f"changing - same: change of {label} from first to last task",
            between["outcome"],
            "below",
        ),
    ]
    values = {(kind, what, column): own[column] for (kind, what), own in numbers.items() for column in _COLUMNS}
    rows = pd.concat([panel.rows.assign(tasks=kind) for kind, panel in panels.items()], ignore_index=True)
    shown = Panel(rows[rows["variant"] == name], label, panels["new"].rank, panels["new"].network)
    return Result(verdicts, interval_table(values, ["tasks", "summary", "measure"]), shown)


def _by_kind(store: duckdb.DuckDBPyConnection, outcome: str | None) -> list[tuple[str, Panel]]:
    """The panel of every kind of tasks in a store."""
    panel, kinds = read_panel(store, outcome), settings(store, *SETTING)
    names = sorted(set(kinds.values()))
    return [(str(kind), panel.of([trial for trial in kinds if kinds[trial] == kind])) for kind in names]


def _numbers(panel: Panel, variant: str, what: str) -> pd.DataFrame:
    """One number a seed and column.

    Raises:
        ValueError: Several trials of a seed.
    """
    numbers = trial_numbers(panel, _COLUMNS, _SUMMARIES[what])
    own = numbers[numbers["variant"] == variant].set_index("seed")[list(_COLUMNS)]
    if own.index.has_duplicates:
        raise ValueError(f"variant {variant} has several trials a seed: the grid has further axes; give one setting")
    return own


def _verdict(hypothesis: str, statistic: str, values: pd.Series, direction: Direction) -> Verdict:
    return verdict_of(NAME, hypothesis, statistic, over_seeds(values), direction)


def _nothing(found: Interval, negligible: float) -> bool | None:
    """Whether an interval shows that what accumulates is less than `negligible`, or that it is more than 0."""
    if found.high < negligible:
        return True
    return False if found.low > 0 else None
