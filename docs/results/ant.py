"""Draws docs/results/ant.png and prints the table of docs/results/ant.md from a results folder.

    python docs/results/ant.py RESULTS

Four measures of Dohare et al. 2024, figure 4, for the policy network: return, units active on at most 1 % of
observations, stable rank of the last hidden layer in % of its units, mean |w| of the 256 x 256 matrix.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lop_ray.analysis.curves import Curve, Measure, layer_curves, return_curves
from lop_ray.analysis.style import line_styles, steps_axis
from lop_ray.results import connect

BIN = 256_000  # 125 updates; the paper's bins are 250,000 steps
SILENT = Measure("silent", "100.0 * silent / units")
PUBLISHED = {  # read off the published figure (about +-3 %)
    "return": ("std: peak about 2,600 near 3M;\nns: peak about 4,100 near 6M", None),
    "mean |w|": ("at initialisation: 0.054", 0.054),
}


def main(results: str) -> None:
    """Draws and prints.

    Args:
        results: Folder of all grids.
    """
    store = connect(results, "ant_grid")
    silent = layer_curves(store, SILENT, BIN)
    both = [_mean(a, b) for a, b in zip(silent["policy", 0], silent["policy", 1], strict=True)]
    panels = {
        "return": return_curves(store, BIN),
        "silent": both,
        "stable rank": layer_curves(store, "stable_rank", BIN)["policy", 1],
        "mean |w|": layer_curves(store, "weight_magnitude", BIN)["policy", 1],
    }
    labels = ["episode return", "units active on <= 1 % (%)", "stable rank (% of units)", "mean |weight|"]
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for axes, label, (name, curves) in zip(figure.subplots(2, 2).ravel(), labels, panels.items(), strict=True):
        looks = line_styles(curve.variant for curve in curves)
        for curve in curves:
            axes.plot(curve.env_steps, np.nanmean(curve.values, 0), **looks[curve.variant], label=curve.variant)
        note, level = PUBLISHED.get(name, ("", None))
        if level is not None:
            axes.axhline(level, color="#777777", lw=0.8, ls=":")
        axes.annotate(note, (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=8, color="#555555")
        axes.set_ylabel(label)
        axes.set_xlabel(steps_axis(axes, float(curves[0].env_steps[-1])))
    figure.axes[0].legend(loc="lower right", title="seed 0, n = 1", frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)
    print("| steps | variant | " + " | ".join(labels) + " |\n|" + "---|" * (len(labels) + 2))
    for million in (0.5, 1, 1.5, 2, 2.5, 3):
        for i, curve in enumerate(panels["return"]):
            at = int(np.argmin(np.abs(curve.env_steps - million * 1e6)))
            cells = [f"{np.nanmean(curves[i].values, 0)[at]:,.3g}" for curves in panels.values()]
            print(f"| {million}M | {curve.variant} | " + " | ".join(cells) + " |")
    for curve in panels["return"]:
        best = int(np.nanargmax(curve.values[0]))
        print(f"best bin of {curve.variant}: {curve.values[0][best]:,.0f} at {curve.env_steps[best]:,.0f} steps")


def _mean(a: Curve, b: Curve) -> Curve:
    assert a.variant == b.variant
    return Curve(a.variant, a.trials, a.seeds, a.env_steps, (a.values + b.values) / 2)


if __name__ == "__main__":
    main(sys.argv[1])
