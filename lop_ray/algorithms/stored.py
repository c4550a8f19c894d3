"""Trainings as checkpoints hold them: networks, optimisers and observations, without anything that trains.

Neither Ray nor a simulator is loaded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib import import_module
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.diagnostics import Diagnosable

STORED = {
    "ppo": "lop_ray.algorithms.ppo.stored:StoredPPO",
    "supervised": "lop_ray.algorithms.supervised.stored:StoredSupervised",
}
"""Where the class is that reads an algorithm's checkpoints; it takes the trial's specification and the files."""


class StoredTraining(Diagnosable):
    """A training at one update.

    Attributes:
        observation_shape: Of one observation, as the networks read it.
    """

    observation_shape: tuple[int, ...]

    def observations(self) -> Tensor | None:
        """The latest [N, ...] that the run kept for its diagnostics, oldest first; None if it kept none."""
        raise NotImplementedError


def to_bytes(value: Any) -> bytes:
    """A file of a checkpoint, as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class StoredVersionError(ValueError):
    """A checkpoint's files are not what this version of the algorithm writes."""


def open_training(trial: TrialSpec, files: Mapping[str, bytes]) -> StoredTraining:
    """A training out of a checkpoint.

    Args:
        trial: What was trained.
        files: The checkpoint's, by name.

    Returns:
        The training, on the CPU.

    Raises:
        StoredVersionError: The files are another version's.
        ValueError: The algorithm's checkpoints cannot be read.
    """
    if trial.algorithm not in STORED:
        raise ValueError(
            f"checkpoints of algorithm '{trial.algorithm}' cannot be diagnosed; known: {', '.join(STORED)}"
        )
    module, name = STORED[trial.algorithm].split(":")
    make: Any = getattr(import_module(module), name)
    try:
        training: StoredTraining = make(trial, files)
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise StoredVersionError(reason if len(reason) < 300 else reason[:300] + "...") from error
    return training
