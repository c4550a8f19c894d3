"""One table of one trial on disk: rows become parts, parts are trimmed and joined.

Whatever kills the process between two operations, no row is lost, and none is there twice for
`lop_ray.results.reader`; the next `repair` or `rewind` restores that for every other reader.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lop_ray.results.filesystem import Location, is_temporary
from lop_ray.results.parts import Part, split_superseded, trial_folder
from lop_ray.results.schema import check_version, schema_of

_STATISTICS = ("trial_id", "update", "env_steps")
_GROUP_ROWS = 65_536
_GROUP_BYTES = 32 * 2**20


class DamagedPartError(OSError):
    """A part can't be read, though parts appear whole or not at all: the disk, or a person, changed it."""


class TableWriter:
    """Writes the parts of one table of one trial; it must be the only one that does.

    Args:
        grid: The grid's folder.
        table: Name of the table.
        trial_id: The trial.
    """

    def __init__(self, grid: Location, table: str, trial_id: str):
        self.table = table
        self.schema = schema_of(table)
        self._grid, self._folder = grid, trial_folder(table, trial_id)
        self._trial = pa.scalar(trial_id)
        self._columns = self.schema.names[1:]  # without trial_id
        self._parts: list[Part] | None = None
        self._attempted: Part | None = None

    @property
    def parts(self) -> list[Part]:
        """The live parts, in the order in which they were written."""
        if self._parts is None:
            self._parts = self.repair()
        return self._parts

    @property
    def known_parts(self) -> list[Part]:
        """The live parts if the folder was looked at already, else none."""
        return self._parts or []

    def repair(self) -> list[Part]:
        """Deletes superseded parts and temporary files; gives back the live parts."""
        names = self._grid.list(self._folder)
        parts = [part for name in names if (part := Part.of_name(name))]
        self._parts, superseded = split_superseded(parts)
        for name in [part.name for part in superseded] + [name for name in names if is_temporary(name)]:
            self._grid.delete(f"{self._folder}/{name}")
        return self._parts

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes rows as the next part. After an error the same rows, and more, may be given again.

        Args:
            rows: Values by column; a missing column is null.

        Raises:
            RuntimeError: Another process has written that part.
        """
        table = self._to_arrow(rows)
        number = self.parts[-1].last + 1 if self.parts else 0
        part = Part(number, number)
        path = self._path(part)
        if part != self._attempted and self._grid.exists(path):
            raise RuntimeError(
                f"{self._grid / path} is there already: another process is writing this trial; "
                "stop one of them and give the command again"
            )
        self._attempted = part
        with self._parquet(path) as sink:
            sink.write_table(table)
        self.parts.append(part)

    def write_only(self, row: dict[str, Any]) -> None:
        """Makes this row the table's whole content, at once."""
        with self._parquet(self._path(Part(0, 0))) as sink:
            sink.write_table(self._to_arrow([row]))
        self._parts = [Part(0, 0)]

    def rewind(self, update: int) -> None:
        """Removes every row whose update is greater; newest parts first, so that no gap ever shows.

        Args:
            update: The last update to keep; 0 or less removes all rows.
        """
        # Superseded parts go first: they must not come back to life when a joined part is removed.
        live = self.repair()
        self._parts = self._attempted = None
        for part in reversed(live):
            if update <= 0 or not self._trim(part, update):
                self._grid.delete(self._path(part))
                live.remove(part)
        self._parts = live

    def _trim(self, part: Part, update: int) -> bool:
        """Rewrites a part without rows of later updates, if it has any; false if no row is left to write."""
        with self._open(part) as source:
            least, most = _range_of_updates(source)
            if least <= update < most:
                with self._parquet(self._path(part)) as sink:
                    kept = (table.filter(pc.less_equal(table["update"], update)) for table in self._row_groups(source))
                    for table in _regrouped(kept):
                        sink.write_table(table)
        return least <= update

    def join(self, parts: Sequence[Part]) -> None:
        """Makes one part of several; in memory is one row group at a time.

        Args:
            parts: Live parts, neighbours, in order.
        """
        if len(parts) < 2:
            return
        joined = Part(parts[0].first, parts[-1].last)
        with self._parquet(self._path(joined)) as sink:
            for table in _regrouped(self._read_all(parts)):
                sink.write_table(table)
        position = self.parts.index(parts[0])
        self.parts[position : position + len(parts)] = [joined]
        for part in parts:
            self._grid.delete(self._path(part))

    def read_only(self) -> dict[str, Any]:
        """The row that `write_only` wrote last, in this process or another; empty if there is none."""
        rows = self._read_all([Part(0, 0)]) if self._grid.exists(self._path(Part(0, 0))) else iter(())
        return next((row for table in rows for row in table.to_pylist()), {})

    def _path(self, part: Part) -> str:
        return f"{self._folder}/{part.name}"

    def _read_all(self, parts: Sequence[Part]) -> Iterator[pa.Table]:
        for part in parts:
            with self._open(part) as source:
                yield from self._row_groups(source)

    @contextmanager
    def _open(self, part: Part) -> Iterator[pq.ParquetFile]:
        path = self._grid / self._path(part)
        with self._grid.open(self._path(part)) as file:
            try:
                source = pq.ParquetFile(file)
            except pa.ArrowException as error:
                raise DamagedPartError(
                    f"{path} is damaged ({' '.join(str(error).split())}): delete the folders of this trial "
                    "under data/ and trials/ and give the command again, to run it anew"
                ) from error
            check_version(source.metadata.metadata, path)
            yield source

    def _row_groups(self, source: pq.ParquetFile) -> Iterator[pa.Table]:
        # Columns that the part is too old to have are null.
        for group in range(source.num_row_groups):
            table = source.read_row_group(group)
            have = set(table.column_names)
            columns = [
                table[field.name] if field.name in have else pa.nulls(len(table), field.type) for field in self.schema
            ]
            yield pa.table(columns, schema=self.schema)

    @contextmanager
    def _parquet(self, path: str) -> Iterator[pq.ParquetWriter]:
        texts = [field.name for field in self.schema if pa.types.is_string(field.type)]
        with (
            self._grid.atomic_file(path) as file,
            pq.ParquetWriter(
                file,
                self.schema,
                compression="zstd",
                use_dictionary=texts,  # type: ignore[arg-type, unused-ignore]
                write_statistics=[name for name in _STATISTICS if name in self.schema.names],
            ) as sink,
        ):
            yield sink

    def _to_arrow(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        columns = [pa.repeat(self._trial, len(rows))]
        columns += [self._column(name, [row.get(name) for row in rows]) for name in self._columns]
        return pa.table(columns, schema=self.schema)

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        field = self.schema.field(name)
        try:
            return to_array(values, field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            for value in values:
                try:
                    to_array([value], field.type)
                except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                    raise TypeError(
                        f"table {self.table}, column {name}: {value!r} ({type(value).__name__}) "
                        f"can't be written as {field.type}: give a plain Python or numpy value of that kind"
                    ) from error
            raise


def to_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values as a column, refusing what arrow would cut off in silence.

    Args:
        values: Python or numpy values; None is null.
        kind: The column's type.

    Returns:
        The column.
    """
    if pa.types.is_integer(kind):  # arrow makes 1 of 1.5, and a number of NaN
        values = [None if value is None else operator.index(value) for value in values]
    elif pa.types.is_timestamp(kind):
        values = [_utc(value) for value in values]
    return pa.array(values, kind)


def _utc(moment: datetime | None) -> datetime | None:
    """A time without zone, in UTC; times that have no zone are taken for UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo else moment


def _range_of_updates(source: pq.ParquetFile) -> tuple[int, int]:
    """Least and greatest update in a part, from its footer."""
    metadata = source.metadata
    column = source.schema_arrow.get_field_index("update")
    groups = [metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups)]
    return min(group.min for group in groups), max(group.max for group in groups)


def _regrouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    # The same rows in fewer, larger tables.
    waiting: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        waiting.append(table)
        rows, size = rows + len(table), size + table.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows, size = [], 0, 0
    if rows:  # an empty row group has no statistics
        yield pa.concat_tables(waiting).combine_chunks()
