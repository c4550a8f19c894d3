"""Trainings as checkpoints hold them: networks, optimisers and observations, without anything that trains.

Neither Ray nor a simulator is loaded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lop_ray.algorithms.registry import find, load
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.diagnostics import Diagnosable


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
        ValueError: There is no such algorithm.
    """
    make = load(find(trial.algorithm).stored)
    try:
        training: StoredTraining = make(trial, files)
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise StoredVersionError(reason if len(reason) < 300 else reason[:300] + "...") from error
    return training
