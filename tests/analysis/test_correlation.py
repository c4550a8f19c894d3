from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats

from lop_ray.analysis.correlation import LEAST_POINTS, correlation_table, lagged_correlation
from lop_ray.analysis.curves import Curve

NAN = np.nan


def curve(values: Sequence[Sequence[float]], variant: str = "std", first_bin: int = 1, names: str = "abcdefg") -> Curve:
    n, points = np.shape(values)
    steps = (np.arange(points) + first_bin) * 100
    return Curve(variant, tuple(names[:n]), tuple(range(n)), steps, np.array(values, dtype=float))


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize(
    ("method", "independent"), [("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)]
)
def test_against_scipy_at_every_lag(method, independent, changes: bool) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 6, (2, 30)).astype(float), draw.normal(size=(2, 30))
    x[0, 4], y[0, 9], y[1, 29] = NAN, NAN, NAN
    found = lagged_correlation(curve(x), curve(y), 100, 3, method=method, changes=changes)
    assert found.lags.tolist() == [-300, -200, -100, 0, 100, 200, 300]
    for trial in range(2):
        for place, lag in enumerate(range(-3, 4)):
            a, b = (np.diff(each[trial]) if changes else each[trial] for each in (x, y))
            pairs = [
                (a[t], b[t + lag])
                for t in range(len(a))
                if 0 <= t + lag < len(b) and np.isfinite(a[t]) and np.isfinite(b[t + lag])
            ]
            expected = independent(*zip(*pairs, strict=True)).statistic
            assert found.values[trial, place] == pytest.approx(expected, abs=1e-12)


def test_a_positive_lag_says_that_the_first_leads() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=40)
    y = np.concatenate([draw.normal(size=2), x[:-2]])  # y follows x by two bins
    found = lagged_correlation(curve([x]), curve([y]), 100, 4)
    assert found.values[0, found.lags.tolist().index(200)] == pytest.approx(1.0)
    assert np.nanargmax(np.abs(found.values[0])) == found.lags.tolist().index(200)


def test_trials_are_the_unit_of_resampling() -> None:
    # Four trials, two with correlation 1 and two with -1: the interval over trials is from -1 to 1, whereas 400 pooled
    # pairs of bins would give one of about +-0.1.
    ramp = np.arange(100.0)
    x, y = np.stack([ramp] * 4), np.stack([ramp, ramp, -ramp, -ramp])
    result = lagged_correlation(curve(x), curve(y), 100, 0).estimate()
    assert (result.value[0], result.low[0], result.high[0], result.n[0]) == (0.0, -1.0, 1.0, 4)


def test_a_common_trend_is_gone_from_the_changes() -> None:
    draw = np.random.default_rng(2)
    trend = np.arange(200.0)
    x, y = (np.stack([trend + draw.normal(0, 2, 200) for _ in range(5)]) for _ in range(2))
    levels = lagged_correlation(curve(x), curve(y), 100, 0).estimate()
    changes = lagged_correlation(curve(x), curve(y), 100, 0, changes=True).estimate()
    assert levels.low[0] > 0.95
    assert abs(changes.value[0]) < 0.15


def test_too_few_bins_and_series_that_do_not_move_have_none() -> None:
    ramp = np.arange(float(LEAST_POINTS))
    found = lagged_correlation(curve([ramp, ramp, ramp]), curve([ramp, ramp * 0, ramp * 1e-9]), 100, 1)
    assert found.values[0].tolist() == [pytest.approx(NAN, nan_ok=True), 1.0, pytest.approx(NAN, nan_ok=True)]
    assert np.isnan(found.values[1]).all()
    assert found.values[2, 1] == pytest.approx(1.0)  # small movements are movements
    assert found.n == 2
    assert found.estimate().n.tolist() == [0, 2, 0]


def test_a_mean_of_equal_numbers_is_no_movement() -> None:
    draw = np.random.default_rng(3)
    still = np.array([np.mean([0.1] * (n + 1)) for n in range(30)])  # 0.1, up to rounding
    assert len(set(still)) > 1
    for changes in (False, True):
        found = lagged_correlation(curve([still]), curve([draw.normal(size=30)]), 100, 0, changes=changes)
        assert np.isnan(found.values).all()


def test_curves_over_other_bins_and_trials_are_aligned() -> None:
    # y begins two bins later, and has trials a and c; the last edge is where the data end.
    ramp = np.arange(12.0)
    x = curve([ramp, ramp, ramp], names="abc")
    steps = np.arange(3, 13) * 100
    steps[-1] = 1250
    y = Curve("std", ("a", "c"), (0, 2), steps, np.stack([ramp[2:], -ramp[2:]]))
    found = lagged_correlation(x, y, 100, 0)
    assert (found.trials, found.seeds) == (("a", "c"), (0, 2))
    assert found.values[:, 0].tolist() == [pytest.approx(1.0), pytest.approx(-1.0)]


def test_no_common_trial_is_no_correlation() -> None:
    found = lagged_correlation(curve([np.arange(9.0)], names="a"), curve([np.arange(9.0)], names="b"), 100, 1)
    assert found.n == 0
    assert np.isnan(found.estimate().value).all()


def test_bad_arguments_are_named() -> None:
    one = curve([np.arange(9.0)])
    with pytest.raises(ValueError, match="one curve is of std, the other of cbp"):
        lagged_correlation(one, curve([np.arange(9.0)], "cbp"), 100)
    with pytest.raises(ValueError, match="bin_steps is 0"):
        lagged_correlation(one, one, 0)


def test_table_gives_lag_zero_and_the_strongest() -> None:
    draw = np.random.default_rng(4)
    x = draw.normal(size=(3, 40))
    y = np.concatenate([draw.normal(size=(3, 2)), x[:, :-2]], axis=1)
    found = lagged_correlation(curve(x), curve(y), 100, 4)
    row = correlation_table({"x, then y": [found]}).loc[("x, then y", "std")]
    assert (row["n"], row["strongest_lag"], row["r_strongest"]) == (3, 200, pytest.approx(1.0))
    zero = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert row["r"] == pytest.approx(np.mean(zero))
    assert (row["r_low"], row["r_high"]) == (pytest.approx(min(zero)), pytest.approx(max(zero)))
