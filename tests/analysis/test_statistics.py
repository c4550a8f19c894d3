from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from lop_ray.analysis.statistics import estimate, interquartile_mean, mean


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_interquartile_mean_by_hand() -> None:
    # 8 values: two cut from each end leave 3, 4, 5, 6.
    assert interquartile_mean([100.0, 1.0, 3.0, -50.0, 4.0, 6.0, 5.0, 7.0]) == pytest.approx(4.5)
    # 3 values: nothing is cut.
    assert interquartile_mean([1.0, 2.0, 9.0]) == pytest.approx(4.0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 11, 30])
@pytest.mark.parametrize("axis", [0, 1])
def test_interquartile_mean_is_scipys_trimmed_mean(n: int, axis: int) -> None:
    values = generator(n).standard_cauchy(size=(n, 6) if axis == 0 else (6, n))
    np.testing.assert_allclose(
        interquartile_mean(values, axis=axis), scipy.stats.trim_mean(values, 0.25, axis=axis), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(mean, np.mean), (interquartile_mean, lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis))],
    ids=["mean", "iqm"],
)
def test_one_stratum_is_scipys_percentile_bootstrap(ours, theirs) -> None:
    values = generator(1).normal(size=(13, 3))
    ours_is = estimate(values, generator(5), statistic=ours, resamples=500, confidence=0.9)
    theirs_is = scipy.stats.bootstrap(
        (values,), theirs, axis=0, n_resamples=500, confidence_level=0.9, method="percentile", rng=generator(5)
    ).confidence_interval
    # scipy draws the seeds of each point anew, so only the first point shares our draws: there it is exact.
    np.testing.assert_allclose(ours_is.value, theirs(values, axis=0), rtol=1e-12)
    exact = scipy.stats.bootstrap(
        (values[:, 0],), theirs, n_resamples=500, confidence_level=0.9, method="percentile", rng=generator(5)
    ).confidence_interval
    assert ours_is.low[0] == pytest.approx(exact.low, rel=1e-12)
    assert ours_is.high[0] == pytest.approx(exact.high, rel=1e-12)
    np.testing.assert_allclose(ours_is.low, theirs_is.low, atol=0.08)
    np.testing.assert_allclose(ours_is.high, theirs_is.high, atol=0.08)


def test_seeds_are_resampled_within_their_stratum_only() -> None:
    # Within a stratum all seeds agree, so every stratified draw gives the same mean; a pooled one would not.
    values = np.array([1.0, 1.0, 1.0, 9.0, 9.0])
    strata = ["a", "a", "a", "b", "b"]
    stratified = estimate(values, generator(), strata=strata)
    assert (stratified.low, stratified.value, stratified.high) == pytest.approx((4.2, 4.2, 4.2))
    pooled = estimate(values, generator())
    assert pooled.low < 2.7
    assert pooled.high > 5.7


def test_stratified_interval_is_that_of_all_possible_draws() -> None:
    # Strata of two and three seeds: 2^2 * 3^3 = 108 equally likely draws, of which 0.1 are 10.8. The 11th
    # smallest and largest are alone or among equals there, by at least 0.8 / 108 = ten standard errors of
    # a share estimated from 200,000 draws.
    values = np.array([[2.0, -1.0], [5.0, 4.0], [0.0, 1.0], [7.0, 2.0], [11.0, 8.0]])
    strata = ["a", "a", "b", "b", "b"]
    every = [(*a, *b) for a in product((0, 1), repeat=2) for b in product((2, 3, 4), repeat=3)]
    assert len(every) == 108
    for statistic, independent in ((mean, np.mean), (interquartile_mean, lambda x: scipy.stats.trim_mean(x, 0.25))):
        ours = estimate(values, generator(3), statistic=statistic, strata=strata, resamples=200_000, confidence=0.8)
        for point in range(2):
            atoms = np.sort([independent(values[list(rows), point]) for rows in every])
            assert ours.low[point] == pytest.approx(atoms[10], rel=1e-12)
            assert ours.high[point] == pytest.approx(atoms[-11], rel=1e-12)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 3,000 experiments of 40 seeds as the points of one curve; the percentile interval of the mean covers as
    # often as a t interval with the normal's width and the 1/n variance: about 0.94 here.
    values = generator(6).normal(loc=2.0, scale=3.0, size=(40, 3000))
    interval = estimate(values, generator(7), resamples=1000)
    coverage = np.mean((interval.low <= 2.0) & (2.0 <= interval.high))
    z, shrink = scipy.stats.norm.ppf(0.975), np.sqrt(39 / 40)
    expected = 1 - 2 * scipy.stats.t.sf(z * shrink, df=39)
    assert coverage == pytest.approx(expected, abs=0.015)


def test_same_generator_same_interval() -> None:
    values = generator(8).normal(size=(6, 5))
    one, two, other = (estimate(values, generator(seed)) for seed in (9, 9, 10))
    np.testing.assert_array_equal(one.low, two.low)
    np.testing.assert_array_equal(one.high, two.high)
    assert not np.array_equal(one.low, other.low)


def test_one_seed_has_a_value_and_no_interval() -> None:
    only = estimate([[1.0, 2.0]], generator(), statistic=interquartile_mean)
    np.testing.assert_array_equal(only.value, [1.0, 2.0])
    np.testing.assert_array_equal(only.n, [1, 1])
    assert np.isnan([only.low, only.high]).all()


def test_a_stratum_of_one_seed_has_no_interval() -> None:
    assert np.isnan(estimate([1.0, 2.0, 3.0], generator(), strata=["a", "a", "b"]).low)


def test_missing_values_are_left_out_point_by_point() -> None:
    values = np.array([[1.0, np.nan, np.nan], [3.0, 3.0, np.nan], [8.0, 5.0, np.nan]])
    result = estimate(values, generator())
    np.testing.assert_array_equal(result.n, [3, 2, 0])
    np.testing.assert_allclose(result.value, [4.0, 4.0, np.nan])
    # Of two seeds, a quarter of the draws is the lower one twice: the interval is their range.
    assert (result.low[1], result.high[1]) == (3.0, 5.0)
    assert np.isnan([result.low[2], result.high[2]]).all()


def test_many_points_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = generator(11).normal(size=(7, 100))
    whole = estimate(values, generator(12), statistic=interquartile_mean, resamples=200)
    monkeypatch.setattr("lop_ray.analysis.statistics._CHUNK_BYTES", 20_000)
    pieces = estimate(values, generator(12), statistic=interquartile_mean, resamples=200)
    np.testing.assert_array_equal(whole.low, pieces.low)
    np.testing.assert_array_equal(whole.high, pieces.high)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.empty((0, 3)), {}, "at least one row"),
        (np.ones(3), {"confidence": 95}, "confidence is 95"),
        (np.ones(3), {"resamples": 0}, "resamples is 0"),
        (np.ones(3), {"strata": ["a"]}, "strata has 1 entries for 3 rows"),
    ],
)
def test_bad_arguments_are_named(values, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(values, generator(), **options)
