"""Figures that compare variants: paired differences, performance profiles, lagged correlations."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lop_ray.analysis.correlation import LEAST_POINTS, LaggedCorrelation
from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.drawing import GREY, empty_figure, legend, line, new_figure, no_rows
from lop_ray.analysis.paired import Comparison
from lop_ray.analysis.profiles import Profile
from lop_ray.analysis.style import line_styles, lower_limit, steps_unit, styled

_ZERO = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 2))}


@styled
def difference_figure(comparisons: Sequence[Comparison]) -> Figure:
    """Paired differences with their intervals, and each pair as a dot; a panel a score, a row a comparison.

    Args:
        comparisons: From `lop_ray.analysis.paired`.

    Returns:
        A panel for each score, side by side up to three.
    """
    scores = list(dict.fromkeys(each.score for each in comparisons))
    if not any(each.n for each in comparisons):
        return empty_figure("no seed has a score in both variants")
    columns = min(3, len(scores))
    rows = -(-len(scores) // columns)
    most = max(sum(each.score == score for each in comparisons) for score in scores)
    figure = new_figure(max(5.6, 3.4 * columns + 0.6), 0.7 + rows * (0.8 + 0.45 * most))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, score in zip(panels.flat, scores, strict=False):
        own = [each for each in comparisons if each.score == score]
        looks = line_styles(each.first for each in own)
        for place, each in enumerate(own):
            colour = looks[each.first]["color"]
            pairs = each.first_scores - each.second_scores
            below = np.full(each.n, place + 0.25)
            axes.plot(pairs, below, "|", color=colour, alpha=0.6, markersize=6, markeredgewidth=0.9)
            axes.plot(each.difference.value, place, "o", color=colour, markersize=4.5)
            if np.isfinite(each.difference.low):
                axes.plot([each.difference.low, each.difference.high], [place, place], color=colour, linewidth=2.2)
        axes.axvline(0.0, **_ZERO)
        labels = [f"{each.first} \N{MINUS SIGN} {each.second}\n(n = {_pairs(each.n)})" for each in own]
        axes.set_yticks(range(len(own)), labels)
        axes.set_ylim(len(own) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_title(textwrap.fill(score, 24), fontsize=9)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}".replace("-", "\N{MINUS SIGN}"))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("difference in return")
    for axes in panels.flat[len(scores) :]:
        axes.set_axis_off()
    text = "dot and bar: mean over pairs, 95 % paired bootstrap interval; ticks below: the pairs (one a seed)"
    if any(each.n == 1 for each in comparisons):
        text += "; no interval with 1 pair"
    figure.suptitle(textwrap.fill(text, int(13 * figure.get_figwidth())), fontsize=8.5)
    return figure


@styled
def profile_figure(profiles: Sequence[Profile]) -> Figure:
    """Performance profiles: share of scores above each threshold, one line a variant.

    Args:
        profiles: From `lop_ray.analysis.profiles`.

    Returns:
        One panel.
    """
    if not profiles:
        return empty_figure("no trial has completed a task")
    figure = new_figure(6.2, 3.8)
    axes = figure.subplots()
    looks = line_styles(variant_order(each.variant for each in profiles))
    for each in profiles:
        look = looks[each.variant]
        axes.plot(each.thresholds, each.share.value, **look)
        alpha = 0.18 if len(profiles) <= 5 else 0.09
        axes.fill_between(each.thresholds, each.share.low, each.share.high, color=look["color"], alpha=alpha, lw=0)
    thresholds = profiles[0].thresholds
    bottom = lower_limit(thresholds)
    if bottom is not None:
        axes.set_xlim(bottom, thresholds.max())
        lowest = f"{thresholds.min():,.0f}".replace("-", "\N{MINUS SIGN}")
        axes.text(0.015, 0.03, f"axis cut; lowest {lowest}", transform=axes.transAxes, fontsize=7.5)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}".replace("-", "\N{MINUS SIGN}"))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("threshold: area under the return curve of a task, divided by its steps")
    axes.set_ylabel("share of tasks above")
    title = f"performance profile over {profiles[0].tasks} task{'s' * (profiles[0].tasks > 1)}"
    if any(each.missing for each in profiles):
        lacking = ", ".join(f"{each.variant} {each.missing}" for each in profiles if each.missing)
        title += f"; scores missing: {lacking}"
    legend(figure, profiles, title)
    return figure


@styled
def correlation_figure(
    levels: Mapping[str, Sequence[LaggedCorrelation]], changes: Mapping[str, Sequence[LaggedCorrelation]]
) -> Figure:
    """Lagged correlations: a column for each pair of measures, above of the values, below of their changes.

    Args:
        levels: Correlations of all variants by the pair's name, such as "dead units, then return".
        changes: The same pairs, of changes from bin to bin.

    Returns:
        Two rows of panels.
    """
    everything = [each for rows in (levels, changes) for found in rows.values() for each in found]
    if not everything:
        return empty_figure("no two measures of one trial to correlate")
    figure = new_figure(max(5.6, 0.7 + 3.0 * len(levels)), 5.0)
    panels = figure.subplots(2, len(levels), sharex=True, sharey=True, squeeze=False)
    looks = line_styles(variant_order(each.variant for each in everything))
    unit, x_label = steps_unit(float(max(np.abs(each.lags).max() for each in everything)))
    for row, pairs in enumerate((levels, changes)):
        for axes, (title, found) in zip(panels[row], pairs.items(), strict=True):
            for each in found:
                line(axes, each.lags, each.estimate(), each.n, looks[each.variant], few_bands=len(found) <= 5)
            if not any(each.n for each in found):
                no_rows(axes, f"fewer than {LEAST_POINTS} bins,\nor a measure that doesn't move")
            axes.axhline(0.0, **_ZERO)
            axes.axvline(0.0, **_ZERO)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x / unit:g}".replace("-", "\N{MINUS SIGN}"))
            axes.locator_params(axis="x", nbins=5)
            if row == 0:
                axes.set_title(title, fontsize=9)
    panels[0, 0].set_ylim(-1.05, 1.05)
    panels[0, 0].set_ylabel("correlation of values")
    panels[1, 0].set_ylabel("correlation of changes")
    figure.supxlabel(f"lag of the second behind the first, {x_label}", fontsize=9)
    legend(figure, [each for each in everything if each.n], "Spearman correlation within a trial, mean over trials")
    return figure


def _pairs(n: int) -> str:
    return f"{n} pairs" if n != 1 else "1 pair"
