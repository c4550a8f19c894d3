"""A task's examples as tensors, and the order in which training is shown them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lop_ray.algorithms.supervised.objective import Objective
from lop_ray.seeding import torch_generator

if TYPE_CHECKING:
    from lop_ray.problems.stream import TaskData, TaskStream

DEFAULT_MINIBATCH = 32


@dataclass(frozen=True)
class Examples:
    """Examples with their targets.

    Attributes:
        inputs: [N, ...], as the network reads them.
        targets: [N] or [N, outputs], as the loss reads them.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, which: Tensor | slice) -> Examples:
        """Some of them."""
        return Examples(self.inputs[which], self.targets[which])


@dataclass(frozen=True)
class ExampleReader:
    """Makes tensors of what a stream gives.

    Attributes:
        input_shape: Of one example.
        objective: Reads the targets.
        flatten: Whether the network reads vectors: then bytes are scaled to [0, 1] here, otherwise by the network.
        dtype: Of the inputs.
        device: Where the tensors go.
    """

    input_shape: tuple[int, ...]
    objective: Objective
    flatten: bool
    dtype: torch.dtype
    device: torch.device

    def read(self, inputs: np.ndarray, targets: np.ndarray, where: str) -> Examples:
        """Examples of a task, checked.

        Args:
            inputs: [N, *input_shape], floats or bytes.
            targets: [N] or [N, outputs].
            where: What they are, for messages.

        Returns:
            The tensors.

        Raises:
            ValueError: Wrong shape or type, numbers that are not finite, or labels out of range.
        """
        if not len(inputs) or inputs.shape[1:] != tuple(self.input_shape):
            raise ValueError(
                f"{where}: inputs have shape {list(inputs.shape)}, should be [N, "
                f"{', '.join(map(str, self.input_shape))}] with N >= 1"
            )
        values = torch.from_numpy(np.array(inputs))
        if inputs.dtype == np.uint8:
            values = values.to(self.dtype) / 255 if self.flatten else values
        elif inputs.dtype.kind != "f" or not np.isfinite(inputs).all():
            raise ValueError(f"{where}: inputs of type {inputs.dtype} should be finite floats, or bytes")
        else:
            values = values.to(self.dtype)
        if self.flatten:
            values = values.flatten(1)
        found = self.objective.prepare(np.asarray(targets), len(inputs), where)
        return Examples(values.to(self.device), found.to(self.device))

    def test(self, data: TaskData, where: str) -> Examples | None:
        """The held-out examples of a task, or None."""
        if data.test_inputs is None or data.test_targets is None:
            return None
        return self.read(data.test_inputs, data.test_targets, f"{where}, held out")


@dataclass(frozen=True)
class Reading:
    """How a task of N examples is shown: which of them each gradient step sees.

    full_batch: all of them at every step. epochs: minibatches of a new order of all, pass after pass; the last of a
    pass is smaller if the size does not divide N. once: minibatches in the task's own order. A task ends with its
    `shown`-th example, in the middle of a pass if need be.

    Attributes:
        kind: One of these.
        count: N.
        shown: Examples that the task lasts.
        size: Examples a gradient step.
        seed: The trial's; the order of pass e of task j is drawn from a stream of its own, so that nothing has to be
            remembered.
        task: j.
        stream: First name of that stream.
    """

    kind: str
    count: int
    shown: int
    size: int
    seed: int
    task: int
    stream: str = "minibatches"

    @classmethod
    def of(cls, stream: TaskStream, count: int, minibatch_size: int | None, seed: int, task: int) -> Reading:
        """How `task`, which has `count` examples, is shown.

        Raises:
            ValueError: The minibatch is larger than the task, or has no meaning; the task's length does not fit.
        """
        kind, shown = stream.reading, int(stream.examples_per_task)
        if kind not in ("full_batch", "epochs", "once"):
            raise ValueError(f"reading '{kind}' of the problem is unknown; known: full_batch, epochs, once")
        if kind == "full_batch":
            if minibatch_size not in (None, count):
                raise ValueError(
                    f"supervised.minibatch_size = {minibatch_size}: the problem shows all {count} examples of a task "
                    "at every step; leave it out"
                )
            if shown % count:
                raise ValueError(
                    f"a task lasts {shown} examples, which is no multiple of the {count} that every step shows"
                )
            return cls(kind, count, shown, count, seed, task)
        size = min(DEFAULT_MINIBATCH, count) if minibatch_size is None else minibatch_size
        if size > count:
            raise ValueError(
                f"supervised.minibatch_size = {size}: is larger than the data, a task has {count} examples; "
                "choose a smaller one"
            )
        if kind == "once" and shown > count:
            raise ValueError(f"a task lasts {shown} examples, each shown once, but has only {count}")
        return cls(kind, count, shown, size, seed, task)

    @property
    def steps_a_pass(self) -> int:
        """Gradient steps that show every example once."""
        return math.ceil(self.count / self.size)

    @property
    def steps(self) -> int:
        """Gradient steps of the task."""
        passes, rest = divmod(self.shown, self.count)
        return passes * self.steps_a_pass + math.ceil(rest / self.size)

    def shown_after(self, step: int) -> int:
        """Examples shown in the first `step` gradient steps."""
        passes, rest = divmod(step, self.steps_a_pass)
        return min(self.shown, passes * self.count + min(self.count, rest * self.size))

    def order(self, number: int) -> Tensor | None:
        """[N], the order of a pass, from 0; None where it is the task's own."""
        if self.kind != "epochs":
            return None
        return torch.randperm(self.count, generator=torch_generator(self.seed, self.stream, self.task, number))

    def batches(self, examples: Examples, begin: int, end: int) -> Iterator[Examples]:
        """What gradient steps begin..end-1 see, counted from the task's first.

        Yields:
            The examples of a step.
        """
        if self.kind == "full_batch":
            for _ in range(begin, end):
                yield examples
            return
        per_pass, current, ordered = self.steps_a_pass, -1, examples
        for step in range(begin, end):
            number, place = divmod(step, per_pass)
            if number != current:
                order, current = self.order(number), number
                ordered = examples if order is None else examples.rows(order.to(examples.inputs.device))
            first = place * self.size
            last = min(first + self.size, self.count, first + self.shown - self.shown_after(step))
            yield ordered.rows(slice(first, last))

    def indices(self, begin: int, end: int) -> Tensor:
        """Which of the task's examples the steps show, in the order in which they show them."""
        numbers = Examples(torch.arange(self.count), torch.empty(self.count, 0))
        found = [batch.inputs for batch in self.batches(numbers, begin, end)]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64)

    def ends(self, begin: int, end: int, most: int) -> Tensor:
        """The first `most` and the last `most` of `indices`; all of them if they are not more."""
        if self.shown_after(end) - self.shown_after(begin) <= 2 * most:
            return self.indices(begin, end)
        head, tail = begin, end
        while self.shown_after(head) - self.shown_after(begin) < most:
            head += 1
        while self.shown_after(end) - self.shown_after(tail) < most:
            tail -= 1
        return torch.cat([self.indices(begin, head)[:most], self.indices(tail, end)[-most:]])
