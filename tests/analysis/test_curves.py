from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from lop_ray.analysis import curves
from lop_ray.analysis.statistics import interquartile_mean
from lop_ray.results import connect
from tests.analysis.store import write_store

NAN = np.nan


@pytest.fixture
def store() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as connection:
        yield connection


def fill(store: duckdb.DuckDBPyConnection, trials: Sequence[tuple[str, str, int]], **tables: dict) -> None:
    """Registers `trials` (trial_id, variant, seed) and other tables, by column."""
    store.register("trials", pd.DataFrame(trials, columns=["trial_id", "variant", "seed"]))
    for name, columns in tables.items():
        store.register(name, pd.DataFrame(columns))


def episodes(*rows: tuple[str, int, float]) -> dict:
    ids, steps, returns = zip(*rows, strict=True)
    return {"trial_id": ids, "env_steps": steps, "episode_return": returns}


def test_bins_are_open_on_the_left_and_closed_on_the_right(store: duckdb.DuckDBPyConnection) -> None:
    rows = episodes(("a", 1, 1.0), ("a", 10, 3.0), ("a", 11, 7.0), ("a", 20, 9.0), ("a", 21, 5.0), ("a", 30, 5.0))
    fill(store, [("a", "std", 0)], episodes=rows)
    (curve,) = curves.return_curves(store, bin_steps=10)
    np.testing.assert_array_equal(curve.env_steps, [10, 20, 30])
    np.testing.assert_array_equal(curve.values, [[2.0, 8.0, 5.0]])


def test_the_last_bin_ends_with_the_data(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0)], episodes=episodes(("a", 10, 1.0), ("a", 14, 2.0)))
    (curve,) = curves.return_curves(store, bin_steps=10)
    np.testing.assert_array_equal(curve.env_steps, [10, 14])


def test_a_row_before_the_first_step_has_a_bin_of_its_own(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0)], episodes=episodes(("a", 0, 1.0), ("a", 5, 2.0), ("a", 10, 4.0)))
    (curve,) = curves.return_curves(store, bin_steps=10)
    np.testing.assert_array_equal(curve.env_steps, [0, 10])
    np.testing.assert_array_equal(curve.values, [[1.0, 3.0]])


def test_seeds_are_aligned_and_gaps_are_not_a_number(store: duckdb.DuckDBPyConnection) -> None:
    # Seed 1 has no episode in the second bin and ends before the fourth; no one has one in the third.
    rows = episodes(("b", 4, 10.0), ("a", 3, 1.0), ("a", 9, 3.0), ("a", 12, 5.0), ("a", 39, 7.0), ("c", 39, 2.0))
    fill(store, [("b", "std", 1), ("a", "std", 0), ("c", "cbp", 0)], episodes=rows)
    std, cbp = curves.return_curves(store, bin_steps=10)
    assert (std.variant, std.trials, std.seeds, std.n) == ("std", ("a", "b"), (0, 1), 2)
    np.testing.assert_array_equal(std.env_steps, [10, 20, 30, 39])
    np.testing.assert_array_equal(std.values, [[2.0, 5.0, NAN, 7.0], [10.0, NAN, NAN, NAN]])
    np.testing.assert_array_equal(cbp.env_steps, std.env_steps)
    result = std.estimate()
    np.testing.assert_array_equal(result.n, [2, 1, 0, 1])
    np.testing.assert_array_equal(result.value, [6.0, 5.0, NAN, 7.0])
    assert (result.low[0], result.high[0]) == (2.0, 10.0)
    assert np.isnan(result.low[1:]).all()


def test_values_that_are_no_numbers_are_left_out(store: duckdb.DuckDBPyConnection) -> None:
    rows = episodes(("a", 1, 1.0), ("a", 2, NAN), ("a", 3, np.inf), ("a", 4, 2.0))
    fill(store, [("a", "std", 0)], episodes=rows)
    (curve,) = curves.return_curves(store, bin_steps=10)
    np.testing.assert_array_equal(curve.values, [[1.5]])


def test_the_interval_is_the_same_each_time(store: duckdb.DuckDBPyConnection) -> None:
    trials = [(f"t{seed}", "std", seed) for seed in range(8)]
    draw = np.random.default_rng(0)
    fill(store, trials, episodes=episodes(*[(name, 5, draw.normal()) for name, _, _ in trials]))
    (curve,) = curves.return_curves(store, bin_steps=10)
    first, again, other = (curve.estimate(interquartile_mean, seed=seed) for seed in (3, 3, 4))
    assert first.low[0] == again.low[0]
    assert first.low[0] != other.low[0]


def layers(rows: Sequence[tuple[str, int, str, int, int]]) -> dict:
    names = ("trial_id", "env_steps", "network", "layer", "dead")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return columns | {"units": [40] * len(rows)}


def test_layer_curves_are_by_network_and_layer_in_per_cent(store: duckdb.DuckDBPyConnection) -> None:
    rows = [("a", 5, "value", 0, 4), ("a", 5, "policy", 1, 10), ("a", 10, "policy", 1, 20), ("a", 5, "policy", 0, 0)]
    fill(store, [("a", "std", 0)], layers=layers(rows))
    found = curves.layer_curves(store, "dead", bin_steps=10)
    assert list(found) == [("policy", 0), ("policy", 1), ("value", 0)]
    assert found["policy", 1][0].values == pytest.approx(np.array([[37.5]]))
    assert found["value", 0][0].values == pytest.approx(np.array([[10.0]]))
    assert curves.networks(store) == ["policy", "value"]
    (policy,) = curves.network_curves(store, "dead", "policy", bin_steps=10)
    assert policy.values == pytest.approx(np.array([[25.0]]))  # the mean of 25, 50 and 0 per cent


def test_margin_quantiles_are_over_units_then_averaged(store: duckdb.DuckDBPyConnection) -> None:
    one, two = [0.0, 1.0, 2.0, 3.0, 10.0], [-4.0, 0.0, 5.0, 6.0, 7.0]
    neurons = {"trial_id": ["a", "a"], "env_steps": [5, 10], "network": ["policy"] * 2, "layer": [0, 0]}
    fill(store, [("a", "std", 0)], neurons=neurons | {"margin": [one, two]})
    for quantile in (0.05, 0.5, 0.9):
        found = curves.layer_curves(store, curves.margin_quantile(quantile), bin_steps=10)
        expected = (np.quantile(one, quantile) + np.quantile(two, quantile)) / 2
        assert found["policy", 0][0].values == pytest.approx(np.array([[expected]]))


def test_an_empty_store_has_no_curves(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0)], episodes=episodes(("a", 1, NAN)))
    assert curves.return_curves(store) == []


def test_a_wrong_bin_width_is_refused(store: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(ValueError, match="bin_steps is 0"):
        curves.return_curves(store, bin_steps=0)


def test_settings_are_not_mixed_into_one_curve(store: duckdb.DuckDBPyConnection) -> None:
    fill(store, [("a", "std", 0), ("b", "std", 0)], episodes=episodes(("a", 1, 1.0), ("b", 1, 3.0)))
    with pytest.raises(ValueError, match="variant std has several trials a seed"):
        curves.return_curves(store)
    curves.narrow(store, "trial_id = 'b'")
    (curve,) = curves.return_curves(store)
    np.testing.assert_array_equal(curve.values, [[3.0]])


def test_order_of_variants() -> None:
    assert curves.variant_order(["zeta", "cbp", "alpha", "std", "cbp"]) == ["std", "cbp", "alpha", "zeta"]


@pytest.mark.parametrize(
    ("last", "update", "expected"),
    [
        (40_960, 2048, 2048),  # 20 updates: one a bin
        (204_800, 2048, 4096),  # 100 updates in 40 bins are 2.5 each
        (3_000_320, 2048, 75_776),  # 1,465 updates: 37 a bin
        (100_001_792, 2048, 100_000),
        (None, None, 100_000),
    ],
)
def test_suitable_bin_holds_whole_updates_in_short_runs(
    store: duckdb.DuckDBPyConnection, last: int | None, update: int | None, expected: int
) -> None:
    rows = [] if last is None else [(1, update), (last // update, last)]
    store.register("updates", pd.DataFrame(rows, columns=["update", "env_steps"], dtype="int64"))
    assert curves.suitable_bin(store) == expected


def test_weight_change_is_the_largest_update_of_a_bin(store: duckdb.DuckDBPyConnection) -> None:
    rows = {"trial_id": list("aaab"), "env_steps": [4, 10, 11, 5], "weight_change": [2.0, 7.0, 3.0, 5.0]}
    fill(store, [("a", "std", 0), ("b", "std", 1)], updates=rows)
    (curve,) = curves.weight_change_curves(store, bin_steps=10)
    np.testing.assert_array_equal(curve.values, [[7.0, 3.0], [5.0, NAN]])


def test_measures_that_are_shares_are_known() -> None:
    assert curves.MEASURES["silent"].percent
    assert not curves.MEASURES["weight_magnitude"].percent


def test_every_measure_is_a_number_of_a_layer(tmp_path: Path) -> None:
    write_store(tmp_path, updates=2, seeds=1)
    store = connect(tmp_path, "ant_grid")
    for name in curves.MEASURES:
        found = curves.layer_curves(store, name, 2048)
        assert not found or list(found) == [("policy", 0), ("policy", 1), ("value", 0), ("value", 1)]
    assert {name for name in curves.MEASURES if curves.layer_curves(store, name, 2048)} >= {"dead", "silent", "dormant"}
