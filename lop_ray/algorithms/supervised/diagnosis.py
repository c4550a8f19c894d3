"""What supervised training offers to diagnostics: its loss, and its task's examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lop_ray.algorithms.supervised.networks import NAME
from lop_ray.diagnostics.diagnosable import Diagnosable
from lop_ray.diagnostics.losses import Batch, Loss
from lop_ray.seeding import torch_generator

if TYPE_CHECKING:
    from lop_ray.algorithms.supervised.examples import Examples, Reading
    from lop_ray.algorithms.supervised.learner import Learner
    from lop_ray.algorithms.supervised.objective import Objective


class Diagnosed(Protocol):
    """What is asked of a training.

    Attributes:
        learner: Whose classifier it is.
        objective: What it minimises.
        examples: The present task's.
        reading: How they are shown.
        task: Its number.
        latest: The first gradient step of the latest update, counted from its task's first, and the one after its last.
    """

    learner: Learner
    objective: Objective
    examples: Examples
    reading: Reading
    task: int
    latest: tuple[int, int]

    @property
    def at_task_end(self) -> bool:
        """Whether the present task has been shown whole."""
        ...

    def examples_to_measure(self) -> Examples:
        """The examples of the present task that diagnostics look at, latest last."""
        ...


class SupervisedDiagnosis(Diagnosable):
    """The classifier of a training, on examples of its present task.

    The loss is the one that is minimised, without the penalties of interventions.

    Args:
        training: What is diagnosed.
        most_steps: As many of the first and of the last examples that an update showed are told to who follows
            changes of task; what lies between is left out.
    """

    def __init__(self, training: Diagnosed, most_steps: int):
        self._training, self._most_steps = training, most_steps
        self._initial: dict[str, nn.Module] = {}

    def networks(self) -> Mapping[str, nn.Module]:
        """`classifier`."""
        return {NAME: self._training.learner.network}

    def initial(self) -> Mapping[str, nn.Module]:
        """Built again from the trial's seed, interventions' changes included; once, then kept."""
        if not self._initial:
            self._initial = {NAME: self._training.learner.initial()}
        return self._initial

    def losses(self) -> Mapping[str, Loss]:
        """Of the classifier's outputs."""
        return {NAME: loss_of_batch(self._training.objective)}

    def batches(self) -> Mapping[str, Batch]:
        """Of the present task: all examples, in a random order that stays, or those that were shown, where each is
        shown once.
        """
        examples = self._training.examples_to_measure()
        return {NAME: {"inputs": examples.inputs, "targets": examples.targets}}

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The classifier's."""
        return {NAME: self._training.learner.optimizer}

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The examples that the latest update showed, one after the other, as steps of one copy."""
        training = self._training
        indices = training.reading.ends(*training.latest, self._most_steps)
        tasks = np.full((len(indices) + 1, 1), training.task, np.int32)
        tasks[-1] += training.at_task_end
        inputs = training.examples.inputs
        return inputs[indices.to(inputs.device)].cpu().numpy()[:, None], tasks


def loss_of_batch(objective: Objective) -> Loss:
    """The objective as diagnostics take it: of outputs, and of a batch with `targets`."""

    def loss(output: Tensor, batch: Batch) -> Tensor:
        return objective.loss(output, batch["targets"])

    return loss


def measured_examples(examples: Examples, reading: Reading, step: int, most: int) -> Examples:
    """The examples of a task that diagnostics look at, latest last.

    full_batch: all of them. epochs: all in a random order, the same throughout the task, so that any number of the last
    is a random choice. once: those shown last, and before the first step those to be shown first.

    Args:
        examples: The task's.
        reading: How it is shown.
        step: Gradient steps of the task so far.
        most: At most so many, where each is shown once.

    Returns:
        Some of them, or all in another order.
    """
    if reading.kind == "full_batch":
        return examples
    if reading.kind == "epochs":
        generator = torch_generator(reading.seed, "diagnostics", "examples", reading.task)
        return examples.rows(torch.randperm(len(examples), generator=generator).to(examples.inputs.device))
    end = reading.shown_after(step) or min(most, len(examples))
    return examples.rows(slice(max(0, end - most), end))
