"""Figures of the causal experiments over tasks and doses: means over seeds, with 95 % bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lop_ray.analysis.causality.panel import Panel
from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.drawing import GREY, empty_figure, legend_above, line, new_figure, no_rows, seeds_text
from lop_ray.analysis.statistics import Floats, estimate
from lop_ray.analysis.style import line_styles, styled
from lop_ray.seeding import numpy_generator

TASK_COLUMNS = ("dead_end", "rank_end", "outcome")


@dataclass(frozen=True)
class _Group:
    """A line's name and its number of seeds, for the legend."""

    variant: str
    n: int


@styled
def tasks_figure(panel: Panel, by: str = "variant", columns: Sequence[str] = TASK_COLUMNS) -> Figure:
    """Measures over tasks, a panel each, a line for each value of a column.

    Args:
        panel: The data.
        by: Column of its rows that names the lines: variant, tasks, killed.
        columns: What is drawn.

    Returns:
        The figure.
    """
    if panel.rows.empty:
        return empty_figure("no task yet")
    groups = {_written(by, key): rows for key, rows in panel.rows.groupby(by, sort=True)}
    names = variant_order(groups) if by == "variant" else list(groups)
    looks = line_styles(names)
    figure = new_figure(3.2 * len(columns) + 0.3, 3.1)
    most: dict[str, _Group] = {}
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        for name in names:
            table = groups[name].pivot_table(index="seed", columns="task", values=column, aggfunc="mean")
            values = table.to_numpy(np.float64)
            if values.size and np.isfinite(values).any():
                n = int(np.isfinite(values).any(axis=1).sum())
                result = estimate(values, numpy_generator(0, "bootstrap"))
                line(axes, 1 + table.columns.to_numpy(np.int64), result, n, looks[name], few_bands=len(names) <= 5)
                most[name] = _Group(name, max(n, most[name].n if name in most else 0))
        if not axes.has_data():
            no_rows(axes)
        axes.set_ylabel(label(column, panel))
        task_axis(axes)
    handles: list[Artist] = [
        Line2D([], [], **looks[name], label=f"{name} (n = {seeds_text(most[name])})") for name in names if name in most
    ]
    legend_above(figure, handles, "mean over seeds; band: 95 % bootstrap interval over seeds", columns=5)
    return figure


@styled
def dose_figure(doses: pd.DataFrame, dose: str, columns: Sequence[str], panel: Panel, axis: str) -> Figure:
    """Outcomes against a dose, a thin line a seed and a thick one through the means.

    Args:
        doses: A row a trial, indexed or with columns seed, the dose and the outcomes.
        dose: Column of the dose.
        columns: Columns of the outcomes.
        panel: What the measures are called.
        axis: Label of the dose.

    Returns:
        A panel for each outcome.
    """
    rows = doses.reset_index()
    if rows.empty:
        return empty_figure("no trial yet")
    figure = new_figure(2.6 * len(columns) + 0.3, 2.9)
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        for _, own in rows.groupby("seed"):
            ordered = own.sort_values(dose)
            axes.plot(ordered[dose], ordered[column], color="#0072B2", lw=0.7, alpha=0.45, marker="o", ms=2)
        centres = _centres(rows, dose, column)
        axes.plot(centres[:, 0], centres[:, 1], color="#D55E00", lw=2, marker="o", ms=4)
        axes.set_xlabel(axis)
        axes.set_ylabel(label(column, panel))
    n = rows["seed"].nunique()
    handles: list[Artist] = [
        Line2D([], [], color="#0072B2", lw=0.9, label=f"a seed (n = {n})"),
        Line2D([], [], color="#D55E00", lw=2, label="mean over seeds"),
    ]
    legend_above(figure, handles, "", columns=2)
    return figure


def label(column: str, panel: Panel) -> str:
    """What the axis of a column is called.

    Args:
        column: Of a panel's rows.
        panel: Says which outcome and rank.

    Returns:
        Words, with the unit.
    """
    known = {
        "dead": "dead units (%)",
        "rank": f"{panel.rank} (%)",
        "hessian": "Hessian rank (%)",
        "margin": "mean margin",
    }
    if column == "outcome":
        return panel.outcome.replace(" at the task's end", ",\ntask's end").replace(" (area", "\n(area")
    if column == "outcome_change":
        return (
            "change of "
            + panel.outcome.replace(" at the task's end", "").replace(" (area", "\n(area")
            + ",\ntask 2 to last"
        )
    if column == "killed":
        return "dead units at a change,\nbefore to after (%)"
    name, _, moment = column.rpartition("_")
    return f"{known.get(name, column)}, task's {moment}"


def task_axis(axes: Axes) -> None:
    """Whole tasks along x."""
    axes.set_xlabel("task")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def zero_line(axes: Axes) -> None:
    """A thin grey line at 0."""
    axes.axhline(0, color=GREY, lw=0.8)


def _centres(rows: pd.DataFrame, dose: str, column: str) -> Floats:
    """[D, 2]: mean dose and outcome of the trials of one rank of the dose within their seeds."""
    place = rows.groupby("seed")[dose].rank(method="first")
    means = rows.assign(place=place).groupby("place")[[dose, column]].mean()
    return means.to_numpy(np.float64)


def _written(by: str, key: Hashable) -> str:
    if by == "tasks":
        return {"new": "tasks change", "same": "same task"}.get(str(key), str(key))
    if by == "killed":
        return f"{float(str(key)):g} % killed"
    return str(key)
