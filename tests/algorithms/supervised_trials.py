"""Small supervised trials, without a grid file."""

from __future__ import annotations

from typing import Any

import torch

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.supervised.training import SupervisedTraining
from lop_ray.config import catalogue
from tests.algorithms.small import without_times

PROBLEMS: dict[str, dict[str, Any]] = {
    "gaussian_mixture": {"examples": 24, "steps_per_task": 6, "test_examples": 8},
    "labelled_images": {"examples": 50, "epochs_per_task": 2},
    "slowly_changing_regression": {"flip_every": 96},
}


def trial(problem: str = "gaussian_mixture", **changes: Any) -> TrialSpec:
    """A trial on a small problem; `supervised`, `problem_options`, `network` and others change a section each."""
    options = {**PROBLEMS[problem], **changes.pop("problem_options", {})}
    supervised = {"lr": 0.1, "steps_per_update": 2, **changes.pop("supervised", {})}
    network = {"hidden": [8, 6], "activation": "tanh", **changes.pop("network", {})}
    optimizer = changes.pop("optimizer", {"name": "sgd"})
    diagnostics = {
        name: catalogue.diagnostics()[name](**values).model_dump(mode="json")
        for name, values in changes.pop("diagnostics", {}).items()
    }
    return TrialSpec(
        trial_id=changes.pop("trial_id", "t0"),
        grid="small",
        problem=problem,
        problem_options=catalogue.problems()[problem](**options).model_dump(mode="json"),
        algorithm="supervised",
        algorithm_options=catalogue.algorithms()["supervised"](**supervised).model_dump(mode="json"),
        network=network,
        optimizer=optimizer,
        interventions=changes.pop("interventions", {}),
        diagnostics=diagnostics,
        variant="std",
        seed=changes.pop("seed", 0),
        total_steps=changes.pop("total_steps", 1000),
        resources=changes.pop("resources", {}),
        checkpoints={},
        **changes,
    )


def train(spec: TrialSpec, updates: int, state: dict[str, bytes] | None = None):
    """Rows of some updates, without times, and the training after them."""
    training = SupervisedTraining(spec)
    if state is not None:
        training.restore(state)
    return [without_times(training.update()) for _ in range(updates)], training


def weights(training: SupervisedTraining) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.learner.network.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
