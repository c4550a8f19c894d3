"""The panel: first and last measurements of tasks, outcomes of any problem, settings, summaries over tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lop_ray.analysis.causality.panel import drift, late, read_panel, settings, trial_numbers
from lop_ray.results import Store, connect
from tests.analysis.causality.store import Rows, Run, at_ends, margins_of
from tests.analysis.store import write_slippery_store


def runs(**options) -> dict:
    draw = np.random.default_rng(0)
    dead = np.array([0, 2, 1, 4, 4, 6])
    margins = margins_of(dead, draw)
    run = Run(
        margins, np.array([90.0, 80, 70, 60, 50, 40]), np.array([0.9, 0.8, 0.7]), np.array([0, 0.5, 1.5]), **options
    )
    return {("ns", seed): run for seed in (0, 1)}


def test_first_and_last_measurements_of_every_task():
    panel = read_panel(Rows(runs(hessian=np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1]))).connect())
    rows = panel.rows[panel.rows["seed"] == 1]
    assert rows["task"].tolist() == [0, 1, 2]
    assert rows["dead_start"].tolist() == [0, 5, 20]  # of 20 units, in %
    assert rows["dead_end"].tolist() == [10, 20, 30]
    assert rows["rank_start"].tolist() == pytest.approx([90, 70, 50])
    assert rows["rank_end"].tolist() == pytest.approx([80, 60, 40])
    assert rows["hessian_start"].tolist() == pytest.approx([60, 40, 20])
    assert rows["hessian_end"].tolist() == pytest.approx([50, 30, 10])
    assert rows["outcome"].tolist() == pytest.approx([90, 80, 70])
    assert np.isnan(rows["distance"].iloc[0])
    assert rows["distance"].tolist()[1:] == [0.5, 1.5]
    assert (panel.outcome, panel.rank, panel.network) == (
        "accuracy at the task's end (%)",
        "effective rank",
        "classifier",
    )
    assert panel.series("dead_end", "ns")[0].tolist() == [10, 20, 30]


def test_an_outcome_can_be_chosen():
    store = Rows(runs()).connect()
    assert read_panel(store, "final_accuracy").outcome == "accuracy at the task's end (%)"
    assert read_panel(store, "final_loss").rows["outcome"].isna().all()
    with pytest.raises(ValueError, match=r"outcome is 'speed'; it must be one of test_accuracy, .*, episode_return"):
        read_panel(store, "speed")
    with pytest.raises(ValueError, match="no network 'value' was measured; there are classifier"):
        read_panel(store, network="value")


def test_on_slippery_ant_the_outcome_is_the_return_and_the_distance_that_of_the_frictions(tmp_path: Path):
    write_slippery_store(tmp_path, seeds=2)
    panel = read_panel(connect(tmp_path, "slippery_ant_grid"))
    assert panel.outcome.startswith("return")
    assert panel.network == "policy"
    assert panel.rows["dead_end"].notna().all()
    first = panel.rows[(panel.rows["variant"] == "std") & (panel.rows["seed"] == 0)]
    assert first["task"].tolist() == [0, 1, 2, 3]
    expected = np.abs(np.diff(np.log([0.3, 0.05, 1.8, 0.4])))
    assert first["distance"].to_numpy()[1:] == pytest.approx(expected)
    # The trial that still runs is in its task 2: that one isn't whole.
    running = panel.rows[(panel.rows["variant"] == "cbp") & (panel.rows["seed"] == 1)]
    assert running["task"].tolist() == [0, 1]


def test_an_area_under_the_return_curve_by_hand(tmp_path: Path):
    store = Store(tmp_path, "grid")
    writer = store.trial_writer("t")
    writer.rewind(0)
    when = {"update": 1, "env_steps": 500, "task": 0}
    writer.append("updates", when)
    writer.append("layers", when | {"network": "policy", "layer": 0, "units": 4, "dead": 1, "stable_rank": 2.0})
    for value, length in ((10.0, 100), (40.0, 300), (float("nan"), 50)):
        writer.append("episodes", when | {"episode_return": value, "length": length, "terminated": True})
    writer.set_status("finished", None, variant="ns", seed=0, problem="slippery_ant")
    writer.close()
    panel = read_panel(connect(tmp_path, "grid"))
    assert panel.rows["outcome"].tolist() == [pytest.approx((10 * 100 + 40 * 300) / 400)]
    assert panel.rows["rank_end"].tolist() == [50.0]
    assert panel.rank == "stable rank"


def test_settings_are_read_from_the_first_place_that_has_them():
    config = {"problem_options": {"tasks": "same"}, "interventions": {"kill_units": {"percent": 25}}}
    store = Rows({("kill", 0): runs(config=config)["ns", 0]} | runs()).connect()
    assert settings(store, "problem_options.schedule.tasks", "problem_options.tasks") == {"kill-0": "same"}
    assert settings(store, "interventions.kill_units.percent") == {"kill-0": 25}
    assert set(settings(store, "network.activation").values()) == {"relu"}


def test_several_trials_of_a_seed_are_refused():
    panel = read_panel(Rows(runs()).add(runs(), "-b").connect())
    with pytest.raises(ValueError, match="variant ns has several trials of seed 0"):
        panel.series("dead_end", "ns")
    assert len(trial_numbers(panel, ("outcome",))) == 4


def test_an_empty_store_is_refused():
    with pytest.raises(ValueError, match="no trial has gone through a task yet"):
        read_panel(Rows().connect())


def test_summaries_over_tasks():
    assert drift(np.array([1.0, 3.0, 5.0, 7.0])) == pytest.approx(6.0)
    assert drift(np.array([1.0, np.nan, 5.0, 7.0])) == pytest.approx(6.0)
    assert np.isnan(drift(np.array([1.0, 2.0])))
    assert late(np.array([9.0, 9.0, 1.0, 3.0])) == 2.0
    assert late(np.array([9.0, 2.0, 4.0])) == 3.0
    assert np.isnan(late(np.array([1.0, np.nan])))
    assert at_ends(np.array([1, 2])).tolist() == [1, 1, 2, 2]
