"""The table of simple-lop from rows of the store, and its plots."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors

from lop_ray.analysis.mixture_figures import FIGURES, excess_loss, figures, task_curves, task_table
from lop_ray.analysis.opening import open_grid
from lop_ray.results import Store

EXAMPLES, UNITS = 960, 10


def write_store(results: Path, *, seeds: int = 2, tasks: int = 4, starts: bool = True, **task_columns: Any) -> None:
    """A grid of tasks with two hidden layers; numbers say where they are from: seed + task / 10 and so on."""
    for seed in range(seeds):
        write_trial(results, f"sgd-{seed}", seed, tasks, starts, task_columns)


def write_trial(results: Path, trial: str, seed: int, tasks: int, starts: bool, task_columns: dict[str, Any]) -> None:
    writer = Store(results, "gmm").trial_writer(trial)
    writer.rewind(0)
    update = 0
    for task in range(tasks):
        moments = [(task * EXAMPLES, 3.0 + task, 0.9)] * starts + [((task + 1) * EXAMPLES, 50.0, 0.1 * task)]
        for env_steps, gradient, saturation in moments:
            update += 1
            when = {"update": update, "env_steps": env_steps, "task": task}
            writer.append("updates", when | {"wall_s": 1.0})
            for layer in range(2):
                row = {
                    "units": UNITS,
                    "saturation": saturation + 0.02 * layer,
                    "covariance_rank": 5.0 - task - layer / 2,
                    "duplicates": task + layer,
                    "gradient_norm": gradient * (1 + layer),
                }
                writer.append("layers", when | {"network": "classifier", "layer": layer} | row)
        row = {
            "examples": EXAMPLES,
            "min_loss": 0.1 * task + seed,
            "last_loss": 0.2 * task + seed,
            "final_loss": 99.0,
            "fresh_min_loss": 0.01 if task % 2 else None,
            "fresh_final_loss": 0.02 if task % 2 else None,
            "distance": None if task == 0 else 0.5,
        }
        writer.append("tasks", when | row | task_columns)
    writer.set_status(
        "finished",
        None,
        grid="gmm",
        problem="gaussian_mixture",
        algorithm="supervised",
        variant="sgd",
        seed=seed,
        env_steps=tasks * EXAMPLES,
        updates=update,
        config="{}",
    )
    writer.join()
    writer.close()


def table_of(results: Path) -> pd.DataFrame:
    return task_table(open_grid(results, "gmm"))


def test_columns_are_the_sources_and_then_ours(tmp_path: Path) -> None:
    write_store(tmp_path)
    assert list(table_of(tmp_path).columns) == [
        *("task", "min_CE", "final_CE", "sat", "grad_norm"),
        *("eff_rank_L0", "eff_rank_L1", "dup_frac_L0", "dup_frac_L1"),
        *("variant", "seed", "fresh_min_CE", "fresh_final_CE", "distance"),
    ]


def test_numbers_come_from_where_the_source_takes_them(tmp_path: Path) -> None:
    write_store(tmp_path)
    table = table_of(tmp_path)
    assert table[["seed", "task"]].to_numpy().tolist() == [[seed, task] for seed in (0, 1) for task in (1, 2, 3, 4)]
    row = table[(table["seed"] == 1) & (table["task"] == 3)].iloc[0]
    assert row["min_CE"] == pytest.approx(1.2)
    assert row["final_CE"] == pytest.approx(1.4)
    assert row["sat"] == pytest.approx(0.2 + 0.01)  # after the last step, mean of both layers
    assert row["grad_norm"] == pytest.approx(math.hypot(5.0, 10.0))  # before the first step, both layers together
    assert row[["eff_rank_L0", "eff_rank_L1"]].tolist() == [3.0, 2.5]
    assert row[["dup_frac_L0", "dup_frac_L1"]].tolist() == pytest.approx([0.2, 0.3])
    assert math.isnan(row["fresh_final_CE"])
    assert table[table["task"] == 2]["fresh_final_CE"].tolist() == [0.02, 0.02]
    assert table["distance"].isna().tolist() == [task == 1 for task in table["task"]]


def test_gradient_norm_is_empty_without_rows_before_the_first_step(tmp_path: Path) -> None:
    write_store(tmp_path, starts=False)
    table = table_of(tmp_path)
    assert table["grad_norm"].isna().all()
    assert table["sat"].notna().all()
    texts = [text.get_text() for text in figures(table)["lop_grad"].axes[0].texts]
    assert texts == ["not measured"]


def test_excess_over_new_networks_by_hand(tmp_path: Path) -> None:
    write_store(tmp_path)
    found = excess_loss(table_of(tmp_path))
    # Of the tasks 3 and 4 only the 4th has a baseline: 0.6 + seed - 0.02.
    assert found["sgd"].value == pytest.approx((0.58 + 1.58) / 2)
    assert found["sgd"].low == pytest.approx(0.58)
    assert found["sgd"].high == pytest.approx(1.58)
    assert found["sgd"].n == 2
    # All tasks: 2 and 4.
    assert excess_loss(table_of(tmp_path), last=1.0)["sgd"].value == pytest.approx((0.18 + 0.58) / 2 + 0.5)


def test_no_excess_without_a_baseline(tmp_path: Path) -> None:
    write_store(tmp_path, fresh_min_loss=None, fresh_final_loss=None)
    assert excess_loss(table_of(tmp_path)) == {}


def test_figures_show_means_over_seeds(tmp_path: Path) -> None:
    write_store(tmp_path)
    drawn = figures(table_of(tmp_path))
    assert tuple(drawn) == FIGURES
    axes = drawn["lop_finalCE"].axes[0]
    line, dots = axes.lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert line.get_ydata().tolist() == pytest.approx([0.5, 0.7, 0.9, 1.1])
    assert list(dots.get_xdata()) == [2, 4]
    assert list(dots.get_ydata()) == [0.02, 0.02]
    layers = drawn["lop_effrank"].axes[0].lines
    assert [each.get_ydata().tolist() for each in layers] == [[5.0, 4.0, 3.0, 2.0], [4.5, 3.5, 2.5, 1.5]]
    assert len({colors.to_hex(each.get_color()) for each in layers}) == 2
    assert "sgd (n = 2 seeds)" in drawn["lop_effrank"].axes[0].get_title(loc="left")


def test_a_seed_that_still_runs_has_fewer_tasks(tmp_path: Path) -> None:
    write_trial(tmp_path, "sgd-0", 0, 4, True, {})
    write_trial(tmp_path, "sgd-1", 1, 2, True, {})
    (curve,) = task_curves(table_of(tmp_path), "final_CE")
    assert curve.seeds == (0, 1)
    np.testing.assert_allclose(curve.values[1], [1.0, 1.2, np.nan, np.nan])


def test_several_trials_a_seed_are_refused(tmp_path: Path) -> None:
    write_trial(tmp_path, "a", 0, 2, True, {})
    write_trial(tmp_path, "b", 0, 2, True, {})
    with pytest.raises(ValueError, match="variant sgd has several trials a seed: the grid has further axes"):
        table_of(tmp_path)
