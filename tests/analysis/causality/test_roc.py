"""ROC: areas against scikit-learn and by hand, DeLong against its definition and by coverage, runs drawn as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from lop_ray.analysis.causality.roc import auc, delong, roc_over_runs


def cases(seed: int, distance: float, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which those of the dying lie higher by `distance` standard deviations."""
    draw = np.random.default_rng(seed)
    died = draw.random(n) < 0.3
    return draw.normal(size=n) + distance * died, died


def test_the_area_by_hand():
    # Pairs (case, survivor): 3 beats 1 and 2, 2 beats 1 and ties 2: 3.5 of 4.
    assert auc(np.array([3.0, 2.0, 2.0, 1.0]), [True, True, False, False]) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(np.array([1.0, 2.0]), [True, True]))


@pytest.mark.parametrize("distance", [0.0, 1.0, -1.0])
def test_areas_and_curve_against_scikit_learn(distance):
    runs = [cases(seed, distance) for seed in range(4)]
    found = roc_over_runs([s for s, _ in runs], [d for _, d in runs])
    assert found.of_runs == pytest.approx([sklearn.metrics.roc_auc_score(d, s) for s, d in runs])
    scores, died = np.concatenate([s for s, _ in runs]), np.concatenate([d for _, d in runs])
    assert found.pooled.value == pytest.approx(sklearn.metrics.roc_auc_score(died, scores))
    assert sklearn.metrics.auc(found.false_positive, found.true_positive) == pytest.approx(found.pooled.value)
    assert (found.cases, found.survivors) == (died.sum(), (~died).sum())


def test_the_threshold_is_where_true_less_false_positives_are_most():
    scores = np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    found = roc_over_runs([scores], [[True, True, False, False, False]])
    assert found.threshold == pytest.approx(0.8)
    assert found.auc.value == 1.0


@pytest.mark.parametrize("ties", [False, True])
def test_delong_against_its_definition(ties):
    scores, died = cases(3, 0.8)
    scores = np.round(scores) if ties else scores
    x, y = scores[died], scores[~died]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    variance = psi.mean(1).var(ddof=1) / len(x) + psi.mean(0).var(ddof=1) / len(y)
    found = delong(scores, died)
    assert found.value == pytest.approx(psi.mean())
    assert found.high - found.low == pytest.approx(2 * 1.959964 * np.sqrt(variance), rel=1e-6)
    assert found.n == len(scores)


def test_delong_covers_the_true_area():
    true = 0.7602499  # Phi(1 / sqrt(2))
    found = [delong(*cases(seed, 1.0, 400)) for seed in range(400)]
    assert 0.92 < np.mean([each.low <= true <= each.high for each in found]) < 0.98
    null = [delong(*cases(seed, 0.0, 400)).p for seed in range(400)]
    assert 0.02 < np.mean(np.array(null) < 0.05) < 0.09


def test_a_score_that_tells_nothing_has_an_interval_around_one_half():
    runs = [cases(seed, 0.0) for seed in range(8)]
    found = roc_over_runs([s for s, _ in runs], [d for _, d in runs])
    assert found.auc.low < 0.5 < found.auc.high
    assert found.auc.p > 0.05
    assert found.pooled.low < 0.5 < found.pooled.high


def test_runs_that_differ_widen_the_pooled_interval():
    runs = [cases(seed, 2.0 * (seed % 2)) for seed in range(6)]  # the score works in every second run only
    scores, died = [s for s, _ in runs], [d for _, d in runs]
    found = roc_over_runs(scores, died)
    independent = delong(np.concatenate(scores), np.concatenate(died))
    assert found.pooled.high - found.pooled.low > 1.5 * (independent.high - independent.low)


def test_runs_in_which_nobody_dies_are_left_out_and_none_is_no_error():
    s, d = cases(0, 1.0)
    found = roc_over_runs([s, s], [d, np.zeros_like(d)])
    assert found.auc.n == 1
    assert np.isnan(found.of_runs[1])
    empty = roc_over_runs([], [])
    assert np.isnan(empty.auc.value)
    assert empty.cases == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        roc_over_runs([[1.0, 2.0]], [[True]])
    with pytest.raises(ValueError, match="not finite"):
        roc_over_runs([[1.0, np.nan]], [[True, False]])
