"""How the classifier of a supervised trial is drawn; in training and from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.networks import MLP, NetworkOptions
from lop_ray.networks.kinds import make_image_network

NAME = "classifier"
"""The network's name, also where it regresses."""


def draw_classifier(
    trial: TrialSpec, input_shape: Sequence[int], outputs: int, dtype: torch.dtype, seed: int
) -> nn.Module:
    """The network before interventions change it; `network.kind: mlp` reads its inputs flattened.

    Args:
        trial: Its `network` section says of what kind it is.
        input_shape: Of one example.
        outputs: Width of the output.
        dtype: Of the weights.
        seed: Of the weights.

    Returns:
        The network.

    Raises:
        ValueError: It cannot read examples of this shape.
    """
    with _default_dtype(dtype):
        if isinstance(trial.network, NetworkOptions):
            return MLP(math.prod(input_shape), outputs, trial.network, seed=seed, name=NAME)
        return make_image_network(trial.network, input_shape, {NAME: outputs}, seed=seed, name=NAME)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
