"""Rows of diagnostics that were run later, on a trial's checkpoints.

    diagnose/<table>/trial_id=<id>/update-00001220-hessian_density.parquet

They lie beside the rows of the run, which nothing here touches. A file holds everything that one diagnostic said about
one update of one trial in one table, and appears whole; running the diagnostic again replaces it. So each
(trial_id, update, diagnostic) is there once, whoever runs what and how often, and no lock is needed. Every row says
how it was made. A death between the tables of a diagnostic leaves new rows in some and old ones in the others, told
apart by `measured_at`; running it again makes them one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lop_ray.results.filesystem import Location
from lop_ray.results.parts import check_trial_id
from lop_ray.results.schema import check_version, schema_of
from lop_ray.results.table_writer import to_array

PREFIX = "diagnosed_"
"""What the reader puts before a table's name for these rows: `read_table(results, grid, "diagnosed_layers")`."""

TABLES = ("layers", "neurons", "probes", "spectra")
DIAGNOSED_TABLES = tuple(PREFIX + table for table in TABLES)

_FOLDER = "diagnose"
_FILE = re.compile(r"update-\d{8}-[a-z_]+\.parquet")
_HOW: tuple[tuple[str, pa.DataType, str], ...] = (
    ("diagnostic", pa.string(), "The diagnostic that made the row; a layer has a row for each."),
    ("options", pa.string(), "Its options, JSON."),
    ("observations", pa.string(), "What it looked at: checkpoint, or a file's name and SHA-256."),
    ("before_update", pa.int64(), "Update of the checkpoint that changes are measured from; null if none was given."),
    ("git_commit", pa.string(), "Commit of the code that measured; null outside a git repository."),
    ("git_dirty", pa.bool_(), "Whether the code differed from that commit; null outside a git repository."),
    ("measured_at", pa.timestamp("us"), "When, UTC."),
)


def diagnosed_schema(table: str) -> pa.Schema:
    """The schema of a table of these rows: that of the run's table, and how the row was made.

    Args:
        table: One of `DIAGNOSED_TABLES`.

    Returns:
        Columns with descriptions.

    Raises:
        KeyError: There is no such table.
    """
    if table not in DIAGNOSED_TABLES:
        raise KeyError(f"no table {table!r}; diagnoses are in {', '.join(DIAGNOSED_TABLES)}")
    schema = schema_of(table.removeprefix(PREFIX))
    for name, kind, text in _HOW:
        schema = schema.append(pa.field(name, kind, metadata={"description": text}))
    return schema


@dataclass(frozen=True)
class Making:
    """How a diagnostic was run; see the columns of that name.

    Attributes:
        options: Its options.
        observations: What it looked at.
        before_update: Where changes are measured from.
        git: Commit of the code, and whether the code differed from it.
    """

    options: Mapping[str, Any]
    observations: str
    before_update: int | None = None
    git: tuple[str | None, bool | None] = (None, None)

    def columns(self) -> dict[str, Any]:
        """Columns of every row, measured now."""
        return {
            "options": json.dumps(self.options, sort_keys=True),
            "observations": self.observations,
            "before_update": self.before_update,
            "git_commit": self.git[0],
            "git_dirty": self.git[1],
            "measured_at": datetime.now(UTC),
        }


def write_diagnosis(
    grid: Location,
    trial_id: str,
    update: int,
    diagnostic: str,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    making: Making,
) -> None:
    """Makes `rows` all that is known of this diagnostic at this update.

    Args:
        grid: The grid's folder.
        trial_id: The trial.
        update: Updates of the trial at the checkpoint.
        diagnostic: Name of the diagnostic.
        rows: By table, values by column; `trial_id` and `update` are filled in.
        making: How they were made.

    Raises:
        KeyError: There is no such table or column.
    """
    unknown = rows.keys() - set(TABLES)
    if unknown:
        raise KeyError(f"no table {', '.join(map(repr, sorted(unknown)))}; diagnoses are in {', '.join(TABLES)}")
    place = {"trial_id": check_trial_id(trial_id), "update": update}
    how = {"diagnostic": diagnostic, **making.columns()}
    made = {table: _table(table, [place | dict(row) | how for row in rows.get(table, ())]) for table in TABLES}
    for table, content in made.items():
        path = f"{_FOLDER}/{table}/trial_id={trial_id}/update-{update:08d}-{diagnostic}.parquet"
        if len(content):
            with grid.atomic_file(path) as sink:
                pq.write_table(content, sink, compression="zstd")
        elif grid.exists(path):
            grid.delete(path)


def open_diagnosed(grid: Location, table: str, trials: Collection[str] | None = None) -> ds.Dataset:
    """The rows as they are now, unread; see `lop_ray.results.reader.open_table`.

    Args:
        grid: The grid's folder.
        table: One of `DIAGNOSED_TABLES`.
        trials: Only these trials; all by default.

    Returns:
        A dataset with the schema of `diagnosed_schema`.
    """
    schema = diagnosed_schema(table)
    folder = grid / f"{_FOLDER}/{table.removeprefix(PREFIX)}"
    paths = []
    for path in folder.list():
        partition, _, name = path.rpartition("/")
        trial_id = partition.removeprefix("trial_id=")
        if partition != trial_id and _FILE.fullmatch(name) and (trials is None or trial_id in trials):
            paths.append(path)
    if not paths:
        return ds.dataset(schema.empty_table())
    with folder.open(paths[-1]) as file:
        check_version(pq.read_metadata(file).metadata, folder / paths[-1])
    return ds.dataset(
        [(folder / path).root for path in paths],
        schema=schema,
        format="parquet",
        filesystem=grid.filesystem,
        partitioning=ds.partitioning(pa.schema([schema.field("trial_id")]), flavor="hive"),
        partition_base_dir=folder.root,
    )


def _table(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    schema = diagnosed_schema(PREFIX + table)
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise KeyError(f"table {table} has no column {', '.join(map(repr, sorted(unknown)))}")
    return pa.table([to_array([row.get(field.name) for row in rows], field.type) for field in schema], schema=schema)
