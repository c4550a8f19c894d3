"""Lagged correlation of two series within each run, against what chance gives.

For a lag k, r_k = corr(X_t, Y_{t+k}) over the times that both have: k > 0 asks whether X moves before Y. Values are per
run, then the mean over runs. Two bands say what chance gives:

- *surrogates*: runs of X paired with runs of Y at random. Each series keeps its own trend and autocorrelation and
  only what ties the two of one run together is gone, so that what all runs share (tasks that get harder, a common
  drift) is no evidence. A permutation test: of n runs there are n! pairings, and fewer than five hardly exclude
  anything.
- a *block bootstrap within the run* (Künsch 1989: moving blocks of X and Y drawn together) gives the interval of one
  run's r, where there is only one.

Which series leads is one number a run: the mean of r_k over k = 1..K minus that over k = -K..-1, times the sign that
the hypothesis expects (-1: X up, Y down).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from lop_ray.analysis.causality.verdict import Interval, over_seeds
from lop_ray.analysis.statistics import Estimate, Floats, estimate
from lop_ray.seeding import numpy_generator

LEAST_POINTS = 8


@dataclass(frozen=True)
class CrossCorrelation:
    """Correlation at every lag.

    Attributes:
        lags: [L], in points of the series; positive: X first.
        values: [n, L], run by run; NaN where a run has too few points or a series doesn't move.
        chance_low: [L], 2.5 % of the mean over runs under surrogates; NaN with fewer than three runs.
        chance_high: [L], 97.5 %.
    """

    lags: NDArray[np.int64]
    values: Floats
    chance_low: Floats
    chance_high: Floats

    def estimate(self) -> Estimate:
        """Mean over runs at every lag with its bootstrap interval over runs."""
        return estimate(self.values, numpy_generator(0, "bootstrap"))

    def lead(self, sign: int) -> Interval:
        """By how much more X precedes Y than Y precedes X, mean over runs; correlations times `sign`."""
        after, before = (self.values[:, where].mean(axis=1) for where in (self.lags > 0, self.lags < 0))
        return over_seeds(sign * (after - before))


def cross_correlation(
    x: ArrayLike, y: ArrayLike, most_lag: int = 5, *, changes: bool = True, draws: int = 500, seed: int = 0
) -> CrossCorrelation:
    """Spearman's correlation of two series at lags -most_lag..most_lag, run by run.

    Args:
        x: [n, T], a row a run; NaN where a run has no value.
        y: [n, T], of the same times.
        most_lag: K, in points.
        changes: Correlate changes from point to point; false: values, which all drift and so correlate at every lag.
        draws: Surrogate panels.
        seed: Of their generator.

    Returns:
        The correlations and what chance gives.

    Raises:
        ValueError: Shapes differ, or no lag is asked for.
    """
    x, y = (np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in (x, y))
    if x.shape != y.shape:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; they must be of the same runs and times")
    if most_lag < 1:
        raise ValueError(f"most_lag is {most_lag}; it must be at least 1")
    if changes:
        x, y = np.diff(x, axis=1), np.diff(y, axis=1)
    lags = np.arange(-most_lag, most_lag + 1)
    n = len(x)
    # All pairs of runs at once: surrogates draw from them.
    pairs = np.stack([_all_pairs(x, y, int(k)) for k in lags], axis=2)
    own = pairs[np.arange(n), np.arange(n)]
    low, high = (np.full(len(lags), np.nan) for _ in range(2))
    if n >= 3:
        generator = numpy_generator(seed, "surrogates")
        orders = np.stack([np.arange(n), *(generator.permutation(n) for _ in range(draws))])
        means = _mean(pairs[np.arange(n), orders])
        for place in np.flatnonzero(np.isfinite(means).all(axis=0)):
            low[place], high[place] = np.quantile(means[:, place], (0.025, 0.975))
    return CrossCorrelation(lags, own, low, high)


def block_interval(x: ArrayLike, y: ArrayLike, lag: int = 0, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Correlation of one run at one lag with its moving-block bootstrap interval.

    Blocks of ceil(T^(1/3)) successive pairs are drawn with replacement until there are T (Künsch 1989, Ann. Stat.
    17:1217).

    Args:
        x: [T].
        y: [T].
        lag: k; pairs (X_t, Y_{t+k}).
        draws: Number of draws.
        seed: Of the generator.

    Returns:
        The correlation with its interval; NaN with fewer than `LEAST_POINTS` pairs.
    """
    a, b = _paired(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), lag)
    points = len(a)
    value = _spearman(a, b)
    if not np.isfinite(value):
        return Interval(value, np.nan, np.nan, points)
    block = int(np.ceil(points ** (1 / 3)))
    starts = numpy_generator(seed, "blocks").integers(0, points - block + 1, size=(draws, -(-points // block)))
    rows = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :points]
    drawn = (_scaled_ranks(a[rows]) * _scaled_ranks(b[rows])).sum(axis=1)
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Interval(value, float(low), float(high), points)


def _mean(values: Floats) -> Floats:
    """Mean over runs that have a number, [draws, n, L] -> [draws, L]; NaN where none has."""
    there = np.isfinite(values)
    sums, counts = np.where(there, values, 0.0).sum(axis=1), there.sum(axis=1)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _paired(a: Floats, b: Floats, lag: int) -> tuple[Floats, Floats]:
    points = max(0, len(a) - abs(lag))
    a, b = (a[:points], b[len(b) - points :]) if lag >= 0 else (a[len(a) - points :], b[:points])
    there = np.isfinite(a) & np.isfinite(b)
    return a[there], b[there]


def _all_pairs(x: Floats, y: Floats, lag: int) -> Floats:
    """[n, n], the correlation at a lag of every run of X with every run of Y."""
    points = max(0, x.shape[1] - abs(lag))
    if points >= LEAST_POINTS and np.isfinite(x).all() and np.isfinite(y).all():
        a, b = (x[:, :points], y[:, -points:]) if lag >= 0 else (x[:, -points:], y[:, :points])
        return np.asarray(_scaled_ranks(a) @ _scaled_ranks(b).T)
    return np.array([[_spearman(*_paired(a, b, lag)) for b in y] for a in x])


def _spearman(a: Floats, b: Floats) -> float:
    if len(a) < LEAST_POINTS:
        return np.nan
    return float((_scaled_ranks(a[None]) * _scaled_ranks(b[None])).sum())


def _scaled_ranks(rows: Floats) -> Floats:
    """Ranks along each row, centred and of length 1: products are correlations; NaN for rows that don't move."""
    ranks = rankdata(rows, axis=1)
    away = ranks - ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((away**2).sum(axis=1, keepdims=True))
    return np.divide(away, length, out=np.full(away.shape, np.nan), where=length > 0)
