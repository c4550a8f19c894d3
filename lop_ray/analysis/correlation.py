"""Lagged correlation between two measures of a run, to see whether one moves before the other.

For the binned series X and Y of one trial and a lag of k bins, r_k = corr(X_t, Y_{t + k}) over all t at which both
have a value: k > 0 asks whether X leads. The statistic is the mean of r_k over trials, with a bootstrap interval over
trials. Bins of one trial depend on each other, so neither they nor all bins of all trials pooled are a sample; the
trial is the unit of resampling.

Two series that both drift are correlated at every lag, whatever the cause. `changes=True` correlates the changes from
bin to bin instead, which drops a common trend; when levels correlate and changes don't, the trend is all there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from lop_ray.analysis.curves import Curve
from lop_ray.analysis.statistics import Estimate, Floats, estimate
from lop_ray.seeding import numpy_generator

Method = Literal["pearson", "spearman"]
LEAST_POINTS = 8
"""With fewer pairs of values a trial has no correlation at that lag."""


@dataclass(frozen=True)
class LaggedCorrelation:
    """Correlation of two measures of one variant at every lag, trial by trial.

    Attributes:
        variant: Name of the variant.
        trials: [n], ids of the trials that have both measures.
        seeds: [n], their seeds.
        lags: [L], in environment steps; positive: the first measure leads.
        values: [n, L], correlation within a trial; NaN where fewer than `LEAST_POINTS` pairs of values are there,
            or where a series doesn't move.
    """

    variant: str
    trials: tuple[str, ...]
    seeds: tuple[int, ...]
    lags: NDArray[np.int64]
    values: Floats

    @property
    def n(self) -> int:
        """Number of trials with a correlation at some lag."""
        return int(np.isfinite(self.values).any(axis=1).sum())

    def estimate(self, *, seed: int = 0, resamples: int = 2000) -> Estimate:
        """Mean over trials at every lag, with its 95 % bootstrap interval over trials.

        Args:
            seed: Of the bootstrap's generator.
            resamples: Number of draws.

        Returns:
            The estimate, of shape [L]; its `n` says how many trials have a correlation at each lag.
        """
        if not len(self.values):
            nothing = np.full(len(self.lags), np.nan)
            return Estimate(nothing, nothing, nothing, np.zeros(len(self.lags), dtype=np.int64))
        return estimate(self.values, numpy_generator(seed, "bootstrap"), resamples=resamples)


def lagged_correlation(
    leading: Curve,
    following: Curve,
    bin_steps: int,
    max_lag: int = 10,
    *,
    method: Method = "spearman",
    changes: bool = False,
) -> LaggedCorrelation:
    """Correlates two curves of one variant within each trial, at lags from -max_lag to max_lag bins.

    Args:
        leading: X, such as dead units.
        following: Y, such as the return; of the same variant.
        bin_steps: The bin width that both were made with.
        max_lag: Largest lag, in bins.
        method: pearson: of the values; spearman: of their ranks (those of the values that are paired at a lag).
        changes: Correlate the changes from one bin to the next.

    Returns:
        The correlations of the trials that both curves have.

    Raises:
        ValueError: The curves are of two variants, or an argument is out of range.
    """
    if leading.variant != following.variant:
        raise ValueError(f"one curve is of {leading.variant}, the other of {following.variant}; give one variant's")
    if bin_steps < 1 or max_lag < 0:
        raise ValueError(f"bin_steps is {bin_steps} and max_lag is {max_lag}; they must be at least 1 and 0")
    x, y = (_regular(curve, bin_steps) for curve in (leading, following))
    first = min(x.env_steps[0], y.env_steps[0])
    size = int(max(x.env_steps[-1], y.env_steps[-1]) - first) + 1
    of_y = dict(zip(y.trials, _placed(y, first, size), strict=True))
    both = [place for place, trial in enumerate(x.trials) if trial in of_y]
    lags = np.arange(-max_lag, max_lag + 1)
    values = np.full((len(both), len(lags)), np.nan)
    of_x = _placed(x, first, size)
    for row, place in enumerate(both):
        a, b = of_x[place], of_y[x.trials[place]]
        rounding = (_rounding(a), _rounding(b))
        if changes:
            a, b = np.diff(a), np.diff(b)
        for column, lag in enumerate(lags):
            values[row, column] = _correlation(*_shifted(a, b, int(lag)), method, rounding)
    trials, seeds = tuple(x.trials[place] for place in both), tuple(x.seeds[place] for place in both)
    return LaggedCorrelation(leading.variant, trials, seeds, lags * bin_steps, values)


def _regular(curve: Curve, bin_steps: int) -> Curve:
    """The same curve over numbers of bins; its last edge may be where the data end."""
    return replace(curve, env_steps=-(-curve.env_steps // bin_steps))


def _placed(curve: Curve, first: int, size: int) -> Floats:
    """Values on the bins first, first + 1, ...; NaN outside the curve. [n, size]."""
    values = np.full((len(curve.values), size), np.nan)
    values[:, curve.env_steps - first] = curve.values
    return values


def _shifted(a: Floats, b: Floats, lag: int) -> tuple[Floats, Floats]:
    """The pairs (a_t, b_{t + lag}) in which both are numbers."""
    if lag >= 0:
        a, b = a[: max(0, len(a) - lag)], b[lag:]
    else:
        a, b = a[-lag:], b[: max(0, len(b) + lag)]
    there = np.isfinite(a) & np.isfinite(b)
    return a[there], b[there]


def _rounding(series: Floats) -> float:
    """Differences up to this size are those of averaging equal numbers, not movements."""
    finite = series[np.isfinite(series)]
    return 1e-12 * float(np.abs(finite).max()) if len(finite) else 0.0


def _correlation(a: Floats, b: Floats, method: Method, rounding: tuple[float, float]) -> float:
    if len(a) < LEAST_POINTS:
        return np.nan
    # A series that doesn't move, such as a count of dead units that stays 0, has no correlation.
    if np.ptp(a) <= rounding[0] or np.ptp(b) <= rounding[1]:
        return np.nan
    if method == "spearman":
        a, b = rankdata(a), rankdata(b)
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def correlation_table(found: Mapping[str, Sequence[LaggedCorrelation]]) -> pd.DataFrame:
    """Correlations at lag 0 and at the lag where they are strongest, by pair of measures and variant.

    The strongest lag is chosen after seeing the data, so its interval is too narrow; it says where to look.

    Args:
        found: Correlations of all variants by the pair's name.

    Returns:
        A row for each pair and variant: n, r at lag 0 with its interval, the lag with the largest |mean r| over the
        most trials in environment steps, and r there with its interval.
    """
    rows = []
    for pair, each in ((pair, each) for pair, of_variants in found.items() for each in of_variants):
        result = each.estimate()
        row: dict[str, Any] = {"pair": pair, "variant": each.variant, "n": each.n}
        zero = int(np.flatnonzero(each.lags == 0)[0])
        strength = np.where(result.n == result.n.max(), np.abs(result.value), np.nan)
        best = zero if np.isnan(strength).all() else int(np.nanargmax(strength))
        row["strongest_lag"] = int(each.lags[best])
        for name, place in (("r", zero), ("r_strongest", best)):
            row |= {name: result.value[place], f"{name}_low": result.low[place], f"{name}_high": result.high[place]}
        rows.append(row)
    columns = ["pair", "variant", "n", "r", "r_low", "r_high"]
    columns += ["strongest_lag", "r_strongest", "r_strongest_low", "r_strongest_high"]
    return pd.DataFrame(rows, columns=columns).set_index(["pair", "variant"])
