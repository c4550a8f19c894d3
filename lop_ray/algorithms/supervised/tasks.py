"""The tasks of a trial's stream, as tensors."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.supervised.examples import ExampleReader, Examples
from lop_ray.algorithms.supervised.objective import Objective
from lop_ray.networks import NetworkOptions
from lop_ray.problems import find_problem

if TYPE_CHECKING:
    from lop_ray.problems.stream import TaskData, TaskStream


class TaskSource:
    """Reads the tasks of the problem that a trial names.

    Args:
        trial: Names problem, options and seed.

    Attributes:
        stream: The problem.
        objective: What is minimised on it.
        dtype: Of inputs and weights.
        flatten: Whether the network reads vectors, [features].

    Raises:
        ValueError: The problem is no stream of tasks, its data are not there, or its loss is not known.
    """

    def __init__(self, trial: TrialSpec):
        problem = find_problem(trial.problem)
        if problem.kind != "stream":
            raise ValueError(f"problem '{trial.problem}' is an environment, not a stream of supervised tasks")
        self._name = trial.problem
        make: Any = getattr(import_module(problem.module), problem.env_class)
        self.stream: TaskStream = make(problem.Options(**trial.problem_options), task_seed=trial.seed)
        self.dtype: torch.dtype = getattr(torch, self.stream.dtype.name)
        self.objective = Objective.of(self.stream.loss, self.stream.outputs, self.dtype)
        self.flatten = isinstance(trial.network, NetworkOptions)
        self._reader = ExampleReader(
            self.input_shape,
            self.objective,
            flatten=self.flatten,
            dtype=self.dtype,
            device=torch.device("cuda" if trial.resources.gpus else "cpu"),
        )
        self._latest: dict[int, TaskData] = {}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.stream.input_shape)

    @property
    def input_width(self) -> int:
        """Numbers of one example."""
        return math.prod(self.input_shape)

    @property
    def examples_per_task(self) -> int:
        """Env steps that a task lasts."""
        return int(self.stream.examples_per_task)

    def _task(self, number: int) -> TaskData:
        if number not in self._latest:
            data = self.stream.task(number)
            self._latest = {key: value for key, value in self._latest.items() if key == number - 1} | {number: data}
        return self._latest[number]

    def read(self, number: int) -> tuple[Examples, Examples | None]:
        """A task's examples, and those held out from it.

        Raises:
            ValueError: They are not what they should be.
        """
        data, where = self._task(number), f"{self._name}, task {number}"
        return self._reader.read(data.inputs, data.targets, where), self._reader.test(data, where)

    def distance(self, number: int) -> float | None:
        """How far a task lies from the one before; None for the first.

        See `lop_ray.problems.stream.task_distance`.
        """
        if number == 0:
            return None
        from lop_ray.problems.stream import task_distance

        before = self._latest.get(number - 1) or self.stream.task(number - 1)  # let go by a restart
        return task_distance(before, self._task(number))
