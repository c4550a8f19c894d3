"""Stationarity: the known answers of white noise, random walks and their sums; refusals in one line."""

from __future__ import annotations

import numpy as np
import pytest

from lop_ray.analysis.causality.stationarity import difference_together, stationarity


def noise(seed: int, points: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=points)


def test_white_noise_is_stationary_and_a_random_walk_is_not():
    stationary = [stationarity(noise(seed)).stationary for seed in range(20)]
    walks = [stationarity(np.cumsum(noise(seed))).stationary for seed in range(20)]
    assert sum(stationary) >= 17  # KPSS rejects 5 % of them, ADF accepts hardly any
    assert sum(walks) <= 2


def test_p_values_are_those_of_the_tests_with_opposite_nulls():
    walk = stationarity(np.cumsum(noise(0)))
    assert walk.adf_p > 0.05  # a unit root can't be rejected
    assert walk.kpss_p == pytest.approx(0.01)  # stationarity is; the table ends here
    white = stationarity(noise(0))
    assert white.adf_p < 1e-10
    assert white.kpss_p == pytest.approx(0.1)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_series_are_differenced_as_often_as_they_were_summed(times):
    series = noise(3, 400)
    for _ in range(times):
        series = np.cumsum(series)
    found = difference_together(series)
    assert (found.differences, found.stationary) == (times, True)
    assert found.series[0] == pytest.approx(noise(3, 400)[times:], abs=1e-8)


def test_both_series_are_differenced_as_the_worse_one_needs():
    white, walk = noise(1), np.cumsum(noise(2))
    found = difference_together(white, walk)
    assert found.differences == 1
    assert found.series[0] == pytest.approx(np.diff(white))
    assert found.series[1] == pytest.approx(np.diff(walk))


def test_a_series_that_cannot_be_made_stationary_is_said_to_be_so():
    burst = np.exp(np.arange(60) / 4.0)  # each difference grows as fast
    found = difference_together(burst)
    assert (found.differences, found.stationary) == (1, False)


def test_a_series_that_does_not_move_is_stationary():
    found = stationarity(np.full(30, 0.1))
    assert found.stationary
    assert np.isnan(found.adf_p)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (np.zeros(5), r"shape \(5,\); it needs one dimension and at least 12 points"),
        (np.zeros((20, 2)), r"shape \(20, 2\)"),
        (np.array([np.nan] + [1.0] * 20), r"1 of 21 points aren't finite"),
    ],
)
def test_what_cannot_be_tested_is_refused(series, message):
    with pytest.raises(ValueError, match=message):
        stationarity(series)


def test_series_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[20, 30\]"):
        difference_together(np.zeros(20), np.zeros(30))
