"""Figures of spectra: loss curvature, gradient covariance, singular values, and margins of units."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.drawing import GREY, empty_figure, legend_above, new_figure
from lop_ray.analysis.spectra import Spectrum, UnitMargins, first_and_last
from lop_ray.analysis.statistics import Floats
from lop_ray.analysis.style import line_styles, steps_axis, styled
from lop_ray.diagnostics.curvature import smoothing, spectral_density

NO_ROWS = "no rows of this spectrum: its diagnostic was off, or has not been due twice yet"
_START: dict[str, Any] = {"color": "#0072B2"}
_END: dict[str, Any] = {"color": "#D55E00"}


@styled
def density_figure(spectra: Sequence[Spectrum], name: str = "Hessian") -> Figure:
    """Smoothed eigenvalue density at start and end, log scale: a panel a variant, a line a seed.

    p(t) = sum_i w_i N(t; lambda_i, s^2) over the Lanczos nodes and weights, as `lop_ray.diagnostics.curvature` smooths
    them.

    Args:
        spectra: Rows of `hessian_density` (or `ggn_density`) of one network.
        name: Of the matrix.

    Returns:
        A panel for each variant.
    """
    pairs = first_and_last(list(spectra))
    if not pairs:
        return empty_figure(NO_ROWS)
    figure, panels = _panels(variant_order({variant for variant, _ in pairs}), 2.5)
    highest, reach = 1.0, 1.0
    for (variant, _), both in pairs.items():
        for spectrum, look in zip(both, (_START, _END), strict=True):
            grid, values = density(spectrum)
            panels[variant].plot(grid, values, **look, lw=1.0, alpha=0.8)
            highest, reach = max(highest, float(values.max())), max(reach, float(np.abs(grid).max()))
    powers = 10.0 ** np.arange(0, np.ceil(np.log10(reach)) + 1, 1 if reach < 1e3 else 2)
    for axes in panels.values():
        axes.set_yscale("log")
        axes.set_ylim(1e-6, 10 * highest)
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xticks([*-powers[::-1], 0.0, *powers])
        axes.set_xlabel(f"eigenvalue of the {name}")
    next(iter(panels.values())).set_ylabel("density")
    _start_and_end(figure, pairs)
    return figure


def density(spectrum: Spectrum, points: int = 4000) -> tuple[Floats, Floats]:
    """The smoothed density of a row of nodes and weights.

    Args:
        spectrum: With x the nodes and y the weights.
        points: How many of the grid, denser near 0.

    Returns:
        The grid [points] and the density there [points].
    """
    nodes, weights = torch.from_numpy(spectrum.x), torch.from_numpy(spectrum.y)
    variance = smoothing(nodes)
    reach = 1.05 * max(float(nodes.abs().max()), 1e-3) + 3 * variance**0.5
    even = np.linspace(-1, 1, points)
    grid = np.unique(np.concatenate([reach * even, reach * even**3]))
    return grid, spectral_density(nodes, weights, torch.from_numpy(grid), variance).numpy()


@styled
def singular_value_figure(layers: Sequence[Sequence[Spectrum]], what: str) -> Figure:
    """Singular values relative to the largest, at start and end: a column a variant, a row a layer, a line a seed.

    Args:
        layers: For every hidden layer its rows of one spectrum.
        what: Of which the singular values are, for the axis.

    Returns:
        A panel for each variant and layer.
    """
    pairs = [first_and_last(list(spectra)) for spectra in layers]
    if not any(pairs):
        return empty_figure(NO_ROWS)
    variants = variant_order({variant for layer in pairs for variant, _ in layer})
    figure = new_figure(3.1 * len(variants) + 0.6, 2.3 * len(pairs) + 0.8)
    grid = figure.subplots(len(pairs), len(variants), sharey=True, squeeze=False)
    for row, (layer, panels) in enumerate(zip(pairs, grid, strict=True)):
        for axes, variant in zip(panels, variants, strict=True):
            axes.set_title(f"{variant}, hidden layer {row + 1}")
            for (name, _), both in layer.items():
                for spectrum, look in zip(both, (_START, _END), strict=True):
                    if name == variant and spectrum.x.max(initial=0.0) > 0:
                        axes.plot(1 + np.arange(len(spectrum.x)), spectrum.x / spectrum.x.max(), **look, lw=1.0)
            axes.set_yscale("log")
            axes.set_ylim(1e-6, 2)
        panels[0].set_ylabel("singular value / largest")
    for axes in grid[-1]:
        axes.set_xlabel(f"place among those of {what}")
    _start_and_end(figure, next(layer for layer in pairs if layer))
    return figure


@styled
def covariance_figure(spectra: Sequence[Spectrum], seed: int) -> Figure:
    """Gradient covariance of one seed as heat maps: a row a variant, start on the left and end on the right.

    Entries are divided by the root of the diagonal's product, so that they are cosines between two samples' gradients
    (Lyle et al. 2023, equation 3, up to the centring); samples are in the order of k-means clusters.

    Args:
        spectra: Rows of `gradient_covariance` of one network.
        seed: Which trial of each variant.

    Returns:
        Two panels for each variant.
    """
    pairs = {variant: both for (variant, each), both in first_and_last(list(spectra)).items() if each == seed}
    if not pairs:
        return empty_figure(NO_ROWS)
    figure = new_figure(5.6, 2.5 * len(pairs) + 0.4)
    grid = figure.subplots(len(pairs), 2, squeeze=False)
    for row, (variant, both) in zip(grid, pairs.items(), strict=True):
        for axes, spectrum in zip(row, both, strict=True):
            image = axes.imshow(cosines(spectrum), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_title(f"{variant}, {spectrum.env_steps:,} steps")
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
    figure.colorbar(image, ax=grid, shrink=0.7, label=f"cosine of two samples' gradients (seed {seed})")
    return figure


def cosines(spectrum: Spectrum) -> Floats:
    """A stored covariance [k * k] as cosines [k, k]; rows of zeros for samples without a gradient."""
    side = round(len(spectrum.x) ** 0.5)
    covariance = spectrum.x.reshape(side, side)
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    product = np.outer(scale, scale)
    return np.divide(covariance, product, out=np.zeros_like(covariance), where=product > 0)


@styled
def margin_histogram_figure(trials: Sequence[UnitMargins]) -> Figure:
    """Distribution of the units' margins at start and end, all seeds of a variant together: a panel a variant.

    Args:
        trials: From `lop_ray.analysis.spectra.unit_margins`.

    Returns:
        A panel for each variant.
    """
    if not trials:
        return empty_figure("no rows in the table neurons: neurons_every of margins was off")
    variants = variant_order({each.variant for each in trials})
    figure, panels = _panels(variants, 2.4)
    values = {name: [each.margins for each in trials if each.variant == name] for name in variants}
    ends = np.concatenate([each[[0, -1]].ravel() for some in values.values() for each in some])
    bins = np.linspace(float(np.quantile(ends, 0.002)), float(np.quantile(ends, 0.998)), 50).tolist()
    for name, axes in panels.items():
        for place, look in ((0, _START), (-1, _END)):
            pooled = np.concatenate([each[place] for each in values[name]])
            axes.hist(np.clip(pooled, bins[0], bins[-1]), bins, **look, histtype="step", lw=1.4)
        axes.axvline(0, color=GREY, lw=0.8)
        axes.set_xlabel("margin (dead below 0)")
    next(iter(panels.values())).set_ylabel("units, all seeds")
    _start_and_end(figure, {(each.variant, each.seed) for each in trials})
    return figure


@styled
def unit_figure(trials: Sequence[UnitMargins], boundaries: Sequence[float] = ()) -> Figure:
    """One unit's margin through training, for every trial: the one that `nearest_to_death` chooses.

    Args:
        trials: From `lop_ray.analysis.spectra.unit_margins`.
        boundaries: Environment steps of task changes.

    Returns:
        A panel for each variant.
    """
    if not trials:
        return empty_figure("no rows in the table neurons: neurons_every of margins was off")
    variants = variant_order({each.variant for each in trials})
    figure, panels = _panels(variants, 2.4)
    looks = line_styles(variants)
    handles: list[Artist] = []
    for each in trials:
        unit = each.nearest_to_death()
        width = 0.7 + 0.5 * (each.seed % 3)
        panels[each.variant].plot(each.env_steps, each.margins[:, unit], **looks[each.variant] | {"lw": width})
        handles.append(Line2D([], [], **looks[each.variant] | {"lw": width}, label=f"seed {each.seed}, unit {unit}"))
    for axes in panels.values():
        axes.axhline(0, color=GREY, lw=0.8)
        for step in boundaries:
            axes.axvline(step, color=GREY, lw=0.8, ls=":")
        axes.set_xlabel(steps_axis(axes, float(max(each.env_steps[-1] for each in trials)), ticks=3))
    next(iter(panels.values())).set_ylabel("margin of one unit")
    legend_above(figure, handles, "the unit of each trial that began alive and was dead longest", columns=3)
    return figure


def _panels(variants: Sequence[str], height: float) -> tuple[Figure, dict[str, Axes]]:
    figure = new_figure(3.1 * len(variants) + 0.6, height + 0.7)
    axes = figure.subplots(1, len(variants), sharex=True, sharey=True, squeeze=False)[0]
    for each, name in zip(axes, variants, strict=True):
        each.set_title(name)
    return figure, dict(zip(variants, axes, strict=True))


def _start_and_end(figure: Figure, trials: Collection[object]) -> None:
    handles: list[Artist] = [Line2D([], [], **_START, label="first taken"), Line2D([], [], **_END, label="last taken")]
    legend_above(figure, handles, f"n = {len(trials)} trials", columns=2)
