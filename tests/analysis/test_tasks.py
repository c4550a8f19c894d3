from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pandas as pd
import pytest

from lop_ray.analysis import tasks

NAN = np.nan


@pytest.fixture
def store() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        yield connection


def fill(store: duckdb.DuckDBPyConnection, trials: Sequence[tuple], episodes: Sequence[tuple]) -> None:
    """Trials are (id, variant, seed, status, config); episodes are (id, task, env_steps, return, length)."""
    store.register("trials", pd.DataFrame(trials, columns=["trial_id", "variant", "seed", "status", "config"]))
    names = ["trial_id", "task", "env_steps", "episode_return", "length"]
    store.register("episodes", pd.DataFrame(episodes, columns=names))


def test_area_is_that_of_the_binned_curve(store: duckdb.DuckDBPyConnection) -> None:
    # Bins of 10 steps. First bin: mean of 2 and 6 over 10 steps; second: 9 over 5 steps. (4 * 10 + 9 * 5) / 15.
    episodes = [("a", 0, 4, 2.0, 4), ("a", 0, 10, 6.0, 6), ("a", 0, 15, 9.0, 5)]
    fill(store, [("a", "std", 0, "finished", None)], episodes)
    (scores,) = tasks.task_scores(store, bin_steps=10)
    assert scores.values == pytest.approx(np.array([[85 / 15]]))
    assert scores.env_steps.tolist() == [[15]]
    assert scores.complete.tolist() == [[True]]


def test_a_bin_that_a_boundary_cuts_counts_in_both_tasks(store: duckdb.DuckDBPyConnection) -> None:
    episodes = [("a", 0, 8, 1.0, 8), ("a", 0, 12, 3.0, 4), ("a", 1, 18, 10.0, 6), ("a", 1, 30, 20.0, 12)]
    fill(store, [("a", "std", 0, "finished", None)], episodes)
    (scores,) = tasks.task_scores(store, bin_steps=10)
    expected = [(1.0 * 8 + 3.0 * 4) / 12, (10.0 * 6 + 20.0 * 12) / 18]
    assert scores.values == pytest.approx(np.array([expected]))


def test_against_a_plain_loop(store: duckdb.DuckDBPyConnection) -> None:
    draw = np.random.default_rng(0)
    episodes, step = [], 0
    for _ in range(200):
        length = int(draw.integers(5, 60))
        step += length
        episodes.append(("a", step // 2000, step, float(draw.normal(step / 100, 30)), length))
    fill(store, [("a", "std", 0, "finished", None)], episodes)
    (scores,) = tasks.task_scores(store, bin_steps=500)
    for place, task in enumerate(scores.tasks):
        bins: dict[int, list[tuple[float, int]]] = {}
        for _, of_task, at, value, length in episodes:
            if of_task == task:
                bins.setdefault(-(-at // 500), []).append((value, length))
        area = steps = 0.0
        for members in bins.values():
            width = sum(length for _, length in members)
            area += sum(value for value, _ in members) / len(members) * width
            steps += width
        assert scores.values[0, place] == pytest.approx(area / steps, rel=1e-12)


def test_a_task_that_a_trial_did_not_go_through_does_not_count(store: duckdb.DuckDBPyConnection) -> None:
    trials = [("a", "std", 0, "finished", None), ("b", "std", 1, "diverged", None), ("c", "std", 2, "running", None)]
    episodes = [(name, 0, 5, value, 5) for name, value in zip("abc", (1.0, 2.0, 6.0), strict=True)]
    episodes += [("a", 1, 10, 4.0, 5), ("b", 1, 10, 100.0, 5)]
    fill(store, trials, episodes)
    (scores,) = tasks.task_scores(store, bin_steps=10)
    np.testing.assert_array_equal(scores.whole, [[1.0, 4.0], [2.0, NAN], [NAN, NAN]])
    assert scores.incomplete == [(1, 1), (2, 0)]
    result = scores.estimate()
    np.testing.assert_array_equal(result.value, [1.5, 4.0])
    np.testing.assert_array_equal(result.n, [2, 1])
    table = tasks.task_table([scores])
    assert table.loc[("std", 0), ["n", "incomplete"]].tolist() == [2, 1]
    assert table.loc[("std", 1), ["n", "incomplete"]].tolist() == [1, 1]
    assert table.loc[("std", 0), ["auc_low", "auc_high"]].tolist() == [1.0, 2.0]
    assert np.isnan(table.loc[("std", 1), "auc_low"])


def test_returns_that_are_no_numbers_are_left_out(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0, "finished", None)], [("a", 0, 5, 3.0, 5), ("a", 0, 6, NAN, 1), ("a", 0, 7, np.inf, 1)])
    (scores,) = tasks.task_scores(store, bin_steps=10)
    assert scores.values.tolist() == [[3.0]]


def test_the_problem_is_known_from_the_configuration(store: duckdb.DuckDBPyConnection) -> None:
    config = json.dumps({"problem": "p", "problem_options": {"b": 1, "a": 2}, "lr": 1})
    other = json.dumps({"lr": 2, "problem_options": {"a": 2, "b": 1}, "problem": "p"})
    trials = [("a", "std", 0, "finished", config), ("b", "cbp", 0, "finished", other), ("c", "ns", 0, "finished", None)]
    fill(store, trials, [(name, 0, 5, 1.0, 5) for name in "abc"])
    by_variant = {each.variant: each.problems for each in tasks.task_scores(store)}
    assert by_variant["std"] == by_variant["cbp"]
    assert by_variant["ns"] == (None,)


def test_bad_input_is_named(store: duckdb.DuckDBPyConnection) -> None:
    twice = [("a", "std", 0, "finished", None), ("b", "std", 0, "finished", None)]
    fill(store, twice, [("a", 0, 5, 1.0, 5), ("b", 0, 5, 1.0, 5)])
    with pytest.raises(ValueError, match="variant std has several trials a seed"):
        tasks.task_scores(store)
    with pytest.raises(ValueError, match="bin_steps is 0"):
        tasks.task_scores(store, bin_steps=0)


def test_tasks_start_where_the_last_update_before_them_ended(store: duckdb.DuckDBPyConnection) -> None:
    store.register("trials", pd.DataFrame({"trial_id": ["a", "b"], "variant": ["cbp", "std"], "seed": [0, 0]}))
    rows = [("a", update, update * 100, (update - 1) // 2) for update in range(1, 7)]
    rows += [("b", update, update * 100, (update - 1) // 3) for update in range(1, 7)]
    store.register("updates", pd.DataFrame(rows, columns=["trial_id", "update", "env_steps", "task"]))
    starts = tasks.task_starts(store)
    assert starts["variant"].tolist() == ["std", "std", "cbp", "cbp", "cbp"]
    assert starts["task"].tolist() == [0, 1, 0, 1, 2]
    assert starts["env_steps"].tolist() == [0, 300, 0, 200, 400]
    # Task 1 starts at 200 and 300: the median is between them; task 2 was entered by one trial.
    assert tasks.boundaries_of(starts).tolist() == [250.0, 400.0]


def test_an_empty_store_has_no_scores_and_no_tasks(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0, "running", None)], [("a", 0, 5, NAN, 5)])
    assert tasks.task_scores(store) == []
    assert tasks.task_table([]).empty
