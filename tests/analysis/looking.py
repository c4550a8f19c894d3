"""What figures are looked at with: their legend, their lines, and whether all that is drawn is inside."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lop_ray.analysis.curves import Curve


def curve(variant: str, values: list[list[float]], step: int = 100_000) -> Curve:
    n, points = np.shape(values)
    names = tuple(f"{variant}-{seed}" for seed in range(n))
    return Curve(variant, names, tuple(range(n)), np.arange(1, points + 1) * step, np.array(values))


def legend_text(figure: Figure) -> str:
    (legend,) = figure.legends
    text = "\n".join([legend.get_title().get_text(), *(each.get_text() for each in legend.get_texts())])
    return " ".join(text.split())


def drawn_values(axes: Axes, colour: str) -> list[list[float]]:
    return [list(line.get_ydata()) for line in axes.lines if to_hex(line.get_color()) == colour.lower()]


def everything_fits(figure: Figure) -> bool:
    """Whether all that is drawn lies inside the canvas, to one pixel, and no label is cut by another panel's end."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box, whole, pixel = figure.get_tightbbox(canvas.get_renderer()), figure.bbox_inches, 1.0 / figure.dpi
    return bool(min(box.x0, box.y0, whole.x1 - box.x1, whole.y1 - box.y1) >= -pixel)
