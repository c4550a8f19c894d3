"""Everything that a report shows of a grid: the figures and tables that its rows allow, in order.

An exhibit whose rows are missing is not drawn; it comes with the reason in place of its content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from lop_ray.analysis import curves as c
from lop_ray.analysis.boundaries import MARGINS, boundary_table, layer_boundaries
from lop_ray.analysis.boundary_figures import NO_ROWS, boundary_deaths_figure, boundary_margins_figure
from lop_ray.analysis.comparison_figures import correlation_figure, difference_figure, profile_figure
from lop_ray.analysis.correlation import LaggedCorrelation, correlation_table, lagged_correlation
from lop_ray.analysis.figures import layer_figure, margins_figure, return_figure, unit_states_figure
from lop_ray.analysis.frictions import task_frictions
from lop_ray.analysis.paired import PAIRED_DIGITS, Comparison, compare_curves, compare_tasks, paired_table
from lop_ray.analysis.paper_figures import internals, internals_figure, spread_figure, weight_change_figure
from lop_ray.analysis.profiles import task_profiles
from lop_ray.analysis.tables import return_table, trials_table, with_intervals
from lop_ray.analysis.task_figures import seed_return_figure, task_auc_figure, task_return_figure
from lop_ray.analysis.tasks import TaskScores, task_scores, task_starts, task_table

if TYPE_CHECKING:
    import duckdb

COLUMNS = 6
"""Figures with a column a variant are split so that none has more."""
LINES = 12
"""Figures with a line a variant are split where there are more, the baseline being in each."""
LINES_OF_A_PART = 8
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_STATES = ("dead", "at_risk", "selective", "always_on")
_PERCENT_LATER = ("dead", "dormant", "silent", "duplicates", "sparsity", "saturation")
_RANKS = ("stable_rank", "effective_rank", "feature_rank", "pca_rank", "covariance_rank", "numerical_rank",
          "relative_rank")  # fmt: skip
_WEIGHTS = ("weight_magnitude", "weight_norm", "init_distance", "spectral_norm", "condition_number", "weight_rank")


Parts = Sequence[Sequence[str]]
"""Which variants share a figure."""


@dataclass(frozen=True)
class Exhibit:
    """One figure or table.

    Attributes:
        section: Heading that it stands under.
        name: Its file's name, without ending.
        title: What it shows.
        caption: How it was computed, a few sentences.
        content: A figure, a table of text, or, as text, why there is none.
    """

    section: str
    name: str
    title: str
    caption: str
    content: Figure | pd.DataFrame | str


def exhibits(store: duckdb.DuckDBPyConnection, baseline: str) -> Iterator[Exhibit]:
    """All exhibits of one setting of a grid (a seed may occur once a variant).

    Args:
        store: Connection with the store's views, narrowed to one setting.
        baseline: The variant that the others are compared with.

    Yields:
        Exhibits, section by section.
    """
    variants = c.variant_order(row[0] for row in store.execute("SELECT DISTINCT variant FROM trials").fetchall())
    lines = line_parts(variants, baseline)
    columns = [variants[at : at + COLUMNS] for at in range(0, len(variants), COLUMNS)]
    bin_steps = c.suitable_bin(store)
    returns = c.return_curves(store, bin_steps)
    scores = task_scores(store, bin_steps)
    yield from _returns(store, returns, bin_steps, lines)
    yield from _tasks(store, returns, scores, bin_steps, lines)
    yield from _comparisons(returns, scores, baseline, lines)
    yield from _boundaries(store, columns)
    yield from _paper(store, bin_steps, lines)
    yield from _inside(store, bin_steps, lines, columns)
    yield from _correlations(store, returns, bin_steps, lines)


def line_parts(variants: Sequence[str], baseline: str) -> list[list[str]]:
    """Which variants share a figure with a line each: all, or, where there are many, some and the baseline."""
    if len(variants) <= LINES:
        return [list(variants)]
    others = [name for name in variants if name != baseline]
    parts = [others[at : at + LINES_OF_A_PART] for at in range(0, len(others), LINES_OF_A_PART)]
    return [[baseline, *part] for part in parts]


def _returns(
    store: duckdb.DuckDBPyConnection, returns: list[c.Curve], bin_steps: int, lines: Parts
) -> Iterator[Exhibit]:
    section = "Return"
    caption = "n is the number of seeds; the other columns say how many of them stand how, and how far they are."
    yield Exhibit(section, "trials", "Trials by variant", caption, trials_table(store))
    if not returns:
        yield Exhibit(section, "return", "Return", "", "no episode has ended yet")
        return
    caption = (
        "Undiscounted return of the episodes that end in a bin: first the mean within a bin for each seed, then mean "
        "and interquartile mean over seeds. Bands: 95 % bootstrap over seeds, too narrow with fewer than ten."
    )
    shell = Exhibit(section, "return", "Return over environment steps", caption, "")
    yield from _in_parts(shell, returns, lambda part: return_figure(part, bin_steps), lines)
    caption = (
        "final: mean over the last tenth of the steps; whole: mean over all bins that a seed has (area under the "
        "curve, divided by steps); peak: highest bin of the mean curve. value [low, high] is a 95 % bootstrap interval "
        "over the n seeds; n_final seeds came as far as the last tenth."
    )
    yield Exhibit(section, "return_table", "Return in numbers", caption, with_intervals(return_table(returns)))
    caption = "The dark band is the interval of the mean, the light one reaches from the least to the greatest seed."
    yield Exhibit(section, "return_spread", "How far apart the seeds are", caption, spread_figure(returns))


def _tasks(
    store: duckdb.DuckDBPyConnection,
    returns: list[c.Curve],
    scores: list[TaskScores],
    bin_steps: int,
    lines: Parts,
) -> Iterator[Exhibit]:
    section, starts = "Tasks", task_starts(store)
    caption = (
        "Area under the return curve of a task, divided by its steps; mean over the n seeds that completed the task, "
        "with a 95 % bootstrap interval. incomplete: seeds that entered the task and did not go through it; they don't "
        "count."
    )
    if scores:
        table = with_intervals(task_table(scores))
        yield Exhibit(section, "task_table", "Area under the curve by task", caption, table)
    if starts["task"].nunique() < 2:
        yield Exhibit(section, "tasks", "Figures by task", "", "the task never changed")
        return
    if returns:
        about = "A change comes at the end of an episode (or of an update) and so not at the same step in every trial."
        shell = Exhibit(section, "return_tasks", "Return with task boundaries", about, "")
        yield from _in_parts(shell, returns, lambda part: task_return_figure(part, starts, bin_steps), lines)
        about = "All variants of a seed go through the same sequence of tasks: compare within a panel."
        shell = Exhibit(section, "return_seeds", "Return seed by seed", about, "")
        frictions, what = task_frictions(store), "friction of the task"
        yield from _in_parts(shell, returns, lambda part: seed_return_figure(part, starts, frictions, what=what), lines)
        shell = Exhibit(section, "task_auc", "Area under the curve by task", caption, "")
        yield from _in_parts(shell, scores, task_auc_figure, lines)


def _comparisons(returns: list[c.Curve], scores: list[TaskScores], baseline: str, lines: Parts) -> Iterator[Exhibit]:
    section = f"Compared with {baseline}"
    base, others = _split(returns, baseline)
    task_base = next((each for each in scores if each.variant == baseline), None)
    if base is None or not others:
        reason = f"no other variant than {baseline}" if base else f"{baseline} has no return yet"
        yield Exhibit(section, "paired", "Paired comparison", "", f"{reason}: nothing to compare")
    else:
        comparisons: list[Comparison] = []
        by_task: list[Comparison] = []
        for other in others:
            comparisons += [compare_curves(other, base), compare_curves(other, base, last=0.1)]
        for each in scores:
            if task_base is not None and each.variant != baseline and len(each.tasks) > 1:
                overall, *rest = compare_tasks(each, task_base)
                comparisons.append(overall)
                by_task += rest
        caption = (
            "A pair is one seed of both variants: same initial weights, same environment seeds, same sequence of "
            "tasks. difference: mean over pairs with its 95 % paired bootstrap interval, not corrected for the number "
            "of comparisons; d_z: mean over standard deviation of the differences; improvement: P(first > second) "
            "over all pairs of runs (Agarwal et al. 2021), with its interval; wins: share of the seeds in which the "
            "first is better. unpaired: seeds left out; compared: share of the bins (or tasks) that both trials of a "
            "pair have, least to greatest."
        )
        yield Exhibit(section, "paired", "Paired differences", caption, difference_figure(comparisons))
        table = with_intervals(paired_table(comparisons), own=PAIRED_DIGITS)
        yield Exhibit(section, "paired_table", "Paired differences in numbers", caption, table)
        if by_task:
            table = with_intervals(paired_table(by_task), own=PAIRED_DIGITS)
            yield Exhibit(section, "paired_tasks", "Paired differences task by task", caption, table)
    caption = (
        "Share of (trial, task) scores above each threshold (Agarwal et al. 2021, section 4.2), where the score is the "
        "area under the return curve of a task divided by its steps. Bands: 95 % bootstrap over trials, which are "
        "resampled with all their tasks. A curve that lies above another everywhere is better whatever counts as good."
    )
    shell = Exhibit(section, "profile", "Performance profile", caption, "no trial has completed a task")
    yield from _in_parts(shell, task_profiles(scores), profile_figure, lines)


def _boundaries(store: duckdb.DuckDBPyConnection, columns: Parts) -> Iterator[Exhibit]:
    section = "Task boundaries"
    layers = layer_boundaries(store)
    if not layers:
        yield Exhibit(section, "boundaries", "Margins at task boundaries", "", NO_ROWS)
        return
    caption = (
        "Mean margin (greatest pre-activation over the observations) when the task of this number began: of the old "
        "weights on the old task's last observations; of the old weights on the new task's first observations "
        "(predictive: what the shift alone does); of the new weights on the same (actual: with the adaptation)."
    )
    shell = Exhibit(section, "boundary_margins", "Margins at task boundaries", caption, "")
    yield from _in_parts(shell, layers, boundary_margins_figure, columns)
    caption = (
        "A unit is dead when its margin is below 0. Killed or revived by the shift: between the old weights on the old "
        "and on the new task; by the adaptation: between the old and the new weights on the new task."
    )
    shell = Exhibit(section, "boundary_deaths", "Units killed and revived at task boundaries", caption, "")
    yield from _in_parts(shell, layers, boundary_deaths_figure, columns)
    own = dict.fromkeys(MARGINS, 2)
    table = with_intervals(boundary_table(layers), digits=1, own=own)
    title = "Units killed and revived at a boundary, in % of the layer"
    caption = (
        "Mean over the boundaries of a seed, then over the n seeds, with 95 % bootstrap intervals over seeds; layers "
        "are counted from 1. Margins as above."
    )
    yield Exhibit(section, "boundary_table", title, caption, table)


def _paper(store: duckdb.DuckDBPyConnection, bin_steps: int, lines: Parts) -> Iterator[Exhibit]:
    section = "The paper's measures"
    names = c.networks(store)
    network = "policy" if "policy" in names or not names else names[0]
    caption = (
        f"Return; units of the {network} network active on at most 1 % of the latest observations (what Dohare et "
        "al. 2024 call dormant), mean over its hidden layers; stable rank of its last hidden layer; mean |weight| "
        "into that layer."
    )
    shell = Exhibit(section, "internals", "Return and what happens inside", caption, "no rows")
    panels = internals(store, bin_steps, network)
    yield from _in_parts(shell, panels, lambda part: internals_figure(part, f"{network} network"), lines)
    wide = c.suitable_bin(store, points=20, usual=c.WEIGHT_CHANGE_BIN_STEPS)
    changes = c.weight_change_curves(store, wide)
    caption = "Sum of |weight change| over the policy network's weights in one update, the largest update of each bin."
    shell = Exhibit(section, "weight_change", "Weight change", caption, "no row of updates has a weight change")
    yield from _in_parts(shell, changes, lambda part: weight_change_figure(part, wide), lines)


def _inside(store: duckdb.DuckDBPyConnection, bin_steps: int, lines: Parts, columns: Parts) -> Iterator[Exhibit]:
    section = "Units"
    states = {name: c.layer_curves(store, name, bin_steps) for name in _STATES}
    caption = (
        "By the pre-activations over the latest observations: dead, greatest < 0; at risk, greatest below 0.1; "
        "selective, of both signs; always on, least > 0. Mean over seeds, a column a variant."
    )
    shell = Exhibit(section, "unit_states", "What the units do", caption, "no row of layers counts units by state")
    yield from _in_parts(shell, states if all(states.values()) else {}, unit_states_figure, columns)
    for name in _PERCENT_LATER:
        yield from _layers(store, section, name, bin_steps, lines)
    section = "Margins"
    yield from _layers(store, section, "mean_margin", bin_steps, lines)
    quantiles = {q: c.layer_curves(store, c.margin_quantile(q), bin_steps) for q in QUANTILES}
    caption = "Quantiles over the units of a layer, mean over updates in a bin and over seeds. Below 0 a unit is dead."
    shell = Exhibit(section, "margins", "How margins spread over units", caption, "no row of neurons")
    yield from _in_parts(shell, quantiles if all(quantiles.values()) else {}, margins_figure, columns)
    for name in _RANKS:
        yield from _layers(store, "Ranks", name, bin_steps, lines)
    for name in _WEIGHTS:
        yield from _layers(store, "Weights", name, bin_steps, lines)


def _layers(
    store: duckdb.DuckDBPyConnection, section: str, name: str, bin_steps: int, lines: Parts
) -> Sequence[Exhibit]:
    """One measure of every layer, if any row has it."""
    measure = c.MEASURES[name]
    found = c.layer_curves(store, measure, bin_steps)
    title = measure.label[0].upper() + measure.label[1:]
    shell = Exhibit(section, name, title, "Mean over seeds, with 95 % bootstrap intervals over seeds.", "")
    if not found:
        return []
    return _in_parts(shell, found, lambda part: layer_figure(part, measure.label, percent=measure.percent), lines)


def _correlations(
    store: duckdb.DuckDBPyConnection, returns: list[c.Curve], bin_steps: int, lines: Parts
) -> Iterator[Exhibit]:
    section = "What moves first"
    names = c.networks(store)
    network = "policy" if "policy" in names or not names else names[0]
    dead = c.network_curves(store, "dead", network, bin_steps)
    rank = c.network_curves(store, "stable_rank", network, bin_steps)
    pairs = {"dead units, then return": (dead, returns), "stable rank, then return": (rank, returns)}
    pairs["dead units, then stable rank"] = (dead, rank)
    pairs = {title: two for title, two in pairs.items() if all(two)}
    if not pairs:
        yield Exhibit(section, "correlation", "Lagged correlation", "", "no two of dead units, rank and return")
        return
    levels = {title: _correlated(*two, bin_steps, changes=False) for title, two in pairs.items()}
    changes = {title: _correlated(*two, bin_steps, changes=True) for title, two in pairs.items()}
    caption = (
        f"Spearman correlation within a trial between bins of {bin_steps:,} steps of the {network} network (mean over "
        "its hidden layers), then mean over trials; bands: 95 % bootstrap over trials. To the right of 0 the first "
        "measure moves before the second. Two measures that both drift correlate at every lag: what is left in the "
        "lower row, of changes from bin to bin, is not a common trend. A correlation is no cause."
    )
    shell = Exhibit(section, "correlation", "Lagged correlation", caption, "")
    both = {"levels": levels, "changes": changes}
    yield from _in_parts(shell, both, lambda part: correlation_figure(part["levels"], part["changes"]), lines)
    named = {f"{title}, values": found for title, found in levels.items()}
    named |= {f"{title}, changes": found for title, found in changes.items()}
    digits = dict.fromkeys(("r", "r_strongest"), 2)
    caption = (
        "r at lag 0, and where it is strongest; that lag was chosen after seeing the data, so its interval is too "
        "narrow. n: trials with a correlation."
    )
    table = with_intervals(correlation_table(named), own=digits)
    yield Exhibit(section, "correlation_table", "Lagged correlation in numbers", caption, table)


def _correlated(
    first: Sequence[c.Curve], second: Sequence[c.Curve], bin_steps: int, *, changes: bool
) -> list[LaggedCorrelation]:
    seconds = {curve.variant: curve for curve in second}
    most = max(len(curve.env_steps) for curve in first)
    max_lag = max(1, min(10, most // 4))
    return [
        lagged_correlation(curve, seconds[curve.variant], bin_steps, max_lag, changes=changes)
        for curve in first
        if curve.variant in seconds
    ]


def _split(curves: Sequence[c.Curve], baseline: str) -> tuple[c.Curve | None, list[c.Curve]]:
    base = next((curve for curve in curves if curve.variant == baseline), None)
    return base, [curve for curve in curves if curve.variant != baseline]


def _in_parts(shell: Exhibit, things: Any, draw: Callable[[Any], Figure], parts: Parts) -> list[Exhibit]:
    """A figure for each part of the variants, out of things that have a variant, in mappings and lists.

    Where there is nothing, the shell comes back, whose content says why.
    """
    kept = [each for each in (_of(things, part) for part in parts) if _any(each)]
    if not kept:
        return [shell]
    drawn = []
    for number, part in enumerate(kept, start=1):
        suffix, of = (f"_{number}", f" ({number} of {len(kept)})") if len(kept) > 1 else ("", "")
        drawn.append(replace(shell, name=shell.name + suffix, title=shell.title + of, content=draw(part)))
    return drawn


def _of(things: Any, part: Sequence[str]) -> Any:
    if isinstance(things, Mapping):
        return {name: _of(inner, part) for name, inner in things.items()}
    return [each for each in things if each.variant in part]


def _any(things: Any) -> bool:
    return any(_any(inner) for inner in things.values()) if isinstance(things, Mapping) else bool(things)
