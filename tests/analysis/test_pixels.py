"""Scores of trials on images, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lop_ray.analysis import pixels
from lop_ray.analysis.curves import evaluation_curves
from lop_ray.results import Store, connect
from lop_ray.results.diagnoses import Making, write_diagnosis
from tests.analysis.pixel_store import GRID, STEPS, UPDATES, final_test_return, write_pixel_store, write_pixel_trial
from tests.analysis.store import trial_id, write_store


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    write_pixel_store(folder)
    write_pixel_trial(folder, "layernorm", 0, diagnosed=False)
    return folder


def test_scores_are_those_of_the_last_tenth_and_of_the_last_hidden_layer(results: Path) -> None:
    table = pixels.scores(connect(results, GRID))
    places = [(row.variant, row.seed) for row in table.itertuples()]
    assert places == [("layernorm", 0), ("specnorm", 0), ("specnorm", 1), ("baseline", 0), ("baseline", 1)]
    by_place = table.set_index(["variant", "seed"])
    for (variant, seed), row in by_place.iterrows():
        assert row["env_steps"] == UPDATES * STEPS
        assert row["test_return"] == pytest.approx(final_test_return(variant, seed) - 1)  # updates 30 alone: even
        assert row["train_return"] == 6.0
        assert row["sparsity"] == 50.0  # of layer 2
        assert row["dead"] == pytest.approx(100 * 2 / 16)
        if variant == "layernorm":
            assert row[["never_active", "activation_rate", "held_out_effective_rank"]].isna().all()
        else:
            assert row["never_active"] == pytest.approx(100 * 4 / 16)
            assert row["activation_rate"] == pytest.approx(30.0)
            assert row["held_out_effective_rank"] == pytest.approx(100 * 3 / 16)


def test_a_longer_last_part_takes_more_evaluations(results: Path) -> None:
    table = pixels.scores(connect(results, GRID), last=0.35).set_index(["variant", "seed"])
    # Updates 21, 24, 27, 30: odd, even, odd, even.
    assert table.loc[("specnorm", 1), "test_return"] == pytest.approx(final_test_return("specnorm", 1))


def test_diagnoses_on_other_observations_do_not_count(tmp_path: Path) -> None:
    write_pixel_trial(tmp_path, "baseline", 0, diagnosed=False)
    store = Store(tmp_path, GRID)
    row = {"env_steps": 1, "network": "policy_value", "layer": 2, "units": 16, "never_active": 16, "sparsity": 1.0}
    name = trial_id(GRID, "baseline", 0)
    write_diagnosis(store.location, name, UPDATES, "features", {"layers": [row]}, Making({}, "checkpoint"))
    assert pixels.scores(connect(tmp_path, GRID))["never_active"].isna().all()


def test_means_over_seeds_have_intervals_where_there_are_seeds(results: Path) -> None:
    table = pixels.score_table(pixels.scores(connect(results, GRID)))
    assert list(table["n"]) == [1, 2, 2]
    row = table.loc["specnorm"]
    assert row["test_return"] == pytest.approx(5.5)
    assert (row["test_return_low"], row["test_return_high"]) == (5.0, 6.0)
    assert np.isnan(table.loc["layernorm", "test_return_low"])
    assert np.isnan(table.loc["layernorm", "never_active"])


def test_published_numbers_are_the_readmes() -> None:
    assert pixels.PUBLISHED.loc["specnorm", ["test_return_1_seed", "test_return"]].tolist() == [6.96, 6.60]
    assert pixels.PUBLISHED.loc["baseline", ["sparsity_1_seed", "never_active"]].tolist() == [82.4, 19.14]
    assert set(pixels.PUBLISHED.columns) & set(pixels.SCORES) == {
        "test_return",
        "sparsity",
        "never_active",
        "activation_rate",
    }


def test_evaluations_make_a_curve(results: Path) -> None:
    curves = evaluation_curves(connect(results, GRID), bin_steps=3 * STEPS)
    assert [curve.variant for curve in curves] == ["layernorm", "specnorm", "baseline"]
    assert curves[0].env_steps.tolist() == [3 * STEPS * i for i in range(1, 11)]
    assert curves[0].values.tolist() == [[6.0, 4.0] * 5]
    assert evaluation_curves(connect(results, GRID), split="train") == []


def test_curves_of_the_last_hidden_layer_alone(results: Path) -> None:
    curves = pixels.last_layer_curves(connect(results, GRID), "dead", 10 * STEPS)
    assert list(curves) == [("policy_value", 2)]
    assert curves["policy_value", 2][0].values.tolist() == [[12.5] * 3]
    assert pixels.last_layer_curves(connect(results, GRID), "duplicates", 10 * STEPS) == {}


def test_spectra_on_held_out_observations_come_before_those_of_the_run(results: Path) -> None:
    found = pixels.last_spectra(connect(results, GRID))
    places = [("layernorm", 0), ("specnorm", 0), ("specnorm", 1), ("baseline", 0), ("baseline", 1)]
    assert [(each.variant, each.seed) for each in found] == places
    assert found[0].x.tolist() == [2.0, 1.0]
    assert {len(each.x) for each in found[1:]} == {16}  # of the last hidden layer


def test_norms_have_a_row_a_layer(results: Path) -> None:
    norms = pixels.layer_norms(connect(results, GRID))
    some = norms[(norms["variant"] == "baseline") & (norms["seed"] == 1)]
    assert some["layer"].tolist() == [0, 1, 2]
    assert some["activation_norm"].tolist() == [4.0, 2.0, 1.0]
    assert some["gradient_norm"].tolist() == [0.5, 1.5, 2.5]


def test_power_iteration_over_training(results: Path) -> None:
    errors = pixels.power_iteration_errors(connect(results, GRID))
    assert set(errors["variant"]) == {"specnorm"}
    some = errors[errors["seed"] == 0]
    assert some["env_steps"].tolist() == [step * STEPS for step in (10, 10, 20, 20, 30, 30)]
    assert set(some["weight"]) == {"body.conv_0", "top.body.hidden_0"}
    assert (some["error"] < 0.02).all()
    assert (some["sigma"] == 3.0).all()


def test_a_store_of_separate_networks_is_read_by_its_policy(tmp_path: Path) -> None:
    write_store(tmp_path, seeds=1, updates=5)
    store = connect(tmp_path, "ant_grid")
    assert pixels.main_network(store) == "policy"
    table = pixels.scores(store)
    assert table["test_return"].isna().all()
    assert table["dead"].notna().all()
