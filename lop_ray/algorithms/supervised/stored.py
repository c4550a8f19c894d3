"""Checkpoints of supervised training, read without training."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.stored import StoredTraining
from lop_ray.algorithms.supervised.diagnosis import loss_of_batch, measured_examples
from lop_ray.algorithms.supervised.examples import Examples, Reading
from lop_ray.algorithms.supervised.learner import Learner
from lop_ray.algorithms.supervised.networks import NAME
from lop_ray.algorithms.supervised.options import SupervisedOptions
from lop_ray.algorithms.supervised.tasks import TaskSource
from lop_ray.algorithms.supervised.training import MOST_MEASURED
from lop_ray.diagnostics.losses import Batch, Loss


class StoredSupervised(StoredTraining):
    """The classifier and its optimiser as `SupervisedTraining.state` wrote them; its task's examples are made again.

    Args:
        trial: What was trained.
        files: `networks.pt` and `training.pt`.
    """

    def __init__(self, trial: TrialSpec, files: Mapping[str, bytes]):
        trial = trial.model_copy(update={"resources": trial.resources.model_copy(update={"gpus": 0.0})})
        state = torch.load(io.BytesIO(files["training.pt"]), weights_only=False, map_location="cpu")
        self._source = TaskSource(trial)
        self._learner = Learner(trial, self._source.input_shape, self._source.objective, self._source.dtype)
        self._learner.load_state_dict(state["learner"])
        self._learner.network.eval()
        self._trial, self._task, self._step = trial, int(state["task"]), int(state["step"])
        self._initial = self._learner.initial()
        self._examples: Examples | None = None
        flat = self._source.flatten
        self.observation_shape = self._source.input_shape if not flat else (self._source.input_width,)

    def networks(self) -> Mapping[str, nn.Module]:
        """`classifier`."""
        return {NAME: self._learner.network}

    def initial(self) -> Mapping[str, nn.Module]:
        """As the run began, interventions' changes included."""
        return {NAME: self._initial}

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The classifier's."""
        return {NAME: self._learner.optimizer}

    def losses(self) -> Mapping[str, Loss]:
        """Of the classifier's outputs."""
        return {NAME: loss_of_batch(self._source.objective)}

    def batches(self) -> Mapping[str, Batch]:
        """Of the checkpoint's task, as the run's own diagnostics see it."""
        examples = self._measured()
        return {NAME: {"inputs": examples.inputs, "targets": examples.targets}}

    def observations(self) -> Tensor | None:
        """The inputs of the same examples."""
        return self._measured().inputs

    def _measured(self) -> Examples:
        if self._examples is None:
            examples, _ = self._source.read(self._task)
            size = SupervisedOptions(**self._trial.algorithm_options).minibatch_size
            reading = Reading.of(self._source.stream, len(examples), size, self._trial.seed, self._task)
            self._examples = measured_examples(examples, reading, self._step, MOST_MEASURED)
        return self._examples
