"""Figures on curves: return, the state of the units, margins, weights and ranks over environment steps.

Each function takes what `lop_ray.analysis.curves` returns and gives a `matplotlib.figure.Figure` that stands
alone: axes with units, a legend with the number of seeds, and what the bands are. A line is thin and dashed where
some of a variant's seeds have no value (they ended, or no episode ended in the bin).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lop_ray.analysis.curves import BIN_STEPS, Curve, LayerCurves, variant_order
from lop_ray.analysis.statistics import Estimate, Floats, Statistic, interquartile_mean, mean
from lop_ray.analysis.style import cut_below, line_styles, steps_axis, styled, thousands_axis

_SOME_MISSING: dict[str, Any] = {"linestyle": "--", "linewidth": 0.9, "gid": "not all seeds"}
_DEAD: dict[str, Any] = {"color": "#4d4d4d", "linewidth": 0.9, "linestyle": (0, (4, 2))}
_AT_RISK: dict[str, Any] = {"color": "#4d4d4d", "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
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
    figure = _figure(8.2, 3.6)
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
        drawn += [each.value for each in _lines(axes, curves, statistic)]
        axes.set_title(title)
        axes.set_xlabel(steps_axis(axes, _last(curves)))
    panels[0].set_ylabel("episode return")
    thousands_axis(panels[0])
    cut_below(panels[0], np.concatenate([np.empty(0), *drawn]))
    _legend(figure, curves, f"return of the episodes that end in a bin of {bin_steps:,} steps")
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
        return _empty("no rows in the table layers")
    networks = list(dict.fromkeys(network for network, _ in curves))
    layers = sorted({layer for _, layer in curves})
    figure = _figure(max(5.5, 4.0 * len(layers)), 0.9 + 2.3 * len(networks))
    panels = figure.subplots(len(networks), len(layers), sharex=True, sharey=True, squeeze=False)
    for row, network in enumerate(networks):
        for column, layer in enumerate(layers):
            axes = panels[row, column]
            if (network, layer) not in curves:
                axes.set_axis_off()
                continue
            _lines(axes, curves[network, layer], mean)
            axes.set_title(_layer_name(network, layer))
            axes.set_xlabel(steps_axis(axes, _last(curves[network, layer])))
            axes.label_outer()
    if percent:
        _percent_limits(panels.flat)
    figure.supylabel(label, fontsize=9)
    _legend(figure, [curve for each in curves.values() for curve in each], "mean over seeds")
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
        return _empty("no rows in the table layers")
    variants = variant_order(curve.variant for each in states["dead"].values() for curve in each)
    figure = _figure(max(6.2, 1.2 + 1.75 * len(variants)), 1.6 + 1.4 * len(layers))
    panels = figure.subplots(len(layers), len(variants), sharex=True, sharey=True, squeeze=False)
    for row, layer in enumerate(layers):
        for column, variant in enumerate(variants):
            axes = panels[row, column]
            curves = {name: _of_variant(states[name][layer], variant) for name, _, _ in _STATES}
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
                axes.set_title(f"{variant}\nn = {_seeds(dead)}")
            figure.supxlabel(steps_axis(axes, _last(states["dead"][layer]), ticks=4), fontsize=9)
            axes.set_ylim(0, 100)
            axes.grid(False)
            axes.label_outer()
        panels[row, 0].set_ylabel(f"{_layer_name(*layer, short=True)}\nunits (%)")
    handles: list[Artist] = [Patch(color=colour, label=label) for _, label, colour in _STATES]
    text = "pre-activation over the last observations; mean over seeds"
    _legend_above(figure, handles, text, columns=4 if len(variants) > 3 else 2)
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
        return _empty("no rows in the table neurons: the run was shorter than the interval of every unit's margin")
    variants = variant_order(curve.variant for each in quantiles[0.5].values() for curve in each)
    figure = _figure(max(6.2, 1.2 + 1.75 * len(variants)), 1.6 + 1.4 * len(layers))
    panels = figure.subplots(len(layers), len(variants), sharex=True, sharey="row", squeeze=False)
    for row, layer in enumerate(layers):
        for column, variant in enumerate(variants):
            axes = panels[row, column]
            curves = {q: _of_variant(quantiles[q][layer], variant) for q in quantiles}
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
                axes.set_title(f"{variant}\nn = {_seeds(middle)}")
            figure.supxlabel(steps_axis(axes, _last(quantiles[0.5][layer]), ticks=4), fontsize=9)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.label_outer()
        panels[row, 0].set_ylabel(f"{_layer_name(*layer, short=True)}\nmargin")
    handles: list[Artist] = [
        Line2D([], [], color="#0072B2", label="median unit"),
        Patch(color="#8dbbd8", label="half of the units"),
        Patch(color="#d3e5f0", label="90 % of the units"),
        Line2D([], [], **_DEAD, label="0: dead below"),
        Line2D([], [], **_AT_RISK, label="0.1: at risk below"),
    ]
    text = "greatest pre-activation over the last observations; mean over seeds"
    _legend_above(figure, handles, text, columns=3)
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
    figure = _figure(3.0 + 2.8 * len(dead), 3.5)
    panels = figure.subplots(1, 1 + len(dead), sharex=True, squeeze=False)[0]
    everything = [*returns, *(curve for curves in dead.values() for curve in curves)]
    returned = [each.value for each in _lines(panels[0], returns, mean)]
    panels[0].set_title("episode return")
    thousands_axis(panels[0])
    cut_below(panels[0], np.concatenate([np.empty(0), *returned]))
    for axes, (network, curves) in zip(panels[1:], dead.items(), strict=True):
        _lines(axes, curves, mean)
        axes.set_title(f"dead units, {network} network (%)")
    _percent_limits(panels[1:])
    for axes in panels:
        axes.set_xlabel(steps_axis(axes, _last(everything), ticks=4))
    _legend(figure, everything, f"{title}; mean over seeds")
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure; the path's ending chooses the format. Makes the folder if there is none."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _empty(reason: str) -> Figure:
    figure = _figure(6.2, 0.8)
    figure.text(0.5, 0.5, reason, ha="center", va="center", color="#4d4d4d")
    return figure


def _lines(axes: Axes, curves: Sequence[Curve], statistic: Statistic) -> list[Estimate]:
    """Draws one line and band a curve; returns what was drawn."""
    looks = line_styles(variant_order(curve.variant for curve in curves))
    estimates = [curve.estimate(statistic) for curve in curves]
    if not curves:
        axes.text(0.5, 0.5, "no rows", transform=axes.transAxes, ha="center", va="center", color="#4d4d4d")
    for curve, result in zip(curves, estimates, strict=True):
        look = looks[curve.variant]
        steps, there = curve.env_steps, result.n > 0
        marker: dict[str, Any] = {"marker": "o", "markersize": 2.5} if there.sum() <= 25 else {}
        axes.fill_between(steps[there], result.low[there], result.high[there], color=look["color"], alpha=0.18, lw=0)
        if (result.n[there] < curve.n).any():
            axes.plot(steps[there], result.value[there], color=look["color"], **_SOME_MISSING, **marker)
        all_there = np.where(result.n == curve.n, result.value, np.nan)
        axes.plot(steps[there], all_there[there], **look, **marker)
    return estimates


def _legend(figure: Figure, curves: Sequence[Curve], title: str) -> None:
    """One legend above all panels: each variant once, with its number of seeds; what lines and bands are."""
    most = {curve.variant: curve for curve in sorted(curves, key=lambda curve: curve.n)}
    looks = line_styles(variant_order(most))
    handles: list[Artist] = []
    for name, look in looks.items():
        handles.append(Line2D([], [], **look, label=f"{name} (n = {_seeds(most[name])})"))
    if any(line.get_gid() == _SOME_MISSING["gid"] for axes in figure.axes for line in axes.lines):
        handles.append(Line2D([], [], **_SOME_MISSING, color="#4d4d4d", label=_SOME_MISSING["gid"]))
    if any(curve.n > 1 for curve in curves):
        title += "; band: 95 % bootstrap interval over seeds"
    if any(curve.n == 1 for curve in curves):
        title += "; no interval with 1 seed"
    _legend_above(figure, handles, title, columns=4)


def _legend_above(figure: Figure, handles: list[Artist], title: str, columns: int) -> None:
    width = figure.get_figwidth()
    label_in = 0.5 + 0.072 * max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(columns, len(handles), int(width / label_in)))
    title = textwrap.fill(title, int(13 * width))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)


def _seeds(curve: Curve) -> str:
    return f"{curve.n} seeds" if curve.n > 1 else "1 seed"


def _last(curves: Sequence[Curve]) -> float:
    return float(max((curve.env_steps[-1] for curve in curves), default=1))


def _of_variant(curves: Sequence[Curve], variant: str) -> Curve | None:
    return next((curve for curve in curves if curve.variant == variant), None)


def _percent_limits(panels: Iterable[Axes]) -> None:
    """The same for all panels: from 0 to where the data end, but not so near that 0.1 % looks like a lot."""
    axes = list(panels)
    top = max((each.dataLim.ymax for each in axes if each.has_data()), default=0.0)
    for each in axes:
        each.set_ylim(0.0, min(102.0, max(5.0, 1.05 * top)))


def _layer_name(network: str, layer: int, short: bool = False) -> str:
    return f"{network} {layer + 1}" if short else f"{network} network, hidden layer {layer + 1}"
