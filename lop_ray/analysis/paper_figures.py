"""Counterparts of the figures of Dohare et al. 2024 (Nature 632) on reinforcement learning.

| here | there | script of the reference (`lop/rl/plots/` of shibhansh/loss-of-plasticity) |
|---|---|---|
| `lop_ray.analysis.task_figures.task_return_figure` | SlipperyAnt, return | `fig3.py` |
| `internals_figure` | Ant: return, stable rank, dormant units, weight magnitude | `fig4a.py`, `fig4b.py` |
| `spread_figure` | Ant, return with the least and the greatest seed | `fig4a.py` with `min_max` |
| `weight_change_figure` | Ant, largest weight change | `rlapp-c.py` |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lop_ray.analysis.curves import MEASURES, Curve, layer_curves, network_curves, return_curves
from lop_ray.analysis.drawing import (
    GREY,
    SOME_MISSING,
    empty_figure,
    last_step,
    legend,
    legend_above,
    line,
    lines,
    new_figure,
    no_rows,
    percent_limits,
    seeds_text,
)
from lop_ray.analysis.style import cut_below, line_styles, steps_axis, styled, thousands_axis

if TYPE_CHECKING:
    import duckdb


def internals(store: duckdb.DuckDBPyConnection, bin_steps: int, network: str = "policy") -> dict[str, list[Curve]]:
    """The four measures that the paper shows on Ant, as its code computes them, by axis label.

    Return of the episodes; units of the policy network active on at most 1 % of observations, mean over its hidden
    layers (what the paper calls dormant); stable rank of the last hidden layer in per cent of its units; mean |w| of
    the weights into the last hidden layer (the 256 x 256 matrix).

    Args:
        store: Connection with the views `trials`, `episodes` and `layers`.
        bin_steps: Bin width in environment steps.
        network: Which network.

    Returns:
        Curves by label; empty lists where there are no rows.
    """
    panels = {
        "episode return": return_curves(store, bin_steps),
        MEASURES["silent"].label: network_curves(store, "silent", network, bin_steps),
    }
    for name in ("stable_rank", "weight_magnitude"):
        by_layer = layer_curves(store, name, bin_steps)
        last = max((layer for each, layer in by_layer if each == network), default=None)
        panels[MEASURES[name].label] = [] if last is None else by_layer[network, last]
    return panels


@styled
def internals_figure(panels: Mapping[str, Sequence[Curve]], about: str = "") -> Figure:
    """Several measures side by side, two in a row, one line a variant.

    Args:
        panels: Curves by axis label, such as from `internals`. A label with "(%" is a share from 0 to 100.
        about: What the legend says besides, such as "policy network".

    Returns:
        A panel for each measure.
    """
    curves = [curve for each in panels.values() for curve in each]
    if not curves:
        return empty_figure("no rows")
    rows = -(-len(panels) // 2)
    figure = new_figure(8.2, 1.0 + 2.4 * rows)
    axes = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
    for each, (label, drawn) in zip(axes, panels.items(), strict=False):
        values = [result.value for result in lines(each, drawn)]
        each.set_ylabel(label)
        if "(%" in label:
            percent_limits([each])
        elif "return" in label:
            thousands_axis(each)
            cut_below(each, np.concatenate([np.empty(0), *values]))
    for each in axes[len(panels) :]:
        each.set_axis_off()
    x_label = steps_axis(axes[0], last_step(curves))
    for each in axes[max(0, len(panels) - 2) : len(panels)]:
        each.set_xlabel(x_label)
        each.xaxis.set_tick_params(labelbottom=True)
    legend(figure, curves, "; ".join(part for part in (about, "mean over seeds") if part))
    return figure


@styled
def spread_figure(curves: Sequence[Curve], label: str = "episode return") -> Figure:
    """How far apart the seeds are: mean, its interval, and the least and greatest seed; a panel a variant.

    Args:
        curves: From `return_curves`, or others.
        label: Label of the y axis.

    Returns:
        A panel for each variant, with one y axis.
    """
    if not curves:
        return empty_figure("no episode has ended yet")
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = new_figure(max(4.6, 2.1 * columns + 0.8), 1.2 + 1.9 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks = line_styles(curve.variant for curve in curves)
    means, missing = [np.empty(0)], False
    for place, (axes, curve) in enumerate(zip(panels.flat, curves, strict=False)):
        result = curve.estimate()
        there = result.n > 0
        steps, values = curve.env_steps[there], curve.values[:, there]
        colour = looks[curve.variant]["color"]
        axes.fill_between(steps, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.15, lw=0)
        line(axes, curve.env_steps, result, curve.n, {"color": colour})
        missing |= bool((result.n[there] < curve.n).any())
        means.append(result.value)
        axes.set_title(f"{curve.variant}\nn = {seeds_text(curve)}")
        steps_axis(axes, last_step(curves), ticks=4)
        if place + columns >= len(curves):
            axes.xaxis.set_tick_params(labelbottom=True)
    for axes in panels.flat[len(curves) :]:
        axes.set_axis_off()
    thousands_axis(panels[0, 0])
    cut_below(panels[0, 0], np.concatenate(means))
    figure.supxlabel(steps_axis(panels[0, 0], last_step(curves), ticks=4), fontsize=9)
    figure.supylabel(label, fontsize=9)
    handles: list[Artist] = [
        Line2D([], [], color=GREY, label="mean over seeds"),
        Patch(color=GREY, alpha=0.33, label="95 % bootstrap interval"),
        Patch(color=GREY, alpha=0.15, label="least to greatest seed"),
    ]
    if missing:
        handles.append(Line2D([], [], **SOME_MISSING, color=GREY, label=SOME_MISSING["gid"]))
    text = "no interval with 1 seed" if any(curve.n == 1 for curve in curves) else ""
    legend_above(figure, handles, text, columns=4)
    return figure


@styled
def weight_change_figure(curves: Sequence[Curve], bin_steps: int) -> Figure:
    """The largest change of the policy's weights in one update, one line a variant.

    Args:
        curves: From `weight_change_curves`.
        bin_steps: The bin width that they were made with.

    Returns:
        One panel.
    """
    figure = new_figure(6.2, 3.6)
    axes = figure.subplots()
    if not any(np.isfinite(curve.values).any() for curve in curves):
        no_rows(axes, "no weight change was measured")
        return figure
    lines(axes, curves)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel(steps_axis(axes, last_step(curves)))
    axes.set_ylabel("sum of |weight change|")
    legend(figure, curves, f"policy network, largest update of a bin of {bin_steps:,} steps; mean over seeds")
    return figure
