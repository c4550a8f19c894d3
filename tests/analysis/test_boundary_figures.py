from __future__ import annotations

import numpy as np
import pytest

from lop_ray.analysis.boundaries import CHANGES, DEAD, MARGINS, Boundaries
from lop_ray.analysis.boundary_figures import boundary_deaths_figure, boundary_margins_figure
from tests.analysis.looking import drawn_values, everything_fits, legend_text


def boundaries(variant: str, **values: list[list[float]]) -> Boundaries:
    shape = np.shape(next(iter(values.values())))
    every = {name: np.zeros(shape) for name in (*MARGINS, *DEAD, *CHANGES)}
    every |= {name: np.array(each, dtype=float) for name, each in values.items()}
    return Boundaries(variant, tuple(range(shape[0])), tuple(range(1, shape[1] + 1)), every)


def test_margins_at_three_moments() -> None:
    std = boundaries(
        "std",
        old_mean_margin=[[2.0, 4.0], [3.0, 5.0]],
        predictive_mean_margin=[[1.0, 1.0]] * 2,
        actual_mean_margin=[[1.5, 2.5]] * 2,
    )
    cbp = boundaries("cbp", old_mean_margin=[[9.0]])
    figure = boundary_margins_figure({("policy", 0): [std, cbp], ("policy", 1): [std]})
    first = figure.axes[0]
    assert drawn_values(first, "#4d4d4d") == [[2.5, 4.5]]
    assert drawn_values(first, "#E69F00") == [[1.0, 1.0]]
    assert drawn_values(first, "#0072B2") == [[1.5, 2.5]]
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["std\nn = 2 seeds", "cbp\nn = 1 seed"]
    assert len(figure.axes[3].lines) == 0  # cbp has no second layer
    assert "95 % bootstrap" in legend_text(figure)
    assert everything_fits(figure)


def test_deaths_are_stacked_up_and_revivals_down() -> None:
    std = boundaries(
        "std",
        killed_by_shift=[[10.0, 0.0], [20.0, 4.0]],
        killed_by_adaptation=[[5.0, 1.0]] * 2,
        revived_by_shift=[[2.0, 0.0]] * 2,
        revived_by_adaptation=[[3.0, 0.0]] * 2,
    )
    (axes,) = boundary_deaths_figure({("policy", 0): [std]}).axes
    bars = [(patch.get_x() + patch.get_width() / 2, patch.get_y(), patch.get_height()) for patch in axes.patches]
    at_task_1 = sorted((bottom, height) for x, bottom, height in bars if x == pytest.approx(1.0))
    assert at_task_1 == [(-2.0, -3.0), (0.0, -2.0), (0.0, 15.0), (15.0, 5.0)]


def test_many_variants_fit_and_no_row_is_said() -> None:
    one = [boundaries(f"a_long_variant_{number}", old_mean_margin=[[1.0, 2.0]] * 2) for number in range(6)]
    for draw in (boundary_margins_figure, boundary_deaths_figure):
        assert everything_fits(draw({("policy", 0): one, ("value", 0): one}))
        assert "no row in the table boundaries" in draw({}).texts[0].get_text()
