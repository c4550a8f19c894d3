"""Newly drawn networks as a baseline: what a task costs one that has learned nothing before."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from lop_ray.algorithms.divergence import DivergedError
from lop_ray.algorithms.supervised.examples import Examples, Reading
from lop_ray.algorithms.supervised.learner import Learner, Steps
from lop_ray.algorithms.supervised.options import SupervisedOptions


def baseline_tasks(options: SupervisedOptions, total_steps: int, examples_per_task: int) -> frozenset[int]:
    """On which tasks a fresh network is trained.

    Args:
        options: How many, and where they lie.
        total_steps: Of the trial.
        examples_per_task: Steps a task.

    Returns:
        Numbers of tasks that the trial ends; all of them if it ends fewer than asked for.
    """
    whole = max(0, total_steps // examples_per_task)
    count = min(options.fresh_baseline, whole)
    if options.fresh_tasks == "first":
        return frozenset(range(count))
    return frozenset(np.linspace(0, whole - 1, count).round().astype(int).tolist()) if count else frozenset()


def train_fresh(learner: Learner, examples: Examples, reading: Reading) -> dict[str, Any]:
    """Trains a fresh network on a task.

    Args:
        learner: Of the fresh network, without interventions.
        examples: The task's.
        reading: How the training is shown them; a fresh network sees them in orders of its own.

    Returns:
        fresh_min_loss, fresh_final_loss and fresh_final_accuracy, defined as the training's own; infinite losses and
        no accuracy where it diverged.
    """
    options = learner.options
    count = reading.steps if options.fresh_steps is None else options.fresh_steps
    if reading.kind == "once":
        count = min(count, reading.steps)
    elif options.fresh_steps is not None:
        reading = replace(reading, shown=sys.maxsize)
    reading = replace(reading, stream="fresh_minibatches")
    window = options.steps_per_update or count
    least = math.inf
    try:
        for begin in range(0, count, window):
            shown = Steps()
            learner.train(reading.batches(examples, begin, min(begin + window, count)), None, shown)
            least = min(least, *(shown.losses if reading.kind == "full_batch" else [shown.mean_loss()]))
    except DivergedError:
        return {"fresh_min_loss": math.inf, "fresh_final_loss": math.inf, "fresh_final_accuracy": None}
    loss, accuracy = learner.look(examples)
    return {"fresh_min_loss": least, "fresh_final_loss": loss, "fresh_final_accuracy": accuracy}
