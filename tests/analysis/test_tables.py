from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lop_ray.analysis import tables
from lop_ray.analysis.curves import Curve
from lop_ray.results import Store, connect
from tests.analysis.store import write_store


def test_trials_are_counted_by_variant_and_status(tmp_path: Path) -> None:
    write_store(tmp_path, updates=6)
    table = tables.trials_table(connect(tmp_path, "ant_grid"))
    assert table.index.tolist() == ["std", "cbp"]
    assert table.loc["std"].to_dict() == {
        "n": 3, "finished": 2, "diverged": 1, "env_steps_min": 4 * 2048, "env_steps_max": 6 * 2048,
    }  # fmt: skip
    assert table.loc["cbp", ["n", "finished", "diverged"]].tolist() == [3, 3, 0]


def test_a_running_trial_is_as_far_as_its_updates(tmp_path: Path) -> None:
    writer = Store(tmp_path, "g").trial_writer("t")
    writer.set_status("running", variant="std", seed=0, env_steps=0)
    writer.append("updates", {"update": 1, "env_steps": 2048})
    writer.close()
    assert tables.trials_table(connect(tmp_path, "g")).loc["std", "env_steps_max"] == 2048


def test_return_table_by_hand() -> None:
    # Ten bins: the last tenth is the tenth. Seed 1 ended before it.
    steps = np.arange(1, 11) * 100
    values = np.array([[0.0] * 9 + [10.0], [5.0] * 5 + [np.nan] * 5, [2.0] * 8 + [40.0, 20.0]])
    row = tables.return_table([Curve("std", ("a", "b", "c"), (0, 1, 2), steps, values)]).loc["std"]
    assert (row["n"], row["n_final"]) == (3, 2)
    assert row["final_mean"] == pytest.approx(15.0)
    assert (row["final_mean_low"], row["final_mean_high"]) == (10.0, 20.0)
    assert row["whole_mean"] == pytest.approx((1.0 + 5.0 + 7.6) / 3)
    # The mean curve is highest in the ninth bin: (0 + 40) / 2.
    assert (row["peak_mean"], row["peak_env_steps"]) == (20.0, 900)


def test_one_seed_is_said_to_have_no_interval() -> None:
    curve = Curve("std", ("a",), (0,), np.array([100]), np.array([[1234.5]]))
    text = tables.with_intervals(tables.return_table([curve]), digits=1)
    assert text.loc["std", "final_mean"] == "1,234.5 (no interval)"
    assert "final_mean_low" not in text
    assert text.loc["std", "n"] == "1"


def test_intervals_are_written_beside_their_values() -> None:
    numbers = pd.DataFrame({"x": [3.0, np.nan], "x_low": [1.0, np.nan], "x_high": [4.0, np.nan]}, index=["a", "b"])
    assert tables.with_intervals(numbers)["x"].tolist() == ["3 [1, 4]", "none"]


def test_provenance_has_a_row_for_each_origin(tmp_path: Path) -> None:
    write_store(tmp_path, variants=("std",), seeds=2, updates=3)
    late = Store(tmp_path, "ant_grid").trial_writer("ant_grid-cbp-0")
    late.set_status("running", variant="cbp", seed=0)  # outside a git repository, nothing known
    late.close()
    table = tables.provenance_table(connect(tmp_path, "ant_grid")).set_index("trials")
    assert sorted(table.index) == [1, 2]
    assert table.loc[2, "git_commit"].startswith("01234567")
    assert table.loc[2, "versions"] == "python 3.11, torch 2.13"
    assert not table.loc[2, "uncommitted"]
    assert table.loc[1, "versions"] == "unknown"
    assert pd.isna(table.loc[1, "git_commit"])
    assert pd.isna(table.loc[1, "last_end"])


def test_own_digits_and_text_columns() -> None:
    numbers = pd.DataFrame({"d_z": [0.456], "unpaired": ["only std: seed 1"], "x": [2.5], "x_low": [1], "x_high": [4]})
    row = tables.with_intervals(numbers, own={"d_z": 2, "x": 1}).loc[0]
    assert row.tolist() == ["0.46", "only std: seed 1", "2.5 [1.0, 4.0]"]


def test_trials_are_listed_with_how_far_they_are(tmp_path: Path) -> None:
    write_store(tmp_path, updates=6)
    rows = tables.trial_list(connect(tmp_path, "ant_grid"))
    assert rows["variant"].tolist() == ["std"] * 3 + ["cbp"] * 3
    assert rows["seed"].tolist() == [0, 1, 2] * 2
    diverged = rows.iloc[2]
    assert (diverged["status"], diverged["updates"], diverged["env_steps"]) == ("diverged", 4, 4 * 2048)
    assert diverged["reason"] == "non-finite gradient of policy.hidden_0.weight"
    assert diverged["total_steps"] == 6 * 2048
