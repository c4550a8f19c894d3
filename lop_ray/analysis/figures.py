"""Figures on curves: return, the state of the units, margins, weights and ranks over environment steps.

Each function takes what `lop_ray.analysis.curves` returns and gives a `matplotlib.figure.Figure` that stands
alone: axes with units, a legend with the number of seeds, and what the bands are. A line is thin and dashed where
some of a variant's seeds have no value (they ended, or no episode ended in the bin).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lop_ray.analysis.curves import BIN_STEPS, Curve, LayerCurves, variant_order
from lop_ray.analysis.drawing import (
    GREY,
    empty_figure,
    last_step,
    layer_name,
    legend,
    legend_above,
    lines,
    new_figure,
    of_variant,
    percent_limits,
    seeds_text,
)
from lop_ray.analysis.statistics import Floats, interquartile_mean, mean
from lop_ray.analysis.style import cut_below, steps_axis, styled, thousands_axis

_DEAD: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 2))}
_AT_RISK: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
_STATES = (  # measure, label, colour; from the bottom of the stack
    ("dead", "dead (max < 0)", "#4d4d4d"),
    ("at_risk", "at risk (0 ≤ max < 0.1)", "#E69F00"),
    ("selective", "selective (min < 0 < max)", "#a6cee3"),
    ("always_on", "always on (min > 0)", "#009E73"),
)


@styled
def return_figure(curves: Sequence[Curve], bin_steps: int = BIN_STEPS) -> Figure:
    """Return over environment steps, one line a variant: the mean beside the interquartile mean.

    Args:
        curves: From `return_curves`.
        bin_steps: The bin width that they were made with, for the legend.

    Returns:
        Two panels with one y axis.
    """
    figure = new_figure(8.2, 3.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    drawn: list[Floats] = []
    few = max((curve.n for curve in curves), default=0) < 4
    for axes, statistic, title in (
        (panels[0], mean, "mean over seeds"),
        (
            panels[1],
            interquartile_mean,
            "interquartile mean (n < 4: equals the mean)" if few else "interquartile mean over seeds",
        ),
    ):
        drawn += [each.value for each in lines(axes, curves, statistic)]
        axes.set_title(title)
        axes.set_xlabel(steps_axis(axes, last_step(curves)))
    panels[0].set_ylabel("episode return")
    thousands_axis(panels[0])
    cut_below(panels[0], np.concatenate([np.empty(0), *drawn]))
    legend(figure, curves, f"return of the episodes that end in a bin of {bin_steps:,} steps")
    return figure


@styled
def layer_figure(curves: LayerCurves, label: str, *, percent: bool = False) -> Figure:
    """One measure of every hidden layer: a row a network, a column a layer, one line a variant.

    Args:
        curves: From `layer_curves`.
        label: Label of the y axis, such as `MEASURES["dead"].label`.
        percent: The measure lies between 0 and 100.

    Returns:
        A panel for each hidden layer, with one y axis.
    """
    if not curves:
        return empty_figure("no rows in the table layers")
    networks = list(dict.fromkeys(network for network, _ in curves))
    layers = sorted({layer for _, layer in curves})
    figure = new_figure(max(5.5, 4.0 * len(layers)), 0.9 + 2.3 * len(networks))
    panels = figure.subplots(len(networks), len(layers), sharex=True, sharey=True, squeeze=False)
    for row, network in enumerate(networks):
        for column, layer in enumerate(layers):
            axes = panels[row, column]
            if (network, layer) not in curves:
                axes.set_axis_off()
                continue
            lines(axes, curves[network, layer], mean)
            axes.set_title(layer_name(network, layer))
            axes.set_xlabel(steps_axis(axes, last_step(curves[network, layer])))
            axes.label_outer()
    if percent:
        percent_limits(panels.flat)
    figure.supylabel(label, fontsize=9)
    legend(figure, [curve for each in curves.values() for curve in each], "mean over seeds")
    return figure


@styled
def unit_states_figure(states: Mapping[str, LayerCurves]) -> Figure:
    """What the units of every hidden layer do, stacked: a column a variant, a row a layer.

    A unit's pre-activations over the observation buffer have a least and a greatest value. Dead, selective and
    always-on units share the layer among them; units at risk are selective ones (rarely always-on ones) whose
    greatest value is below 0.1, and stand as a band of their own between the dead and the other selective
    units. Means over seeds.

    Args:
        states: For each of "dead", "at_risk", "selective" and "always_on", what `layer_curves` gives.

    Returns:
        A panel for each variant and hidden layer.
    """
    layers = list(states["dead"])
    if not layers:
        return empty_figure("no rows in the table layers")
    variants = variant_order(curve.variant for each in states["dead"].values() for curve in each)
    figure = new_figure(max(6.2, 1.2 + 1.75 * len(variants)), 1.6 + 1.4 * len(layers))
    panels = figure.subplots(len(layers), len(variants), sharex=True, sharey=True, squeeze=False)
    for row, layer in enumerate(layers):
        for column, variant in enumerate(variants):
            axes = panels[row, column]
            curves = {name: of_variant(states[name][layer], variant) for name, _, _ in _STATES}
            if any(curve is None for curve in curves.values()):
                continue
            share = {name: curve.estimate(resamples=1).value for name, curve in curves.items() if curve is not None}
            share["selective"] = np.clip(share["selective"] - share["at_risk"], 0.0, None)
            dead = curves["dead"]
            assert dead is not None
            there = np.isfinite(share["dead"])
            axes.stackplot(
                dead.env_steps[there],
                *[share[name][there] for name, _, _ in _STATES],
                colors=[colour for _, _, colour in _STATES],
                linewidth=0,
            )
            if row == 0:
                axes.set_title(f"{variant}\nn = {seeds_text(dead)}")
            figure.supxlabel(steps_axis(axes, last_step(states["dead"][layer]), ticks=4), fontsize=9)
            axes.set_ylim(0, 100)
            axes.grid(False)
            axes.label_outer()
        panels[row, 0].set_ylabel(f"{layer_name(*layer, short=True)}\nunits (%)")
    handles: list[Artist] = [Patch(color=colour, label=label) for _, label, colour in _STATES]
    text = "pre-activation over the last observations; mean over seeds"
    legend_above(figure, handles, text, columns=4 if len(variants) > 3 else 2)
    return figure


@styled
def margins_figure(quantiles: Mapping[float, LayerCurves]) -> Figure:
    """How margins spread over the units of a layer: a column a variant, a row a layer.

    Quantiles over the units of a layer, averaged over updates in a bin and over seeds. The dashed line at zero
    is where a unit dies; the dotted one, at 0.1, is where it is at risk.

    Args:
        quantiles: For 0.05, 0.25, 0.5, 0.75 and 0.95, what `layer_curves` gives for `margin_quantile`.

    Returns:
        A panel for each variant and hidden layer.
    """
    layers = list(quantiles[0.5])
    if not layers:
        reason = "no rows in the table neurons: the run was shorter than the interval of every unit's margin"
        return empty_figure(reason)
    variants = variant_order(curve.variant for each in quantiles[0.5].values() for curve in each)
    figure = new_figure(max(6.2, 1.2 + 1.75 * len(variants)), 1.6 + 1.4 * len(layers))
    panels = figure.subplots(len(layers), len(variants), sharex=True, sharey="row", squeeze=False)
    for row, layer in enumerate(layers):
        for column, variant in enumerate(variants):
            axes = panels[row, column]
            curves = {q: of_variant(quantiles[q][layer], variant) for q in quantiles}
            if any(curve is None for curve in curves.values()):
                continue
            level = {q: curve.estimate(resamples=1).value for q, curve in curves.items() if curve is not None}
            middle = curves[0.5]
            assert middle is not None
            there = np.isfinite(level[0.5])
            steps = middle.env_steps[there]
            axes.fill_between(steps, level[0.05][there], level[0.95][there], color="#d3e5f0", linewidth=0)
            axes.fill_between(steps, level[0.25][there], level[0.75][there], color="#8dbbd8", linewidth=0)
            axes.plot(steps, level[0.5][there], color="#0072B2")
            axes.axhline(0.0, **_DEAD)
            axes.axhline(0.1, **_AT_RISK)
            if row == 0:
                axes.set_title(f"{variant}\nn = {seeds_text(middle)}")
            figure.supxlabel(steps_axis(axes, last_step(quantiles[0.5][layer]), ticks=4), fontsize=9)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.label_outer()
        panels[row, 0].set_ylabel(f"{layer_name(*layer, short=True)}\nmargin")
    handles: list[Artist] = [
        Line2D([], [], color="#0072B2", label="median unit"),
        Patch(color="#8dbbd8", label="half of the units"),
        Patch(color="#d3e5f0", label="90 % of the units"),
        Line2D([], [], **_DEAD, label="0: dead below"),
        Line2D([], [], **_AT_RISK, label="0.1: at risk below"),
    ]
    text = "greatest pre-activation over the last observations; mean over seeds"
    legend_above(figure, handles, text, columns=3)
    figure.align_ylabels(panels[:, 0])
    return figure


@styled
def demo_figure(returns: Sequence[Curve], dead: Mapping[str, Sequence[Curve]], title: str) -> Figure:
    """A first look at a run: return, and dead units of each network (mean over its hidden layers).

    Args:
        returns: From `return_curves`.
        dead: For each network, what `network_curves` gives for "dead".
        title: What was run.

    Returns:
        A panel for the return and one for each network.
    """
    figure = new_figure(3.0 + 2.8 * len(dead), 3.5)
    panels = figure.subplots(1, 1 + len(dead), sharex=True, squeeze=False)[0]
    everything = [*returns, *(curve for curves in dead.values() for curve in curves)]
    returned = [each.value for each in lines(panels[0], returns, mean)]
    panels[0].set_title("episode return")
    thousands_axis(panels[0])
    cut_below(panels[0], np.concatenate([np.empty(0), *returned]))
    for axes, (network, curves) in zip(panels[1:], dead.items(), strict=True):
        lines(axes, curves, mean)
        axes.set_title(f"dead units, {network} network (%)")
    percent_limits(panels[1:])
    for axes in panels:
        axes.set_xlabel(steps_axis(axes, last_step(everything), ticks=4))
    legend(figure, everything, f"{title}; mean over seeds")
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure; the path's ending chooses the format. Makes the folder if there is none."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
