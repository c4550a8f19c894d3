from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from lop_ray.analysis.profiles import performance_profile, task_profiles
from lop_ray.analysis.tasks import TaskScores

NAN = np.nan


def test_share_above_by_hand() -> None:
    profile = performance_profile([[1.0, 3.0], [2.0, 5.0]], [0.0, 1.0, 2.5, 5.0])
    # Above 0: all; above 1: 3 of 4 (a score equal to the threshold is not above); above 2.5: 2; above 5: none.
    assert profile.share.value.tolist() == [1.0, 0.75, 0.5, 0.0]
    assert (profile.n, profile.scores, profile.missing) == (2, 4, 0)


def test_against_the_double_sum_of_the_definition() -> None:
    draw = np.random.default_rng(0)
    scores, thresholds = draw.normal(size=(7, 4)), np.linspace(-2, 2, 9)
    ours = performance_profile(scores, thresholds)
    for place, tau in enumerate(thresholds):
        inner = [np.mean([scores[run, task] > tau for run in range(7)]) for task in range(4)]
        assert ours.share.value[place] == pytest.approx(np.mean(inner), rel=1e-12)


def test_interval_is_that_of_all_draws_of_whole_trials() -> None:
    scores = np.array([[0.0, 3.0], [2.0, 2.0], [4.0, 1.0]])
    every = [np.mean(scores[list(rows)] > 1.5) for rows in product(range(3), repeat=3)]
    ours = performance_profile(scores, [1.5], resamples=100_000)
    assert (ours.share.low[0], ours.share.high[0]) == (min(every), max(every))


def test_missing_tasks_do_not_make_a_trial_lighter() -> None:
    # The first trial has half of its tasks above, the second, with one task, all of it: 0.75. The third has none.
    profile = performance_profile([[0.0, 2.0], [3.0, NAN], [NAN, NAN]], [1.0])
    assert profile.share.value.tolist() == [0.75]
    assert (profile.n, profile.scores, profile.missing) == (2, 3, 1)


def test_one_trial_has_no_interval() -> None:
    profile = performance_profile([[0.0, 2.0]], [1.0])
    assert profile.share.value.tolist() == [0.5]
    assert np.isnan(profile.share.low).all()


def test_bad_scores_are_named() -> None:
    with pytest.raises(ValueError, match="a row a trial and a column a task"):
        performance_profile([1.0, 2.0], [0.0])
    with pytest.raises(ValueError, match="variant std has no score on any task"):
        performance_profile([[NAN]], [0.0], "std")


def test_profiles_share_their_thresholds_and_count_complete_tasks_only() -> None:
    def scores(variant: str, values: list[list[float]], complete: list[list[bool]]) -> TaskScores:
        n = len(values)
        return TaskScores(
            variant,
            tuple(variant + str(seed) for seed in range(n)),
            tuple(range(n)),
            (0, 1),
            np.array(values),
            np.array(complete),
            np.ones((n, 2), dtype=np.int64),
            (None,) * n,
        )

    std = scores("std", [[0.0, 99.0]], [[True, False]])
    cbp = scores("cbp", [[10.0, 4.0]], [[True, True]])
    late = scores("late", [[50.0, NAN]], [[False, False]])
    one, two = task_profiles([std, cbp, late], points=3)
    assert (one.variant, two.variant) == ("std", "cbp")
    assert one.thresholds.tolist() == two.thresholds.tolist() == pytest.approx([-0.2, 5.0, 10.2])
    assert two.share.value.tolist() == [1.0, 0.5, 0.0]
    assert task_profiles([late]) == []
