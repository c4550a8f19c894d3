"""Verdicts: the interval is Student's, and a verdict can come out either way or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lop_ray.analysis.causality.verdict import (
    Interval,
    decide,
    over_seeds,
    printed,
    verdict_of,
    verdict_table,
)

NAN = np.nan


def test_the_interval_and_p_are_those_of_the_t_test():
    values = [0.3, 1.2, -0.4, 0.9, 0.5]
    found = over_seeds([*values, NAN], null=0.2)
    test = stats.ttest_1samp(values, 0.2)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p == pytest.approx(test.pvalue)
    assert found.n == 5


def test_the_interval_covers_the_mean_of_five_normal_seeds_95_times_in_100():
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(2000, 5))
    found = [over_seeds(row) for row in draws]
    assert 0.935 < np.mean([each.low < 2.0 < each.high for each in found]) < 0.965


def test_one_seed_or_none_has_no_interval():
    assert over_seeds([]).n == 0
    one = over_seeds([3.0, NAN])
    assert (one.value, one.n, one.p) == (3.0, 1, None)
    assert np.isnan([one.low, one.high]).all()


@pytest.mark.parametrize(("values", "p"), [([0.0, 0.0, 0.0], 1.0), ([2.0, 2.0, 2.0], 0.0)])
def test_seeds_that_agree_exactly_have_an_interval_without_width(values, p):
    found = over_seeds(values)
    assert (found.value, found.low, found.high, found.p) == (values[0], values[0], values[0], p)


@pytest.mark.parametrize(
    ("low", "high", "direction", "negligible", "expected"),
    [
        (0.1, 0.5, "above", 0.0, True),
        (-0.5, -0.1, "above", 0.0, False),
        (-0.1, 0.5, "above", 0.0, None),
        (-0.5, -0.1, "below", 0.0, True),
        (0.1, 0.5, "below", 0.0, False),
        (-0.5, 0.1, "below", 0.0, None),
        (-0.05, 0.05, "above", 0.1, False),  # whatever it is, it is smaller than what would matter
        (-0.05, 0.05, "below", 0.1, False),
        (0.01, 0.05, "above", 0.1, False),
        (-0.3, 0.2, "above", 0.1, None),
        (0.05, 0.2, "above", 0.1, True),
        (0.0, 0.0, "above", 0.0, False),  # all seeds agree that there is nothing
        (-0.5, 0.0, "above", 0.0, False),
        (NAN, NAN, "above", 0.1, None),
    ],
)
def test_decisions(low, high, direction, negligible, expected):
    assert decide(Interval((low + high) / 2, low, high, 5), direction, negligible=negligible) is expected
    # The same beside another null.
    moved = Interval((low + high) / 2 + 0.5, low + 0.5, high + 0.5, 5)
    assert decide(moved, direction, null=0.5, negligible=negligible) is expected


def test_a_negative_smallest_effect_is_refused():
    with pytest.raises(ValueError, match=r"negligible is -0\.1; it is a distance from null and must be at least 0"):
        decide(Interval(0, -1, 1, 3), "above", negligible=-0.1)


def test_a_verdict_is_one_sentence_with_statistic_interval_and_n():
    found = Interval(-4.25, -6.5, -2.0, 5, 0.0004)
    verdict = verdict_of("prevent_death", "fewer units die", "dead units, difference in points", found, "below")
    assert verdict.supported is True
    assert verdict.sentence == (
        "SUPPORTED: fewer units die: dead units, difference in points "
        "\N{MINUS SIGN}4.25 [\N{MINUS SIGN}6.5, \N{MINUS SIGN}2], n = 5 seeds, p < 0.001."
    )
    against = verdict_of("prevent_death", "more units die", "the same", found, "above", note="One seed diverged.")
    assert printed([verdict, against]).splitlines()[1].startswith("AGAINST: more units die")
    assert against.sentence.endswith(" One seed diverged.")
    table = verdict_table([verdict, against])
    assert table["verdict"].tolist() == ["supported", "against"]
    assert table["p"].tolist() == ["< 0.001", "< 0.001"]
    assert table["n"].tolist() == [5, 5]
