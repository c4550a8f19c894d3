"""Task schedules: when a problem changes, and which task comes next.

A schedule knows nothing of what a task is. It says, for every copy of an environment, the number of the task that
the copy is in (0, 1, 2, ...: each change adds one), and how far a gradual change has come; the problem maps that to
friction, levels, labels or whatever else changes.

Time is counted in *trial steps*: environment steps over all copies of a trial, wherever they run. All copies step
together, so after k steps of every copy a trial of C copies has made k C steps, whether one process holds the copies
or several runners share them out. A copy changes on its own account, so how the copies are shared out changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator

from lop_ray.options import Options

NEVER = sys.maxsize
"""A step that is never reached."""


class ScheduleOptions(Options):
    """When tasks change. Steps are trial steps: environment steps over all copies of the trial."""

    every_steps: Annotated[int, Ge(1)] | None = 2_000_000
    """Steps a task; null: the first task for ever."""
    at: Literal["episode_end", "once"] = "episode_end"
    """When a change takes place.

    episode_end: each copy changes at the first end of one of its episodes that comes more than `every_steps` steps
    after its last change (Dohare et al. 2024; `rl/run_ppo.py` of shibhansh/loss-of-plasticity).
    once: all copies change together, within their episodes: task j lasts from step j `every_steps` on."""
    window_steps: Annotated[int, Ge(0)] = 0
    """Steps over which a change is spread; 0: abrupt. The copy's task number changes at the window's beginning. With
    `at: episode_end` a copy moves on whenever one of its episodes begins, with `at: once` at every step."""
    tasks: Literal["new", "same"] = "new"
    """new: every task is another one. same: every change takes place, to the first task again (a control)."""

    @model_validator(mode="after")
    def _windows_do_not_overlap(self) -> ScheduleOptions:
        if self.every_steps is None:
            if self.window_steps:
                raise ValueError(f"window_steps={self.window_steps} has no effect with every_steps=null: leave it out")
        elif self.window_steps > self.every_steps:
            raise ValueError(
                f"window_steps={self.window_steps} is longer than every_steps={self.every_steps}: "
                "changes would overlap; choose a window that ends before the next change"
            )
        return self

    def most_tasks(self, steps: int) -> int:
        """The largest number of tasks that a trial of so many steps can see, the first one included."""
        if self.every_steps is None:
            return 1
        if self.at == "once":
            return 1 + (steps - 1) // self.every_steps
        return 1 + (steps - 1) // (self.every_steps + 1)


@runtime_checkable
class HasTasks(Protocol):
    """Options of a problem that changes; what a run needs of them is checked before it begins."""

    def task_schedule(self) -> ScheduleOptions:
        """When tasks change."""
        ...

    def check_tasks(self, count: int) -> None:
        """Raises `ValueError` unless there are `count` tasks; the message begins with the key that is to blame."""
        ...


class Schedule:
    """Where each of N copies stands in the tasks of its trial.

    `clock` is always the number of steps that every copy has made since the trial's beginning.

    Args:
        options: When tasks change.
        num_copies: N, the copies in this process.
        trial_copies: Copies of the trial, over all processes; N by default.
        num_tasks: How many different tasks there are, if not any number: copies stay in the last one.

    Raises:
        ValueError: Tasks are to change within a step of all copies.

    Attributes:
        next_check: `after_step` has nothing to do before the clock shows this. A plain number, so that a problem
            pays one comparison a step.
        tasks: [N], task of each copy, int32: a new, read-only array whenever a task changes.
    """

    next_check: int
    tasks: NDArray[np.int32]

    def __init__(
        self,
        options: ScheduleOptions,
        num_copies: int,
        *,
        trial_copies: int | None = None,
        num_tasks: int | None = None,
    ):
        self._options = options
        self._num_copies = num_copies
        self._trial_copies = trial_copies or num_copies
        self._last_task = NEVER if num_tasks is None or options.tasks == "same" else num_tasks - 1
        self._every = NEVER if options.every_steps is None else options.every_steps
        if self._every < self._trial_copies:
            raise ValueError(
                f"every_steps={self._every} is less than the {self._trial_copies} steps that all copies make at a "
                "time: choose a longer task or fewer copies"
            )
        self.restart()

    def restart(self) -> None:
        """Back to the first task of all copies, at clock 0."""
        self._set_tasks(np.zeros(self._num_copies, np.int32))
        self._since = np.zeros(self._num_copies, np.int64)  # trial step at which the current task began
        self.next_check = self._first_check_after(0)

    def which(self, task: int) -> int:
        """The place of a task in the sequence of different ones: 0 for all where the first task comes again."""
        return 0 if self._options.tasks == "same" else task

    def progress(self, copy: int, clock: int) -> float:
        """How far a copy has come from the task before to its current one, from 0 to 1."""
        window = self._options.window_steps
        if not window or self.tasks[copy] == 0:
            return 1.0
        return min(1.0, (clock * self._trial_copies - int(self._since[copy])) / window)

    def start_episodes(self, copies: Sequence[int], clock: int) -> list[int]:
        """Called when new episodes begin, before their first step.

        Args:
            copies: Whose.
            clock: Steps that every copy has made.

        Returns:
            The copies among them whose task or progress is another one than before.
        """
        if self._options.at == "once":
            return []
        steps = clock * self._trial_copies
        due = [k for k in copies if steps - int(self._since[k]) > self._every and self.tasks[k] < self._last_task]
        moving = [k for k in copies if k not in due and self.tasks[k] and self._options.window_steps]
        if due:
            tasks = self.tasks.copy()
            tasks[due] += 1
            self._set_tasks(tasks)
            self._since[due] = steps
        return due + moving

    def after_step(self, clock: int) -> Sequence[int]:
        """Called after a step once the clock shows `next_check`, before episodes that ended begin anew.

        Args:
            clock: Steps that every copy has made.

        Returns:
            The copies whose task or progress is another one than before.
        """
        task = min(clock * self._trial_copies // self._every, self._last_task)
        if task != self.tasks[0]:
            self._set_tasks(np.full(self._num_copies, task, np.int32))
            self._since[:] = task * self._every
        self.next_check = self._first_check_after(clock)
        return range(self._num_copies)

    def _first_check_after(self, clock: int) -> int:
        task = int(self.tasks[0])
        if self._options.at == "episode_end" or self._options.every_steps is None:
            return NEVER
        if self.progress(0, clock) < 1:
            return clock + 1
        return NEVER if task >= self._last_task else -(-(task + 1) * self._every // self._trial_copies)

    def _set_tasks(self, tasks: NDArray[np.int32]) -> None:
        tasks.flags.writeable = False
        self.tasks = tasks

    def get_state(self) -> dict[str, Any]:
        """Position in the schedule: arrays with a number a copy."""
        return {"tasks": self.tasks.copy(), "since": self._since.copy()}

    def set_state(self, state: Mapping[str, Any], clock: int) -> None:
        """Takes back what `get_state` gave when the clock showed `clock`.

        Raises:
            ValueError: The state is of another number of copies.
        """
        if len(state["tasks"]) != self._num_copies:
            raise ValueError(
                f"the schedule's state is of {len(state['tasks'])} copies, this problem has {self._num_copies}: "
                "restore with the num_envs and env_runners that it was saved with"
            )
        self._set_tasks(np.array(state["tasks"], np.int32))
        self._since[:] = state["since"]
        self.next_check = self._first_check_after(clock)
