"""Experiment 5: units killed by hand, and whether plasticity is lost in proportion.

k % of the units of every hidden layer give 0 for good from the second task on. Dead units are enough for a loss of
plasticity if the tasks after are learned the worse the more were killed. That would be true of a smaller network as
well: the experiment shows what dead units do, not that nothing else does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lop_ray.analysis.causality.panel import Panel, read_panel, settings, trial_numbers
from lop_ray.analysis.causality.result import Result, interval_table
from lop_ray.analysis.causality.task_distance import by_seed, trend_verdict
from lop_ray.analysis.causality.trend import trend
from lop_ray.analysis.causality.verdict import over_seeds, verdict_of
from lop_ray.analysis.statistics import Floats

if TYPE_CHECKING:
    import duckdb

NAME = "kill_units"


def killed_units(store: duckdb.DuckDBPyConnection, outcome: str | None = None) -> Result:
    """How rank and outcome after the killing move with the share of units killed.

    Args:
        store: Connection with the views of a grid over variants that kill; one that doesn't is 0 %.
        outcome: As of `read_panel`.

    Returns:
        Verdicts on rank and outcome over the share, and on the most killed against none.

    Raises:
        ValueError: Fewer than three shares.
    """
    panel = read_panel(store, outcome)
    percents = settings(store, "interventions.kill_units.percent")
    rows = panel.rows.assign(killed=[float(percents.get(trial, 0.0)) for trial in panel.rows["trial_id"]])
    shares = sorted(rows["killed"].unique())
    if len(shares) < 3:
        raise ValueError(f"units were killed at {len(shares)} shares ({shares}); a response needs at least three")
    own = Panel(rows, panel.outcome, panel.rank, panel.network)
    # The first task comes before the killing.
    doses = trial_numbers(own, ("killed", "dead_end", "rank_end", "outcome"), _after_the_first)
    verdicts = [
        trend_verdict(
            NAME,
            hypothesis,
            f"slope per % of units killed: {what}, tasks after",
            trend(by_seed(doses, "killed", column)),
            "below",
        )
        for column, hypothesis, what in (
            ("rank_end", "killing units lowers the rank", f"{panel.rank} in % of units"),
            ("outcome", "killing units costs plasticity", panel.outcome),
        )
    ]
    most, none = (doses[doses["killed"] == share].set_index("seed")["outcome"] for share in (shares[-1], shares[0]))
    statistic = f"{shares[-1]:g} % - {shares[0]:g} % killed: {panel.outcome}, tasks after"
    verdicts.append(
        verdict_of(NAME, "dead units are enough to lose plasticity", statistic, over_seeds(most - none), "below")
    )
    return Result(verdicts, _table(doses), own)


def _after_the_first(series: Floats) -> float:
    there = series[1:][np.isfinite(series[1:])]
    return float(there.mean()) if len(there) else np.nan


def _table(doses: pd.DataFrame) -> pd.DataFrame:
    """A row for each share and measure: mean over seeds with its interval."""
    shares = [(share, doses[doses["killed"] == share]) for share in sorted(doses["killed"].unique())]
    columns = ("dead_end", "rank_end", "outcome")
    return interval_table(
        {(share, name): own[name] for share, own in shares for name in columns}, ["killed", "measure"]
    )
