"""The parts of a table: their names, and which of them count.

Every part that a trial writes takes the next number n and is named `part-n-n`. Joining parts a to b
writes `part-a-b` first and deletes the originals afterwards, so a death in between leaves rows twice,
never none; whoever reads then drops every part whose range lies inside another's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"part-(\d{8})-(\d{8})\.parquet")
_TRIAL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, order=True)
class Part:
    """A part by the range of numbers that it covers, both ends included."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"part-{self.first:08d}-{self.last:08d}.parquet"

    @classmethod
    def of_name(cls, name: str) -> Part | None:
        """The part that a file name stands for; None for temporary and foreign files."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2])) if match else None

    @property
    def joined(self) -> bool:
        """Whether it was made from several."""
        return self.last > self.first


def split_superseded(parts: Iterable[Part]) -> tuple[list[Part], list[Part]]:
    """Tells the parts that count from those whose rows stand in a joined part too.

    Args:
        parts: All parts of one table of one trial; two ranges are disjoint, or one lies in the other.

    Returns:
        The live parts in the order in which they were written, and the superseded ones.
    """
    live: list[Part] = []
    superseded: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.first, -part.last)):
        (superseded if live and part.last <= live[-1].last else live).append(part)
    return live, superseded


def table_folder(table: str) -> str:
    """The folder of a table, relative to the grid's."""
    return f"data/{table}"


def trial_folder(table: str, trial_id: str) -> str:
    """The folder of a trial's parts of a table (a hive partition), relative to the grid's."""
    return f"{table_folder(table)}/trial_id={trial_id}"


def check_trial_id(trial_id: str) -> str:
    """Gives back an id that is safe as a folder name and as the value of a hive partition.

    Args:
        trial_id: The id.

    Returns:
        The same id.

    Raises:
        ValueError: It has characters that mean something in a path, or might be read as a number.
    """
    if not _TRIAL.fullmatch(trial_id):
        raise ValueError(
            f"trial id {trial_id!r} must begin with a letter and have only letters, digits, '_', '.' and '-': "
            "it is a folder name, and readers of hive partitions take an id of digits for a number"
        )
    return trial_id
