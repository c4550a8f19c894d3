"""Draws docs/results/slippery_ant.png and prints the tables of docs/results/slippery_ant.md from a results folder.

    python docs/results/slippery_ant.py RESULTS

Return, dead units and units active on at most 1 % of observations (both hidden layers of the policy network), stable
rank of the last hidden layer in % of its units, by bin, with the changes of friction.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lop_ray.analysis import frictions, tasks
from lop_ray.analysis.curves import Curve, Measure, layer_curves, return_curves
from lop_ray.analysis.opening import open_grid
from lop_ray.analysis.style import line_styles, steps_axis

BIN = 102_400  # 50 updates; the paper's bins are 100,000 steps
PERCENT = {name: Measure(name, f"100.0 * {name} / units") for name in ("dead", "silent")}


def main(results: str) -> None:
    """Draws and prints.

    Args:
        results: Folder of all grids.
    """
    store = open_grid(results, "slippery_ant_grid")
    returns = return_curves(store, BIN)
    panels = {"episode return": returns}
    for name, label in (("dead", "dead units (%)"), ("silent", "units active on <= 1 % (%)")):
        layers = layer_curves(store, PERCENT[name], BIN)
        panels[label] = [_mean(a, b) for a, b in zip(layers["policy", 0], layers["policy", 1], strict=True)]
    panels["stable rank (% of units)"] = layer_curves(store, "stable_rank", BIN)["policy", 1]
    starts = tasks.task_starts(store)
    boundaries = tasks.boundaries_of(starts)
    of_task = frictions.task_frictions(store)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    looks = line_styles(curve.variant for curve in returns)
    for axes, (label, curves) in zip(figure.subplots(2, 2).ravel(), panels.items(), strict=True):
        for curve in curves:
            axes.plot(curve.env_steps, np.nanmean(curve.values, 0), **looks[curve.variant], label=curve.variant)
        for step in boundaries:
            axes.axvline(step, color="#777777", lw=0.8, ls=":")
        axes.set_ylabel(label)
        axes.set_xlabel(steps_axis(axes, float(curves[0].env_steps[-1])))
    figure.axes[0].legend(loc="best", title="seed 0, n = 1", frameon=False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)

    edges = [0.0, *map(float, boundaries), float("inf")]
    names = list(panels)
    print("| task | friction | variant | mean return | best bin | last 0.5M | " + " | ".join(names[1:]) + " |")
    print("|" + "---|" * (len(names) + 5))
    for task, (first, last) in enumerate(pairwise(edges)):
        for i, curve in enumerate(returns):
            within = (curve.env_steps > first) & (curve.env_steps <= last)
            bins = np.nanmean(curve.values, 0)[within]
            if len(bins) < 2:
                continue
            ends = [f"{np.nanmean(panels[name][i].values, 0)[within][-1]:.3g}" for name in names[1:]]
            cells = [f"{np.nanmean(bins):,.0f}", f"{np.nanmax(bins):,.0f}", f"{np.nanmean(bins[-5:]):,.0f}", *ends]
            print(f"| {task} | {of_task[0, task]:g} | {curve.variant} | " + " | ".join(cells) + " |")


def _mean(a: Curve, b: Curve) -> Curve:
    assert a.variant == b.variant
    return Curve(a.variant, a.trials, a.seeds, a.env_steps, (a.values + b.values) / 2)


if __name__ == "__main__":
    main(sys.argv[1])
