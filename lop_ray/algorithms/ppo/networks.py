"""How the networks of a PPO trial are drawn; in training and, from a checkpoint, without RLlib."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.networks import MLP


def draw_networks(trial: TrialSpec, observation_shape: Sequence[int], actions: int, seed: int) -> dict[str, nn.Module]:
    """The networks by name, as they are before interventions change them.

    Args:
        trial: Its `network` section says of what kind they are.
        observation_shape: Of one observation.
        actions: Numbers that the policy puts out.
        seed: Of the weights.

    Returns:
        `policy` and `value`.
    """
    (inputs,) = observation_shape
    return {
        "policy": MLP(inputs, actions, trial.network, seed=seed, name="policy"),
        "value": MLP(inputs, 1, trial.network, seed=seed, name="value"),
    }
