"""Experiment 3: margins layer by layer, looking back. Where units die, and whether a small margin foretells it.

- death accumulation: dead units of each layer over tasks;
- margin erosion: the mean margin of each layer over tasks;
- profile: dead units by depth in the late tasks;
- correlations of margin, dead units, rank and outcome over tasks, within a run;
- ROC: the margin of a living unit at a task's first measurement as a predictor of its death by the task's last.

The source counts the first layer's margins as highly interpretable (raw data), those of the second and third as
medium, and deeper ones as low: there, what a unit sees is what the layers before have made of the data. Verdicts rest
on the first three. A margin below 0 means death behind a ReLU alone; in other trials nothing here speaks of death.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lop_ray.analysis.causality.histories import History, read_histories
from lop_ray.analysis.causality.panel import Panel, drift, late, read_panel
from lop_ray.analysis.causality.prevent_death import learns_when_dead
from lop_ray.analysis.causality.result import interval_table
from lop_ray.analysis.causality.roc import Roc, roc_over_runs
from lop_ray.analysis.causality.trend import spearman
from lop_ray.analysis.causality.verdict import Direction, Interval, Verdict, over_seeds, verdict_of
from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.statistics import Floats

if TYPE_CHECKING:
    import duckdb

NAME = "margin_profile"
INTERPRETABLE = 3
"""Layers, from the first, on which verdicts rest."""
PAIRS = (
    ("margin_end", "rank_end"),
    ("margin_end", "outcome"),
    ("dead_end", "rank_end"),
    ("dead_end", "outcome"),
    ("rank_end", "outcome"),
)


@dataclass(frozen=True)
class Profile:
    """What was found layer by layer.

    Attributes:
        verdicts: In the order of the argument.
        layers: A row a layer and measure, with intervals and how interpretable the layer is.
        correlations: A row a pair of measures, of values and of changes from task to task.
        dead: By layer, [n, K], dead units at the end of each task, % of units.
        margins: By layer, [n, K], mean margin then.
        rocs: By layer, and under -1 the interpretable ones together.
        panel: The data by task.
    """

    verdicts: list[Verdict]
    layers: pd.DataFrame
    correlations: pd.DataFrame
    dead: dict[int, Floats]
    margins: dict[int, Floats]
    rocs: dict[int, Roc]
    panel: Panel


def interpretability(layer: int) -> str:
    """High for the first hidden layer (0), medium for the second and third, low for deeper ones."""
    return "high" if layer == 0 else "medium" if layer < INTERPRETABLE else "low"


def margin_profile(store: duckdb.DuckDBPyConnection, variant: str | None = None, outcome: str | None = None) -> Profile:
    """Margins layer by layer.

    Args:
        store: Connection with the store's views.
        variant: Which variant; None: the first.
        outcome: As of `read_panel`.

    Returns:
        Verdicts on accumulation, erosion, depth, prediction and correlation.

    Raises:
        ValueError: Margins don't mean death in these trials, or there are none.
    """
    panel = read_panel(store, outcome)
    name = variant or variant_order(panel.rows["variant"])[0]
    rows = panel.rows[panel.rows["variant"] == name]
    if learns_when_dead(store) & set(rows["trial_id"]):
        raise ValueError(f"in {name} a unit with a margin below 0 still learns: choose a variant with plain ReLUs")
    own = Panel(rows, panel.outcome, panel.rank, panel.network)
    histories = read_histories(store, name, panel.network)
    depth = sorted({each.layer for each in histories})
    dead = {layer: _over_tasks(histories, layer, lambda m: 100 * (m < 0).mean(axis=1)) for layer in depth}
    margins = {layer: _over_tasks(histories, layer, lambda m: m.mean(axis=1)) for layer in depth}
    rocs = {layer: _roc([each for each in histories if each.layer == layer]) for layer in depth}
    trusted = [layer for layer in depth if layer < INTERPRETABLE]
    rocs[-1] = _roc([each for each in histories if each.layer in trusted])
    values = {}
    for layer in depth:
        key = (layer + 1, interpretability(layer))
        values[(*key, "dead units, late tasks (%)")] = [late(run) for run in dead[layer]]
        values[(*key, "dead units, change over the run (%)")] = [drift(run) for run in dead[layer]]
        values[(*key, "mean margin, change over the run")] = [drift(run) for run in margins[layer]]
        values[(*key, "AUC of the margin")] = list(rocs[layer].of_runs)
    layers = interval_table(values, ["layer", "interpretable", "measure"])
    # That of an AUC would be against 0.
    layers.loc[layers.index.get_level_values("measure") == "AUC of the margin", "p"] = np.nan
    correlations, within = _correlations(own, name)
    return Profile(
        _verdicts(dead, margins, rocs[-1], within, trusted, own), layers, correlations, dead, margins, rocs, own
    )


def _verdicts(
    dead: dict[int, Floats],
    margins: dict[int, Floats],
    roc: Roc,
    within: dict[tuple[str, str], Interval],
    trusted: list[int],
    panel: Panel,
) -> list[Verdict]:
    where = f"layers 1 to {len(trusted)}" if len(trusted) > 1 else "layer 1"
    accumulated = np.mean([[drift(run) for run in dead[layer]] for layer in trusted], axis=0)
    eroded = np.mean([[drift(run) for run in margins[layer]] for layer in trusted], axis=0)
    every_depth = np.array([[late(run) for run in dead[layer]] for layer in sorted(dead)])
    deeper = [spearman(np.arange(len(dead), dtype=float), run) for run in every_depth.T] if len(dead) > 2 else []
    threshold = f"{-roc.threshold:.2g}" if np.isfinite(roc.threshold) else "none"
    verdicts = [
        verdict_of(
            NAME,
            "dead units accumulate over tasks",
            f"dead units, {where}, change from first to last task in % of units",
            over_seeds(accumulated),
            "above",
        ),
        verdict_of(
            NAME,
            "margins erode over tasks",
            f"mean margin, {where}, change from first to last task",
            over_seeds(eroded),
            "below",
        ),
        verdict_of(
            NAME,
            "deeper layers lose more units",
            "Spearman over layers within a run: depth against dead units in late tasks",
            over_seeds(deeper),
            "above",
            note=f"{len(dead)} layers.",
        ),
        verdict_of(
            NAME,
            "a small margin at a task's start foretells death by its end",
            f"AUC, {where}, mean over runs",
            roc.auc,
            "above",
            null=0.5,
            note=f"{roc.cases} deaths of {roc.cases + roc.survivors} living units; best threshold: margin {threshold}.",
        ),
    ]
    links: tuple[tuple[str, str, str, Direction], ...] = (
        ("dead_end", "rank_end", "where units die the rank falls", "below"),
        ("dead_end", "outcome", "where units die tasks are learned worse", "below"),
        ("margin_end", "outcome", "where margins are large tasks are learned better", "above"),
    )
    for first, second, hypothesis, direction in links:
        statistic = (
            f"Spearman of changes from task to task within a run: {_words(first, panel)}, {_words(second, panel)}"
        )
        verdicts.append(verdict_of(NAME, hypothesis, statistic, within[first, second], direction))
    return verdicts


def _over_tasks(histories: list[History], layer: int, measure: Callable[[Floats], Floats]) -> Floats:
    """A number of a layer at the end of each task, [n, K]; NaN behind the last task of shorter runs."""
    runs = [measure(each.margins[each.task_ends()]) for each in histories if each.layer == layer]
    most = max(len(run) for run in runs)
    return np.stack([np.concatenate([run, np.full(most - len(run), np.nan)]) for run in runs])


def _roc(histories: list[History]) -> Roc:
    """Margin of living units at the first measurement of a task against death at its last, by seed."""
    runs: dict[int, tuple[list[Floats], list[Floats]]] = {}
    for each in histories:
        scores, died = runs.setdefault(each.seed, ([], []))
        for first, last in zip(each.task_starts(), each.task_ends(), strict=True):
            alive = each.margins[first] >= 0
            if last > first:
                scores.append(-each.margins[first, alive])
                died.append(each.dead[last, alive])
    nothing = np.zeros(0)
    return roc_over_runs(
        [np.concatenate([nothing, *scores]) for scores, _ in runs.values()],
        [np.concatenate([nothing.astype(bool), *died]) for _, died in runs.values()],
    )


def _correlations(panel: Panel, variant: str) -> tuple[pd.DataFrame, dict[tuple[str, str], Interval]]:
    """Spearman over tasks within each run, of values and of changes; the latter also as intervals."""
    values = {}
    for first, second in PAIRS:
        x, y = panel.series(first, variant), panel.series(second, variant)
        for kind, prepare in (("values", lambda z: z), ("changes", np.diff)):
            rhos = [_correlation(prepare(x[seed]), prepare(y[seed])) for seed in x]
            values[(f"{_words(first, panel)}, {_words(second, panel)}", kind)] = rhos
    changes = {
        pair: over_seeds(values[f"{_words(pair[0], panel)}, {_words(pair[1], panel)}", "changes"]) for pair in PAIRS
    }
    return interval_table(values, ["pair", "of"]), changes


def _correlation(x: Floats, y: Floats) -> float:
    there = np.isfinite(x) & np.isfinite(y)
    if there.sum() < 8 or np.ptp(x[there]) == 0 or np.ptp(y[there]) == 0:
        return np.nan
    return spearman(x[there], y[there])


def _words(column: str, panel: Panel) -> str:
    return {"margin_end": "mean margin", "dead_end": "dead units", "rank_end": panel.rank, "outcome": panel.outcome}[
        column
    ]
