from __future__ import annotations

import numpy as np

from lop_ray.analysis import comparison_figures
from lop_ray.analysis.correlation import lagged_correlation
from lop_ray.analysis.paired import compare
from lop_ray.analysis.profiles import performance_profile
from tests.analysis.looking import curve, drawn_values, everything_fits, legend_text


def test_differences_show_mean_interval_pairs_and_n() -> None:
    one = compare({0: 3.0, 1: 5.0}, {0: 1.0, 1: 0.0}, ("cbp", "std"), "return, whole run")
    alone = compare({0: 1.0}, {0: 2.0}, ("l2", "std"), "return, whole run")
    figure = comparison_figures.difference_figure([one, alone])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "cbp \N{MINUS SIGN} std\n(n = 2 pairs)",
        "l2 \N{MINUS SIGN} std\n(n = 1 pair)",
    ]
    pairs, dot, bar = (list(line.get_xdata()) for line in axes.lines[:3])
    assert (pairs, dot, bar) == ([2.0, 5.0], [3.5], [2.0, 5.0])
    assert "no interval with 1 pair" in figure.get_suptitle()
    assert everything_fits(figure)


def test_no_pair_is_said() -> None:
    figure = comparison_figures.difference_figure([compare({0: 1.0}, {}, ("cbp", "std"))])
    assert "no seed has a score in both" in figure.texts[0].get_text()


def test_many_comparisons_fit() -> None:
    scores = ("return, whole run", "return, last 10 %", "area under the curve, all tasks", "another")
    each = [
        compare({0: 3e6, 1: -2e6}, {0: 1.0, 1: 0.0}, (f"a_long_variant_name_{number}", "std"), score)
        for number in range(11)
        for score in scores
    ]
    figure = comparison_figures.difference_figure(each)
    assert len([axes for axes in figure.axes if axes.axison]) == 4
    assert everything_fits(figure)


def test_profiles_are_drawn_with_what_is_missing() -> None:
    thresholds = np.array([0.0, 1.0, 2.0])
    std = performance_profile([[0.5, 1.5], [3.0, np.nan]], thresholds, "std")
    cbp = performance_profile([[3.0, 3.0]], thresholds, "cbp")
    figure = comparison_figures.profile_figure([std, cbp])
    assert drawn_values(figure.axes[0], "#D55E00") == [[1.0, 0.75, 0.5]]
    text = legend_text(figure)
    assert "scores missing: std 1" in text
    assert "over 2 tasks" in text
    assert "std (n = 2 seeds)" in text
    assert everything_fits(figure)


def test_a_collapse_does_not_squash_the_profile() -> None:
    thresholds = np.linspace(-384_000, 4000, 11)
    figure = comparison_figures.profile_figure([performance_profile([[4000.0], [-384_000.0]], thresholds, "std")])
    assert figure.axes[0].get_xlim() == (-1000.0, 4000.0)
    assert any("lowest \N{MINUS SIGN}384,000" in text.get_text() for text in figure.axes[0].texts)


def test_correlations_have_a_row_of_values_and_one_of_changes() -> None:
    draw = np.random.default_rng(0)
    x, y = curve("std", draw.normal(size=(3, 30)).tolist()), curve("std", draw.normal(size=(3, 30)).tolist())
    still = curve("std", np.zeros((3, 30)).tolist())
    found = {
        "dead units, then return": [lagged_correlation(x, y, 100_000, 5)],
        "rank, then return": [lagged_correlation(still, y, 100_000, 5)],
    }
    figure = comparison_figures.correlation_figure(found, found)
    assert len(figure.axes) == 4
    expected = np.nanmean(found["dead units, then return"][0].values, axis=0)
    np.testing.assert_allclose(drawn_values(figure.axes[0], "#D55E00")[0], expected)
    assert "a measure that doesn't move" in figure.axes[1].texts[0].get_text()
    assert "std (n = 3 seeds)" in legend_text(figure)
    assert everything_fits(figure)


def test_nothing_to_compare_is_said() -> None:
    assert "no trial" in comparison_figures.profile_figure([]).texts[0].get_text()
    assert "no two measures" in comparison_figures.correlation_figure({}, {}).texts[0].get_text()
