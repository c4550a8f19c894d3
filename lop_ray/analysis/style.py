"""How figures look: colours that colour-blind readers tell apart, axes in readable units, few lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lop_ray.analysis.curves import KNOWN_VARIANTS
from lop_ray.analysis.statistics import Floats

P = ParamSpec("P")
R = TypeVar("R")

_RC = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.title_fontsize": 8.5,
    "legend.handlelength": 1.8,
    "lines.linewidth": 1.6,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}

# Okabe & Ito's palette (https://jfly.uni-koeln.de/color/), its yellow left out: too faint on white.
_COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#56B4E9", "#000000")
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("solid", (0, (5, 2)), (0, (1, 1)), (0, (5, 2, 1, 2)))
_KNOWN = {name: place for place, name in enumerate(KNOWN_VARIANTS)}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Runs a drawing function under this style and leaves matplotlib's settings as they were."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapper


def line_styles(variants: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each variant: the paper's variants look the same in all figures.

    Args:
        variants: Names, in the order in which they are drawn.

    Returns:
        Keyword arguments for `Axes.plot` by variant.
    """
    styles: dict[str, dict[str, Any]] = {}
    place = len(_KNOWN)
    for name in variants:
        if name in _KNOWN:
            number = _KNOWN[name]
        else:
            number, place = place, place + 1
        dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        styles[name] = {"color": _COLOURS[number % len(_COLOURS)], "linestyle": dashes}
    return styles


def steps_unit(last: float) -> tuple[float, str]:
    """Divisor and axis label for environment steps up to `last`."""
    if last >= 1e6:
        return 1e6, "environment steps (millions)"
    if last >= 1e4:
        return 1e3, "environment steps (thousands)"
    return 1.0, "environment steps"


def steps_axis(axes: Axes, last: float, ticks: int = 5) -> str:
    """Scales the x axis from 0 to `last` environment steps; returns the label for it."""
    unit, label = steps_unit(last)
    axes.set_xlim(0, 1.01 * last)
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / unit:g}"))
    return label


def thousands_axis(axes: Axes) -> None:
    """Writes 4,000 for 4000 on the y axis."""
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _written(y)))


def cut_below(axes: Axes, values: Floats) -> None:
    """Cuts the y axis where a collapsed variant would squash the others, and says so in the axes.

    Returns of a policy that has lost its plasticity fall without bound (to -384,000 on Ant). When some value
    is above 500, so that something was learnt, and the least lies further below zero than the greatest lies
    above (and below -1,000), the axis begins at minus a quarter of the greatest value, or at -1,000 if that
    is lower.
    """
    bottom = lower_limit(values)
    if bottom is None:
        return
    finite = values[np.isfinite(values)]
    axes.set_ylim(bottom=bottom, top=1.08 * float(finite.max()))
    note = f"axis cut; lowest {_written(round(float(finite.min())))}"
    axes.text(0.015, 0.02, note, transform=axes.transAxes, fontsize=7.5)


def lower_limit(values: Floats) -> float | None:
    """Where `cut_below` cuts an axis of returns; None where everything fits."""
    finite = values[np.isfinite(values)]
    if not len(finite) or finite.max() < 500.0 or finite.min() >= -max(1000.0, finite.max()):
        return None
    return float(-max(1000.0, 0.25 * finite.max()))


def _written(value: float) -> str:
    return f"{value:,.10g}".replace("-", "\N{MINUS SIGN}")
