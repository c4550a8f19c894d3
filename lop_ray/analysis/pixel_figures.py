"""Figures of runs on images: the source's comparison with seeds, returns on both splits, spectra and norms."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lop_ray.analysis.curves import Curve, variant_order
from lop_ray.analysis.drawing import (
    GREY,
    empty_figure,
    last_step,
    legend,
    legend_above,
    line,
    lines,
    new_figure,
    no_rows,
)
from lop_ray.analysis.pixels import SCORES
from lop_ray.analysis.spectra import Spectrum
from lop_ray.analysis.statistics import estimate, mean
from lop_ray.analysis.style import line_styles, steps_axis, styled
from lop_ray.analysis.task_figures import mark_boundaries
from lop_ray.seeding import numpy_generator

_PUBLISHED = {"marker": "D", "linestyle": "none", "markersize": 5, "markerfacecolor": "white", "markeredgecolor": GREY}


@styled
def comparison_figure(
    table: pd.DataFrame, columns: Sequence[str], published: pd.DataFrame | None = None, seed: int = 0
) -> Figure:
    """One panel a score, one bar a variant: the mean over seeds with its 95 % bootstrap interval, and every seed.

    Args:
        table: From `lop_ray.analysis.pixels.scores`.
        columns: Which scores; those that no trial has say so.
        published: Numbers to set beside, by variant; columns of the same names.
        seed: Of the bootstrap's generator.

    Returns:
        A panel a score.
    """
    if table.empty:
        return empty_figure("no trials with rows")
    variants = variant_order(table["variant"])
    looks = line_styles(variants)
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    figure = new_figure(max(2.9, 1.0 + 0.36 * len(variants)) * across, 2.7 * down + 0.6)
    panels = figure.subplots(down, across, squeeze=False).flat
    for axes in panels[len(columns) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, columns, strict=False):
        axes.set_ylabel(textwrap.fill(SCORES[name].label, 28, break_on_hyphens=False))
        axes.set_xticks(range(len(variants)), variants, rotation=40, ha="right", rotation_mode="anchor")
        axes.grid(visible=False, axis="x")
        axes.set_xlim(-0.6, len(variants) - 0.4)
        if table[name].isna().all():
            no_rows(axes)
            continue
        for place, variant in enumerate(variants):
            values = table.loc[table["variant"] == variant, name].dropna().to_numpy(dtype=np.float64)
            if len(values):
                _bar(axes, place, values, str(looks[variant]["color"]), seed)
            if published is not None and name in published and variant in published.index:
                axes.plot(place, published.loc[variant, name], **_PUBLISHED)
    n = table.groupby("variant")["seed"].size()
    each = f"n = {n.max()} each" if n.nunique() == 1 else ", ".join(f"{name} n = {n[name]}" for name in variants)
    title = f"mean over seeds ({each})"
    title += "; bar: 95 % bootstrap interval over seeds" if n.max() > 1 else "; no interval with 1 seed"
    handles: list[Artist] = [Line2D([], [], color=GREY, marker="o", markersize=3, linestyle="none", label="one seed")]
    if published is not None:
        handles.append(Line2D([], [], **_PUBLISHED, label="published"))  # type: ignore[arg-type]
    legend_above(figure, handles, title, columns=2)
    return figure


def _bar(axes: Axes, place: int, values: np.ndarray, colour: str, seed: int) -> None:
    result = estimate(values, numpy_generator(seed, "bootstrap"))
    axes.bar(place, float(result.value), width=0.72, color=colour, alpha=0.55, lw=0)
    if np.isfinite(result.low):
        axes.plot([place, place], [float(result.low), float(result.high)], color=colour, lw=2.0)
    spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
    axes.plot(place + spread, values, color=GREY, marker="o", markersize=3, linestyle="none")


@styled
def split_return_figure(train: Sequence[Curve], test: Sequence[Curve], boundaries: np.ndarray) -> Figure:
    """Return on training levels beside that on held-out levels, with a dotted line where the task changes.

    Args:
        train: From `lop_ray.analysis.curves.return_curves`.
        test: From `lop_ray.analysis.curves.evaluation_curves`.
        boundaries: Environment steps of task changes.

    Returns:
        Two panels with one y axis.
    """
    if not train and not test:
        return empty_figure("no episodes")
    figure = new_figure(8.6, 3.6)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    both = [*train, *test]
    for axes, curves, title in zip(panels, (train, test), ("training levels", "held-out levels"), strict=True):
        lines(axes, curves, mean)
        axes.set_title(title)
        axes.set_xlabel(steps_axis(axes, last_step(both)))
        mark_boundaries(axes, boundaries)
    panels[0].set_ylabel("episode return")
    shown = "; dotted: the task changes" if len(boundaries) else ""
    legend(figure, both, f"mean over seeds{shown}")
    return figure


@styled
def spectrum_figure(spectra: Sequence[Spectrum]) -> Figure:
    """Singular values of the last hidden layer's features, by the largest: mean over seeds with its interval.

    Args:
        spectra: From `lop_ray.analysis.pixels.last_spectra`.

    Returns:
        One panel, one line a variant.
    """
    shares = {
        variant: [each.x / each.x[0] for each in spectra if each.variant == variant and each.x.max(initial=0.0) > 0]
        for variant in variant_order(each.variant for each in spectra)
    }
    shares = {variant: rows for variant, rows in shares.items() if rows}
    if not shares:
        return empty_figure("no spectra: run `python -m lop_ray.diagnose` on the trials, or give ranks spectra_every")
    figure = new_figure(6.6, 3.8)
    axes = figure.subplots()
    looks = line_styles(list(shares))
    curves = []
    for variant, rows in shares.items():
        width = max(map(len, rows))
        values = np.stack([np.pad(row, (0, width - len(row)), constant_values=np.nan) for row in rows])
        places = np.arange(1, width + 1)
        curve = Curve(variant, tuple(map(str, range(len(rows)))), tuple(range(len(rows))), places, values)
        line(axes, places, curve.estimate(), curve.n, looks[variant], few_bands=len(shares) <= 5)
        curves.append(curve)
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(1e-6, 0.5 * min(float(row[row > 0].min()) for rows in shares.values() for row in rows)))
    axes.set_xlabel("place of the singular value")
    axes.set_ylabel("singular value / largest")
    legend(figure, curves, "features of the last hidden layer, mean over seeds")
    return figure


@styled
def norm_figure(norms: pd.DataFrame) -> Figure:
    """Norms of activations on the way up and of gradients on the way down, by layer: one line a trial.

    Args:
        norms: From `lop_ray.analysis.pixels.layer_norms`.

    Returns:
        A panel for each of the norms that there are.
    """
    kinds = {
        "pre_activation_norm": "mean norm of pre-activations",
        "activation_norm": "mean norm of activations",
        "gradient_norm": "norm of the gradient",
    }
    shown = [name for name in kinds if len(norms) and norms[name].notna().any()]
    if not shown:
        return empty_figure("no norms: run `python -m lop_ray.diagnose` on the trials")
    variants = variant_order(norms["variant"])
    looks = line_styles(variants)
    figure = new_figure(3.3 * len(shown) + 0.4, 3.2)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for (variant, _), rows in norms.groupby(["variant", "trial_id"], sort=False):
            axes.plot(1 + rows["layer"], rows[name], **looks[str(variant)] | {"lw": 1.1}, marker="o", markersize=3)
        axes.set_yscale("log")
        axes.set_xticks(1 + np.unique(norms["layer"]))
        axes.set_xlabel("hidden layer")
        axes.set_ylabel(kinds[name])
    handles: list[Artist] = [Line2D([], [], **looks[name], label=name) for name in variants]
    legend_above(figure, handles, "latest checkpoint, held-out observations; one line a trial", columns=4)
    return figure


@styled
def power_iteration_figure(errors: pd.DataFrame) -> Figure:
    """How far below the SVD the power iteration is over training: one line a weight and trial.

    Args:
        errors: From `lop_ray.analysis.pixels.power_iteration_errors`.

    Returns:
        A panel a variant.
    """
    if errors.empty:
        return empty_figure("no weights with a spectral norm, or spectral_norm_error was off")
    variants, weights = variant_order(errors["variant"]), sorted(errors["weight"].unique())
    looks = line_styles(weights)
    figure = new_figure(max(5.5, 3.6 * len(variants)), 3.2)
    panels = figure.subplots(1, len(variants), sharey=True, squeeze=False)[0]
    for axes, variant in zip(panels, variants, strict=True):
        some = errors[errors["variant"] == variant]
        for (_, weight), rows in some.groupby(["seed", "weight"]):
            shown = 100 * rows["error"].abs().clip(lower=1e-7)
            axes.plot(rows["env_steps"], shown, **looks[str(weight)] | {"lw": 1.0}, marker="o", markersize=2.5)
        axes.set_title(variant)
        axes.set_yscale("log")
        axes.set_xlabel(steps_axis(axes, float(errors["env_steps"].max())))
    panels[0].set_ylabel("|1 \N{MINUS SIGN} u'Wv / \N{GREEK SMALL LETTER SIGMA}| (%)")
    handles: list[Artist] = [Line2D([], [], **looks[name], label=name) for name in weights]
    legend_above(figure, handles, "power iteration against SVD; one line a weight and seed", columns=3)
    return figure
