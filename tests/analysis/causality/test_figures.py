"""Figures of the experiments: what is drawn is what was found, and nothing is drawn of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lop_ray.analysis.causality.figures import dose_figure, tasks_figure
from lop_ray.analysis.causality.killed_units import killed_units
from lop_ray.analysis.causality.margin_profile import margin_profile
from lop_ray.analysis.causality.panel import read_panel
from lop_ray.analysis.causality.same_task import same_task
from lop_ray.analysis.causality.task_distance import task_distance
from lop_ray.analysis.causality.temporal_order import temporal_order
from lop_ray.analysis.causality.trajectories import unit_trajectories
from lop_ray.analysis.causality.unit_figures import order_figure, profile_figure, trajectories_figure
from tests.analysis.causality.store import Rows
from tests.analysis.causality.test_notebook import TASKS, trial


@pytest.fixture(scope="module")
def store():
    return Rows({("ns", seed): trial(seed) for seed in range(3)}).connect()


def test_measures_over_tasks(store):
    panel = read_panel(store)
    dead, rank, outcome = tasks_figure(panel).axes
    assert dead.get_xlabel() == "task"
    assert dead.get_ylabel() == "dead units (%), task's end"
    assert rank.get_ylabel() == "effective rank (%), task's end"
    assert outcome.get_ylabel() == "accuracy,\ntask's end (%)"
    drawn = outcome.lines[-1].get_ydata()
    assert drawn == pytest.approx(panel.rows.groupby("task")["outcome"].mean().to_numpy())


def test_shares_killed_are_the_names_of_the_lines():
    rows = Rows()
    for percent in (0, 25, 50):
        config = {"interventions": {"kill_units": {"percent": percent}}} if percent else {}
        rows.add({(f"kill_{percent}", seed): trial(seed, **config) for seed in range(2)})
    figure = tasks_figure(killed_units(rows.connect()).panel, by="killed")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    # The colours of the legend are those of the lines, in their order.
    colours = [handle.get_color() for handle in figure.legends[0].get_lines()]
    assert [each.get_color() for each in figure.axes[0].lines] == colours
    assert names == ["0 % killed (n = 2 seeds)", "25 % killed (n = 2 seeds)", "50 % killed (n = 2 seeds)"]


def test_doses_are_drawn_seed_by_seed_with_their_mean():
    rows = Rows()
    for distance in (0.0, 0.5, 1.0):
        rows.add({("ns", seed): trial(seed, 6 * distance, distance) for seed in range(3)}, f"-{distance}")
    found = task_distance(rows.connect())
    (axes,) = dose_figure(found.table, "distance", ["dead_end"], found.panel, "measured distance").axes
    assert len(axes.lines) == 4
    mean = axes.lines[-1]
    assert np.asarray(mean.get_xdata()) == pytest.approx([0.0, 0.5, 1.0])
    assert np.asarray(mean.get_ydata()) == pytest.approx(found.table.groupby("distance")["dead_end"].mean().to_numpy())


def test_layers_order_and_units(store):
    profile = profile_figure(margin_profile(store))
    assert len(profile.axes[0].lines) == 3
    names = [text.get_text() for text in profile.legends[0].get_texts()]
    assert names == ["layer 1 (high)", "layer 2 (medium)", "layer 3 (medium)"]
    order = order_figure(temporal_order(store))
    assert [axes.get_ylabel() for axes in order.axes[:2]] == [
        "dead units (%), task's end",
        "Hessian rank (%), task's end",
    ]
    trajectories = unit_trajectories(store)
    units, around = trajectories_figure(trajectories).axes
    assert len(units.lines) == 20 + 1  # units and the line at 0
    assert units.get_title("left") == "ns, seed 0, hidden layer 1"
    assert np.asarray(units.lines[0].get_xdata()).tolist() == list(range(1, 2 * TASKS + 1))
    assert around.get_xlabel() == "measurements after a death"


def test_nothing_is_said_to_be_nothing():
    panel = read_panel(Rows({("ns", 0): trial(0)}).connect())
    empty = tasks_figure(panel.of([]))
    assert empty.texts[0].get_text() == "no task yet"
    table = task_distance(Rows({("ns", 0): trial(0)}).connect()).table
    assert dose_figure(table.iloc[:0], "distance", ["outcome"], panel, "d").texts[0].get_text() == "no trial yet"


def test_the_legend_names_the_lines_that_it_shows():
    rows = Rows()
    for kind, dying in (("new", 9.0), ("same", 0.0)):
        config = {"problem_options": {"tasks": kind}}
        rows.add({("ns", seed): trial(seed, dying, **config) for seed in range(3)}, kind)
    figure = tasks_figure(same_task(rows.connect()).panel, by="tasks")
    legend = figure.legends[0]
    colours = dict(zip([text.get_text() for text in legend.get_texts()], legend.get_lines(), strict=True))
    last = {line.get_color(): line.get_ydata()[-1] for line in figure.axes[0].lines}
    changing, same = (last[colours[f"{name} (n = 3 seeds)"].get_color()] for name in ("tasks change", "same task"))
    assert changing > same + 20  # dead units accumulate where tasks change
