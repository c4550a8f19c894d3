"""What a trial writes: its rows in every table, and its status."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from lop_ray.results.filesystem import Location
from lop_ray.results.parts import check_trial_id
from lop_ray.results.schema import JSON_COLUMNS, SCHEMAS, STATUSES, schema_of
from lop_ray.results.table_writer import TableWriter

SMALL_PARTS = 64
"""At a commit, more parts than this that were never joined are joined."""
LEAST_ROWS = 500
"""Rows that a part has at least, except at a commit."""

_ROW_TABLES = tuple(table for table in SCHEMAS if table != "trials")


class _Buffer:
    """Rows of a table that are not on disk yet."""

    def __init__(self, table: str):
        schema = schema_of(table)
        self.columns = frozenset(schema.names)
        self.lists = {
            field.name: field.type.value_type.to_pandas_dtype() for field in schema if pa.types.is_list(field.type)
        }
        self.rows: list[dict[str, Any]] = []


class TrialWriter:
    """The rows of one trial. One process at a time may write a trial.

    A trial that starts, for the first time or again, calls `rewind` with the update that it goes on
    from, before its first row. `commit` before a checkpoint is saved, never after: then no checkpoint
    is ever ahead of the rows on disk.

    Args:
        grid: The grid's folder.
        trial_id: The trial.
        rows_per_part: Rows of a table that are written without waiting for a commit, at least 500.
    """

    def __init__(self, grid: Location, trial_id: str, *, rows_per_part: int = 2000):
        if rows_per_part < LEAST_ROWS:
            raise ValueError(f"rows_per_part is {rows_per_part}; parts have at least {LEAST_ROWS} rows")
        self.trial_id = check_trial_id(trial_id)
        self._rows_per_part = rows_per_part
        self._tables = {table: TableWriter(grid, table, trial_id) for table in SCHEMAS}
        self._buffers = {table: _Buffer(table) for table in _ROW_TABLES}
        self._rewound: int | None = None  # no row of this update or before may come
        self._last_update = -1
        self._closed = False

    def append(self, table: str, row: Mapping[str, Any]) -> None:
        """Adds a row; it is on disk after the next `commit`.

        Args:
            table: Any table but `trials`.
            row: Values by column, `update` among them; `trial_id` is filled in, what is missing is null.
                The row is copied, lists and arrays in it too.

        Raises:
            KeyError: There is no such table or column.
            ValueError: `update` is missing or not after the one that the trial went on from; a row of
                `updates` does not come after the one before; `trial_id` is another trial's.
            RuntimeError: The writer is closed, or the trial has rows on disk and `rewind` wasn't called.
        """
        if self._closed:
            raise RuntimeError(f"the writer of trial {self.trial_id} is closed")
        buffer = self._buffers.get(table)
        if buffer is None:
            raise KeyError(f"no table {table!r} to append to; there are {', '.join(_ROW_TABLES)}")
        copy = dict(row)
        if not copy.keys() <= buffer.columns:
            raise KeyError(self._unknown_column(table, copy))
        update = copy.get("update")
        if update is None:
            raise ValueError(f"a row of {table} has no update, and couldn't be removed on resume: give update=...")
        if copy.setdefault("trial_id", self.trial_id) != self.trial_id:
            raise ValueError(f"a row of trial {copy['trial_id']!r} given to the writer of trial {self.trial_id!r}")
        if self._rewound is None:
            self._begin()
        before = self._last_update if table == "updates" else self._rewound
        if update <= before:
            raise ValueError(
                f"trial {self.trial_id}: a row of {table} for update {update} after update {before}; "
                "each is written once, in order"
            )
        for name, kind in buffer.lists.items():
            if copy.get(name) is not None:
                copy[name] = np.array(copy[name], dtype=kind)
        if table == "updates":
            self._last_update = update
        buffer.rows.append(copy)
        if len(buffer.rows) >= self._rows_per_part:
            self._flush(table)

    def append_many(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows, as `append` does."""
        for row in rows:
            self.append(table, row)

    def commit(self) -> None:
        """Puts all rows on disk; many small parts of a table are then joined."""
        for table in _ROW_TABLES:
            self._flush(table)
            writer = self._tables[table]
            # Only tables that this process has written or rewound have been listed; leave others alone.
            small = [part for part in writer.known_parts if not part.joined]
            if len(small) > SMALL_PARTS:
                writer.join(small)

    def rewind(self, update: int) -> None:
        """Removes every row with a greater update, on disk and waiting, in all tables but `trials`.

        Args:
            update: The update of the checkpoint that the trial goes on from. Updates count from 1; with 0
                or less the trial starts over, and all rows go, those of update 0 too.
        """
        for table in _ROW_TABLES:
            self._tables[table].rewind(update)
            rows = self._buffers[table].rows
            rows[:] = [row for row in rows if 0 < update and row["update"] <= update]
        self._rewound = self._last_update = update if update > 0 else -1

    def join(self) -> None:
        """Commits, and makes one part of each table's parts; for a trial that has ended."""
        self.commit()
        for writer in self._tables.values():
            writer.join(list(writer.parts))

    def set_status(self, status: str, reason: str | None = None, **columns: Any) -> None:
        """Writes the trial's row of `trials` whole, at once.

        Columns that were set before, in this process or an earlier one, keep their values. `started_at`
        and `finished_at` are filled in unless given.

        Args:
            status: running, finished, diverged, failed or stopped.
            reason: Why it ended so; null if not given.
            columns: Other columns of `trials`; `config` and `versions` may be mappings.

        Raises:
            ValueError: There is no such status.
            KeyError: There is no such column.
        """
        if status not in STATUSES:
            raise ValueError(f"no status {status!r}; there are {', '.join(STATUSES)}")
        if not columns.keys() <= set(schema_of("trials").names):
            raise KeyError(self._unknown_column("trials", columns))
        now = datetime.now(UTC)
        row = {"trial_id": self.trial_id, "started_at": now} | self._tables["trials"].read_only()
        row |= {"status": status, "reason": reason, "finished_at": None if status == "running" else now} | columns
        for name in JSON_COLUMNS:
            if isinstance(row.get(name), Mapping):
                row[name] = json.dumps(row[name], sort_keys=True)
        self._tables["trials"].write_only(row)

    def close(self) -> None:
        """Commits and takes no more rows."""
        if not self._closed:
            self.commit()
            self._closed = True

    def _flush(self, table: str) -> None:
        rows = self._buffers[table].rows
        if rows:
            self._tables[table].write(rows)
            rows.clear()

    def _begin(self) -> None:
        # On top of an earlier life's rows, some might be there twice.
        if any(self._tables[table].parts for table in _ROW_TABLES):
            raise RuntimeError(
                f"trial {self.trial_id} has rows on disk: call rewind(update of the checkpoint, 0 without one) first"
            )
        self._rewound = -1

    @staticmethod
    def _unknown_column(table: str, row: Mapping[str, Any]) -> str:
        known = schema_of(table).names
        unknown = ", ".join(repr(name) for name in row if name not in known)
        return f"table {table} has no column {unknown}; it has {', '.join(known)}"
