from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from lop_ray.analysis.curves import Curve
from lop_ray.analysis.paired import (
    compare,
    compare_curves,
    compare_tasks,
    effect_size,
    paired_table,
    probability_of_improvement,
)
from lop_ray.analysis.tasks import TaskScores
from lop_ray.seeding import numpy_generator

NAN = np.nan


def by_seed(*scores: float) -> dict[int, float]:
    return dict(enumerate(scores))


def test_difference_and_interval_are_scipys_paired_bootstrap() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(3, 2, 12), draw.normal(2, 1, 12)
    ours = compare(by_seed(*x), by_seed(*y), ("cbp", "std"), seed=4, resamples=999)
    theirs = scipy.stats.bootstrap(
        (x, y),
        lambda a, b: np.mean(a - b),
        paired=True,
        vectorized=False,
        n_resamples=999,
        method="percentile",
        rng=numpy_generator(4, "bootstrap"),
    ).confidence_interval
    assert ours.difference.value == pytest.approx(np.mean(x) - np.mean(y))
    assert (ours.difference.low, ours.difference.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert (ours.n, ours.unpaired, ours.coverage) == (12, {}, (1.0, 1.0))


def test_effect_size_is_the_paired_t_statistic_over_root_n() -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(1, 1, 9), draw.normal(0, 3, 9)
    assert effect_size(x, y) == pytest.approx(scipy.stats.ttest_rel(x, y).statistic / 3)
    # By hand: differences 1, 2, 3 have mean 2 and standard deviation 1.
    assert effect_size([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(2.0)


def test_effect_size_needs_two_pairs_and_spread() -> None:
    assert np.isnan(effect_size([1.0], [0.0]))
    assert np.isnan(effect_size([1.1, 2.1, 3.1], [1.0, 2.0, 3.0]))


def test_probability_of_improvement_is_mann_whitneys_u() -> None:
    draw = np.random.default_rng(2)
    x, y = draw.integers(0, 6, 11).astype(float), draw.integers(0, 5, 8).astype(float)
    u = scipy.stats.mannwhitneyu(x, y).statistic  # ties count half
    assert probability_of_improvement(x, y, paired=False).value == pytest.approx(u / 88)
    assert probability_of_improvement(x, y, paired=False).n == 8


def test_interval_of_improvement_is_that_of_all_possible_draws_of_pairs() -> None:
    x, y = np.array([1.0, 4.0, 2.0]), np.array([0.0, 3.0, 3.0])
    every = []
    for rows in product(range(3), repeat=3):
        wins = [(x[i] > y[j]) + 0.5 * (x[i] == y[j]) for i in rows for j in rows]
        every.append(np.mean(wins))
    ours = probability_of_improvement(x, y, resamples=200_000)
    # 27 equally likely draws: 2.5 % and 97.5 % fall within the least and the greatest of them.
    assert ours.value == pytest.approx(5 / 9)
    assert (ours.low, ours.high) == (min(every), max(every))


def test_improvement_of_separate_draws_covers_more_than_that_of_pairs_here() -> None:
    # x_i = y_i + 1 with widely spread seeds: drawn apart, the seeds' spread stays in; drawn in pairs, it cancels.
    y = np.arange(10) * 5.0
    pairs = probability_of_improvement(y + 1, y, resamples=4000)
    apart = probability_of_improvement(y + 1, y, paired=False, resamples=4000)
    assert pairs.value == apart.value == pytest.approx(0.55)
    assert apart.high - apart.low > 3 * (pairs.high - pairs.low)


def test_wins_by_hand() -> None:
    # Better, equal, worse, better: 2.5 of 4.
    assert compare(by_seed(2, 1, 0, 5), by_seed(1, 1, 3, 4), ("a", "b")).wins == pytest.approx(0.625)


def test_missing_seeds_are_left_out_and_named() -> None:
    first = {0: 1.0, 1: 2.0, 2: NAN, 3: 4.0, 5: NAN}
    second = {0: 0.0, 1: 0.0, 2: 7.0, 4: 1.0, 5: NAN}
    result = compare(first, second, ("cbp", "std"))
    assert result.seeds == (0, 1)
    assert result.difference.value == pytest.approx(1.5)
    assert result.unpaired == {"only cbp": (3,), "only std": (2, 4), "neither": (5,)}
    (row,) = paired_table([result]).to_dict("records")
    assert (row["n"], row["unpaired"]) == (2, "only cbp: seed 3; only std: seeds 2, 4; neither: seed 5")


def test_one_pair_has_a_difference_and_nothing_else() -> None:
    result = compare({3: 5.0}, {3: 2.0}, ("a", "b"))
    assert (result.n, float(result.difference.value), result.wins) == (1, 3.0, 1.0)
    assert np.isnan([result.difference.low, result.effect_size, result.improvement.low]).all()


def test_no_pair_is_no_number() -> None:
    result = compare({0: 1.0}, {1: 1.0}, ("a", "b"))
    assert result.n == 0
    assert np.isnan([result.difference.value, result.effect_size, result.improvement.value, result.wins]).all()
    assert paired_table([result])["compared"].tolist() == ["nothing"]


def test_unequal_numbers_cannot_be_pairs() -> None:
    with pytest.raises(ValueError, match="x has 3 scores and y has 2"):
        probability_of_improvement([1, 2, 3], [1, 2])


def curve(variant: str, seeds: tuple[int, ...], values: list[list[float]]) -> Curve:
    steps = (np.arange(np.shape(values)[1]) + 1) * 100
    return Curve(variant, tuple(f"{variant}-{seed}" for seed in seeds), seeds, steps, np.array(values))


def test_curves_are_compared_where_both_trials_have_values() -> None:
    # Seed 0 of std ended after two bins, so cbp's later ones don't count; seed 1 has all; seed 2 is only in std.
    std = curve("std", (0, 1, 2), [[1.0, 3.0, NAN, NAN], [0.0, 0.0, 2.0, 2.0], [9.0] * 4])
    cbp = curve("cbp", (0, 1), [[2.0, 6.0, 100.0, 100.0], [1.0, 1.0, 1.0, 1.0]])
    whole = compare_curves(cbp, std)
    assert whole.first_scores.tolist() == [4.0, 1.0]
    assert whole.second_scores.tolist() == [2.0, 1.0]
    assert whole.unpaired == {"only std": (2,)}
    assert whole.coverage == (0.5, 1.0)
    assert paired_table([whole])["compared"].tolist() == ["50\N{EN DASH}100 %"]
    late = compare_curves(cbp, std, last=0.5)
    assert (late.seeds, late.unpaired) == ((1,), {"only cbp": (0,), "only std": (2,)})
    assert late.score == "return, last 50 %"
    assert late.difference.value == pytest.approx(-1.0)


def test_a_seed_without_a_common_bin_is_left_out() -> None:
    std, cbp = curve("std", (0,), [[1.0, NAN]]), curve("cbp", (0,), [[NAN, 2.0]])
    assert compare_curves(cbp, std).unpaired == {"neither": (0,)}


def test_curves_over_other_bins_are_refused() -> None:
    std, cbp = curve("std", (0,), [[1.0]]), curve("cbp", (0,), [[1.0, 2.0]])
    with pytest.raises(ValueError, match="curves of cbp and std are over different bins"):
        compare_curves(cbp, std)


def scores(variant: str, values: list[list[float]], complete: list[list[bool]] | None = None, problem: str = "p"):
    n, tasks = np.shape(values)
    whole = np.isfinite(values) if complete is None else np.array(complete)
    names = tuple(f"{variant}-{seed}" for seed in range(n))
    steps = np.full((n, tasks), 10)
    return TaskScores(
        variant, names, tuple(range(n)), tuple(range(tasks)), np.array(values), whole, steps, (problem,) * n
    )


def test_tasks_are_compared_seed_by_seed() -> None:
    # Tasks of a seed belong together: 2 pairs of seeds over all tasks, not 5 pairs of (seed, task).
    std = scores("std", [[1.0, 2.0, 3.0], [2.0, 2.0, 50.0]], [[True] * 3, [True, True, False]])
    cbp = scores("cbp", [[2.0, 4.0, 6.0], [5.0, 1.0, 9.0]])
    overall, *by_task = compare_tasks(cbp, std)
    assert overall.first_scores.tolist() == [4.0, 3.0]
    assert overall.second_scores.tolist() == [2.0, 2.0]
    assert (overall.n, overall.coverage) == (2, (pytest.approx(2 / 3), 1.0))
    assert [each.score for each in by_task] == [f"area under the curve, task {task}" for task in range(3)]
    assert [float(each.difference.value) for each in by_task] == [2.0, 0.5, 3.0]
    assert (by_task[2].n, by_task[2].unpaired) == (1, {"only cbp": (1,)})


def test_another_sequence_of_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="seed 0: cbp and std had different options of the problem"):
        compare_tasks(scores("cbp", [[1.0]], problem="slippery"), scores("std", [[1.0]], problem="fixed"))
    with pytest.raises(ValueError, match="cbp and std have different tasks"):
        compare_tasks(scores("cbp", [[1.0, 2.0]]), scores("std", [[1.0]]))
