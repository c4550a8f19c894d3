"""Whether a series is stationary, by two tests with opposite null hypotheses, and how often it must be differenced.

- ADF (Said & Dickey 1984), null: a unit root; lags by BIC.
- KPSS (Kwiatkowski et al. 1992), null: stationary about a constant; lags as Hobijn et al. 2004 choose them.

A series counts as stationary where ADF rejects and KPSS doesn't. Both are from statsmodels. Of short series neither
has much power: below some 25 points ADF hardly ever rejects, and the series is differenced to be safe.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lop_ray.analysis.statistics import Floats

LEAST_POINTS = 12
"""Shorter series aren't tested."""
MOST_DIFFERENCES = 2


@dataclass(frozen=True)
class Stationarity:
    """What the tests say on one series.

    Attributes:
        adf_p: p of "has a unit root".
        kpss_p: p of "is stationary"; tables end at 0.01 and 0.1.
        stationary: ADF rejects and KPSS doesn't, at alpha.
    """

    adf_p: float
    kpss_p: float
    stationary: bool


def stationarity(series: ArrayLike, alpha: float = 0.05) -> Stationarity:
    """Both tests of one series.

    Args:
        series: [T], regular in time, without gaps.
        alpha: Level of both tests.

    Returns:
        The p-values and what follows. A series that doesn't move is trivially stationary, with p-values NaN.

    Raises:
        ValueError: Too short, or not finite.
    """
    from statsmodels.tools.sm_exceptions import InterpolationWarning, SingularMatrixWarning
    from statsmodels.tsa.stattools import adfuller, kpss

    values = checked(series)
    if moves_not(values):
        return Stationarity(np.nan, np.nan, True)
    # Lags leave most of the points to estimate from; Schwert's rule would take 11 of 30.
    most = min(int(12 * (len(values) / 100) ** 0.25), len(values) // 4)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", InterpolationWarning)  # p outside of the table: its end is returned
        # A series without noise is fitted perfectly, also with fewer lags: log-likelihood infinity, a singular design.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", SingularMatrixWarning)
        adf_p = float(adfuller(values, maxlag=most, regression="c", autolag="BIC", result_object=True).pvalue)
        kpss_p = float(kpss(values, regression="c", nlags="auto", result_object=True).pvalue)
    return Stationarity(adf_p, kpss_p, adf_p < alpha and kpss_p >= alpha)


@dataclass(frozen=True)
class Differenced:
    """Series made stationary together.

    Attributes:
        series: Differenced `differences` times, all alike.
        differences: How often: the most that one of them needs.
        stationary: Whether all pass the tests afterwards; false after `MOST_DIFFERENCES` without success.
    """

    series: tuple[Floats, ...]
    differences: int
    stationary: bool


def difference_together(*series: ArrayLike, alpha: float = 0.05, most: int = MOST_DIFFERENCES) -> Differenced:
    """Differences series, all as often, until each passes both tests.

    Args:
        series: [T] each, of one length.
        alpha: Level of the tests.
        most: Most differences.

    Returns:
        The differenced series, and how often. Where `most` doesn't suffice it is 1, the usual choice for a drifting
        series, and `stationary` is false.

    Raises:
        ValueError: Lengths differ, too short, or not finite.
    """
    values = [checked(each) for each in series]
    if len({len(each) for each in values}) > 1:
        raise ValueError(f"series have lengths {[len(each) for each in values]}; they must be of the same times")
    for times in range(most + 1):
        now = tuple(np.diff(each, n=times) for each in values)
        if len(now[0]) < LEAST_POINTS:
            break
        if all(stationarity(each, alpha).stationary for each in now):
            return Differenced(now, times, True)
    once = min(1, most)
    return Differenced(tuple(np.diff(each, n=once) for each in values), once, False)


def checked(series: ArrayLike) -> Floats:
    """[T] in float64.

    Raises:
        ValueError: Not one-dimensional, too short, or not finite.
    """
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or len(values) < LEAST_POINTS:
        raise ValueError(f"series has shape {values.shape}; it needs one dimension and at least {LEAST_POINTS} points")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} points aren't finite; leave them out")
    return values


def moves_not(values: Floats) -> bool:
    """Whether a series is constant up to rounding."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))
