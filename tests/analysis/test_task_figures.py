from __future__ import annotations

import numpy as np
import pandas as pd

from lop_ray.analysis import task_figures
from lop_ray.analysis.tasks import TaskScores
from tests.analysis.looking import curve, drawn_values, everything_fits, legend_text

STD = curve("std", [[0.0, 10.0, 20.0, 5.0], [4.0, 14.0, 30.0, 40.0]])
CBP = curve("cbp", [[1.0, 2.0, 3.0, 4.0]])
STARTS = pd.DataFrame(
    [("std", 0, 0, 0), ("std", 0, 1, 190_000), ("std", 1, 0, 0), ("std", 1, 1, 210_000), ("cbp", 0, 1, 200_000)],
    columns=["variant", "seed", "task", "env_steps"],
)


def dotted(axes) -> list[float]:
    return [line.get_xdata()[0] for line in axes.lines if line.get_zorder() == 0.5]


def test_boundaries_stand_at_the_median_start() -> None:
    figure = task_figures.task_return_figure([STD, CBP], STARTS, 100_000)
    assert dotted(figure.axes[0]) == [200_000]
    assert "dotted: the task changes" in legend_text(figure)
    assert "std (n = 2 seeds)" in legend_text(figure)
    assert everything_fits(figure)


def test_a_problem_that_never_changes_says_so() -> None:
    figure = task_figures.task_return_figure([CBP], STARTS[STARTS["task"] == 0])
    assert dotted(figure.axes[0]) == []
    assert "the task never changed" in legend_text(figure)


def test_crowded_boundaries_are_left_out() -> None:
    starts = pd.DataFrame({"task": range(101), "env_steps": np.arange(101) * 4000})
    assert dotted(task_figures.task_return_figure([CBP], starts).axes[0]) == []


def test_each_seed_has_a_panel_with_its_own_values() -> None:
    values = {(0, 0): 0.5, (0, 1): 0.02, (1, 0): 1.25}
    figure = task_figures.seed_return_figure([STD, CBP], STARTS, values, what="friction of the task")
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["seed 0", "seed 1"]
    assert drawn_values(first, "#D55E00") == [[0.0, 10.0, 20.0, 5.0]]
    assert drawn_values(first, "#0072B2") == [[1.0, 2.0, 3.0, 4.0]]
    assert drawn_values(second, "#0072B2") == []
    assert [text.get_text() for text in first.texts] == ["0.5", "0.02"]
    assert dotted(first) == [195_000]
    assert "number: friction of the task" in legend_text(figure)
    assert everything_fits(figure)


def test_hidden_seeds_are_counted() -> None:
    figure = task_figures.seed_return_figure([STD, CBP], STARTS, most=1)
    assert "1 of 2 seeds shown" in legend_text(figure)
    assert "no episode" in task_figures.seed_return_figure([], STARTS).texts[0].get_text()


def scores(complete: list[list[bool]]) -> TaskScores:
    values, steps = np.array([[1.0, 2.0], [3.0, 8.0]]), np.ones((2, 2), dtype=np.int64)
    return TaskScores("std", ("a", "b"), (0, 1), (0, 1), values, np.array(complete), steps, (None, None))


def test_area_by_task_is_over_complete_tasks() -> None:
    figure = task_figures.task_auc_figure([scores([[True, True], [True, False]])])
    dashed, solid = drawn_values(figure.axes[0], "#D55E00")
    assert dashed == [2.0, 2.0]
    np.testing.assert_array_equal(solid, [2.0, np.nan])
    assert "not all seeds" in legend_text(figure)
    assert everything_fits(figure)
    empty = task_figures.task_auc_figure([scores([[False] * 2] * 2)])
    assert empty.texts[0].get_text() == "no trial has completed a task"
