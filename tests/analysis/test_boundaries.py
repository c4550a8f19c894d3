from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import numpy as np
import pandas as pd
import pytest

from lop_ray.analysis.boundaries import CHANGES, DEAD, MARGINS, boundary_table, layer_boundaries
from lop_ray.results import schema_of

NAN = np.nan


@pytest.fixture
def store() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        yield connection


def fill(store: duckdb.DuckDBPyConnection, trials: Sequence[tuple[str, str, int]], rows: Sequence[dict]) -> None:
    """Rows say what differs from a boundary of policy 0 at which nothing happens."""
    zeros = dict.fromkeys((*DEAD, *CHANGES), 0) | dict.fromkeys(MARGINS, 1.0)
    same = {"network": "policy", "layer": 0, "units": 20, "task": 1} | zeros
    store.register("trials", pd.DataFrame(trials, columns=["trial_id", "variant", "seed"]))
    store.register("boundaries", pd.DataFrame([same | row for row in rows]))


def test_the_columns_are_those_of_the_store() -> None:
    assert {*MARGINS, *DEAD, *CHANGES} <= set(schema_of("boundaries").names)


def test_counts_are_in_per_cent_by_layer_seed_and_task(store: duckdb.DuckDBPyConnection) -> None:
    rows = [
        {"trial_id": "a", "killed_by_shift": 5, "old_dead": 1},
        {"trial_id": "a", "task": 2, "killed_by_shift": 10, "actual_mean_margin": 0.25},
        {"trial_id": "b", "killed_by_shift": 1},
        {"trial_id": "a", "network": "value", "layer": 1, "revived_by_adaptation": 2},
    ]
    fill(store, [("a", "std", 0), ("b", "std", 3)], rows)
    found = layer_boundaries(store)
    assert list(found) == [("policy", 0), ("value", 1)]
    (policy,) = found["policy", 0]
    assert (policy.variant, policy.seeds, policy.tasks, policy.n) == ("std", (0, 3), (1, 2), 2)
    np.testing.assert_array_equal(policy.values["killed_by_shift"], [[25.0, 50.0], [5.0, NAN]])
    np.testing.assert_array_equal(policy.values["old_dead"], [[5.0, 0.0], [0.0, NAN]])
    np.testing.assert_array_equal(policy.values["actual_mean_margin"], [[1.0, 0.25], [1.0, NAN]])
    (value,) = found["value", 1]
    np.testing.assert_array_equal(value.values["revived_by_adaptation"], [[10.0, NAN]])
    result = policy.estimate("killed_by_shift")
    np.testing.assert_array_equal(result.value, [15.0, 50.0])
    np.testing.assert_array_equal(result.n, [2, 1])
    assert (result.low[0], result.high[0]) == (5.0, 25.0)


def test_the_table_is_over_boundaries_then_seeds(store: duckdb.DuckDBPyConnection) -> None:
    rows = [{"trial_id": "a", "task": task, "killed_by_adaptation": dead} for task, dead in ((1, 2), (2, 4))]
    rows += [{"trial_id": "b", "killed_by_adaptation": 0}]
    fill(store, [("a", "std", 0), ("b", "std", 1)], rows)
    row = boundary_table(layer_boundaries(store)).loc[("policy", 1, "std")]
    assert (row["n"], row["boundaries"]) == (2, 3)
    # Seed 0: (10 + 20) / 2 %, seed 1: 0 %. With two seeds the interval is their range.
    assert row[["killed_by_adaptation", "killed_by_adaptation_low", "killed_by_adaptation_high"]].tolist() == [
        7.5, 0.0, 15.0,
    ]  # fmt: skip
    assert row["old_mean_margin"] == 1.0


def test_one_seed_has_no_interval(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0)], [{"trial_id": "a"}])
    assert np.isnan(boundary_table(layer_boundaries(store))["killed_by_shift_low"]).all()


def test_settings_are_not_mixed(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0), ("b", "std", 0)], [{"trial_id": "a"}, {"trial_id": "b"}])
    with pytest.raises(ValueError, match="variant std has several trials a seed"):
        layer_boundaries(store)


def test_no_boundary_is_an_empty_table(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0)], [{"trial_id": "other"}])
    assert layer_boundaries(store) == {}
    assert boundary_table({}).empty
