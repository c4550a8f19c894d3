"""What all figures share: panels, lines with bands, and the legend above them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from lop_ray.analysis.curves import Curve, variant_order
from lop_ray.analysis.statistics import Estimate, Statistic, mean
from lop_ray.analysis.style import line_styles

GREY = "#4d4d4d"
SOME_MISSING: dict[str, Any] = {"linestyle": "--", "linewidth": 0.9, "gid": "not all seeds"}
"""How a line looks where some seeds have no value."""
_LEGEND_ROW_IN = 0.19


class HasSeeds(Protocol):
    """What a legend needs of a curve, a profile or a correlation."""

    @property
    def variant(self) -> str:
        """Name of the variant."""

    @property
    def n(self) -> int:
        """Number of its seeds."""


def new_figure(width: float, height: float) -> Figure:
    """A figure, in inches, that finds room for its legend and labels by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def empty_figure(reason: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(6.2, 0.8)
    figure.text(0.5, 0.5, reason, ha="center", va="center", color=GREY)
    return figure


def lines(axes: Axes, curves: Sequence[Curve], statistic: Statistic = mean) -> list[Estimate]:
    """Draws one line and band a curve; returns what was drawn."""
    looks = line_styles(variant_order(curve.variant for curve in curves))
    estimates = [curve.estimate(statistic) for curve in curves]
    if not curves:
        no_rows(axes)
    for curve, result in zip(curves, estimates, strict=True):
        line(axes, curve.env_steps, result, curve.n, looks[curve.variant], few_bands=len(curves) <= 5)
    return estimates


def line(axes: Axes, x: ArrayLike, result: Estimate, n: int, look: dict[str, Any], *, few_bands: bool = True) -> None:
    """Draws one estimate with its band; thin and dashed where fewer than `n` seeds have a value."""
    there = result.n > 0
    points = np.asarray(x)[there]
    marker = markers(len(there))
    alpha = 0.18 if few_bands else 0.09
    axes.fill_between(points, result.low[there], result.high[there], color=look["color"], alpha=alpha, lw=0)
    if (result.n[there] < n).any():
        axes.plot(points, result.value[there], color=look["color"], **SOME_MISSING, **marker)
    all_there = np.where(result.n == n, result.value, np.nan)
    axes.plot(points, all_there[there], **look, **marker)


def markers(points: int) -> dict[str, Any]:
    """Dots on a line of few points, so that gaps and single points are seen."""
    return {"marker": "o", "markersize": 2.5} if points <= 25 else {}


def no_rows(axes: Axes, text: str = "no rows") -> None:
    """Says in an empty panel that there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def legend(figure: Figure, curves: Sequence[HasSeeds], title: str) -> None:
    """One legend above all panels: each variant once, with its number of seeds; what lines and bands are."""
    most = {curve.variant: curve for curve in sorted(curves, key=lambda curve: curve.n)}
    looks = line_styles(variant_order(most))
    handles: list[Artist] = []
    # Many variants with as many seeds each: said once, so that the legend stays small.
    alike = len(most) > 6 and len({each.n for each in most.values()}) == 1
    if alike:
        title = f"n = {seeds_text(next(iter(most.values())))} each; {title}"
    for name, look in looks.items():
        label = name if alike else f"{name} (n = {seeds_text(most[name])})"
        handles.append(Line2D([], [], **look, label=label))
    if any(each.get_gid() == SOME_MISSING["gid"] for axes in figure.axes for each in axes.lines):
        handles.append(Line2D([], [], **SOME_MISSING, color=GREY, label=SOME_MISSING["gid"]))
    if any(curve.n > 1 for curve in curves):
        title += "; band: 95 % bootstrap interval over seeds"
    if any(curve.n == 1 for curve in curves):
        title += "; no interval with 1 seed"
    legend_above(figure, handles, title, columns=4)


def legend_above(figure: Figure, handles: list[Artist], title: str, columns: int) -> None:
    """A legend above all panels, in as many columns as fit (at most `columns`); the figure grows by long ones."""
    width = figure.get_figwidth()
    label_in = 0.5 + 0.072 * max((len(str(handle.get_label())) for handle in handles), default=1)
    columns = max(1, min(columns, len(handles), int(width / label_in)))
    title = textwrap.fill(title, int(13 * width))
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW_IN * max(0, rows - 2))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, title=title)


def seeds_text(curve: HasSeeds) -> str:
    """Such as "30 seeds"."""
    return f"{curve.n} seeds" if curve.n > 1 else "1 seed"


def last_step(curves: Sequence[Curve]) -> float:
    """Where the longest curve ends."""
    return float(max((curve.env_steps[-1] for curve in curves), default=1))


def of_variant(curves: Sequence[Curve], variant: str) -> Curve | None:
    """The curve of a variant, if there is one."""
    return next((curve for curve in curves if curve.variant == variant), None)


def percent_limits(panels: Iterable[Axes]) -> None:
    """The same for all panels: from 0 to where the data end, but not so near that 0.1 % looks like a lot."""
    axes = list(panels)
    top = max((each.dataLim.ymax for each in axes if each.has_data()), default=0.0)
    for each in axes:
        each.set_ylim(0.0, min(102.0, max(5.0, 1.05 * top)))


def layer_name(network: str, layer: int, short: bool = False) -> str:
    """How a layer is called in figures, counted from 1: "policy 1" or "policy network, hidden layer 1"."""
    return f"{network} {layer + 1}" if short else f"{network} network, hidden layer {layer + 1}"
