"""How the networks of a PPO trial are drawn; in training and, from a checkpoint, without RLlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn

from lop_ray.algorithms.spec import TrialSpec
from lop_ray.networks import MLP, NetworkOptions
from lop_ray.networks.kinds import make_image_network

SHARED = "policy_value"
"""Name of the one network under both heads."""

T = TypeVar("T")


def draw_networks(trial: TrialSpec, observation_shape: Sequence[int], actions: int, seed: int) -> dict[str, nn.Module]:
    """The networks by name, as they are before interventions change them.

    Args:
        trial: Its `network` section says of what kind they are.
        observation_shape: Of one observation.
        actions: Numbers that the policy puts out.
        seed: Of the weights.

    Returns:
        `policy` and `value` (kind mlp), or `policy_value`, whose output [B, actions + 1] is the policy's and then the
        value.
    """
    options = trial.network
    if not isinstance(options, NetworkOptions):
        heads = {"policy": actions, "value": 1}
        return {SHARED: make_image_network(options, observation_shape, heads, seed=seed, name=SHARED)}
    (inputs,) = observation_shape
    return {
        "policy": MLP(inputs, actions, options, seed=seed, name="policy"),
        "value": MLP(inputs, 1, options, seed=seed, name="value"),
    }


def with_policy(networks: Mapping[str, T]) -> tuple[str, T]:
    """Name and network (or whatever stands for it) that the policy is part of."""
    name = SHARED if SHARED in networks else "policy"
    return name, networks[name]


def split(output: Tensor) -> tuple[Tensor, Tensor]:
    """A shared network's output [B, actions + 1] -> the policy's [B, actions], V [B]."""
    return output[..., :-1], output[..., -1]
