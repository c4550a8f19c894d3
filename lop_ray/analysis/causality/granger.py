"""Granger causality between two series, in both directions, within each run and over a panel of runs.

X Granger-causes Y if the past of X predicts Y better than Y's own past does (Granger 1969, Econometrica 37:424):

    Y_t = c + sum_{l=1..L} a_l Y_{t-l} + sum_{l=1..L} b_l X_{t-l} + e_t,     H0: b_1 = ... = b_L = 0,

tested by F = ((R0 - R1) / L) / (R1 / (T - 2L - 1)) of the two residual sums of squares over the T usable points. L is
that of the vector autoregression with the least BIC (or AIC), at least 1; series that aren't stationary are
differenced first, both as often (`stationarity`). The strength is Geweke's measure ln(R0 / R1) (1982, JASA 77:304).

Runs (seeds) are independent, so their p-values combine by Fisher's method, -2 sum ln p_i ~ chi^2 with 2n degrees, and
the share of runs with p < alpha comes with its Clopper-Pearson interval. To say which of two series leads, strengths
in both directions are compared within each run: both have as many parameters and points, so what they gain by chance
is the same.

What precedes need not cause: a third series that drives both, with different delays, looks alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lop_ray.analysis.causality.stationarity import difference_together, moves_not
from lop_ray.analysis.causality.verdict import Interval, over_seeds
from lop_ray.analysis.statistics import Floats

Criterion = Literal["aic", "bic"]


@dataclass(frozen=True)
class GrangerTest:
    """Whether X predicts Y in one run.

    Attributes:
        lags: L.
        points: T, points that the regression used.
        f: The statistic.
        p: Its p-value, of F(L, T - 2L - 1).
        strength: ln(R0 / R1), at least 0.
        effect: sum_l b_l of the series divided by their standard deviations: the sign says which way X moves Y.
    """

    lags: int
    points: int
    f: float
    p: float
    strength: float
    effect: float


def granger_test(cause: ArrayLike, effect: ArrayLike, lags: int) -> GrangerTest:
    """The F test in one direction at a given number of lags.

    Args:
        cause: X, [T].
        effect: Y, [T].
        lags: L, at least 1.

    Returns:
        The test.

    Raises:
        ValueError: Lengths differ, `lags` is out of range, or a series doesn't move.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (cause, effect))
    points = len(y) - lags
    freedom = points - 2 * lags - 1
    if len(x) != len(y):
        raise ValueError(f"the series have {len(x)} and {len(y)} points; they must be of the same times")
    if lags < 1 or freedom < 1:
        raise ValueError(f"lags is {lags} with {len(y)} points; it must be at least 1 and leave points to test with")
    if moves_not(x) or moves_not(y):
        raise ValueError("a series that doesn't move predicts nothing and needs no prediction; leave it out")
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    own, other = (np.stack([z[lags - k : len(z) - k] for k in range(1, lags + 1)], axis=1) for z in (y, x))
    restricted = np.column_stack([np.ones(points), own])
    r0, _ = _residual(restricted, y[lags:])
    r1, coefficients = _residual(np.column_stack([restricted, other]), y[lags:])
    r0, r1 = max(r0, 1e-300), max(r1, 1e-300)
    f = max(0.0, (r0 - r1) / lags / (r1 / freedom))
    strength = max(0.0, float(np.log(r0 / r1)))
    return GrangerTest(
        lags, points, f, float(stats.f.sf(f, lags, freedom)), strength, float(coefficients[-lags:].sum())
    )


def choose_lags(first: ArrayLike, second: ArrayLike, most: int, criterion: Criterion = "bic") -> int:
    """Lags of the vector autoregression of both series with the least criterion, from 1 to `most` (statsmodels).

    Args:
        first: [T].
        second: [T].
        most: Most lags; fewer are tried where the series are too short.
        criterion: bic or aic.

    Returns:
        At least 1.
    """
    from statsmodels.tsa.api import VAR

    both = np.column_stack([np.asarray(each, dtype=np.float64) for each in (first, second)])
    scaled = (both - both.mean(0)) / both.std(0)
    most = max(1, min(most, (len(both) - 6) // 5))
    return max(1, int(getattr(VAR(scaled).select_order(most), criterion)))


@dataclass(frozen=True)
class RunGranger:
    """Both directions in one run.

    Attributes:
        forward: X to Y.
        backward: Y to X.
        differences: How often both series were differenced.
        stationary: Whether they passed ADF and KPSS then.
    """

    forward: GrangerTest
    backward: GrangerTest
    differences: int
    stationary: bool


@dataclass(frozen=True)
class PanelGranger:
    """One direction over all runs.

    Attributes:
        share: Share of runs with p < alpha, with its Clopper-Pearson interval; its p is Fisher's.
        strength: Mean strength, with its interval.
        effect: Mean sign-bearing effect, with its interval.
    """

    share: Interval
    strength: Interval
    effect: Interval


@dataclass(frozen=True)
class GrangerPanel:
    """Granger tests of two series over runs.

    Attributes:
        runs: By seed, those that could be tested.
        left_out: Seeds that couldn't, with the reason.
        forward: X to Y over the panel.
        backward: Y to X.
        lead: Mean over runs of strength forward - strength backward, with its interval: above 0, X leads.
    """

    runs: dict[int, RunGranger]
    left_out: dict[int, str]
    forward: PanelGranger
    backward: PanelGranger
    lead: Interval


def granger_run(x: ArrayLike, y: ArrayLike, most_lags: int = 4, criterion: Criterion = "bic") -> RunGranger:
    """Both directions in one run: differencing, lags, tests.

    Args:
        x: [T].
        y: [T], of the same times.
        most_lags: Most lags to choose from.
        criterion: By which lags are chosen.

    Returns:
        The tests, at the same lags in both directions.

    Raises:
        ValueError: A series is too short, not finite, or doesn't move (also once it is differenced).
    """
    ready = difference_together(x, y)
    first, second = ready.series
    if moves_not(first) or moves_not(second):
        raise ValueError("a series doesn't move")
    lags = choose_lags(first, second, most_lags, criterion)
    forward, backward = granger_test(first, second, lags), granger_test(second, first, lags)
    return RunGranger(forward, backward, ready.differences, ready.stationary)


def granger_panel(
    runs: dict[int, tuple[ArrayLike, ArrayLike]],
    most_lags: int = 4,
    *,
    criterion: Criterion = "bic",
    alpha: float = 0.05,
) -> GrangerPanel:
    """Both directions in every run, and over all of them.

    Args:
        runs: By seed, X and Y of the same times, [T] each.
        most_lags: Most lags to choose from.
        criterion: By which lags are chosen, run by run.
        alpha: Level of a single run's test.

    Returns:
        The panel; runs that can't be tested are named with the reason.
    """
    found: dict[int, RunGranger] = {}
    left_out: dict[int, str] = {}
    for seed, (x, y) in runs.items():
        try:
            found[seed] = granger_run(x, y, most_lags, criterion)
        except ValueError as error:
            left_out[seed] = str(error)
    forward = _panel([each.forward for each in found.values()], alpha)
    backward = _panel([each.backward for each in found.values()], alpha)
    lead = over_seeds([each.forward.strength - each.backward.strength for each in found.values()])
    return GrangerPanel(found, left_out, forward, backward, lead)


def fisher(p: ArrayLike) -> float:
    """Fisher's combination of independent p-values; NaN without any."""
    values = np.clip(np.asarray(p, dtype=np.float64), 1e-300, 1.0)
    return float(stats.chi2.sf(-2 * np.log(values).sum(), 2 * len(values))) if len(values) else np.nan


def share_interval(successes: int, n: int) -> tuple[float, float]:
    """Clopper & Pearson's 95 % interval of a share (scipy); NaN for n = 0."""
    if n == 0:
        return np.nan, np.nan
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


def _panel(tests: Sequence[GrangerTest], alpha: float) -> PanelGranger:
    n = len(tests)
    hits = sum(each.p < alpha for each in tests)
    low, high = share_interval(hits, n)
    share = Interval(hits / n if n else np.nan, low, high, n, fisher([each.p for each in tests]) if n else None)
    return PanelGranger(
        share, over_seeds([each.strength for each in tests]), over_seeds([each.effect for each in tests])
    )


def _residual(design: Floats, target: Floats) -> tuple[float, Floats]:
    """Residual sum of squares and coefficients of least squares."""
    coefficients = np.linalg.lstsq(design, target, rcond=None)[0]
    rest = target - design @ coefficients
    return float(rest @ rest), coefficients
