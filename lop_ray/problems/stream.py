"""Streams of supervised tasks: what lies between such a problem and its training.

A stream is a sequence of data sets, each of them one task. Everything is a pure function of the options, the trial's
seed and the task's number, so the sequence is the same for every variant of a seed, and a stream has nothing to save.
Time is counted in examples shown: one example shown is one environment step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lop_ray.options import Options
from lop_ray.problems.schedule import ScheduleOptions

Loss = Literal["cross_entropy", "binary_cross_entropy", "mean_squared_error"]
Reading = Literal["full_batch", "epochs", "once"]
State = TypeVar("State")


@dataclass(frozen=True)
class TaskData:
    """The data of one task.

    Attributes:
        inputs: [n, *input_shape], floating point.
        targets: [n], int64 numbers of classes; or [n, outputs], floating point, for regression.
        test_inputs: [m, *input_shape], held-out examples of the same task; None where the problem has none.
        test_targets: Their targets.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    test_inputs: NDArray[Any] | None = None
    test_targets: NDArray[Any] | None = None

    def __len__(self) -> int:
        """n, the number of training examples."""
        return len(self.inputs)


class TaskStream(Protocol):
    """The tasks of one trial.

    Attributes:
        input_shape: Of one example.
        outputs: How many numbers the network gives. Classes for `cross_entropy`, the width of the target for
            `mean_squared_error`; 1 for `binary_cross_entropy`, the logit of class 1, whose loss is
            -[y log s(z) + (1 - y) log(1 - s(z))] with the logistic function s.
        loss: The mean over examples of the cross-entropy in nats, or of the squared error, itself a mean over outputs.
        dtype: Of inputs and regression targets, and of the training's arithmetic.
        reading: How a task's examples are shown. full_batch: all at every gradient step. epochs: in minibatches, in a
            new order every epoch. once: in their order, each once.
        examples: In one task's training set. A minibatch larger than this cannot be filled.
        examples_per_task: Environment steps that a task lasts, that is examples shown: for full_batch gradient
            steps times `examples`, for epochs epochs times `examples`, for once `examples`.
    """

    input_shape: tuple[int, ...]
    outputs: int
    loss: Loss
    dtype: np.dtype[Any]
    reading: Reading
    examples: int
    examples_per_task: int

    def which(self, number: int) -> int:
        """The place of a task in the sequence of different ones: 0 for all where the first task comes again."""
        ...

    def task(self, number: int) -> TaskData:
        """The data of the task with this number, 0 for the first."""
        ...


class StreamOptions(Options):
    """What the options of all streams offer."""

    tasks: Literal["new", "same"] = "new"
    """new: every task is another one. same: every change takes place, to the first task again (a control)."""

    @property
    def task_examples(self) -> int:
        """Training examples of one task."""
        raise NotImplementedError

    @property
    def task_steps(self) -> int:
        """Environment steps, that is examples shown, that a task lasts."""
        raise NotImplementedError

    def which(self, number: int) -> int:
        """The place of a task in the sequence of different ones."""
        return 0 if self.tasks == "same" else number

    def task_schedule(self) -> ScheduleOptions:
        """When tasks change: task j lasts from step j `task_steps` on."""
        return ScheduleOptions(every_steps=self.task_steps, at="once", tasks=self.tasks)

    def check_tasks(self, count: int) -> None:
        """Raises `ValueError` unless there are `count` tasks. Streams have any number."""


class Walk(Generic[State]):
    """The states s_0, s_1 = next(s_0, 1), s_2 = next(s_1, 2), ... of a sequence whose members depend on the one before.

    The latest is kept, so that going through them in order costs one call each. Another order gives the same states.

    Args:
        first: Makes s_0.
        advance: Makes s_k from s_(k-1) and k; must leave what it is given as it is.
    """

    def __init__(self, first: Callable[[], State], advance: Callable[[State, int], State]):
        self._first, self._advance = first, advance
        self._latest: tuple[int, State] | None = None

    def __getitem__(self, number: int) -> State:
        if self._latest is None or self._latest[0] > number:
            self._latest = 0, self._first()
        reached, state = self._latest
        for k in range(reached + 1, number + 1):
            state = self._advance(state, k)
        self._latest = number, state
        return state


MOST_COMPARED = 512
"""Examples of each task that `task_distance` looks at: the assignment's cost grows with their cube."""


def task_distance(before: TaskData, after: TaskData) -> float:
    """How far apart the training data of two tasks lie: optimal transport between their labelled examples.

        W(a, b) = min_pi (1/n) sum_i [ |x_i - x'_pi(i)| / s_x + l(y_i, y'_pi(i)) ]

    over all permutations pi of the n examples, with s_x the mean Euclidean distance of an example of a to one of b,
    and l(y, y') = [y != y'] for classes, |y - y'| / s_y for regression. It is 0 for equal data in any order, and
    symmetric. Inputs alone, or labels alone, that have nothing to do with each other count for about 1 each; what a
    pairing can save is taken off. Two samples of one distribution are a little apart, the less the larger n; tasks
    that keep their examples, as all but `slowly_changing_regression` do, are at 0 where nothing changes.

    Source: the 1-Wasserstein distance between joint distributions of inputs and targets with the ground cost of
    Courty et al. (2017), "Joint distribution optimal transportation for domain adaptation" (arXiv 1705.08848).
    The distance of Alvarez-Melis & Fusi (2020, arXiv 2002.02923) compares labels by the inputs that carry them, and
    would find tasks with permuted labels equal; a network that has to learn them does not.

    Where there are more than `MOST_COMPARED` examples, as many are taken, evenly spaced, from the same places of both.

    Args:
        before: A task.
        after: Another one of the same stream.

    Returns:
        The distance; no unit.

    Raises:
        ValueError: Inputs or targets of the two have different shapes.
    """
    from scipy.optimize import linear_sum_assignment  # it takes longer to import than all problems together

    if before.inputs.shape[1:] != after.inputs.shape[1:] or before.targets.shape[1:] != after.targets.shape[1:]:
        raise ValueError(
            f"tasks with inputs {before.inputs.shape[1:]} and {after.inputs.shape[1:]}, targets "
            f"{before.targets.shape[1:]} and {after.targets.shape[1:]} are not of one stream: there is no distance"
        )
    count = min(len(before), len(after))
    chosen = np.linspace(0, count - 1, min(count, MOST_COMPARED)).round().astype(np.intp)
    cost = _scaled(_euclidean(before.inputs[chosen], after.inputs[chosen]))
    y, y_after = before.targets[chosen], after.targets[chosen]
    if np.issubdtype(y.dtype, np.integer):
        cost += y[:, None] != y_after[None, :]
    else:
        cost += _scaled(_euclidean(y, y_after))
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def _euclidean(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Distances [n, m] between the rows of two arrays."""
    from scipy.spatial.distance import cdist

    return cdist(a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64))


def _scaled(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = distances.mean()
    return distances / mean if mean > 0 else distances
