"""Supervised training on a stream of tasks, as a training that a trial can run."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.stored import to_bytes
from lop_ray.algorithms.supervised.diagnosis import SupervisedDiagnosis, measured_examples
from lop_ray.algorithms.supervised.examples import Examples, Reading
from lop_ray.algorithms.supervised.fresh import baseline_tasks, train_fresh
from lop_ray.algorithms.supervised.learner import Learner, Steps, unshared
from lop_ray.algorithms.supervised.options import SupervisedOptions
from lop_ray.algorithms.supervised.tasks import TaskSource
from lop_ray.algorithms.training import Rows
from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.diagnostics.boundaries import BoundaryOptions
from lop_ray.seeding import derive_seed

if TYPE_CHECKING:
    from lop_ray.algorithms.supervised.objective import Objective

MOST_MEASURED = 4096
"""Of a task that shows each example once, so many of the latest are kept in view of diagnostics."""


@dataclass
class TaskRecord:
    """What the present task has shown so far.

    Attributes:
        first_loss: Before its first gradient step.
        min_loss: The least of any of its gradient steps so far; with minibatches, of any update's mean.
        last_loss: Of its latest gradient step, or with minibatches the latest update's mean.
        first_right: Examples classified right when first shown; None for regression.
        first_shown: Examples shown for the first time.
    """

    first_loss: float | None = None
    min_loss: float = float("inf")
    last_loss: float | None = None
    first_right: int | None = 0
    first_shown: int = 0

    def add(self, steps: Steps, reading: Reading, begin: int) -> None:
        """Takes in an update's gradient steps, the first of them the task's step `begin`, from 0."""
        losses = steps.losses if reading.kind == "full_batch" else [steps.mean_loss()]
        self.min_loss, self.last_loss = min(self.min_loss, *losses), losses[-1]
        fresh = max(0, min(len(steps.sizes), reading.steps_a_pass - begin))
        self.first_shown += sum(steps.sizes[:fresh])
        if steps.correct is None or self.first_right is None:
            self.first_right = None
        else:
            self.first_right += sum(steps.correct[:fresh])


class SupervisedTraining:
    """A network that learns one task of a stream after the other.

    An update is `steps_per_update` gradient steps of one task, the last of a task maybe fewer. Interventions hear of
    the next task before its first update; what is measured at a task's end is measured before that.

    Args:
        trial: What to train.

    Attributes:
        task: The present task, from 0.
        latest: The first gradient step of the latest update, counted from its task's first, and the one after its last.
    """

    def __init__(self, trial: TrialSpec):
        torch.set_num_threads(trial.resources.cpus)
        self._trial, self.options = trial, SupervisedOptions(**trial.algorithm_options)
        self._source = TaskSource(trial)
        self.objective: Objective = self._source.objective
        self.learner = Learner(trial, self._source.input_shape, self.objective, self._source.dtype)
        self._fresh_on = baseline_tasks(self.options, trial.total_steps, self._source.examples_per_task)
        self.suite = DiagnosticSuite(trial.diagnostics, seed=trial.seed) if trial.diagnostics else None
        boundaries = BoundaryOptions(**trial.diagnostics.get("boundaries", {}))
        self.diagnosis = SupervisedDiagnosis(self, boundaries.samples)
        self.updates = 0
        self.latest = (0, 0)
        self._enter(0)

    def _enter(self, task: int) -> None:
        self.task, self._step, self._begun = task, 0, not self.options.update_at_task_start
        self._record = TaskRecord()
        self._load(task)

    def _load(self, task: int) -> None:
        self.examples, self.test = self._source.read(task)
        self.reading = Reading.of(
            self._source.stream, len(self.examples), self.options.minibatch_size, self._trial.seed, task
        )
        self._seen_inputs: Tensor | None = None
        self._measured: Examples | None = None

    @property
    def env_steps(self) -> int:
        """Examples shown so far."""
        return self.task * self._source.examples_per_task + self.reading.shown_after(self._step)

    @property
    def at_task_end(self) -> bool:
        """Whether the present task has been shown whole."""
        return self._step >= self.reading.steps

    def update(self) -> Rows:
        """Shows examples, learns from them, measures."""
        self.begin_update()
        start = time.perf_counter()
        steps = Steps()
        begin, end = self.latest
        self.learner.train(self.reading.batches(self.examples, begin, end), self.seen(), steps)
        return self.finish_update(steps, time.perf_counter() - start)

    def begin_update(self, *, measure: bool = True) -> None:
        """Enters the next task if the present one is over, and makes ready.

        Args:
            measure: Whether the update will be finished with rows; if not, with `skip_update`.
        """
        start = time.perf_counter()
        if self.at_task_end:
            self._enter(self.task + 1)
            if measure:
                self.learner.interventions.at_task_change(self.task)
        self._sample_s = time.perf_counter() - start
        first = self._step
        count = (self.options.steps_per_update or self.reading.steps) if self._begun else 0
        self.latest, self._seen_inputs = (first, min(first + count, self.reading.steps)), None
        if not measure:
            return
        start = time.perf_counter()
        if self.suite is not None:
            self.suite.prepare(self.updates + 1, self.diagnosis)
        self._diagnose_s = time.perf_counter() - start
        self._before = [weight.detach().clone() for weight in self.learner.weights()]
        if self._record.first_loss is None and (self.reading.kind != "full_batch" or not self._begun):
            self._at_start = self.learner.look(self.examples)
            self._record.first_loss = self._at_start[0]

    def finish_update(self, steps: Steps, learn_s: float) -> Rows:
        """Rows of what `steps` showed, after the last of them."""
        begin, end = self.latest
        learner, record = self.learner, self._record
        seen = self.seen()
        if seen is not None and end > begin:
            learner.interventions.after_update(learner.gradient_steps, seen)
        if end > begin:
            if record.first_loss is None:
                record.first_loss = steps.losses[0]
            record.add(steps, self.reading, begin)
            loss, accuracy = steps.mean_loss(), steps.accuracy()
            norm: float | None = sum(steps.norms) / len(steps.norms)
        else:
            (loss, accuracy), norm = self._at_start, None
        self._step, self._begun = end, True
        self.updates += 1
        place = {"update": self.updates, "env_steps": self.env_steps, "task": self.task}
        change = [(w.detach() - b).abs().sum() for w, b in zip(learner.weights(), self._before, strict=True)]
        rows: Rows = {"updates": [], **self._diagnosed(place)}
        test_accuracy = self._test_accuracy()
        rows["updates"] = [
            {
                **place,
                "loss": loss,
                "accuracy": accuracy,
                "test_accuracy": test_accuracy,
                "grad_norm": norm,
                "weight_change": float(torch.stack(change).sum()),
                "sample_s": self._sample_s,
                "learn_s": learn_s,
                "diagnose_s": self._diagnose_s,
            }
        ]
        if self.at_task_end:
            rows["tasks"] = [{**place, **self._task_row(test_accuracy)}]
        return rows

    def skip_update(self) -> None:
        """Ends an update without rows: of a member of a group that has diverged, and that the others leave behind."""
        self._step, self._begun = self.latest[1], True

    def seen(self) -> Tensor | None:
        """All inputs that the update shows, each once; None where no intervention asks for them."""
        begin, end = self.latest
        if not self._trial.interventions or end == begin:
            return None
        if end - begin >= self.reading.steps_a_pass:
            return self.examples.inputs
        if self._seen_inputs is None:
            indices = self.reading.indices(begin, end)
            self._seen_inputs = self.examples.inputs[indices.to(self.examples.inputs.device)]
        return self._seen_inputs

    def _test_accuracy(self) -> float | None:
        every = self.options.test_every
        due = self.at_task_end or (every is not None and self.updates % every == 0)
        return self.learner.look(self.test)[1] if self.test is not None and due else None

    def _diagnosed(self, place: dict[str, Any]) -> Rows:
        """Rows of the diagnostics that are due."""
        start, suite = time.perf_counter(), self.suite
        rows: Rows = {}
        if suite is not None and suite.due(self.updates):
            device = self.learner.device
            observations = self.examples_to_measure().inputs if suite.observes(self.updates) else torch.empty(0)
            found = suite.diagnose(self.updates, self.diagnosis, observations.to(device))
            rows = {table: [{**place, **row} for row in some] for table, some in found.tables().items()}
        self._diagnose_s += time.perf_counter() - start
        return rows

    def _task_row(self, test_accuracy: float | None) -> dict[str, Any]:
        """What a task that is over was like."""
        record, learner = self._record, self.learner
        loss, accuracy = learner.look(self.examples)
        row = {
            "examples": self.reading.shown,
            "first_loss": record.first_loss,
            "min_loss": record.min_loss,
            "last_loss": record.last_loss,
            "final_loss": loss,
            "final_accuracy": accuracy,
            "online_accuracy": None if record.first_right is None else record.first_right / record.first_shown,
            "test_accuracy": test_accuracy,
            "distance": self._source.distance(self.task),
        }
        if self.task in self._fresh_on:
            seed = derive_seed(self._trial.seed, "fresh", self.task)
            fresh = Learner(
                self._trial, self._source.input_shape, self.objective, self._source.dtype, seed=seed, interventions={}
            )
            row |= train_fresh(fresh, self.examples, self.reading)
        return row

    def examples_to_measure(self) -> Examples:
        """The examples of the present task that diagnostics look at, latest last."""
        if self._measured is None or self.reading.kind == "once":
            samples = self.suite.samples if self.suite is not None else 0
            self._measured = measured_examples(self.examples, self.reading, self._step, max(samples, MOST_MEASURED))
        return self._measured

    def state(self) -> dict[str, bytes]:
        """`training.pt`: everything that continues bit for bit; `networks.pt`: plain state dicts, for analysis."""
        training = {
            "updates": self.updates,
            "task": self.task,
            "step": self._step,
            "begun": self._begun,
            "record": asdict(self._record),
            "learner": self.learner.state_dict(),
            "diagnostics": {} if self.suite is None else self.suite.state_dict(),
        }
        networks = {name: unshared(network.state_dict()) for name, network in self.diagnosis.networks().items()}
        return {"training.pt": to_bytes(training), "networks.pt": to_bytes(networks)}

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Continues from `state()`; call it on a fresh training only."""
        state = torch.load(io.BytesIO(files["training.pt"]), weights_only=False, map_location=self.learner.device)
        self.updates, self.task, self._step = state["updates"], state["task"], state["step"]
        self._begun, self._record = state["begun"], TaskRecord(**state["record"])
        self.learner.load_state_dict(state["learner"])
        if self.suite is not None:
            self.suite.load_state_dict(state["diagnostics"], self.diagnosis.networks())
        self._load(self.task)

    def close(self) -> None:
        """Nothing is held."""
