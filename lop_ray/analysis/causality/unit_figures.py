"""Figures of the causal experiments on layers, order in time, and single units."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lop_ray.analysis.causality.figures import label, task_axis, zero_line
from lop_ray.analysis.causality.margin_profile import Profile, interpretability
from lop_ray.analysis.causality.temporal_order import Order
from lop_ray.analysis.causality.trajectories import Trajectories
from lop_ray.analysis.drawing import GREY, legend_above, line, new_figure, no_rows
from lop_ray.analysis.statistics import Floats, estimate
from lop_ray.analysis.style import line_styles, styled
from lop_ray.seeding import numpy_generator

_MOST_UNITS = 24
_FIRST, _SECOND = "#0072B2", "#D55E00"


@styled
def profile_figure(found: Profile) -> Figure:
    """Dead units and mean margins of every layer over tasks, and the ROC curves of the margin.

    Args:
        found: From `margin_profile`.

    Returns:
        Three panels.
    """
    names = [f"layer {layer + 1} ({interpretability(layer)})" for layer in sorted(found.dead)]
    looks = line_styles(names)
    figure = new_figure(9.9, 3.2)
    dead, margins, roc = figure.subplots(1, 3)
    for name, layer in zip(names, sorted(found.dead), strict=True):
        for axes, values in ((dead, found.dead[layer]), (margins, found.margins[layer])):
            _over_tasks(axes, values, looks[name])
        curve = found.rocs[layer]
        roc.plot(curve.false_positive, curve.true_positive, **looks[name] | {"lw": 1.2})
    dead.set_ylabel(label("dead_end", found.panel))
    margins.set_ylabel("mean margin, task's end")
    zero_line(margins)
    roc.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    roc.set_xlabel("false positive rate")
    roc.set_ylabel("true positive rate")
    handles: list[Artist] = [Line2D([], [], **looks[name], label=name) for name in names]
    n = len(next(iter(found.dead.values())))
    legend_above(figure, handles, f"how interpretable a layer's margins are in brackets; n = {n} seeds", columns=4)
    return figure


@styled
def order_figure(found: Order) -> Figure:
    """Dead units and rank over tasks, their lagged correlation, the rank around deaths, strengths in both directions.

    Args:
        found: From `temporal_order`.

    Returns:
        Five panels.
    """
    figure = new_figure(10.2, 5.4)
    spec = figure.add_gridspec(2, 6)
    dead, rank = (figure.add_subplot(spec[0, part]) for part in (slice(0, 3), slice(3, 6)))
    lags, events, strengths = (figure.add_subplot(spec[1, 2 * place : 2 * place + 2]) for place in range(3))
    rows = found.panel.rows
    column = f"hessian_{found.moment}" if found.rank == "Hessian rank" else f"rank_{found.moment}"
    for axes, name in ((dead, f"dead_{found.moment}"), (rank, column)):
        values = rows.pivot_table(index="seed", columns="task", values=name).to_numpy(np.float64)
        _over_tasks(axes, values, {"color": _FIRST})
        axes.set_ylabel(label(name, found.panel))
    correlation = found.correlation
    lags.fill_between(correlation.lags, correlation.chance_low, correlation.chance_high, color=GREY, alpha=0.2, lw=0)
    n = len(correlation.values)
    line(lags, correlation.lags, correlation.estimate(), n, {"color": _FIRST, "linestyle": "solid"})
    zero_line(lags)
    lags.axvline(0, color=GREY, lw=0.8, ls=":")
    lags.set_xlabel("lag in tasks (right: deaths first)")
    lags.set_ylabel("correlation of changes")
    study = found.events
    if np.isfinite(study.paths).any():
        for placebo, colour in ((False, _SECOND), (True, GREY)):
            path = study.path(placebo=placebo)
            line(events, study.offsets, path, int(path.n.max()), {"color": colour, "linestyle": "solid"})
        zero_line(events)
        events.axvline(-0.5, color=GREY, lw=0.8, ls=":")
    else:
        no_rows(events, "no event with a whole window")
    events.set_xlabel("tasks after a death (grey: placebo)")
    events.set_ylabel(f"{found.rank}, change (%)")
    runs = list(found.granger.runs.values())
    forward = [each.forward.strength for each in runs]
    backward = [each.backward.strength for each in runs]
    strengths.scatter(forward, backward, s=18, color=_FIRST)
    most = 1.05 * max([*forward, *backward, 0.05])
    strengths.plot([0, most], [0, most], color=GREY, lw=0.8)
    strengths.set_xlabel("strength dead units to rank")
    strengths.set_ylabel("strength rank to dead units")
    return figure


@styled
def trajectories_figure(found: Trajectories, layer: int = 0) -> Figure:
    """Margins of the units of one run, and the mean margin around deaths.

    Args:
        found: From `unit_trajectories`.
        layer: The layer of which single units are drawn, counted from 0.

    Returns:
        Two panels.
    """
    figure = new_figure(9.6, 3.4)
    units, around = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.6, 1]})
    own = [each for each in found.histories if each.layer == layer]
    if own:
        first = own[0]
        died = np.unique(first.deaths()[:, 1])
        shown = np.unique(np.linspace(0, first.margins.shape[1] - 1, _MOST_UNITS).round().astype(int))
        for unit in shown:
            dies = unit in died
            colour, width = (_SECOND, 0.8) if dies else ("#9a9a9a", 0.5)
            units.plot(first.updates, first.margins[:, unit], color=colour, lw=width, alpha=0.75 if dies else 0.4)
        units.set_ylim(*np.quantile(first.margins, (0.005, 0.99)))
        of = f", {len(shown)} of {first.margins.shape[1]} units" if len(shown) < first.margins.shape[1] else ""
        units.set_title(f"{first.variant}, seed {first.seed}, hidden layer {layer + 1}{of}")
    else:
        no_rows(units)
    zero_line(units)
    units.set_xlabel("update")
    units.set_ylabel("margin of each unit (dead below 0)")
    if np.isfinite(found.dying).any():
        for values, colour in ((found.dying, _SECOND), (found.surviving, GREY)):
            path = estimate(values, numpy_generator(0, "bootstrap"))
            line(around, found.offsets, path, int(path.n.max()), {"color": colour, "linestyle": "solid"})
        around.axvline(-0.5, color=GREY, lw=0.8, ls=":")
        zero_line(around)
    else:
        no_rows(around, "no death with a whole window")
    around.set_xlabel("measurements after a death")
    around.set_ylabel("margin (spreads of its layer)")
    handles: list[Artist] = [
        Line2D([], [], color=_SECOND, label="units that die"),
        Line2D([], [], color=GREY, label="units that live"),
    ]
    n = len({each.seed for each in found.histories})
    legend_above(figure, handles, f"n = {n} seeds; band: 95 % bootstrap interval over seeds", columns=2)
    return figure


def _over_tasks(axes: Axes, values: Floats, look: dict[str, object]) -> None:
    """Mean over runs of a value a task, [n, K]."""
    if not values.size or not np.isfinite(values).any():
        no_rows(axes)
        return
    result = estimate(values, numpy_generator(0, "bootstrap"))
    n = int(np.isfinite(values).any(axis=1).sum())
    line(axes, 1 + np.arange(values.shape[1]), result, n, {"linestyle": "solid", **look})
    task_axis(axes)
