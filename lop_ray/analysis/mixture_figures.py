"""The table and the six plots of simple-lop's Gaussian-mixture experiment, for a grid on supervised tasks.

Source: `lop_fixed_regime.py` of ajoudaki/simple-lop (commit 082c941), which writes them for one run; here a row is a
task of one trial, and lines are means over seeds.

| column | what | where from |
|---|---|---|
| task | number of the task, from 1 | |
| min_CE | least loss of the task's gradient steps, each before its step | `tasks.min_loss` |
| final_CE | loss of the last gradient step, before it | `tasks.last_loss` |
| sat | share of pre-activations with abs(z) > 2 after the last step, mean over hidden layers | `layers.saturation` |
| grad_norm | L2 norm of the loss's gradient in all hidden layers before the first step | `layers.gradient_norm` |
| eff_rank_L0, ... | exp of the entropy of the eigenvalues of the pre-activations' covariance, after the last step | `layers.covariance_rank` |
| dup_frac_L0, ... | share of units with abs(correlation) > 0.95 to an earlier one, after the last step | `layers.duplicates` |
| variant, seed | of the trial | |
| fresh_min_CE, fresh_final_CE | the same task learned by a new network; after its last step, as in the source | `tasks.fresh_...` |
| distance | from the task before | `tasks.distance` |

The columns up to `dup_frac` are the source's, in its order. A number that was not measured is empty: `grad_norm` needs
`supervised.update_at_task_start`.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lop_ray.analysis.curves import Curve, variant_order
from lop_ray.analysis.drawing import GREY, legend, legend_above, lines, markers, new_figure, no_rows, seeds_text
from lop_ray.analysis.statistics import Estimate, estimate
from lop_ray.analysis.style import styled
from lop_ray.seeding import numpy_generator

if TYPE_CHECKING:
    import duckdb

CSV_NAME = "lop_fixed_regime_results.csv"
_LOSSES = {
    "lop_minCE": ("min_CE", "fresh_min_CE", "least cross-entropy of a task (nats)"),
    "lop_finalCE": ("final_CE", "fresh_final_CE", "cross-entropy at a task's last step (nats)"),
}
_ONE_LINE = {
    "lop_sat": ("sat", "share of pre-activations with |z| > 2"),
    "lop_grad": ("grad_norm", "gradient norm, hidden layers, at a task's first step"),
}
_BY_LAYER = {
    "lop_effrank": ("eff_rank_L", "effective rank of pre-activations", "viridis"),
    "lop_dup_frac": ("dup_frac_L", "share of duplicate features", "plasma"),
}
FIGURES = ("lop_minCE", "lop_finalCE", "lop_sat", "lop_grad", "lop_effrank", "lop_dup_frac")
"""Names of the six plots, as the source's files."""


def task_table(store: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    """A row for each task that each trial has ended, in the order of variants, seeds and tasks.

    Args:
        store: Connection with the views `trials`, `tasks` and `layers`.

    Returns:
        The columns of this module's table.

    Raises:
        ValueError: No task has ended, or a variant has several trials of a seed.
    """
    tasks = store.execute(
        """
        SELECT trial_id, variant, seed, tasks.task, tasks.update, min_loss AS "min_CE", last_loss AS "final_CE",
               fresh_min_loss AS "fresh_min_CE", fresh_final_loss AS "fresh_final_CE", distance
        FROM tasks JOIN (SELECT trial_id, variant, seed FROM trials) USING (trial_id)
        """
    ).df()
    if tasks.empty:
        raise ValueError("no task has ended yet, or the grid's algorithm has no table of tasks (algorithm: supervised)")
    several = tasks.groupby(["variant", "seed"])["trial_id"].nunique()
    if (several > 1).any():
        variant = several.index[several.to_numpy().argmax()][0]
        raise ValueError(
            f"variant {variant} has several trials a seed: the grid has further axes; take one setting at a time with "
            "--only, a condition in SQL on the columns of `trials`"
        )
    ends = store.execute(
        """
        SELECT trial_id, task, layer, saturation, covariance_rank, duplicates / units AS duplicates
        FROM layers JOIN (SELECT trial_id, task, "update" FROM tasks) USING (trial_id, task, "update")
        WHERE network = 'classifier'
        """
    ).df()
    # The row before a task's first step stands at the step at which the task before ended.
    starts = store.execute(
        """
        SELECT trial_id, task, sqrt(sum(gradient_norm ** 2)) AS grad_norm
        FROM layers
        JOIN (SELECT trial_id, task, env_steps - examples AS env_steps FROM tasks) USING (trial_id, task, env_steps)
        WHERE network = 'classifier' AND gradient_norm IS NOT NULL GROUP BY ALL
        """
    ).df()
    keys = ["trial_id", "task"]
    saturation = ends.groupby(keys)["saturation"].mean().rename("sat").reset_index()
    table = tasks.merge(saturation, on=keys, how="left").merge(starts, on=keys, how="left")
    names: list[str] = []
    for column, prefix in (("covariance_rank", "eff_rank_L"), ("duplicates", "dup_frac_L")):
        wide = ends.pivot(index=keys, columns="layer", values=column)
        wide.columns = pd.Index([f"{prefix}{layer}" for layer in wide.columns])
        names += list(wide.columns)
        table = table.merge(wide.reset_index(), on=keys, how="left")
    place = {name: number for number, name in enumerate(variant_order(table["variant"]))}
    table = table.sort_values(["variant", "seed", "task"], key=lambda c: c.map(place) if c.name == "variant" else c)
    table["task"] += 1
    first = ["task", "min_CE", "final_CE", "sat", "grad_norm", *names]
    return table[[*first, "variant", "seed", "fresh_min_CE", "fresh_final_CE", "distance"]].reset_index(drop=True)


def excess_loss(table: pd.DataFrame, last: float = 0.5) -> dict[str, Estimate]:
    """How much more loss a trained network is left with than a new one on the same tasks, late in a run.

    Of the tasks that a new network learned too, those in the last part of the run: the mean of final_CE less
    fresh_final_CE, first over a seed's tasks, then over seeds, with a 95 % bootstrap interval over seeds. Above 0,
    plasticity was lost.

    Args:
        table: From `task_table`.
        last: Which share of the tasks is the last part.

    Returns:
        The estimate by variant; of those that have a baseline.
    """
    begin = (1 - last) * table["task"].max()
    late = table[(table["task"] > begin) & table["fresh_final_CE"].notna()]
    found = {}
    for variant in variant_order(late["variant"]):
        rows = late[late["variant"] == variant]
        by_seed = (rows["final_CE"] - rows["fresh_final_CE"]).groupby(rows["seed"]).mean()
        found[variant] = estimate(by_seed.to_numpy(), numpy_generator(0, "bootstrap"))
    return found


def figures(table: pd.DataFrame) -> dict[str, Figure]:
    """The six plots by the source's names of files, without their ending.

    Args:
        table: From `task_table`.

    Returns:
        Figures of means over seeds by task. Losses go with those of new networks where the grid has this baseline.
    """
    drawn = {name: loss_figure(table, *which) for name, which in _LOSSES.items()}
    drawn |= {name: loss_figure(table, column, None, label) for name, (column, label) in _ONE_LINE.items()}
    drawn |= {name: layers_figure(table, *which) for name, which in _BY_LAYER.items()}
    return {name: drawn[name] for name in FIGURES}


def task_curves(table: pd.DataFrame, column: str) -> list[Curve]:
    """A column over tasks, one curve a variant; tasks stand in the place of steps.

    Args:
        table: From `task_table`.
        column: Its name.

    Returns:
        Curves of the variants that have a value of it.
    """
    curves = []
    for variant in variant_order(table["variant"]):
        rows = table[table["variant"] == variant]
        wide = rows.pivot(index="seed", columns="task", values=column)
        if wide.notna().to_numpy().any():
            seeds = tuple(int(seed) for seed in wide.index)
            names = tuple(f"{variant}-{seed}" for seed in seeds)
            values = wide.to_numpy(np.float64)
            curves.append(Curve(variant, names, seeds, wide.columns.to_numpy(np.int64), values))
    return curves


@styled
def loss_figure(table: pd.DataFrame, column: str, fresh: str | None, label: str) -> Figure:
    """A column over tasks, one line a variant.

    Args:
        table: From `task_table`.
        column: Its name.
        fresh: Column of the same of new networks, drawn as dots; None: there is none.
        label: Of the axis.

    Returns:
        One panel.
    """
    figure = new_figure(6.2, 3.8)
    axes = figure.subplots()
    axes.set_xlabel("task")
    axes.set_ylabel(label)
    curves = task_curves(table, column)
    if not curves:
        no_rows(axes, "not measured")
        return figure
    lines(axes, curves)
    title = "mean over seeds"
    if fresh is not None and table[fresh].notna().any():
        baseline = table.groupby("task")[fresh].mean().dropna()
        axes.plot(baseline.index, baseline, "o", color=GREY, markersize=3.5)
        title += "; dots: new networks on the same tasks"
    axes.set_ylim(bottom=0.0)
    legend(figure, curves, title)
    return figure


@styled
def layers_figure(table: pd.DataFrame, prefix: str, label: str, colours: str) -> Figure:
    """Columns of all hidden layers over tasks: a panel a variant, a line a layer.

    Args:
        table: From `task_table`.
        prefix: What the columns' names begin with.
        label: Of the axis.
        colours: matplotlib's name of a colour map, first layer to last.

    Returns:
        A panel for each variant.
    """
    columns = [name for name in table.columns if name.startswith(prefix)]
    curves = {name: task_curves(table, name) for name in columns}
    variants = variant_order(curve.variant for each in curves.values() for curve in each)
    figure = new_figure(max(6.2, 1.0 + 3.0 * len(variants)), 4.0)
    panels = figure.subplots(1, max(1, len(variants)), sharex=True, sharey=True, squeeze=False)[0]
    if not variants:
        no_rows(panels[0], "not measured")
        return figure
    shades = mpl.colormaps[colours](np.linspace(0.0, 0.92, len(columns)))
    for axes, variant in zip(panels, variants, strict=True):
        of_variant = [(shade, c) for shade, name in zip(shades, columns, strict=True) for c in curves[name]]
        own: Sequence[tuple[np.ndarray, Curve]] = [(shade, c) for shade, c in of_variant if c.variant == variant]
        for shade, curve in own:
            axes.plot(curve.env_steps, curve.estimate(resamples=1).value, color=shade, **markers(len(curve.env_steps)))
        axes.set_title(f"{variant} (n = {seeds_text(own[0][1])})")
        axes.set_xlabel("task")
        axes.set_ylim(bottom=0.0)
    panels[0].set_ylabel(label)
    handles: list[Artist] = [
        Line2D([], [], color=shade, label=f"hidden layer {number}") for number, shade in enumerate(shades, start=1)
    ]
    legend_above(figure, handles, "mean over seeds", columns=5)
    return figure
