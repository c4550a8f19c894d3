"""Experiment 1: whether the rank stays up and new tasks are learned better if units are kept from dying.

Each treatment (leaky ReLU, resurrection, bias clipping, activation clamping) is compared with the control seed by seed,
in the second half of the tasks. Verdicts are on the mean over treatments of a seed's differences, one number a seed;
then each treatment's outcome has one of its own, and the table has the rest. Before all, the control must lose
plasticity: otherwise there is nothing to prevent.

A unit counts as dead by its margin where that means that it learns nothing: behind a ReLU. With a leaky activation, or
a clamp that lets the gradient through, a margin below 0 is no death; those units count as 0 dead by construction, and
the table gives the margins below 0 as well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lop_ray.analysis.causality.panel import Panel, drift, read_panel, settings, trial_numbers
from lop_ray.analysis.causality.result import Result, interval_table
from lop_ray.analysis.causality.trend import spearman
from lop_ray.analysis.causality.verdict import Direction, Verdict, over_seeds, verdict_of
from lop_ray.analysis.curves import variant_order
from lop_ray.analysis.paired import effect_size

if TYPE_CHECKING:
    import duckdb

NAME = "prevent_death"
_COLUMNS = ("dead_end", "rank_end", "outcome")
_WITH_A_DEAD_ZONE = ("relu", "crelu", "crelu_wide")


def prevent_death(store: duckdb.DuckDBPyConnection, control: str = "ns", outcome: str | None = None) -> Result:
    """Compares every other variant with the control.

    Args:
        store: Connection with the store's views; one setting of the problem.
        control: The variant without a treatment.
        outcome: As of `read_panel`.

    Returns:
        Verdicts on the control's loss of plasticity, on dead units, rank and outcome under treatment, on each
        treatment's outcome, and on whether treatments that save more units help more.

    Raises:
        ValueError: The control, or any treatment, isn't there.
    """
    panel = read_panel(store, outcome)
    variants = variant_order(panel.rows["variant"])
    if control not in variants or len(variants) < 2:
        raise ValueError(f"the store has variants {', '.join(variants)}; it needs the control '{control}' and others")
    panel = replace(panel, rows=panel.rows.assign(margin_dead_end=panel.rows["dead_end"]))
    learning = learns_when_dead(store)
    alive = panel.rows["trial_id"].isin(learning)
    panel.rows.loc[alive, ["dead_start", "dead_end"]] = 0.0
    numbers = trial_numbers(panel, (*_COLUMNS, "margin_dead_end")).set_index(["variant", "seed"])
    treatments = [each for each in variants if each != control]
    differences = {each: _differences(numbers, each, control) for each in treatments}
    by_seed = pd.concat(differences).groupby("seed")
    means = by_seed.mean()[by_seed.size() == len(treatments)]  # a seed that lacks a treatment is no fair mean
    drifts = trial_numbers(panel, ("outcome",), drift)
    lost = over_seeds(drifts.loc[drifts["variant"] == control, "outcome"])
    verdicts = [
        verdict_of(
            NAME,
            "the control loses plasticity",
            f"change of {panel.outcome} from the first to the last task",
            lost,
            "below",
            note="Without this there is nothing to prevent.",
        )
    ]
    links: tuple[tuple[str, str, str, Direction], ...] = (
        ("dead_end", "treatments keep units alive", "dead units without a gradient, % of units", "below"),
        ("rank_end", "treatments keep the rank up", f"{panel.rank}, % of units", "above"),
        ("outcome", "treatments keep plasticity", panel.outcome, "above"),
    )
    for column, hypothesis, what, direction in links:
        statistic = f"treatments - {control}, late tasks: {what}"
        found = over_seeds(means[column])
        note = f"Mean over {', '.join(treatments)}." if column == "dead_end" else ""
        verdicts.append(verdict_of(NAME, hypothesis, statistic, found, direction, note=note))
    for treatment in treatments if len(treatments) > 1 else ():
        own = over_seeds(differences[treatment]["outcome"])
        statistic = f"{treatment} - {control}, late tasks: {panel.outcome}"
        verdicts.append(verdict_of(NAME, f"{treatment} keeps plasticity", statistic, own, "above"))
    if len(treatments) >= 3:
        verdicts.append(_mediation(differences, panel))
    return Result(verdicts, _table(differences, control), panel)


def learns_when_dead(store: duckdb.DuckDBPyConnection) -> set[str]:
    """Trials in which a unit with a margin below 0 still learns, so that the margin says nothing of death.

    Args:
        store: Connection with the view `trials`.

    Returns:
        Their ids.
    """
    activations = settings(store, "network.activation")
    clamps = settings(store, "interventions.activation_clamping.gradient")
    leaky = {trial for trial, name in activations.items() if name not in _WITH_A_DEAD_ZONE}
    return leaky | {trial for trial, gradient in clamps.items() if gradient == "through"}


def _differences(numbers: pd.DataFrame, treatment: str, control: str) -> pd.DataFrame:
    """Treatment - control for every seed that both have.

    Raises:
        ValueError: Several trials of a seed.
    """
    one, other = numbers.loc[treatment], numbers.loc[control]
    for name, own in ((treatment, one), (control, other)):
        if own.index.has_duplicates:
            raise ValueError(f"variant {name} has several trials a seed: the grid has further axes; give one setting")
    columns = [*_COLUMNS, "margin_dead_end"]
    return pd.DataFrame(one[columns] - other[columns]).dropna(how="all")


def _mediation(differences: dict[str, pd.DataFrame], panel: Panel) -> Verdict:
    """Whether, within a seed, the treatments that save more units gain more."""
    both = pd.concat(differences, names=["variant"])
    rhos = [
        spearman(own["dead_end"].to_numpy(), own["outcome"].to_numpy())
        for _, own in both.dropna(subset=["dead_end", "outcome"]).groupby("seed")
    ]
    statistic = f"Spearman over treatments, within a seed: dead units saved against gain in {panel.outcome}"
    found = over_seeds(-np.array(rhos))
    note = f"{len(differences)} treatments, which differ in more than the units they save."
    return verdict_of(NAME, "treatments that save more units help more", statistic, found, "above", note=note)


def _table(differences: dict[str, pd.DataFrame], control: str) -> pd.DataFrame:
    """A row for each treatment and measure: the paired difference with interval, p and effect size."""
    names = {
        "dead_end": "dead units without a gradient (%)",
        "margin_dead_end": "margins below 0 (%)",
        "rank_end": "rank (%)",
        "outcome": "outcome",
    }
    values = {
        (f"{treatment} \N{MINUS SIGN} {control}", measure): own[column].to_numpy()
        for treatment, own in differences.items()
        for column, measure in names.items()
    }
    table = interval_table(values, ["treatment", "measure"])
    finite = {key: own[np.isfinite(own)] for key, own in values.items()}
    return table.assign(d_z=[effect_size(own, np.zeros(len(own))) for own in finite.values()])
