"""Dose and response: slopes and ranks against scipy, Jonckheere's J by hand, its p at level and with power."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from lop_ray.analysis.causality.trend import jonckheere, slope, spearman, trend

DOSES = np.array([0.0, 0.5, 1.0, 2.0])


def responses(seed: int, effect: float, n: int = 5) -> dict:
    draw = np.random.default_rng(seed)
    return {s: (DOSES, draw.normal() + effect * DOSES + 0.3 * draw.normal(size=4)) for s in range(n)}


def test_slope_and_rank_correlation_against_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 12))
    assert slope(x, y) == pytest.approx(scipy.stats.linregress(x, y).slope)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert np.isnan(slope(np.ones(5), y[:5]))
    assert spearman(x, np.ones(12)) == 0.0


def test_jonckheere_by_hand():
    # Doses 0: 1, 3; 1: 2; 2: 4. Pairs that rise: (1,2), (1,4), (3,4), (2,4); (3,2) falls: 4 of 5.
    assert jonckheere([(np.array([0.0, 0.0, 1.0, 2.0]), np.array([1.0, 3.0, 2.0, 4.0]))]) == pytest.approx(0.8)
    # A tie counts half: 0.5 of 1.
    assert jonckheere([(np.array([0.0, 1.0]), np.array([2.0, 2.0]))]) == 0.5


def test_jonckheere_of_two_doses_is_mann_whitney():
    x = np.repeat([0.0, 1.0], 7)
    y = np.random.default_rng(1).normal(size=14)
    u = scipy.stats.mannwhitneyu(y[7:], y[:7]).statistic
    assert jonckheere([(x, y)]) == pytest.approx(u / 49)


@pytest.mark.parametrize("effect", [1.0, -1.0])
def test_a_response_is_found_with_its_slope_and_sign(effect):
    found = trend(responses(2, effect), permutations=500)
    assert found.slope.low < effect < found.slope.high
    assert np.sign(found.slope.low) == np.sign(found.slope.high) == np.sign(effect)
    assert np.sign(found.rho.value) == np.sign(effect)
    assert found.jonckheere.p < 0.02
    assert (found.jonckheere.value > 0.5) == (effect > 0)
    assert found.slope.n == 5


def test_without_a_response_p_is_at_level():
    p = [trend(responses(seed, 0.0), permutations=200).jonckheere.p for seed in range(100)]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.11


def test_seeds_without_three_doses_are_left_out():
    doses = responses(3, 1.0) | {9: (DOSES[:2], np.zeros(2)), 10: (DOSES, np.array([np.nan, np.nan, 1.0, 2.0]))}
    assert trend(doses, permutations=50).slope.n == 5
    nothing = trend({9: (DOSES[:2], np.zeros(2))})
    assert np.isnan(nothing.slope.value)


def test_a_dose_without_an_outcome_is_refused():
    with pytest.raises(ValueError, match="seed 3 has 4 doses and 2 outcomes"):
        trend({3: (DOSES, np.zeros(2))})
