"""The frictions of the slippery problems: one for each task.

Source: Dohare et al. (2024), "Loss of plasticity in deep continual learning", Nature 632, Methods, and `rl/run_ppo.py`
of shibhansh/loss-of-plasticity: log-uniform on [0.02, 2.00], drawn for the first task too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt
from pydantic import Discriminator, Tag, model_validator

from lop_ray.options import Options
from lop_ray.problems.schedule import ScheduleOptions
from lop_ray.seeding import numpy_generator

Friction = Annotated[float, Gt(0.0)]


def _shape(values: Any) -> str:
    several = isinstance(values, list | tuple) and bool(values) and isinstance(values[0], list | tuple)
    return "one list a seed" if several else "one list"


FrictionLists = Annotated[
    Annotated[tuple[Friction, ...], Tag("one list")]
    | Annotated[tuple[tuple[Friction, ...], ...], Tag("one list a seed")],
    Discriminator(_shape),
]
"""Frictions in the order of the tasks, for all seeds; or one such list a seed."""


class FrictionOptions(Options):
    """Which friction each task has: drawn at random, at a set distance from the one before, or listed.

    A friction is a multiple of every geom's own slide friction in the model, floor and body alike; the Ant's are
    all 1. Random ones depend on the trial's seed and the task's number alone, so they are the same for every
    variant, and a run can go on anywhere.
    """

    low: Friction = 0.02
    """Smallest friction that is drawn."""
    high: Friction = 2.0
    """Largest friction that is drawn."""
    first: Friction | None = None
    """Friction of the first task; null: drawn like the others, as in the reference."""
    distance: Annotated[float, Ge(0.0)] | None = None
    """Null: log-uniform on [low, high]. A number d: every task's friction is exp(+d) or exp(-d) times that of the
    task before, either with probability 1/2 where both stay within [low, high], otherwise the one that does."""
    values: FrictionLists | None = None
    """Frictions in the order of the tasks, in place of random ones; or one such list a seed, from seed 0 on."""
    file: str | None = None
    """A text file with `values`: numbers divided by blanks or commas. One number a line, or a single line, is one list
    for all seeds; several numbers a line are one line a seed, from seed 0 on. `#` begins a comment. The numbers become
    part of the trial, which never needs the file again."""

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, options: Any) -> Any:
        if not isinstance(options, dict) or not isinstance(options.get("file"), str):
            return options
        if options.get("values") is not None:
            raise ValueError("values and file are two ways to say the same: leave one out")
        return {**options, "file": None, "values": read_frictions(options["file"])}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> FrictionOptions:
        if self.values is not None:
            fields = type(self).model_fields
            others = [key for key in ("low", "high", "first", "distance") if getattr(self, key) != fields[key].default]
            if others:
                raise ValueError(f"{others[0]} has no effect with listed frictions: leave it out")
            if not self.values or any(isinstance(row, tuple) and not row for row in self.values):
                raise ValueError("the list of frictions is empty")
            return self
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.first is not None and self.distance is not None and not self.low <= self.first <= self.high:
            raise ValueError(f"first={self.first} is outside [{self.low}, {self.high}], where distances are kept")
        reach = math.log(self.high / self.low) / 2
        if self.distance is not None and self.distance > reach:
            raise ValueError(
                f"distance={self.distance} is more than half of log(high / low), {reach:.4g}: there would be no way "
                "on from the middle of the range; choose a smaller distance or a wider range"
            )
        return self


class SlipperyOptions(Options):
    """What the slippery problems have beside the options of their body."""

    schedule: ScheduleOptions = ScheduleOptions()
    """When the friction changes."""
    friction: FrictionOptions = FrictionOptions()
    """Which friction each task has."""

    def task_schedule(self) -> ScheduleOptions:
        """When tasks change."""
        return self.schedule

    def check_tasks(self, count: int) -> None:
        """Raises unless the lists of frictions, if there are any, are long enough.

        Raises:
            ValueError: One is too short.
        """
        values = self.friction.values
        if values is None or self.schedule.tasks == "same":
            return
        rows = values if isinstance(values[0], tuple) else (values,)
        for seed, row in enumerate(rows):
            if len(row) < count:
                whose = f" for seed {seed}" if len(rows) > 1 else ""
                raise ValueError(
                    f"friction.values: {len(row)} frictions{whose}, but the run needs {count}: "
                    "list more, or lower total_steps"
                )


class Frictions:
    """The friction of every task of a trial.

    Args:
        options: How they are chosen.
        seed: The trial's seed.

    Attributes:
        count: How many there are; None where they are drawn.

    Raises:
        ValueError: There is one list a seed, and none for this seed.
    """

    count: int | None = None

    def __init__(self, options: FrictionOptions, seed: int):
        self._options, self._seed = options, seed
        self._listed = listed_frictions(options, seed)
        if self._listed is not None:
            self.count = len(self._listed)
        self._walk: list[float] = []

    def __getitem__(self, task: int) -> float:
        """Friction of the task with this number."""
        if self._listed is not None:
            return self._listed[task]
        if self._options.distance is None:
            return self._drawn(task)
        while len(self._walk) <= task:
            self._walk.append(self._at_distance(self._walk[-1]) if self._walk else self._drawn(0))
        return self._walk[task]

    def between(self, before: int, task: int, progress: float) -> float:
        """f_before^(1 - progress) f_task^progress: between two tasks on a logarithmic scale."""
        if progress >= 1 or before == task:
            return self[task]
        return math.exp((1 - progress) * math.log(self[before]) + progress * math.log(self[task]))

    def _drawn(self, task: int) -> float:
        options = self._options
        if task == 0 and options.first is not None:
            return options.first
        low, high = math.log(options.low), math.log(options.high)
        return min(max(math.exp(low + self._uniform(task) * (high - low)), options.low), options.high)

    def _at_distance(self, before: float) -> float:
        options = self._options
        assert options.distance is not None
        up, down = before * math.exp(options.distance), before * math.exp(-options.distance)
        rises = self._uniform(len(self._walk)) < 0.5
        if up > options.high or down < options.low:
            rises = up <= options.high
        return min(up, options.high) if rises else max(down, options.low)

    def _uniform(self, task: int) -> float:
        return float(numpy_generator(self._seed, "tasks", "friction", task).random())


def listed_frictions(options: FrictionOptions, seed: int) -> tuple[float, ...] | None:
    """The frictions that are listed for a seed; None where they are drawn.

    Raises:
        ValueError: There is one list a seed, and none for this seed.
    """
    values = options.values
    if values is None or not isinstance(values[0], tuple):
        return values
    if seed >= len(values):
        raise ValueError(
            f"friction.values: there are lists for the seeds 0..{len(values) - 1}, and none for seed {seed}: "
            "list more, or take fewer seeds"
        )
    return values[seed]


def read_frictions(path: str) -> list[float] | list[list[float]]:
    """The numbers of a file of frictions, as `FrictionOptions.values` takes them.

    Raises:
        ValueError: The file cannot be read, or holds something that is no number.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"cannot read the frictions in {path}: {reason}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        try:
            row = [float(word) for word in words]
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: '{line.strip()[:60]}' holds something that is no number"
            ) from error
        if any(not (math.isfinite(value) and value > 0) for value in row):
            raise ValueError(f"{path}, line {number}: '{line.strip()[:60]}': a friction should be a number above 0")
        if row:
            rows.append(row)
    if len(rows) == 1:
        return rows[0]
    return [row[0] for row in rows] if all(len(row) == 1 for row in rows) else rows
