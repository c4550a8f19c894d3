"""Figures on problems that change: return with the task boundaries, and how well each task was learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lop_ray.analysis.curves import BIN_STEPS, Curve, variant_order
from lop_ray.analysis.drawing import (
    GREY,
    empty_figure,
    last_step,
    legend,
    legend_above,
    line,
    lines,
    markers,
    new_figure,
)
from lop_ray.analysis.statistics import mean
from lop_ray.analysis.style import cut_below, line_styles, steps_axis, styled, thousands_axis
from lop_ray.analysis.tasks import TaskScores, boundaries_of

BOUNDARY: dict[str, Any] = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (1, 1.5))}
_MOST_LABELS = 25


@styled
def task_return_figure(curves: Sequence[Curve], starts: pd.DataFrame, bin_steps: int = BIN_STEPS) -> Figure:
    """Return over environment steps, mean over seeds, with a dotted line where the task changes.

    Args:
        curves: From `return_curves`.
        starts: From `lop_ray.analysis.tasks.task_starts`; the lines stand at the median over trials.
        bin_steps: The bin width that the curves were made with.

    Returns:
        One panel.
    """
    figure = new_figure(8.2, 4.0)
    axes = figure.subplots()
    drawn = [each.value for each in lines(axes, curves, mean)]
    axes.set_xlabel(steps_axis(axes, last_step(curves), ticks=8))
    axes.set_ylabel("episode return")
    thousands_axis(axes)
    cut_below(axes, np.concatenate([np.empty(0), *drawn]))
    boundaries = boundaries_of(starts)
    mark_boundaries(axes, boundaries)
    text = f"mean over seeds, bins of {bin_steps:,} steps"
    legend(figure, curves, text + ("; dotted: the task changes" if len(boundaries) else "; the task never changed"))
    return figure


@styled
def seed_return_figure(
    curves: Sequence[Curve],
    starts: pd.DataFrame,
    values: Mapping[tuple[int, int], float] | None = None,
    *,
    what: str = "task value",
    most: int = 6,
) -> Figure:
    """Return seed by seed, all variants of a seed in one panel: they went through the same sequence of tasks.

    Args:
        curves: From `return_curves`.
        starts: From `lop_ray.analysis.tasks.task_starts`.
        values: What a task is, such as its friction, by seed and task; written above the task.
        what: What these values are.
        most: Largest number of panels; the lowest seeds are drawn, and the figure says how many there are.

    Returns:
        A panel for each seed, two in a row.
    """
    seeds = sorted({seed for curve in curves for seed in curve.seeds})
    if not seeds:
        return empty_figure("no episode has ended yet")
    shown = seeds[:most]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(4.1 * columns + 1.6 * (columns == 1), 0.9 + 2.3 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks = line_styles(variant_order(curve.variant for curve in curves))
    drawn = [np.empty(0)]
    for place, (axes, seed) in enumerate(zip(panels.flat, shown, strict=False)):
        for curve in curves:
            if seed not in curve.seeds:
                continue
            row = curve.values[curve.seeds.index(seed)]
            there = np.isfinite(row)
            axes.plot(curve.env_steps[there], row[there], **looks[curve.variant], **markers(len(row)))
            drawn.append(row)
        axes.set_title(f"seed {seed}", pad=16 if values else None)
        x_label = steps_axis(axes, last_step(curves))
        own = starts[starts["seed"] == seed]
        mark_boundaries(axes, boundaries_of(own) if len(own) else np.empty(0))
        _write_values(axes, own, {task: value for (s, task), value in (values or {}).items() if s == seed})
        if place + columns >= len(shown):
            axes.xaxis.set_tick_params(labelbottom=True)
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    thousands_axis(panels[0, 0])
    cut_below(panels[0, 0], np.concatenate(drawn))
    figure.supxlabel(x_label, fontsize=9)
    figure.supylabel("episode return", fontsize=9)
    handles: list[Artist] = [Line2D([], [], **look, label=name) for name, look in looks.items()]
    text = "one seed a panel (n = 1, no interval); dotted: the task changes"
    if values:
        text += f"; number: {what}"
    if len(seeds) > len(shown):
        text += f"; {len(shown)} of {len(seeds)} seeds shown"
    legend_above(figure, handles, text, columns=4)
    return figure


@styled
def task_auc_figure(scores: Sequence[TaskScores]) -> Figure:
    """Area under the return curve of every task, one line a variant.

    Args:
        scores: From `lop_ray.analysis.tasks.task_scores`; tasks count for the seeds that completed them.

    Returns:
        One panel.
    """
    if not any(np.isfinite(each.whole).any() for each in scores):
        return empty_figure("no trial has completed a task")
    figure = new_figure(6.6, 3.8)
    axes = figure.subplots()
    looks = line_styles(variant_order(each.variant for each in scores))
    drawn = [np.empty(0)]
    for each in scores:
        result = each.estimate()
        line(axes, each.tasks, result, each.n, looks[each.variant], few_bands=len(scores) <= 5)
        drawn.append(result.value)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("task")
    axes.set_ylabel("area under the return curve / steps")
    thousands_axis(axes)
    cut_below(axes, np.concatenate(drawn))
    legend(figure, scores, "mean over the seeds that completed the task")
    return figure


def mark_boundaries(axes: Axes, boundaries: np.ndarray) -> None:
    """A dotted line at every boundary, behind the curves; none where they would be denser than 2 % of the axis."""
    low, high = axes.get_xlim()
    if len(boundaries) > 1 and np.min(np.diff(boundaries)) < 0.02 * (high - low):
        return
    for step in boundaries:
        axes.axvline(step, zorder=0.5, **BOUNDARY)


def _write_values(axes: Axes, starts: pd.DataFrame, values: Mapping[int, float]) -> None:
    """Each task's value above its stretch of the axis."""
    if not values or len(values) > _MOST_LABELS:
        return
    begins = starts.groupby("task")["env_steps"].median().sort_index()
    edges = [*begins.to_numpy(dtype=float), axes.get_xlim()[1]]
    for task, begin, end in zip(begins.index.to_numpy(dtype=int), edges, edges[1:], strict=False):
        if task in values:
            middle = ((begin + end) / 2, 1.02)
            axes.annotate(f"{values[task]:.2g}", middle, xycoords=("data", "axes fraction"), ha="center", fontsize=7)
