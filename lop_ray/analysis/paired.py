"""Two variants compared seed by seed.

Two trials with one seed see the same initial weights, the same env seeds and the same sequence of tasks, so the honest
comparison is that of pairs: a sequence of hard tasks is hard for both. The unit of resampling is the pair (a seed),
never a task or an episode: the tasks of a seed went through one network and aren't independent.

For n pairs with scores x_i (first) and y_i (second), and d_i = x_i - y_i:

- difference: mean(d), with a percentile bootstrap interval over pairs (Efron & Tibshirani 1993, section 13.3);
- effect size: Cohen's d_z = mean(d) / sd(d), with n - 1 in sd (Lakens 2013, Front. Psychol. 4:863, equation 6);
- probability of improvement: P(X > Y) = mean over all i, j of 1[x_i > y_j] + 1[x_i = y_j] / 2, the Mann-Whitney
  statistic of Agarwal et al. 2021 (section 4.3), with an interval over the same draws of pairs;
- wins: share of pairs with x_i > y_i, ties half.

Intervals are for one comparison each and aren't widened for the number of comparisons in a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lop_ray.analysis.curves import Curve
from lop_ray.analysis.statistics import Estimate, Floats, estimate
from lop_ray.analysis.tasks import TaskScores
from lop_ray.seeding import numpy_generator

RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """The first variant against the second, on one score.

    Attributes:
        first, second: The variants.
        score: What is compared, in words.
        seeds: [n], seeds for which both have a score.
        unpaired: Seeds that are left out, by who has a score: "only std", "only cbp", "neither"
            (or no bin in common).
        first_scores, second_scores: [n].
        difference: Mean of first - second, with its interval.
        effect_size: Cohen's d_z; NaN with fewer than two pairs or without spread.
        improvement: P(first > second) over all pairs of runs, with its interval.
        wins: Share of the seeds in which the first is better.
        coverage: Least and greatest share of the bins (or tasks) that the two trials of a pair have in common, and
            over which they were compared; 1 where all have all, NaN without a pair.
    """

    first: str
    second: str
    score: str
    seeds: tuple[int, ...]
    unpaired: dict[str, tuple[int, ...]]
    first_scores: Floats
    second_scores: Floats
    difference: Estimate
    effect_size: float
    improvement: Estimate
    wins: float
    coverage: tuple[float, float]

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.seeds)


def compare(
    first: Mapping[int, float],
    second: Mapping[int, float],
    names: tuple[str, str],
    score: str = "score",
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compares two variants on one score a seed.

    A score that is NaN is a missing one. Seeds that only one of the two has are left out and named in `unpaired`.

    Args:
        first: Score of the first variant by seed.
        second: Score of the second.
        names: Their names.
        score: What the score is.
        seed: Of the bootstrap's generator.
        resamples: Number of draws.

    Returns:
        The comparison; without a pair all numbers are NaN and n is 0, with one pair there is no interval.
    """
    one, other = ({each for each in scores if np.isfinite(scores[each])} for scores in (first, second))
    seeds = tuple(sorted(one & other))
    x, y = (np.array([scores[each] for each in seeds], dtype=np.float64) for scores in (first, second))
    d = x - y
    neither = (first.keys() | second.keys()) - one - other
    unpaired = {f"only {names[0]}": one - other, f"only {names[1]}": other - one, "neither": neither}
    return Comparison(
        names[0],
        names[1],
        score,
        seeds,
        {who: tuple(sorted(left_out)) for who, left_out in unpaired.items() if left_out},
        x,
        y,
        estimate(d, numpy_generator(seed, "bootstrap"), resamples=resamples) if len(d) else _nothing(),
        effect_size(x, y),
        probability_of_improvement(x, y, seed=seed, resamples=resamples),
        float(np.mean((d > 0) + 0.5 * (d == 0))) if len(d) else np.nan,
        (1.0, 1.0) if len(d) else (np.nan, np.nan),
    )


def compare_curves(
    first: Curve, second: Curve, *, last: float = 1.0, score: str | None = None, seed: int = 0
) -> Comparison:
    """Compares the mean over the bins that both trials of a seed have.

    A trial that ended early (it diverged, or still runs) is compared as far as it came, its partner as far as that;
    `coverage` says how far that was. A seed whose trials have no bin in common is left out.

    Args:
        first: Curve of the first variant.
        second: Curve of the second, over the same bins.
        last: Share of the steps that counts, from the end: 1 is the whole run, 0.1 its last tenth.
        score: What it is called; by default "return, whole run" or "return, last 10 %".
        seed: Of the bootstrap's generator.

    Returns:
        The comparison.

    Raises:
        ValueError: The curves aren't over the same bins.
    """
    if not np.array_equal(first.env_steps, second.env_steps):
        raise ValueError(f"the curves of {first.variant} and {second.variant} are over different bins")
    window = first.env_steps > (1.0 - last) * first.env_steps[-1]
    rows = [dict(zip(curve.seeds, curve.values[:, window], strict=True)) for curve in (first, second)]
    scores = _over_common(rows[0], rows[1]), _over_common(rows[1], rows[0])
    if score is None:
        score = "return, whole run" if last >= 1.0 else f"return, last {100 * last:g} %"
    result = compare(scores[0], scores[1], (first.variant, second.variant), score, seed=seed)
    return replace(result, coverage=_coverage(rows[0], rows[1], result.seeds))


def compare_tasks(first: TaskScores, second: TaskScores, *, seed: int = 0) -> list[Comparison]:
    """Compares the area under the return curve: over all tasks, and task by task.

    The score over all tasks is a seed's mean over the tasks that both of its trials completed.

    Args:
        first: Scores of the first variant.
        second: Scores of the second, over the same tasks.
        seed: Of the bootstrap's generator.

    Returns:
        The comparison over all tasks, then, if there are several, one for each task.

    Raises:
        ValueError: The two were on different tasks.
    """
    if first.tasks != second.tasks:
        raise ValueError(f"{first.variant} and {second.variant} have different tasks: score both from one store")
    _check_sequences(first, second)
    names = (first.variant, second.variant)
    rows = [dict(zip(each.seeds, each.whole, strict=True)) for each in (first, second)]
    overall = _over_common(rows[0], rows[1]), _over_common(rows[1], rows[0])
    result = compare(overall[0], overall[1], names, "area under the curve, all tasks", seed=seed)
    comparisons = [replace(result, coverage=_coverage(rows[0], rows[1], result.seeds))]
    if len(first.tasks) > 1:
        for place, task in enumerate(first.tasks):
            scores = [{each: float(values[place]) for each, values in own.items()} for own in rows]
            comparisons.append(compare(scores[0], scores[1], names, f"area under the curve, task {task}", seed=seed))
    return comparisons


def effect_size(x: ArrayLike, y: ArrayLike) -> float:
    """Cohen's d_z = mean(x - y) / sd(x - y) of n pairs; NaN for n < 2 or differences that are all equal."""
    d = np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64)
    if len(d) < 2:
        return np.nan
    spread = float(np.std(d, ddof=1))
    return float(d.mean()) / spread if spread > 1e-12 * float(np.abs(d).max()) else np.nan


def probability_of_improvement(
    x: ArrayLike, y: ArrayLike, *, paired: bool = True, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """P(X > Y) + P(X = Y) / 2 over all pairs of a run of X and a run of Y, with its 95 % bootstrap interval.

    Args:
        x: [n], scores of the runs of X.
        y: [m], scores of the runs of Y; m = n if paired.
        paired: Draw pairs (x_i, y_i); false: draw the runs of X and of Y apart, as Agarwal et al. 2021 do.
        seed: Of the bootstrap's generator.
        resamples: Number of draws.

    Returns:
        The estimate, a scalar; its `n` is the smaller number of runs.

    Raises:
        ValueError: Paired, and n is not m.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if paired and len(x) != len(y):
        raise ValueError(f"x has {len(x)} scores and y has {len(y)}; pairs need as many of each, or paired=False")
    n = min(len(x), len(y))
    if n == 0:
        return _nothing()
    better = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    value = float(better.mean())
    if n < 2:
        return Estimate(np.array(value), np.array(np.nan), np.array(np.nan), np.array(n))
    generator = numpy_generator(seed, "bootstrap")
    of_x = _counts(generator, resamples, len(x))
    of_y = of_x if paired else _counts(generator, resamples, len(y))
    drawn = np.einsum("ri,ij,rj->r", of_x, better, of_y, optimize=True) / (len(x) * len(y))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(np.array(value), np.array(low), np.array(high), np.array(n))


def paired_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Comparisons as a table.

    Args:
        comparisons: Any.

    Returns:
        A row a comparison: variants, score, n (pairs), unpaired (seeds left out, in words), compared (share of the
        bins or tasks, in words), mean of each, the difference with its interval, d_z, improvement with its
        interval, wins.
    """
    rows = []
    for each in comparisons:
        left_out = "; ".join(f"{who}: {_listed(seeds)}" for who, seeds in each.unpaired.items())
        row: dict[str, float | int | str] = {"variants": f"{each.first} \N{MINUS SIGN} {each.second}"}
        row |= {"score": each.score, "n": each.n, "unpaired": left_out or "none"}
        row["compared"] = _percent(each.coverage)
        row |= {"first_mean": _mean(each.first_scores), "second_mean": _mean(each.second_scores)}
        for name, result in (("difference", each.difference), ("improvement", each.improvement)):
            row |= {name: float(result.value), f"{name}_low": float(result.low), f"{name}_high": float(result.high)}
        rows.append(row | {"d_z": each.effect_size, "wins": each.wins})
    columns = ["variants", "score", "n", "unpaired", "compared", "first_mean", "second_mean"]
    columns += ["difference", "difference_low", "difference_high", "d_z"]
    columns += ["improvement", "improvement_low", "improvement_high", "wins"]
    return pd.DataFrame(rows, columns=columns).set_index(["variants", "score"])


PAIRED_DIGITS = {"d_z": 2, "improvement": 2, "wins": 2}
"""Digits of the columns of `paired_table` that aren't in the unit of the score."""


def _check_sequences(first: TaskScores, second: TaskScores) -> None:
    others = dict(zip(second.seeds, second.problems, strict=True))
    for seed, problem in zip(first.seeds, first.problems, strict=True):
        other = others.get(seed, problem)
        if problem is not None and other is not None and problem != other:
            raise ValueError(
                f"seed {seed}: {first.variant} and {second.variant} had different options of the problem, so another "
                "sequence of tasks; compare within one setting"
            )


def _over_common(own: Mapping[int, Floats], other: Mapping[int, Floats]) -> dict[int, float]:
    """Mean of every seed over where its partner has values too; over its own values if the partner has none at all."""
    scores = {}
    for seed, values in own.items():
        where = np.isfinite(values)
        if seed in other and np.isfinite(other[seed]).any():
            where &= np.isfinite(other[seed])
        scores[seed] = _mean(values[where])
    return scores


def _coverage(one: Mapping[int, Floats], other: Mapping[int, Floats], seeds: Sequence[int]) -> tuple[float, float]:
    """Least and greatest share of the places at which both trials of a pair have values."""
    shares = [float(np.mean(np.isfinite(one[seed]) & np.isfinite(other[seed]))) for seed in seeds]
    return (min(shares), max(shares)) if shares else (np.nan, np.nan)


def _counts(generator: np.random.Generator, resamples: int, n: int) -> NDArray[np.float64]:
    """How often each of n runs is drawn, [resamples, n]."""
    draws = generator.integers(0, n, size=(resamples, n))
    flat = (draws + n * np.arange(resamples)[:, None]).reshape(-1)
    return np.bincount(flat, minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def _percent(shares: tuple[float, float]) -> str:
    low, high = (f"{100 * share:.0f}" for share in shares)
    if not np.isfinite(shares[0]):
        return "nothing"
    return f"{low} %" if low == high else f"{low}\N{EN DASH}{high} %"


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else np.nan


def _nothing() -> Estimate:
    nan = np.array(np.nan)
    return Estimate(nan, nan, nan, np.array(0))
