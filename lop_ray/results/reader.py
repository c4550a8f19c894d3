"""Reading the store: as a pyarrow dataset, as a table, or with SQL.

    layers = read_table("results", "ant_grid", "layers", with_trials=True).to_pandas()
    connect("results", "ant_grid").sql("SELECT variant, avg(dead) FROM layers JOIN trials USING (trial_id) GROUP BY 1")

Tables `diagnosed_layers` and its like hold what was measured later, on checkpoints (`lop_ray.results.diagnoses`).

The folders are an ordinary hive-partitioned data set, so any other reader will do. These functions
add what a raw reader lacks: the declared schema, whichever part comes first, and indifference to
what a dead process left behind and to parts that a running trial joins meanwhile.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lop_ray.results.diagnoses import DIAGNOSED_TABLES, PREFIX, diagnosed_schema, open_diagnosed
from lop_ray.results.filesystem import Location
from lop_ray.results.parts import Part, split_superseded, table_folder, trial_folder
from lop_ray.results.schema import SCHEMAS, check_version, schema_of

TRIAL_COLUMNS = ("variant", "seed", "problem")
"""Columns of `trials` that `with_trials` adds."""

_PAUSES_S = (0.05, 0.1, 0.2, 0.4)


def open_table(
    results: str | Path | Location, grid: str, table: str, *, trials: Collection[str] | None = None
) -> ds.Dataset:
    """The live parts of a table as they are now, unread.

    Args:
        results: The folder of all grids: a path or URI.
        grid: Name of the grid.
        table: Name of the table.
        trials: Only these trials; all by default.

    Returns:
        A dataset with the declared schema; without rows if nothing was written. A filter on `trial_id`
        opens only that trial's parts.
    """
    location = Location.of(results) / grid
    if table.startswith(PREFIX):
        return open_diagnosed(location, table, trials)
    schema = schema_of(table)
    paths = _live_paths(location, table, trials)
    if not paths:
        return ds.dataset(schema.empty_table())
    with location.open(paths[-1]) as file:
        check_version(pq.read_metadata(file).metadata, location / paths[-1])
    return ds.dataset(
        [(location / path).root for path in paths],
        schema=schema,
        format="parquet",
        filesystem=location.filesystem,
        partitioning=ds.partitioning(pa.schema([schema.field("trial_id")]), flavor="hive"),
        partition_base_dir=(location / table_folder(table)).root,
    )


def read_table(
    results: str | Path | Location,
    grid: str,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    trials: Collection[str] | None = None,
    with_trials: bool = False,
) -> pa.Table:
    """The rows of a table, trial by trial, each trial's in the order in which they were written.

    Args:
        results: The folder of all grids: a path or URI.
        grid: Name of the grid.
        table: Name of the table.
        columns: Only these columns; all by default.
        trials: Only these trials; all by default.
        with_trials: Adds variant, seed and problem of each row's trial (those that the table lacks).

    Returns:
        The rows. While trials run, rows committed during the call may be missing.
    """
    wanted = list(columns) if columns is not None else _schema(table).names
    read = wanted if not with_trials or "trial_id" in wanted else [*wanted, "trial_id"]
    rows = _read(results, grid, table, read, trials)
    if with_trials:
        extra = [name for name in TRIAL_COLUMNS if name not in rows.column_names]
        about = _read(results, grid, "trials", ["trial_id", *extra], trials)
        which = pc.index_in(rows["trial_id"], value_set=about["trial_id"].combine_chunks())
        for name in extra:
            rows = rows.append_column(schema_of("trials").field(name), about[name].take(which))
        rows = rows.select([*wanted, *extra])
    return rows


def connect(results: str | Path | Location, grid: str) -> duckdb.DuckDBPyConnection:
    """A database in memory with a view of each table, as the grid is now.

    Args:
        results: The folder of all grids: a path or URI.
        grid: Name of the grid.

    Returns:
        The connection. For what was written since, connect anew.
    """
    connection = duckdb.connect(":memory:")
    for table in (*SCHEMAS, *DIAGNOSED_TABLES):
        connection.register(table, open_table(results, grid, table))
    return connection


def _schema(table: str) -> pa.Schema:
    return diagnosed_schema(table) if table.startswith(PREFIX) else schema_of(table)


def _read(
    results: str | Path | Location, grid: str, table: str, columns: list[str], trials: Collection[str] | None
) -> pa.Table:
    # A part that vanishes between listing and reading was joined by its running trial: look again.
    for pause_s in _PAUSES_S:
        try:
            return open_table(results, grid, table, trials=trials).to_table(columns=columns)
        except FileNotFoundError:
            time.sleep(pause_s)
    return open_table(results, grid, table, trials=trials).to_table(columns=columns)


def _live_paths(location: Location, table: str, trials: Collection[str] | None) -> list[str]:
    """Paths of the parts that count, relative to the grid's folder, by trial and then by age."""
    parts: defaultdict[str, list[Part]] = defaultdict(list)
    for path in location.list(table_folder(table)):
        folder, _, name = path.rpartition("/")
        trial_id = folder.removeprefix("trial_id=")
        part = Part.of_name(name)
        if part and folder != trial_id and (trials is None or trial_id in trials):
            parts[trial_id].append(part)
    return [
        f"{trial_folder(table, trial_id)}/{part.name}"
        for trial_id in sorted(parts)
        for part in split_superseded(parts[trial_id])[0]
    ]
