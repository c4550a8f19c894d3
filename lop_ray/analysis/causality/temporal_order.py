"""Experiment 6: whether dead units come before the collapse of the rank, or after it.

One value a task: dead units and a rank (that of the loss's Hessian where `hessian_density` was on, else of the
features), all at the start or all at the end of the tasks. Three looks at the order:

- Granger's tests in both directions, with the lags of the least BIC, after differencing to stationarity (`granger`);
- lagged correlation of the changes, against surrogates (`cross_correlation`);
- an event study: the rank after a task in which units died, against placebo tasks of the same run (`event_study`).

Order is not cause, and neither does simultaneity exclude it: a rank that falls within the task in which units die leads
nothing and follows nothing. The event study sees that, the other two don't.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from lop_ray.analysis.causality.cross_correlation import CrossCorrelation, cross_correlation
from lop_ray.analysis.causality.event_study import EventStudy, event_study, rises
from lop_ray.analysis.causality.granger import GrangerPanel, PanelGranger, granger_panel
from lop_ray.analysis.causality.panel import Panel, read_panel
from lop_ray.analysis.causality.verdict import Verdict, verdict_of, written_interval, written_p
from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.statistics import Floats

if TYPE_CHECKING:
    import duckdb

NAME = "temporal_order"
Moment = Literal["start", "end"]


@dataclass(frozen=True)
class Order:
    """What was found on the order of deaths and rank.

    Attributes:
        verdicts: In the order of the argument.
        table: Run by run: lags, differencing, p-values and strengths in both directions.
        panel: The data.
        rank: Which rank it is, in words.
        moment: When in a task both were measured.
        granger: The tests.
        correlation: Of the changes from task to task.
        events: Response of the rank to deaths.
    """

    verdicts: list[Verdict]
    table: pd.DataFrame
    panel: Panel
    rank: str
    moment: Moment
    granger: GrangerPanel
    correlation: CrossCorrelation
    events: EventStudy


def temporal_order(
    store: duckdb.DuckDBPyConnection,
    variant: str | None = None,
    moment: Moment = "end",
    *,
    most_lags: int = 4,
    window: int = 3,
    outcome: str | None = None,
) -> Order:
    """The order of dead units and rank over tasks.

    Args:
        store: Connection with the store's views.
        variant: Which variant; None: the first.
        moment: Values at the start or at the end of each task.
        most_lags: Most lags in tasks, of Granger's tests and of the correlation.
        window: Tasks before and after an event.
        outcome: As of `read_panel`.

    Returns:
        Verdicts on both directions, on which leads, and on the response of the rank to deaths.

    Raises:
        ValueError: No trial of the variant has both series.
    """
    panel = read_panel(store, outcome)
    name = variant or variant_order(panel.rows["variant"])[0]
    own = Panel(panel.rows[panel.rows["variant"] == name], panel.outcome, panel.rank, panel.network)
    hessian = bool(own.rows[f"hessian_{moment}"].notna().any())
    column, words = (f"hessian_{moment}", "Hessian rank") if hessian else (f"rank_{moment}", panel.rank)
    dead, rank = own.series(f"dead_{moment}", name), own.series(column, name)
    runs = {seed: _both(dead[seed], rank[seed]) for seed in dead}
    runs = {seed: both for seed, both in runs.items() if len(both[0])}
    if not runs:
        raise ValueError(f"no trial of {name} has dead units and {words} at the {moment} of its tasks")
    granger = granger_panel(dict(runs), most_lags)
    length = max(len(x) for x, _ in runs.values())
    x, y = (np.stack([_padded(both[part], length) for both in runs.values()]) for part in (0, 1))
    correlation = cross_correlation(x, y, most_lags)
    events = event_study([y for _, y in runs.values()], [_deaths(x) for x, _ in runs.values()], window)
    verdicts = [
        *_granger_verdicts(granger, words),
        verdict_of(
            NAME,
            f"deaths precede a fall of the {words} more than they follow it",
            f"mean of -r over lags 1..{most_lags} less that over lags -{most_lags}..-1, changes from task to task",
            correlation.lead(-1),
            "above",
        ),
        verdict_of(
            NAME,
            f"when units die, the {words} falls",
            f"{words} (%) in the {window} tasks from a death on less the {window} before, less placebo",
            events.effect,
            "below",
            note=f"{int(events.events.sum())} events: tasks that add at least one standard deviation of the changes.",
        ),
    ]
    return Order(verdicts, _table(granger), own, words, moment, granger, correlation, events)


def _granger_verdicts(found: GrangerPanel, words: str) -> list[Verdict]:
    left_out = "; ".join(f"seed {seed} left out: {reason}" for seed, reason in found.left_out.items())
    once = sum(run.differences > 0 for run in found.runs.values())
    unsure = sum(not run.stationary for run in found.runs.values())
    how = f"Differenced in {once} of {len(found.runs)} runs"
    how += f", {unsure} of them not stationary by ADF and KPSS even so." if unsure else "."
    note = " ".join(each for each in (how, f"{left_out}." if left_out else "") if each)
    return [
        _direction(f"dead units predict the {words}", found.forward, note),
        _direction(f"the {words} predicts dead units", found.backward, note),
        verdict_of(
            NAME,
            f"dead units lead the {words}",
            "Geweke's strength dead to rank less rank to dead",
            found.lead,
            "above",
        ),
    ]


def _direction(hypothesis: str, found: PanelGranger, note: str) -> Verdict:
    """Supported where Fisher's p is below 0.05; against where it isn't and the interval of the share is below half."""
    share, p = found.share, found.share.p
    supported = None
    if p is not None:
        supported = True if p < 0.05 else (False if share.high < 0.5 else None)
    if supported is False:
        note = f"Fewer than half of the runs show it; in series this short a weak effect can hide. {note}"
    moved = found.effect
    effect = f"Sum of coefficients {written_interval(moved.value, moved.low, moved.high)} sd."
    return Verdict(
        NAME,
        hypothesis,
        "Granger: share of runs with p < 0.05 (interval of Clopper and Pearson, p of Fisher)",
        share.value,
        share.low,
        share.high,
        share.n,
        p,
        supported,
        note=f"{effect} {note}",
    )


def _both(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The tasks up to the last at which both are there, if there are no gaps before; else nothing."""
    there = np.isfinite(x) & np.isfinite(y)
    first, last = (int(np.argmax(each)) for each in (there, there[::-1])) if there.any() else (0, len(x))
    part = slice(first, len(x) - last)
    return (x[part], y[part]) if there[part].all() else (x[:0], y[:0])


def _padded(series: Floats, length: int) -> Floats:
    return np.concatenate([series, np.full(length - len(series), np.nan)])


def _deaths(dead: Floats) -> np.ndarray:
    """Tasks that add at least one standard deviation of the changes from task to task, and more than none."""
    least = float(np.diff(dead).std()) if len(dead) > 2 else 0.0
    return rises(dead, least) if least > 0 else np.zeros(0, dtype=np.int64)


def _table(found: GrangerPanel) -> pd.DataFrame:
    """A row a run."""
    rows = [
        {
            "seed": seed,
            "points": run.forward.points,
            "lags": run.forward.lags,
            "differenced": run.differences,
            "stationary": run.stationary,
            "p dead to rank": written_p(run.forward.p).removeprefix("= "),
            "p rank to dead": written_p(run.backward.p).removeprefix("= "),
            "strength dead to rank": run.forward.strength,
            "strength rank to dead": run.backward.strength,
        }
        for seed, run in found.runs.items()
    ]
    return pd.DataFrame(rows).set_index("seed") if rows else pd.DataFrame()
