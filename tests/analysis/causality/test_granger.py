"""Granger causality: against statsmodels, on series whose causes are known, and over panels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.tsa.api import VAR
from statsmodels.tsa.stattools import grangercausalitytests

from lop_ray.analysis.causality.granger import (
    choose_lags,
    fisher,
    granger_panel,
    granger_run,
    granger_test,
    share_interval,
)


def driven(seed: int, points: int = 200, *, strength: float = 0.8, lag: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """X, white noise, and Y, which follows X with the given lag and strength."""
    draw = np.random.default_rng(seed)
    x, e = draw.normal(size=(2, points))
    y = e.copy()
    for t in range(lag, points):
        y[t] += 0.3 * y[t - 1] + strength * x[t - lag]
    return x, y


@pytest.mark.parametrize("lags", [1, 2, 4])
@pytest.mark.parametrize("points", [40, 200])
def test_against_statsmodels(lags, points):
    x, y = driven(7, points, strength=0.2)
    found = granger_test(x, y, lags)
    # statsmodels asks whether the second column causes the first.
    f, p, freedom, used = grangercausalitytests(np.column_stack([y, x]), [lags])[lags][0]["ssr_ftest"]
    assert found.f == pytest.approx(f, rel=1e-8)
    assert found.p == pytest.approx(p, rel=1e-7)
    assert (found.points - 2 * lags - 1, found.lags) == (freedom, used)


@pytest.mark.parametrize("criterion", ["aic", "bic"])
@pytest.mark.parametrize("lag", [1, 3])
def test_lags_are_those_of_the_vector_autoregression_with_the_least_criterion(criterion, lag):
    x, y = driven(2, 400, lag=lag)
    both = np.column_stack([x, y])
    # All orders on the same points, as the criteria demand.
    by_hand = [getattr(VAR(both[6 - order :]).fit(order), criterion) for order in range(1, 7)]
    assert choose_lags(x, y, 6, criterion) == 1 + int(np.argmin(by_hand))
    if criterion == "bic":
        assert choose_lags(x, y, 6) == lag


def test_the_driver_is_found_and_the_driven_is_not():
    for seed in range(5):
        run = granger_run(*driven(seed))
        assert run.forward.p < 1e-6
        assert run.forward.effect > 0.3
        assert run.backward.p > 1e-3
        assert run.differences == 0
        assert run.stationary


def test_the_sign_of_the_effect_is_that_of_the_influence():
    assert granger_run(*driven(0, strength=-0.8)).forward.effect < -0.3


def test_drifting_series_are_differenced_and_the_cause_is_still_found():
    x, y = driven(1, 300)
    run = granger_run(np.cumsum(x), np.cumsum(y))
    assert run.differences == 1
    assert run.forward.p < 1e-6
    assert run.backward.p > 1e-3


def test_independent_random_walks_are_not_taken_for_causes():
    walks = np.cumsum(np.random.default_rng(5).normal(size=(40, 2, 80)), axis=2)
    runs = [granger_run(x, y) for x, y in walks]
    share = np.mean([run.forward.p < 0.05 for run in runs])
    assert share <= 0.15  # of levels, about half of all pairs of walks would pass


def test_a_panel_says_who_leads():
    panel = granger_panel({seed: driven(seed, 60) for seed in range(8)})
    assert panel.forward.share.p < 1e-10
    assert panel.forward.share.value >= 0.75
    assert panel.forward.share.n == len(panel.runs) == 8
    assert panel.lead.low > 0
    assert panel.forward.effect.low > 0
    reverse = granger_panel({seed: driven(seed, 60)[::-1] for seed in range(8)})
    assert reverse.lead.high < 0
    assert reverse.lead.value == pytest.approx(-panel.lead.value)
    assert reverse.backward.share == panel.forward.share


def test_a_panel_of_independent_series_leads_nowhere():
    noise = np.random.default_rng(9).normal(size=(12, 2, 60))
    panel = granger_panel({seed: (x, y) for seed, (x, y) in enumerate(noise)})
    assert panel.forward.share.p > 0.01
    assert panel.lead.low < 0 < panel.lead.high


def test_runs_that_cannot_be_tested_are_named():
    x, y = driven(0)
    panel = granger_panel({0: (x, y), 1: (x, np.zeros_like(y)), 2: (x[:5], y[:5])})
    assert list(panel.runs) == [0]
    assert panel.left_out[1] == "a series doesn't move"
    assert "at least 12 points" in panel.left_out[2]


def test_a_panel_without_runs_has_no_numbers():
    panel = granger_panel({})
    assert panel.forward.share.n == 0
    assert panel.forward.share.p is None
    assert np.isnan(panel.lead.value)


def test_fisher_against_scipy_and_by_hand():
    p = [0.01, 0.2, 0.6]
    assert fisher(p) == pytest.approx(stats.combine_pvalues(p, method="fisher").pvalue)
    assert fisher([0.04]) == pytest.approx(0.04)  # -2 ln p is exponential with 2 degrees: one p stays itself


def test_the_interval_of_a_share_is_exact():
    # 0 of 10: 1 - 0.025^(1/10).
    assert share_interval(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert np.isnan(share_interval(0, 0)).all()


@pytest.mark.parametrize(
    ("x", "y", "lags", "message"),
    [
        (np.zeros(20), np.arange(20.0), 1, "doesn't move"),
        (np.arange(20.0), np.arange(19.0), 1, "20 and 19 points"),
        (np.arange(8.0), np.arange(8.0), 3, "lags is 3 with 8 points"),
        (np.arange(8.0), np.arange(8.0), 0, "lags is 0"),
    ],
)
def test_bad_input_is_refused(x, y, lags, message):
    with pytest.raises(ValueError, match=message):
        granger_test(x, y, lags)
