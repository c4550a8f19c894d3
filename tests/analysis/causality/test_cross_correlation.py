"""Cross-correlation: values against scipy; surrogates let through what ties two series of a run, not what all share."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from lop_ray.analysis.causality.cross_correlation import block_interval, cross_correlation


def test_values_against_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 3, 30))
    found = cross_correlation(x, y, 2, changes=False, draws=10)
    assert found.lags.tolist() == [-2, -1, 0, 1, 2]
    for run in range(3):
        assert found.values[run, 2] == pytest.approx(scipy.stats.spearmanr(x[run], y[run]).statistic)
        assert found.values[run, 4] == pytest.approx(scipy.stats.spearmanr(x[run, :-2], y[run, 2:]).statistic)
        assert found.values[run, 0] == pytest.approx(scipy.stats.spearmanr(x[run, 2:], y[run, :-2]).statistic)
    changes = cross_correlation(x, y, 2, draws=10)
    expected = scipy.stats.spearmanr(np.diff(x[0]), np.diff(y[0])).statistic
    assert changes.values[0, 2] == pytest.approx(expected)


def test_a_series_that_follows_another_is_led_by_it():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(6, 60))
    y = np.roll(-x, 2, axis=1) + 0.3 * draw.normal(size=x.shape)  # y_t = -x_{t-2}
    found = cross_correlation(x, y, 4, changes=False, draws=100)
    mean = found.estimate().value
    assert int(found.lags[np.abs(mean).argmax()]) == 2
    assert mean[6] < found.chance_low[6]
    assert found.lead(-1).low > 0
    assert found.lead(+1).high < 0
    assert cross_correlation(y, x, 4, changes=False, draws=100).lead(-1).high < 0


def test_a_trend_that_all_runs_share_is_within_chance():
    draw = np.random.default_rng(2)
    trend = np.arange(40.0)
    x, y = trend + draw.normal(size=(6, 40)), -trend + draw.normal(size=(6, 40))
    found = cross_correlation(x, y, 3, changes=False)
    mean = found.estimate().value
    assert (mean < -0.9).all()  # correlated at every lag, as all that drifts is
    outside = (mean < found.chance_low) | (mean > found.chance_high)
    assert outside.sum() <= 1


def test_chance_covers_95_percent_of_unrelated_panels():
    draw = np.random.default_rng(3)
    inside = []
    for number in range(200):
        x, y = np.cumsum(draw.normal(size=(2, 5, 20)), axis=2)
        found = cross_correlation(x, y, 1, changes=False, draws=100, seed=number)
        mean = found.estimate().value[1]
        inside.append(found.chance_low[1] <= mean <= found.chance_high[1])
    assert 0.9 <= np.mean(inside) <= 0.98


def test_gaps_are_left_out_and_two_runs_have_no_surrogates():
    x, y = np.random.default_rng(4).normal(size=(2, 2, 30))
    x[0, 5] = np.nan
    y[1] = 1.0
    found = cross_correlation(x, y, 1, changes=False)
    there = np.isfinite(x[0])
    assert found.values[0, 1] == pytest.approx(scipy.stats.spearmanr(x[0, there], y[0, there]).statistic)
    assert np.isnan(found.values[1]).all()  # it doesn't move
    assert np.isnan(found.chance_low).all()


def test_the_block_bootstrap_is_wider_than_independence_for_a_slow_series():
    draw = np.random.default_rng(5)
    noise = draw.normal(size=(2, 400))
    slow = np.array([np.convolve(row, np.ones(8) / 8, "valid") for row in noise])
    found = block_interval(*slow)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(scipy.stats.spearmanr(*slow).statistic)
    independent = 2 * 1.96 / np.sqrt(slow.shape[1])
    assert found.high - found.low > 1.3 * independent
    fast = block_interval(*noise)
    assert fast.high - fast.low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.25)


def test_too_few_points_have_no_interval():
    found = block_interval(np.arange(5.0), np.arange(5.0))
    assert np.isnan([found.value, found.low, found.high]).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"x has shape \(1, 9\) and y \(1, 8\)"):
        cross_correlation(np.zeros(9), np.zeros(8))
    with pytest.raises(ValueError, match="most_lag is 0"):
        cross_correlation(np.zeros(9), np.zeros(9), 0)
