"""Training algorithms."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lop_ray.algorithms.spec import TrialSpec
    from lop_ray.algorithms.training import Training


def make_training(trial: TrialSpec, callbacks: list[type]) -> Training:
    """The training of a trial, by the name of its algorithm.

    Args:
        trial: What to train.
        callbacks: RLlib callback classes, for algorithms that run inside RLlib.

    Returns:
        A training before its first update.

    Raises:
        ValueError: There is no such algorithm.
    """
    if trial.algorithm == "ppo":
        from lop_ray.algorithms.ppo.training import PPOTraining

        return PPOTraining(trial, callbacks)
    raise ValueError(f"unknown algorithm {trial.algorithm!r}; known: ppo")
