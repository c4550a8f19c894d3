"""A trial's rows: what is appended is on disk after a commit, once, whole, and can be taken back."""

import json
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lop_ray.results import DamagedPartError, SchemaVersionError, Store, writer
from lop_ray.results.reader import read_table
from lop_ray.results.schema import SCHEMA_VERSION, VERSION_KEY, schema_of


@pytest.fixture
def results(place):
    return place


@pytest.fixture
def store(place):
    return Store(place, "grid")


def updates_of(results, table="updates"):
    return read_table(results, "grid", table)["update"].to_pylist()


def parts_of(store, table, trial_id="t1"):
    return [name.split("part-")[1].removesuffix(".parquet") for name in store.location.list(f"data/{table}")]


def write_updates(trial, first, last):
    trial.append_many("updates", [{"update": update, "env_steps": 10 * update} for update in range(first, last + 1)])


def test_rows_come_back_as_they_were_written(store, results):
    trial = store.trial_writer("t1")
    trial.append("updates", {"update": 1, "env_steps": 2048, "policy_loss": 0.25, "episodes": 3})
    trial.append("updates", {"update": 2, "policy_loss": float("nan"), "entropy": np.float32(0.5)})
    trial.append("neurons", {"update": 1, "network": "policy", "layer": 0, "margin": np.array([0.5, -1.0])})
    trial.append("neurons", {"update": 2, "margin": torch.tensor([2.0])})
    trial.append("spectra", {"update": 2, "spectrum": "hessian", "x": [1.0, 2.0], "y": None})
    trial.append("episodes", {"update": 2, "episode_return": -3, "length": np.int64(7), "terminated": True})
    assert updates_of(results) == []
    trial.commit()
    first, second = read_table(results, "grid", "updates").to_pylist()
    assert {name: value for name, value in first.items() if value is not None} == {
        "trial_id": "t1",
        "update": 1,
        "env_steps": 2048,
        "policy_loss": 0.25,
        "episodes": 3,
    }
    assert np.isnan(second["policy_loss"])
    assert second["entropy"] == 0.5
    assert read_table(results, "grid", "neurons")["margin"].to_pylist() == [[0.5, -1.0], [2.0]]
    assert read_table(results, "grid", "spectra").select(["x", "y"]).to_pylist() == [{"x": [1.0, 2.0], "y": None}]
    (episode,) = read_table(results, "grid", "episodes").to_pylist()
    assert (episode["episode_return"], episode["length"], episode["terminated"]) == (-3.0, 7, True)


def test_a_row_is_copied_when_it_is_appended(store, results):
    trial = store.trial_writer("t1")
    margin = np.zeros(2, dtype=np.float32)
    row = {"update": 1, "margin": margin}
    trial.append("neurons", row)
    margin[:] = 9.0
    row["update"] = 2
    trial.commit()
    assert read_table(results, "grid", "neurons").select(["update", "margin"]).to_pylist() == [
        {"update": 1, "margin": [0.0, 0.0]}
    ]


def test_a_part_is_written_when_enough_rows_wait(store, results):
    trial = store.trial_writer("t1", rows_per_part=500)
    write_updates(trial, 1, 1499)
    assert parts_of(store, "updates") == ["00000000-00000000", "00000001-00000001"]
    trial.close()
    assert updates_of(results) == list(range(1, 1500))
    with pytest.raises(ValueError, match="rows_per_part is 499; parts have at least 500 rows"):
        store.trial_writer("t1", rows_per_part=499)


def test_a_part_is_compressed_versioned_and_has_the_range_of_its_updates(store):
    trial = store.trial_writer("t1")
    write_updates(trial, 3, 9)
    trial.commit()
    (name,) = store.location.list("data/updates")
    assert name == "trial_id=t1/part-00000000-00000000.parquet"
    with store.location.open(f"data/updates/{name}") as file:
        part = pq.ParquetFile(file)
        assert part.metadata.metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()
        column = part.metadata.row_group(0).column(part.schema_arrow.get_field_index("update"))
        assert (column.compression, column.statistics.min, column.statistics.max) == ("ZSTD", 3, 9)
        assert part.schema_arrow.field("wall_s").metadata[b"description"].startswith(b"Time of this update in s")


@pytest.mark.parametrize(
    ("table", "row", "error", "message"),
    [
        ("update", {"update": 1}, KeyError, "no table 'update' to append to; there are updates, episodes"),
        ("trials", {"update": 1}, KeyError, "no table 'trials' to append to"),
        (
            "updates",
            {"update": 1, "los": 2.0, "lr": 1.0},
            KeyError,
            "table updates has no column 'los', 'lr'; it has",
        ),
        ("layers", {"env_steps": 1}, ValueError, "a row of layers has no update"),
        (
            "layers",
            {"update": 1, "trial_id": "t2"},
            ValueError,
            "a row of trial 't2' given to the writer of trial 't1'",
        ),
    ],
)
def test_a_wrong_row_is_refused_at_once(store, table, row, error, message):
    with pytest.raises(error, match=message):
        store.trial_writer("t1").append(table, row)


@pytest.mark.parametrize(
    ("table", "name", "value", "kind"),
    [
        ("updates", "episodes", 1.5, "int32"),
        ("updates", "episodes", float("nan"), "int32"),
        ("updates", "episodes", 2**40, "int32"),
        ("updates", "policy_loss", "low", "double"),
        ("updates", "policy_loss", torch.tensor(1.0), "double"),
        ("layers", "network", 3, "string"),
        ("episodes", "terminated", 1, "bool"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_column(store, table, name, value, kind):
    trial = store.trial_writer("t1")
    trial.append(table, {"update": 1})
    trial.append(table, {"update": 2, name: value})
    with pytest.raises(TypeError, match=rf"table {table}, column {name}: .* can't be written as {kind}"):
        trial.commit()


def test_updates_are_written_once_and_in_order(store):
    trial = store.trial_writer("t1")
    trial.append("updates", {"update": 4})
    with pytest.raises(ValueError, match="a row of updates for update 4 after update 4"):
        trial.append("updates", {"update": 4})
    trial.append("layers", {"update": 3})
    trial.rewind(3)
    with pytest.raises(ValueError, match="a row of layers for update 3 after update 3"):
        trial.append("layers", {"update": 3})
    trial.append("updates", {"update": 4})


def test_a_second_life_must_rewind_before_its_first_row(store, results):
    first = store.trial_writer("t1")
    write_updates(first, 1, 5)
    first.commit()
    second = store.trial_writer("t1")
    with pytest.raises(RuntimeError, match="trial t1 has rows on disk: call rewind"):
        second.append("layers", {"update": 6})
    second.rewind(3)
    write_updates(second, 4, 6)
    second.close()
    assert updates_of(results) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(RuntimeError, match="writer of trial t1 is closed"):
        second.append("updates", {"update": 7})


def test_two_processes_writing_one_trial_are_found_out(store):
    one, other = store.trial_writer("t1"), store.trial_writer("t1")
    one.rewind(0)
    other.rewind(0)
    one.append("updates", {"update": 1})
    other.append("updates", {"update": 1})
    one.commit()
    with pytest.raises(RuntimeError, match="another process is writing this trial; stop one of them"):
        other.commit()


@pytest.mark.parametrize("keep", [-1, 0, 1, 299, 300, 499, 500, 501, 699, 730, 1099, 1100, 5000])
def test_rewind_keeps_exactly_the_rows_up_to_an_update(store, results, keep):
    trial = store.trial_writer("t1", rows_per_part=500)
    write_updates(trial, 1, 700)
    trial.commit()
    trial.append_many("layers", [{"update": u, "layer": layer} for u in range(1, 301) for layer in (0, 1)])
    write_updates(trial, 701, 1100)  # 400 rows wait
    trial.rewind(keep)
    trial.commit()
    last = min(keep, 1100)
    assert updates_of(results) == list(range(1, last + 1))
    assert updates_of(results, "layers") == [u for u in range(1, min(last, 300) + 1) for _ in (0, 1)]


def test_rewinding_to_the_start_takes_rows_of_update_0_too(store, results):
    trial = store.trial_writer("t1")
    trial.append("updates", {"update": 0})
    trial.commit()
    trial.append("layers", {"update": 0})
    trial.rewind(0)
    trial.append("updates", {"update": 0})
    trial.commit()
    assert updates_of(results) == [0]
    assert updates_of(results, "layers") == []


def test_rewind_leaves_the_status_and_other_trials_alone(store, results):
    for trial_id in ("t1", "t2"):
        trial = store.trial_writer(trial_id)
        trial.set_status("running", seed=5)
        trial.append("updates", {"update": 1})
        trial.close()
    trial.rewind(0)
    assert read_table(results, "grid", "updates")["trial_id"].to_pylist() == ["t1"]
    assert set(store.trials()) == {"t1", "t2"}


def test_rewind_works_on_joined_parts_of_several_row_groups(store, results, monkeypatch):
    monkeypatch.setattr("lop_ray.results.table_writer._GROUP_ROWS", 500)
    trial = store.trial_writer("t1", rows_per_part=500)
    write_updates(trial, 1, 2000)
    trial.join()
    assert parts_of(store, "updates") == ["00000000-00000003"]
    for keep in (1999, 1200, 500, 3):
        trial.rewind(keep)
        assert updates_of(results) == list(range(1, keep + 1))
    trial.append("updates", {"update": 4})
    trial.commit()
    assert parts_of(store, "updates") == ["00000000-00000003", "00000004-00000004"]


def test_join_makes_one_part_of_each_table_and_keeps_every_row(store, results):
    trial = store.trial_writer("t1")
    for update in range(1, 6):
        trial.append("updates", {"update": update})
        trial.append("neurons", {"update": update, "margin": [float(update)]})
        trial.commit()
    trial.append("updates", {"update": 6})
    trial.join()
    assert parts_of(store, "updates") == ["00000000-00000005"]
    assert parts_of(store, "neurons") == ["00000000-00000004"]
    assert updates_of(results) == [1, 2, 3, 4, 5, 6]
    assert read_table(results, "grid", "neurons")["margin"].to_pylist() == [[1.0], [2.0], [3.0], [4.0], [5.0]]
    trial.join()
    assert parts_of(store, "updates") == ["00000000-00000005"]


def test_many_small_parts_are_joined_at_a_commit(store, results):
    trial = store.trial_writer("t1")
    for update in range(1, writer.SMALL_PARTS + 3):
        trial.append("updates", {"update": update})
        trial.commit()
    assert parts_of(store, "updates") == ["00000000-00000064", "00000065-00000065"]
    assert updates_of(results) == list(range(1, 67))


def test_the_same_rows_can_be_committed_again_after_an_error(store, results, monkeypatch):
    trial = store.trial_writer("t1")
    write_updates(trial, 1, 3)
    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetWriter.write_table", _disk_full)
        with pytest.raises(OSError, match="no space left"):
            trial.commit()
    write_updates(trial, 4, 4)
    trial.commit()
    assert updates_of(results) == [1, 2, 3, 4]
    assert len(store.location.list()) == 1


def _disk_full(self, table):
    raise OSError("no space left")


def test_a_part_of_an_older_schema_is_rewritten_with_nulls(store, results):
    old = pa.table({"trial_id": ["t1", "t1"], "update": [1, 2], "entropy": [0.5, 0.25]})
    _put(store, old)
    trial = store.trial_writer("t1")
    trial.rewind(1)
    write_updates(trial, 2, 2)
    trial.join()
    table = read_table(results, "grid", "updates")
    assert table.schema.equals(schema_of("updates"))
    assert table.select(["update", "entropy", "env_steps"]).to_pylist() == [
        {"update": 1, "entropy": 0.5, "env_steps": None},
        {"update": 2, "entropy": None, "env_steps": 20},
    ]


def test_a_part_of_a_newer_schema_is_not_touched(store):
    newer = pa.table({"trial_id": ["t1"], "update": [5]}).replace_schema_metadata({VERSION_KEY: b"99"})
    _put(store, newer)
    with pytest.raises(SchemaVersionError, match="has schema version 99, this lop_ray knows up to"):
        store.trial_writer("t1").rewind(1)
    assert parts_of(store, "updates") == ["00000000-00000000"]


def test_a_damaged_part_is_named_with_what_to_do(store):
    store.location.write_atomic("data/updates/trial_id=t1/part-00000000-00000000.parquet", b"PAR1 and then nothing")
    with pytest.raises(
        DamagedPartError, match=r"part-00000000-00000000.parquet is damaged \(.*\): delete the folders of"
    ):
        store.trial_writer("t1").rewind(1)


def _put(store, table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.location.write_atomic("data/updates/trial_id=t1/part-00000000-00000000.parquet", sink.getvalue().to_pybytes())


def test_the_status_is_one_row_that_keeps_what_was_set_before(store):
    before = datetime.now(UTC).replace(tzinfo=None)
    store.trial_writer("t1").set_status("running", seed=3, variant="cbp", config={"lr": 1e-4, "b": [1]})
    (row,) = store.trials().values()
    assert row["finished_at"] is None
    started_at = row["started_at"]
    assert before <= started_at <= before + timedelta(minutes=1)
    store.trial_writer("t1").set_status("diverged", "policy loss is NaN at update 7", updates=6, versions='{"a": "1"}')
    assert list(store.trials()) == ["t1"]
    row = store.trials()["t1"]
    assert (row["status"], row["reason"], row["seed"], row["variant"]) == (
        "diverged",
        "policy loss is NaN at update 7",
        3,
        "cbp",
    )
    assert json.loads(row["config"]) == {"lr": 1e-4, "b": [1]}
    assert row["versions"] == '{"a": "1"}'
    assert row["started_at"] == started_at <= row["finished_at"]
    store.trial_writer("t1").set_status("running")
    assert (store.trials()["t1"]["reason"], store.trials()["t1"]["finished_at"]) == (None, None)


def test_times_are_kept_in_utc(store):
    moment = datetime(2025, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    store.trial_writer("t1").set_status("finished", started_at=moment, finished_at=datetime(2025, 1, 1, 5))
    assert store.trials()["t1"]["started_at"] == datetime(2025, 1, 1, 0)
    assert store.trials()["t1"]["finished_at"] == datetime(2025, 1, 1, 5)


def test_a_wrong_status_is_refused(store):
    with pytest.raises(ValueError, match="no status 'done'; there are running, finished, diverged, failed, stopped"):
        store.trial_writer("t1").set_status("done")
    with pytest.raises(KeyError, match="table trials has no column 'sede'; it has trial_id"):
        store.trial_writer("t1").set_status("running", sede=1)
    assert store.trials() == {}
