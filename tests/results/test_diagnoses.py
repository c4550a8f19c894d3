import json

import pyarrow.parquet as pq
import pytest

from lop_ray.results import SchemaVersionError, read_table
from lop_ray.results.diagnoses import DIAGNOSED_TABLES, TABLES, Making, diagnosed_schema, write_diagnosis
from lop_ray.results.filesystem import Location
from lop_ray.results.schema import schema_of

MAKING = Making({"samples": 5}, "held_out.npz 0123", before_update=3, git=("abc", True))


def rows(place: Location, table: str, **options) -> list[dict]:
    return read_table(place, "grid", f"diagnosed_{table}", **options).to_pylist()


def layer(index: int, **columns) -> dict:
    return {"env_steps": 700, "task": 1, "network": "policy", "layer": index, **columns}


def write(place: Location, tables: dict, trial_id: str = "t1", update: int = 7, diagnostic: str = "margins") -> None:
    write_diagnosis(place / "grid", trial_id, update, diagnostic, tables, MAKING)


def test_rows_come_back_with_what_made_them(place):
    write(place, {"layers": [layer(0, dead=3), layer(1, dead=4)], "neurons": [layer(0, margin=[0.5, -1.0])]})
    first, second = rows(place, "layers")
    assert (first["trial_id"], first["update"], first["env_steps"], first["layer"]) == ("t1", 7, 700, 0)
    assert (first["dead"], second["dead"], first["stable_rank"]) == (3, 4, None)
    assert (first["diagnostic"], json.loads(first["options"])) == ("margins", {"samples": 5})
    assert (first["observations"], first["before_update"]) == ("held_out.npz 0123", 3)
    assert (first["git_commit"], first["git_dirty"]) == ("abc", True)
    assert first["measured_at"] == second["measured_at"]
    (neurons,) = rows(place, "neurons")
    assert neurons["margin"] == [0.5, -1.0]


def test_a_diagnostic_replaces_its_own_rows_of_an_update(place):
    write(place, {"layers": [layer(0, dead=3)], "neurons": [layer(0, margin=[0.5])]})
    write(place, {"layers": [layer(0, dormant=2)]}, diagnostic="dormant")
    write(place, {"layers": [layer(0, dead=9)]}, update=8)
    write(place, {"layers": [layer(0, dead=1)]}, trial_id="t2")
    write(place, {"layers": [layer(0, dead=5)]})
    found = {(row["trial_id"], row["update"], row["diagnostic"]): row["dead"] for row in rows(place, "layers")}
    assert found == {
        ("t1", 7, "margins"): 5,
        ("t1", 7, "dormant"): None,
        ("t1", 8, "margins"): 9,
        ("t2", 7, "margins"): 1,
    }
    assert len(rows(place, "layers")) == 4
    assert rows(place, "neurons") == []
    assert [row["dead"] for row in rows(place, "layers", trials=["t2"])] == [1]


def test_nothing_measured_is_no_rows(place):
    for table in TABLES:
        assert rows(place, table) == []
    assert {f"diagnosed_{table}" for table in TABLES} == set(DIAGNOSED_TABLES)


def test_columns_are_those_of_the_run_and_how_a_row_was_made():
    for table in TABLES:
        of_run, later = schema_of(table), diagnosed_schema(f"diagnosed_{table}")
        assert later.names[: len(of_run.names)] == of_run.names
        assert all(later.field(i).metadata[b"description"] for i in range(len(later.names)))


def test_what_a_death_leaves_is_not_read(place):
    write(place, {"layers": [layer(0, dead=3)]})
    folder = "grid/diagnose/layers/trial_id=t1"
    (name,) = place.list(folder)
    place.write_atomic(f"{folder}/.{name}.0a1b2c3d.tmp", b"half of")
    assert [row["dead"] for row in rows(place, "layers")] == [3]


def test_unknown_tables_and_columns_are_refused_before_anything_is_written(place):
    with pytest.raises(KeyError, match="no table 'updates'; diagnoses are in layers"):
        write(place, {"updates": [{}]})
    with pytest.raises(KeyError, match="table layers has no column 'daed'"):
        write(place, {"layers": [layer(0, daed=3)], "neurons": [layer(0)]})
    with pytest.raises(ValueError, match="must begin with a letter"):
        write(place, {}, trial_id="../t1")
    with pytest.raises(KeyError, match="no table 'diagnosed_updates'"):
        rows(place, "updates")
    assert place.list() == []


def test_rows_of_a_newer_schema_are_refused(place):
    write(place, {"layers": [layer(0, dead=3)]})
    folder = "grid/diagnose/layers/trial_id=t1"
    (name,) = place.list(folder)
    with place.open(f"{folder}/{name}") as file:
        table = pq.read_table(file)
    newer = table.replace_schema_metadata({b"lop_ray.schema_version": b"999"})
    with place.atomic_file(f"{folder}/{name}") as sink:
        pq.write_table(newer, sink)
    with pytest.raises(SchemaVersionError, match="schema version 999"):
        rows(place, "layers")
