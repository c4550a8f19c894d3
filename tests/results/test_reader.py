"""Our reader, raw pyarrow and raw duckdb see the same rows; what the dead left behind is passed over."""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from lop_ray.results import SchemaVersionError, Store, connect, open_table, read_table, reader
from lop_ray.results.schema import SCHEMAS, VERSION_KEY, schema_of

COLUMNS = ["trial_id", "update", "network", "layer", "margin"]


@pytest.fixture
def store(place):
    store = Store(place, "grid")
    for trial_id, variant in (("t10", "std"), ("ta", "cbp")):
        trial = store.trial_writer(trial_id)
        trial.set_status("finished", variant=variant, seed=4, problem="ant", config={"lr": 1e-4})
        for update in (1, 2, 3):
            trial.append("updates", {"update": update, "env_steps": 100 * update, "episode_return_mean": -1.5 * update})
            trial.append("neurons", {"update": update, "network": "q", "layer": 1, "margin": [0.5, float(update)]})
            trial.commit()
    return store


@pytest.fixture
def results(place, store):
    return place


def test_a_table_has_the_declared_schema_and_the_rows_of_each_trial_in_order(results):
    table = read_table(results, "grid", "neurons")
    assert table.schema.equals(schema_of("neurons"))
    assert table.select(["trial_id", "update"]).to_pylist() == [
        {"trial_id": trial_id, "update": update} for trial_id in ("t10", "ta") for update in (1, 2, 3)
    ]


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_table_without_rows_is_empty_but_has_its_schema(place, table):
    rows = read_table(place, "nothing", table, with_trials=True)
    assert rows.num_rows == 0
    assert rows.select(schema_of(table).names).schema.equals(schema_of(table))
    assert connect(place, "nothing").execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_columns_and_trials_can_be_chosen(results):
    rows = read_table(results, "grid", "updates", columns=["env_steps"], trials=["ta"])
    assert rows.to_pydict() == {"env_steps": [100, 200, 300]}
    assert read_table(results, "grid", "updates", trials=["unknown"]).num_rows == 0


def test_variant_seed_and_problem_of_the_trial_are_added_on_request(results, store):
    writer = store.trial_writer("without_status")
    writer.append("updates", {"update": 9})
    writer.commit()
    rows = read_table(results, "grid", "updates", columns=["update"], with_trials=True)
    assert rows.column_names == ["update", "variant", "seed", "problem"]
    assert rows["update"].to_pylist() == [1, 2, 3, 1, 2, 3, 9]
    assert rows["variant"].to_pylist() == ["std"] * 3 + ["cbp"] * 3 + [None]
    assert set(rows["seed"].to_pylist()) == {4, None}
    margins = read_table(results, "grid", "neurons", with_trials=True)
    assert margins["margin"].to_pylist()[0] == [0.5, 1.0]
    statuses = read_table(results, "grid", "trials", with_trials=True)
    assert statuses.column_names == schema_of("trials").names


def test_sql_has_a_view_of_each_table(results):
    answer = connect(results, "grid").execute(
        "SELECT variant, max(updates.env_steps), min(episode_return_mean) FROM updates JOIN trials USING (trial_id) "
        "WHERE update < 3 AND trial_id <> 'x' GROUP BY variant ORDER BY variant"
    )
    assert answer.fetchall() == [("cbp", 200, -3.0), ("std", 200, -3.0)]


def test_raw_readers_see_the_same_rows_with_trial_ids_as_text(tmp_path):
    for trial_id in ("t10", "e5", "ta"):
        trial = Store(tmp_path, "grid").trial_writer(trial_id)
        trial.append_many("neurons", [{"update": u, "network": "q", "margin": [u / 2]} for u in (1, 2)])
        trial.commit()
    ours = read_table(tmp_path, "grid", "neurons", columns=COLUMNS).to_pylist()
    folder = tmp_path / "grid" / "data" / "neurons"

    raw = ds.dataset(folder, partitioning="hive").to_table(columns=COLUMNS)
    assert raw.schema.field("trial_id").type == pa.string()
    assert sorted(raw.to_pylist(), key=_key) == ours

    for options in ("", ", hive_partitioning=true", ", hive_partitioning=false"):
        query = f"SELECT {', '.join(COLUMNS)} FROM read_parquet('{folder}/*/*.parquet'{options})"
        rows = duckdb.sql(query)
        assert str(rows.types[0]) == "VARCHAR"
        assert sorted([dict(zip(COLUMNS, row, strict=True)) for row in rows.fetchall()], key=_key) == ours

    status = f"SELECT trial_id, started_at FROM read_parquet('{tmp_path}/grid/data/trials/*/*.parquet')"
    Store(tmp_path, "grid").trial_writer("t10").set_status("running")
    assert duckdb.sql(status).fetchall()[0][0] == "t10"


def _key(row):
    return row["trial_id"], row["update"]


def test_leftovers_of_dead_writers_are_passed_over_even_by_raw_readers(tmp_path):
    trial = Store(tmp_path, "grid").trial_writer("ta")
    trial.append("updates", {"update": 1})
    trial.commit()
    folder = tmp_path / "grid" / "data" / "updates"
    (folder / "trial_id=ta" / ".part-00000001-00000001.parquet.0a1b2c3d.tmp").write_bytes(b"PAR1 torn")
    (folder / "trial_id=ta" / "_part.tmp").write_bytes(b"torn")
    assert read_table(tmp_path, "grid", "updates").num_rows == 1
    assert ds.dataset(folder, partitioning="hive").count_rows() == 1
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{folder}/*/*.parquet')").fetchall() == [(1,)]


def test_superseded_parts_are_passed_over_and_repair_deletes_them(results, store, monkeypatch):
    trial = store.trial_writer("ta")
    location = type(store.location)
    monkeypatch.setattr(location, "delete", lambda self, path: None)  # dies before it deletes
    trial.join()
    monkeypatch.undo()
    names = store.location.list("data/updates/trial_id=ta")
    assert len(names) == 4
    for table in ("updates", "neurons"):
        assert read_table(results, "grid", table, trials=["ta"])["update"].to_pylist() == [1, 2, 3]
    store.repair()
    assert store.location.list("data/updates/trial_id=ta") == ["part-00000000-00000002.parquet"]
    assert len(store.location.list("data/updates/trial_id=t10")) == 3
    assert read_table(results, "grid", "updates").num_rows == 6


def test_a_filter_on_the_trial_opens_only_its_parts(results, store):
    dataset = open_table(results, "grid", "updates")
    fragments = list(dataset.get_fragments(filter=pc.field("trial_id") == "ta"))
    assert len(fragments) == 3
    assert all("trial_id=ta" in fragment.path for fragment in fragments)


def test_parts_that_are_joined_while_they_are_read_are_read_again(results, store, monkeypatch):
    real = reader.open_table
    calls = []

    def open_then_join(*arguments, **options):
        dataset = real(*arguments, **options)
        calls.append(1)
        if len(calls) == 1:
            store.trial_writer("ta").join()
        return dataset

    monkeypatch.setattr(reader, "open_table", open_then_join)
    assert read_table(results, "grid", "updates").num_rows == 6
    assert len(calls) == 2


def test_older_parts_read_as_null_and_newer_ones_are_refused(results, store):
    def put(table):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        path = "data/updates/trial_id=z/part-00000000-00000000.parquet"
        store.location.write_atomic(path, sink.getvalue().to_pybytes())

    old = pa.table({"update": [7], "trial_id": ["z"]})
    put(old)
    row = read_table(results, "grid", "updates", trials=["z"]).to_pylist()[0]
    assert (row["update"], row["env_steps"]) == (7, None)
    put(old.replace_schema_metadata({VERSION_KEY: b"99"}))
    with pytest.raises(SchemaVersionError, match="schema version 99"):
        open_table(results, "grid", "updates")
