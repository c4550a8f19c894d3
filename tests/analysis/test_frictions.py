from __future__ import annotations

import json
from collections.abc import Iterator

import duckdb
import pandas as pd
import pytest

from lop_ray.analysis.frictions import task_frictions
from lop_ray.problems.friction import FrictionOptions, Frictions


@pytest.fixture
def store() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        yield connection


def fill(store: duckdb.DuckDBPyConnection, *trials: tuple[str, int, dict | None, int]) -> None:
    """Trials are (id, seed, options of the problem, last task)."""
    rows = [(name, seed, None if options is None else json.dumps(options)) for name, seed, options, _ in trials]
    store.register("trials", pd.DataFrame(rows, columns=["trial_id", "seed", "config"]))
    updates = [(name, task) for name, _, _, last in trials for task in range(last + 1)]
    store.register("updates", pd.DataFrame(updates, columns=["trial_id", "task"]))


def slippery(schedule: dict | None = None, **friction: object) -> dict:
    return {"problem_options": {"friction": friction, "schedule": schedule or {}}}


def test_listed_frictions_are_by_seed_and_task(store: duckdb.DuckDBPyConnection) -> None:
    options = slippery(values=[[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    fill(store, ("a", 0, options, 1), ("b", 1, options, 2), ("c", 1, options, 0))
    assert task_frictions(store) == {(0, 0): 0.1, (0, 1): 0.2, (1, 0): 1.0, (1, 1): 2.0, (1, 2): 3.0}


def test_drawn_frictions_are_those_of_the_problem(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, ("a", 7, slippery(low=0.5), 2))
    expected = Frictions(FrictionOptions(low=0.5), 7)
    assert task_frictions(store) == {(7, task): expected[task] for task in range(3)}


def test_the_same_task_again_has_the_same_friction(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, ("a", 0, slippery({"tasks": "same"}, values=[0.4]), 2))
    assert set(task_frictions(store).values()) == {0.4}


def test_problems_without_friction_and_mixed_settings_have_none(store: duckdb.DuckDBPyConnection) -> None:
    fill(
        store,
        ("a", 0, {"problem_options": {"num_envs": 1}}, 0),
        ("b", 1, None, 0),
        ("c", 2, slippery(values=[0.4]), 0),
        ("d", 2, slippery(values=[0.5]), 0),
    )
    assert task_frictions(store) == {}
