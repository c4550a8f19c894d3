"""The `supervised:` section of a grid."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import model_validator

from lop_ray.options import Options


class SupervisedOptions(Options):
    """Supervised training on a stream of tasks.

    How a task's examples are read (all at once, epoch after epoch, each once), their loss and how long a task lasts are
    the problem's. One example shown is one env step.
    """

    lr: Annotated[float, Gt(0.0)] = 0.01
    """The optimiser's step size."""
    minibatch_size: Annotated[int, Gt(0)] | None = None
    """Examples a gradient step. null: 32, and all of a task's where the problem reads it as one batch (which takes no
    other number)."""
    steps_per_update: Annotated[int, Gt(0)] | None = None
    """Gradient steps a row of `updates`; the last update of a task is shorter if they do not divide the task. null: a
    task is one update."""
    update_at_task_start: bool = False
    """Each task begins with an update of no gradient step, which measures the network that the task begins with on the
    task's own examples: loss, accuracy and whatever diagnostics are due."""
    grad_clip: Annotated[float, Gt(0.0)] | None = None
    """Largest global gradient norm, or null."""
    test_every: Annotated[int, Ge(1)] | None = None
    """Updates between two looks at the held-out examples, where a problem has them, beside that at every task's end;
    null: that alone."""
    fresh_baseline: Annotated[int, Ge(0)] = 0
    """Number of tasks on which a newly drawn network is trained too, for comparison: same architecture, optimiser and
    examples, no interventions. It draws from streams of its own and leaves the training as it is."""
    fresh_tasks: Literal["first", "spread"] = "spread"
    """Which tasks those are. first: the first ones; spread: evenly over the run, the first and the last whole task
    among them."""
    fresh_steps: Annotated[int, Gt(0)] | None = None
    """Gradient steps of a fresh network; null: as many as a task has. At most so many where each example is shown
    once."""

    @model_validator(mode="after")
    def _fresh_steps_have_a_meaning(self) -> SupervisedOptions:
        if self.fresh_steps is not None and not self.fresh_baseline:
            raise ValueError("fresh_steps has no effect with fresh_baseline: 0; leave it out, or say on how many tasks")
        return self
