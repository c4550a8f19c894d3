"""Mean and interquartile mean over seeds, with stratified bootstrap intervals.

The recommendations are those of Agarwal et al. 2021 ("Deep reinforcement learning at the edge of the
statistical precipice", NeurIPS, sections 4.1 and 4.3): resample seeds within a stratum (a task, a variant),
take the percentile interval, and report the interquartile mean beside the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[..., Floats]
"""Called as `statistic(values, axis=k)`; takes the axis k away."""

_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Estimate:
    """A statistic over seeds at every point of a curve; all arrays have the curve's shape.

    Attributes:
        value: The statistic; NaN where no seed has a value.
        low: Lower end of the interval; NaN where there are too few seeds for one.
        high: Upper end.
        n: How many seeds have a value.
    """

    value: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]


def mean(values: ArrayLike, axis: int = 0) -> Floats:
    """Arithmetic mean along `axis`."""
    return np.asarray(np.mean(np.asarray(values, dtype=np.float64), axis=axis))


def interquartile_mean(values: ArrayLike, axis: int = 0) -> Floats:
    """Mean of the middle half: floor(n / 4) values are cut from each end of the sorted n.

    Equal to `scipy.stats.trim_mean(values, 0.25)`, which is how Agarwal et al. 2021 (section 4.3) compute the
    IQM. With fewer than four values nothing is cut and it is the mean.

    Args:
        values: [..., n, ...], with n along `axis`.
        axis: The axis that is taken away.

    Returns:
        `values` without `axis`.
    """
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[axis]
    cut = n // 4
    ordered = np.sort(values, axis=axis) if cut else values
    return np.asarray(np.take(ordered, np.arange(cut, n - cut), axis=axis).mean(axis=axis))


def estimate(
    values: ArrayLike,
    generator: np.random.Generator,
    *,
    statistic: Statistic = mean,
    strata: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Estimate:
    """A statistic over seeds and its stratified bootstrap percentile interval, at every point of a curve.

    Each of the `resamples` draws takes, within every stratum, as many seeds with replacement as the stratum
    has, and computes the statistic; the interval runs from the (1 - confidence) / 2 quantile of these to the
    (1 + confidence) / 2 quantile (Efron & Tibshirani 1993, section 13.3; Agarwal et al. 2021, section 4.1).
    All points of a curve share their draws, so that a seed is taken or left as a whole.

    A value that is NaN is a seed without a value at that point: it is left out there, and `n` says so.
    The interval needs two seeds in every stratum that has any and is NaN otherwise. With few seeds it is too
    narrow (for the mean of normal values, 95 % nominal covers about 83 % at n = 5, 91 % at n = 15).

    Args:
        values: [n, ...], a row a seed.
        generator: Where the draws come from; a generator in the same state gives the same interval.
        statistic: `mean`, `interquartile_mean`, or another function of (values, axis).
        strata: [n], the stratum of each row; None is one stratum.
        resamples: Number of draws.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        The estimate, in the shape of one row.

    Raises:
        ValueError: An argument's shape or range is wrong.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"values has shape {values.shape}; it needs one row a seed and at least one row")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")
    if strata is not None and len(strata) != len(values):
        raise ValueError(f"strata has {len(strata)} entries for {len(values)} rows of values; it needs one a row")
    labels = _labels(strata, len(values))

    table = values.reshape(len(values), -1)
    valid = ~np.isnan(table)
    value, low, high = (np.full(table.shape[1], np.nan) for _ in range(3))
    # Points at which the same seeds have a value are treated together; mostly there is one such group.
    patterns, members = np.unique(valid, axis=1, return_inverse=True)
    tails = ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0)
    for pattern, rows in enumerate(patterns.T):
        columns = np.flatnonzero(members.reshape(-1) == pattern)
        if not rows.any():
            continue
        there = table[np.ix_(rows, columns)]
        value[columns] = statistic(there, axis=0)
        if np.unique(labels[rows], return_counts=True)[1].min() < 2:
            continue
        draws = _draw(labels[rows], resamples, generator)
        for chunk in np.array_split(columns, max(1, draws.size * len(columns) * 8 // _CHUNK_BYTES)):
            sampled = _resampled(table[np.ix_(rows, chunk)], draws, statistic)
            low[chunk], high[chunk] = np.quantile(sampled, tails, axis=0)
    shape = values.shape[1:]
    n = valid.sum(axis=0, dtype=np.int64)
    return Estimate(value.reshape(shape), low.reshape(shape), high.reshape(shape), n.reshape(shape))


def _labels(strata: Sequence[Hashable] | None, n: int) -> NDArray[np.int64]:
    """Strata as small integers, [n]."""
    if strata is None:
        return np.zeros(n, dtype=np.int64)
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(stratum, len(numbers)) for stratum in strata], dtype=np.int64)


def _draw(labels: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers [resamples, n]: for every row, one of its own stratum, drawn with replacement."""
    draws = np.empty((resamples, len(labels)), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        draws[:, rows] = rows[generator.integers(0, len(rows), size=(resamples, len(rows)))]
    return draws


def _resampled(values: Floats, draws: NDArray[np.int64], statistic: Statistic) -> Floats:
    """The statistic of every draw: values [n, P], draws [R, n] -> [R, P]."""
    if statistic is not mean:
        return statistic(values[draws], axis=1)
    # The mean is linear in how often each row was drawn: one matrix product.
    resamples, n = draws.shape
    flat = (draws + n * np.arange(resamples)[:, None]).reshape(-1)
    counts = np.bincount(flat, minlength=resamples * n).reshape(resamples, n)
    return np.asarray(counts @ values / n)
