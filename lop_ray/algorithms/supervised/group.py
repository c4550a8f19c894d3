"""Trainings that differ in the seed alone, trained side by side as one batched network."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lop_ray.algorithms.divergence import DivergedError
from lop_ray.algorithms.supervised.learner import Steps
from lop_ray.algorithms.supervised.stack import Stack, members_at_once, stacked_batches
from lop_ray.algorithms.supervised.training import SupervisedTraining
from lop_ray.algorithms.training import Rows


class SupervisedGroup:
    """Members that make every update together; each keeps its own task, interventions, diagnostics, rows and state.

    Rows are those of single trainings but for rounding: sums are made in another order.

    Args:
        members: All after the same number of updates, restored if they are to be.

    Raises:
        ValueError: They cannot be one batched network, or are not in step.
    """

    def __init__(self, members: Sequence[SupervisedTraining]):
        places = {(m.updates, m.learner.gradient_steps, m.env_steps) for m in members}
        if len(places) > 1:
            raise ValueError(
                f"members of a group are in step, these are at {sorted(places)}: restore one update of all"
            )
        self._members = list(members)
        self._errors: list[DivergedError | None] = [None] * len(members)
        size = members_at_once(members[0].learner, len(members), members[0].reading.size)
        numbers = range(len(members))
        self._parts = [numbers[i : i + size] for i in range(0, len(members), size)]
        self._stacks = [Stack([members[k].learner for k in part]) for part in self._parts]

    def update(self) -> list[Rows | DivergedError | None]:
        """One update of every member at work.

        Returns:
            By member its rows, why it has ended in this update, or None if it had before.
        """
        results: list[Rows | DivergedError | None] = [None] * len(self._members)
        for part, stack in zip(self._parts, self._stacks, strict=True):
            self._update(part, stack, results)
        return results

    def _update(self, part: range, stack: Stack, results: list[Rows | DivergedError | None]) -> None:
        at_work = [k for k in part if self._errors[k] is None]
        if not at_work:
            return
        for k in part:  # one that has ended goes on to be shown examples, and nobody looks
            self._members[k].begin_update(measure=self._errors[k] is None)
        start = time.perf_counter()
        members = [self._members[k] for k in part]
        shown = [Steps() for _ in part]
        begin, end = members[0].latest
        batches = [m.reading.batches(m.examples, begin, end) for m in members]
        stack.train(stacked_batches(batches), [m.seen() for m in members], shown)
        for steps, member in zip(shown, members, strict=True):
            steps.fold(member.objective)
        learn_s = (time.perf_counter() - start) / len(at_work)
        for k, steps, error in zip(part, shown, stack.errors, strict=True):
            if self._errors[k] is None:
                self._errors[k] = error
                results[k] = self._members[k].finish_update(steps, learn_s) if error is None else error
            if self._errors[k] is not None:
                self._members[k].skip_update()
