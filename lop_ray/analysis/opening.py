"""Opening the results of a grid, with one clear line where there is nothing to read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import duckdb

from lop_ray.errors import UserError, unknown
from lop_ray.results import Location, connect

T = TypeVar("T")
_PAUSES_S = (0.5, 1.0, 2.0)


def read_settled(action: Callable[[], T]) -> T:
    """Does something that opens and reads a grid, again if a running trial joined its parts meanwhile.

    Args:
        action: Opens the grid itself, so that it sees the new parts the next time.

    Returns:
        What the action returns.

    Raises:
        UserError: The rows can't be read, the fourth time either.
    """
    for pause_s in _PAUSES_S:
        try:
            return action()
        except (duckdb.Error, FileNotFoundError):
            time.sleep(pause_s)
    try:
        return action()
    except duckdb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(f"can't read the rows: {reason}; if trials run, try again in a minute") from error


def open_grid(results: str | Path | Location, grid: str) -> duckdb.DuckDBPyConnection:
    """A database with a view of each table of a grid that has rows.

    Args:
        results: The folder of all grids: a path or URI.
        grid: Name of the grid.

    Returns:
        The connection.

    Raises:
        UserError: The grid has no rows there; the message names the grids that have.
    """
    location = Location.of(results)
    store = connect(location, grid)
    if not store.execute("SELECT count(*) FROM updates").fetchall()[0][0]:
        raise UserError(_nothing(location, grid))
    return store


def _nothing(results: Location, grid: str) -> str:
    """One line on a grid without rows."""
    known = sorted({path.split("/")[0] for path in results.list() if "/data/updates/" in f"/{path}"})
    if grid in known or not known:
        return f"no rows of grid '{grid}' in {results}; run `python -m lop_ray.tune {grid}` first"
    return f"{unknown('grid', grid, known)} in {results}"
