"""Training algorithms."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lop_ray.algorithms.registry import find, load

if TYPE_CHECKING:
    from lop_ray.algorithms.spec import TrialSpec
    from lop_ray.algorithms.training import Training

# MKL reads this at its first matrix product: with it, the bits of a product do not depend on the number of threads,
# and so a trial's weights do not depend on its cores. It costs nothing that can be measured.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


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
    algorithm = find(trial.algorithm)
    make = load(algorithm.training)
    training: Training = make(trial, callbacks) if algorithm.in_rllib else make(trial)
    return training
