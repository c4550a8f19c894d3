"""The results of one grid: its manifest, its trials, and a writer for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lop_ray.results.filesystem import Location
from lop_ray.results.parts import table_folder
from lop_ray.results.reader import read_table
from lop_ray.results.schema import SCHEMAS
from lop_ray.results.table_writer import TableWriter
from lop_ray.results.writer import TrialWriter

MANIFEST = "grid.yaml"
_GRID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Store:
    """The folder `results/<grid>`; making a Store creates nothing.

    Args:
        results: The folder of all grids: a path, or a URI that pyarrow knows.
        grid: Name of the grid.

    Attributes:
        location: The grid's folder.
    """

    def __init__(self, results: str | Path | Location, grid: str):
        if not _GRID_NAME.fullmatch(grid):
            raise ValueError(
                f"grid name {grid!r} can't be a folder's: give letters, digits, '_', '.' and '-', "
                "beginning with a letter or a digit"
            )
        self.grid = grid
        self._results = Location.of(results)
        self.location = self._results / grid

    def trial_writer(self, trial_id: str, *, rows_per_part: int = 2000) -> TrialWriter:
        """The writer of a trial's rows."""
        return TrialWriter(self.location, trial_id, rows_per_part=rows_per_part)

    def trials(self) -> dict[str, dict[str, Any]]:
        """The newest row of `trials` of every trial that has one, by trial id."""
        return {row["trial_id"]: row for row in read_table(self._results, self.grid, "trials").to_pylist()}

    def read_manifest(self) -> dict[str, Any] | None:
        """What `write_manifest` wrote last; None if the grid was never started.

        Returns:
            The manifest.

        Raises:
            ValueError: The file is not what `write_manifest` writes.
        """
        if not self.location.exists(MANIFEST):
            return None
        try:
            manifest = yaml.safe_load(self.location.read_bytes(MANIFEST))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(self._bad_manifest(" ".join(str(error).split()))) from error
        if not isinstance(manifest, dict):
            raise ValueError(self._bad_manifest(f"a mapping is expected, not {type(manifest).__name__}"))
        return manifest

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes `grid.yaml`: the grid as resolved, the manifest of trials, and provenance.

        Args:
            manifest: Plain values (text, numbers, lists, mappings), nested at will.
        """
        text = yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True, width=120)
        self.location.write_atomic(MANIFEST, text.encode())

    def repair(self) -> None:
        """Deletes what a death left behind: temporary files, and parts whose rows stand in a joined part.

        Only while no trial of the grid runs. Readers of this package don't need it; a raw reader does.
        """
        for table in SCHEMAS:
            names = self.location.list(table_folder(table))
            trials = {name.split("/")[0].removeprefix("trial_id=") for name in names if name.startswith("trial_id=")}
            for trial_id in sorted(trials):
                TableWriter(self.location, table, trial_id).repair()

    def _bad_manifest(self, cause: str) -> str:
        return f"{self.location / MANIFEST} can't be read: {cause}; restore it, or start in an empty place"
