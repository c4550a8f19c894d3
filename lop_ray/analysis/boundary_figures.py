"""Figures on task boundaries: margins before and after a change, and which units it kills and revives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lop_ray.analysis.boundaries import MARGINS, Boundaries, LayerBoundaries
from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.drawing import empty_figure, layer_name, legend_above, line, new_figure, seeds_text
from lop_ray.analysis.style import styled

NO_ROWS = "no row in the table boundaries: the task never changed, or the diagnostic was off"
_MOMENTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (MARGINS[0], "old weights, old task", {"color": "#4d4d4d"}),
    (MARGINS[1], "old weights, new task (predictive)", {"color": "#E69F00"}),
    (MARGINS[2], "new weights, new task (actual)", {"color": "#0072B2"}),
)
_CHANGES: tuple[tuple[str, str, str, int], ...] = (  # column, label, colour, direction
    ("killed_by_shift", "killed by the shift", "#E69F00", 1),
    ("killed_by_adaptation", "killed by the adaptation", "#D55E00", 1),
    ("revived_by_shift", "revived by the shift", "#56B4E9", -1),
    ("revived_by_adaptation", "revived by the adaptation", "#0072B2", -1),
)


@styled
def boundary_margins_figure(layers: LayerBoundaries) -> Figure:
    """Mean margin of every layer at every boundary, at the three moments: a column a variant, a row a layer.

    Args:
        layers: From `lop_ray.analysis.boundaries.layer_boundaries`.

    Returns:
        A panel for each variant and hidden layer.
    """
    if not layers:
        return empty_figure(NO_ROWS)
    figure, drawn = _panels(layers, "mean margin")
    seeds = 1
    for axes, each in drawn:
        for column, _, look in _MOMENTS:
            line(axes, each.tasks, each.estimate(column), each.n, look)
        seeds = max(seeds, each.n)
    handles: list[Artist] = [Line2D([], [], label=label, **look) for _, label, look in _MOMENTS]
    text = "greatest pre-activation, mean over units and seeds"
    text += "; bands: 95 % bootstrap interval over seeds" if seeds > 1 else "; no interval with 1 seed"
    legend_above(figure, handles, f"{text}; thin, dashed: not all seeds", columns=3)
    return figure


@styled
def boundary_deaths_figure(layers: LayerBoundaries) -> Figure:
    """Units that each boundary kills (upwards) and revives (downwards), stacked: a column a variant, a row a layer.

    Args:
        layers: From `lop_ray.analysis.boundaries.layer_boundaries`.

    Returns:
        A panel for each variant and hidden layer.
    """
    if not layers:
        return empty_figure(NO_ROWS)
    figure, drawn = _panels(layers, "units (%)")
    for axes, each in drawn:
        heights = {1: np.zeros(len(each.tasks)), -1: np.zeros(len(each.tasks))}
        for column, _, colour, direction in _CHANGES:
            value = np.nan_to_num(each.estimate(column, resamples=1).value)
            axes.bar(each.tasks, direction * value, bottom=direction * heights[direction], width=0.8, color=colour)
            heights[direction] += value
        axes.axhline(0.0, color="#4d4d4d", linewidth=0.8)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):g}"))
    for axes, _ in drawn:
        low, high = axes.get_ylim()
        if high - low < 1e-3:  # no unit in this row of panels
            axes.set_ylim(-1.0, 1.0)
    handles: list[Artist] = [Patch(color=colour, label=label) for _, label, colour, _ in _CHANGES]
    text = (
        "upwards: killed; downwards: revived; in % of the layer's units, mean over the seeds that came to the boundary"
    )
    legend_above(figure, handles, text, columns=4)
    return figure


def _panels(layers: LayerBoundaries, label: str) -> tuple[Figure, list[tuple[Axes, Boundaries]]]:
    """A figure with a column a variant and a row a layer, and the panels that have something to draw."""
    variants = variant_order(each.variant for row in layers.values() for each in row)
    figure = new_figure(max(6.2, 1.2 + 1.75 * len(variants)), 1.6 + 1.4 * len(layers))
    panels = figure.subplots(len(layers), len(variants), sharex=True, sharey="row", squeeze=False)
    drawn = []
    for row, (layer, found) in enumerate(layers.items()):
        panels[row, 0].set_ylabel(f"{layer_name(*layer, short=True)}\n{label}")
        for column, variant in enumerate(variants):
            axes = panels[row, column]
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.label_outer()
            each = _of_variant(found, variant)
            if each is not None:
                drawn.append((axes, each))
            if row == 0:
                axes.set_title(f"{variant}\nn = {seeds_text(each)}" if each else variant)
    figure.supxlabel("task that began", fontsize=9)
    figure.align_ylabels(panels[:, 0])
    return figure, drawn


def _of_variant(found: Sequence[Boundaries], variant: str) -> Boundaries | None:
    return next((each for each in found if each.variant == variant), None)
