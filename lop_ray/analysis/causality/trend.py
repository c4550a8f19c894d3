"""Whether an outcome moves with a dose: slope and rank correlation within each run, and an ordered test over doses.

Within a run (a seed) at doses d_j with outcomes y_j, the slope is that of least squares and rho Spearman's; both are
one number a seed, with the interval over seeds. The Jonckheere-Terpstra statistic counts over all pairs of doses
d_a < d_b how many pairs of outcomes rise,

    J = sum_{a < b} sum_{i, j} 1[y_{ai} < y_{bj}] + 1[y_{ai} = y_{bj}] / 2

(Jonckheere 1954, Biometrika 41:133); doses are permuted within seeds for its p, as the seeds of all doses are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from lop_ray.analysis.causality.verdict import Interval, over_seeds
from lop_ray.analysis.statistics import Floats
from lop_ray.seeding import numpy_generator

Doses = Mapping[int, tuple[ArrayLike, ArrayLike]]
"""By seed: doses [k] and outcomes [k]."""


@dataclass(frozen=True)
class Trend:
    """How an outcome moves with a dose.

    Attributes:
        slope: Mean over seeds of the slope within a seed, per unit of the dose.
        rho: Mean over seeds of Spearman's correlation within a seed.
        jonckheere: J as a share of all pairs: 0.5 without a trend, 1 if every pair rises; p by permutation within
            seeds, two-sided. Without an interval.
    """

    slope: Interval
    rho: Interval
    jonckheere: Interval


def trend(doses: Doses, *, permutations: int = 2000, seed: int = 0) -> Trend:
    """Slope, rank correlation and ordered test of outcomes by dose.

    Args:
        doses: By seed, doses and outcomes; pairs in which one is NaN are left out. A seed needs three doses.
        permutations: Of doses within seeds, for the p of J.
        seed: Of their generator.

    Returns:
        The trend; NaN without a seed with three doses.

    Raises:
        ValueError: A seed has not as many outcomes as doses.
    """
    runs: list[tuple[Floats, Floats]] = []
    for name, (dose, outcome) in doses.items():
        x, y = (np.asarray(each, dtype=np.float64).ravel() for each in (dose, outcome))
        if len(x) != len(y):
            raise ValueError(f"seed {name} has {len(x)} doses and {len(y)} outcomes; give one outcome a dose")
        there = np.isfinite(x) & np.isfinite(y)
        if len(np.unique(x[there])) >= 3:
            runs.append((x[there], y[there]))
    slopes = [slope(x, y) for x, y in runs]
    rhos = [spearman(x, y) for x, y in runs]
    if not runs:
        nothing = over_seeds([])
        return Trend(nothing, nothing, nothing)
    share = jonckheere(runs)
    generator = numpy_generator(seed, "permutations")
    rising = _rising(np.concatenate([y for _, y in runs]))
    permuted = (np.concatenate([generator.permutation(x) for x, _ in runs]) for _ in range(permutations))
    drawn = np.array([_share(each, rising) for each in permuted])
    p = float((1 + (np.abs(drawn - 0.5) >= abs(share - 0.5) - 1e-12).sum()) / (1 + permutations))
    return Trend(over_seeds(slopes), over_seeds(rhos), Interval(share, np.nan, np.nan, len(runs), p))


def slope(x: Floats, y: Floats) -> float:
    """Least-squares slope of y on x; NaN where x doesn't move or fewer than two points are there."""
    if len(x) < 2 or np.ptp(x) == 0:
        return np.nan
    away = x - x.mean()
    return float(away @ (y - y.mean()) / (away @ away))


def spearman(x: Floats, y: Floats) -> float:
    """Correlation of ranks; 0 where the outcome doesn't move (it doesn't respond), NaN where x doesn't."""
    if len(x) < 3 or np.ptp(x) == 0:
        return np.nan
    if np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def jonckheere(runs: list[tuple[Floats, Floats]]) -> float:
    """J as a share of the pairs of different doses, over all seeds pooled; 0.5 where there is no such pair."""
    x, y = (np.concatenate([run[part] for run in runs]) for part in (0, 1))
    return _share(x, _rising(y))


def _rising(y: Floats) -> Floats:
    """[k, k]: 1 where the second outcome is the higher one, a half where they are equal."""
    return np.asarray((y[:, None] < y) + 0.5 * (y[:, None] == y))


def _share(x: Floats, rising: Floats) -> float:
    higher = x[:, None] < x
    pairs = int(higher.sum())
    return float(rising[higher].sum() / pairs) if pairs else 0.5
