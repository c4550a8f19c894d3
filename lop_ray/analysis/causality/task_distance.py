"""Experiment 4: whether tasks farther from the one before kill more units and cost more plasticity.

The dose is a measured distance (mean over a trial's tasks), not the knob that sets it. Slopes and rank correlations are
taken within a seed, over the settings of the knob.

A near task is known in part before it begins, so how well it is learned says little of plasticity. What is compared is
the change of the outcome from the second task to the last: these all lie as far from the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lop_ray.analysis.causality.panel import Panel, drift, late, read_panel, trial_numbers
from lop_ray.analysis.causality.result import Result
from lop_ray.analysis.causality.trend import Trend, trend
from lop_ray.analysis.causality.verdict import Direction, Verdict, verdict_of, written_interval, written_p
from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.statistics import Floats

if TYPE_CHECKING:
    import duckdb

NAME = "task_distance"


def task_distance(store: duckdb.DuckDBPyConnection, variant: str | None = None, outcome: str | None = None) -> Result:
    """How deaths, rank and outcome move with the distance between tasks.

    Args:
        store: Connection with the views of a grid with a distance on an axis.
        variant: Which variant; None: the first.
        outcome: As of `read_panel`.

    Returns:
        Verdicts on units killed by a change, dead units, rank and outcome.

    Raises:
        ValueError: No distance was measured.
    """
    panel = read_panel(store, outcome)
    name = variant or variant_order(panel.rows["variant"])[0]
    rows = panel.rows[panel.rows["variant"] == name].copy()
    if rows["distance"].isna().all():
        raise ValueError("no distance between tasks was measured: the problem has none in table tasks, and no friction")
    killed = rows["dead_start"] - rows.groupby("trial_id")["dead_end"].shift(1)
    own = Panel(rows.assign(killed=killed), panel.outcome, panel.rank, panel.network)
    keys = ["variant", "seed", "trial_id"]
    doses = (
        trial_numbers(own, ("distance", "killed"), _mean)
        .merge(trial_numbers(own, ("dead_end", "rank_end"), late), on=keys)
        .merge(trial_numbers(own, ("outcome",), _drift_after_the_first), on=keys)
        .rename(columns={"outcome": "outcome_change"})
    )
    links: tuple[tuple[str, str, str, Direction], ...] = (
        ("killed", "farther tasks kill more units at once", "dead units at a change, before to after (%)", "above"),
        ("dead_end", "farther tasks leave more units dead", "dead units, late tasks (%)", "above"),
        ("rank_end", "farther tasks leave a lower rank", f"{panel.rank}, late tasks (%)", "below"),
        ("outcome_change", "farther tasks cost more plasticity", f"change of {panel.outcome}, task 2 to last", "below"),
    )
    verdicts = [_verdict(doses, *link) for link in links]
    return Result(verdicts, doses.drop(columns="trial_id").set_index(["variant", "seed"]), own)


def trend_verdict(experiment: str, hypothesis: str, statistic: str, found: Trend, direction: Direction) -> Verdict:
    """The verdict on a slope within seeds; rank correlation and Jonckheere's test go with it.

    Args:
        experiment: Its name.
        hypothesis: What was to be shown.
        statistic: What the slope is of, per unit of what.
        found: The trend.
        direction: above or below.

    Returns:
        The verdict.
    """
    note = ""
    if found.jonckheere.p is not None:
        rho, j = found.rho, found.jonckheere
        note = f"Spearman {written_interval(rho.value, rho.low, rho.high)}; Jonckheere p {written_p(j.p or 0.0)}."
    return verdict_of(experiment, hypothesis, statistic, found.slope, direction, note=note)


def by_seed(doses: pd.DataFrame, dose: str, column: str) -> dict[int, tuple[Floats, Floats]]:
    """Doses and outcomes of every seed, for `trend`.

    Args:
        doses: A row a trial, with `seed`.
        dose: Column of the dose.
        column: Column of the outcome.

    Returns:
        By seed.
    """
    return {
        int(str(seed)): (own[dose].to_numpy(np.float64), own[column].to_numpy(np.float64))
        for seed, own in doses.groupby("seed")
    }


def _verdict(doses: pd.DataFrame, column: str, hypothesis: str, what: str, direction: Direction) -> Verdict:
    found = trend(by_seed(doses, "distance", column))
    return trend_verdict(NAME, hypothesis, f"slope per unit of distance: {what}", found, direction)


def _drift_after_the_first(series: Floats) -> float:
    return drift(series[1:])


def _mean(series: Floats) -> float:
    there = series[np.isfinite(series)]
    return float(there.mean()) if len(there) else np.nan
