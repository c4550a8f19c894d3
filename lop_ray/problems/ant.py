"""Problems `ant` and `slippery_ant`: MuJoCo's four-legged Ant that is rewarded for running in the direction +x.

Equal to gymnasium's Ant, bit for bit in state, observation and termination, but all copies step together:

| observation | gymnasium | positions, velocities, contact forces |
|---|---|---|
| 27 | `Ant-v4` | 13 + 14 |
| 105 | `Ant-v5` | 13 + 14 + 78 (13 bodies) |
| 111 | `Ant-v4`, `use_contact_forces=True`; `Ant-v3` | 13 + 14 + 84 (14 bodies: the world's six zeros, too) |

111 is what Dohare et al. (2024), "Loss of plasticity in deep continual learning", Nature 632, train on. Their
SlipperyAnt is the same Ant with a friction that changes.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator

from lop_ray.problems.friction import SlipperyOptions
from lop_ray.problems.locomotion import LocomotionOptions, VectorLocomotion, gymnasium_asset
from lop_ray.problems.mujoco_physics import MujocoPhysics
from lop_ray.problems.physics import Actions, Floats

FRAME_SKIP = 5
HEALTHY_Z = (0.2, 1.0)
STATE_SIZE = 15 + 14  # positions and velocities


class AntOptions(LocomotionOptions):
    """The Ant's options. Defaults are gymnasium's, and the observation that of Dohare et al. (2024)."""

    observation: Literal[27, 105, 111] = 111
    """Length of the observation: 27 Ant-v4, 105 Ant-v5, 111 Ant-v4 with contact forces (Ant-v3)."""
    ctrl_cost_weight: Annotated[float, Ge(0)] = 0.5
    """Cost on the sum of squared actions."""
    contact_cost_weight: Annotated[float, Ge(0)] = 5e-4
    """Cost on the sum of squared contact forces, clipped to [-1, 1]; not with observation 27, which has none."""
    reset_noise_scale: Annotated[float, Ge(0)] = 0.1
    """Initial positions are uniform within this, and initial velocities normal with this deviation."""

    @model_validator(mode="after")
    def _contact_cost_has_an_effect(self) -> AntOptions:
        default = type(self).model_fields["contact_cost_weight"].default
        if self.observation == 27 and self.contact_cost_weight != default:
            raise ValueError(
                f"contact_cost_weight={self.contact_cost_weight} has no effect with observation=27, which knows no "
                "contact forces: leave it out, or take observation 105 or 111"
            )
        return self


class SlipperyAntOptions(SlipperyOptions, AntOptions):
    """The options of the Ant, and when and to what its friction changes."""


class VectorAnt(VectorLocomotion):
    """N copies of the Ant.

    The reward of a step from torso position x_t to x_{t+1}, under the action a (as given, not clamped) and
    the contact forces f, is

        r = w_f (x_{t+1} - x_t) / dt + r_h - w_c sum_i a_i^2 - w_k sum_j clip(f_j, -1, 1)^2,   dt = 0.05 s

    where r_h is paid while healthy (always, for observations 27 and 111), and the last term is missing with
    observation 27. An episode terminates when the torso's height leaves [0.2, 1.0] m or the state is not finite,
    and is truncated after `max_episode_steps`.

    Args:
        options: The problem.
        num_threads: Threads that step the physics, the calling one included. They never change a number.
        dtype: Of observations: float32 or float64.
        task_seed: The trial's seed, from which the frictions are drawn where they change.
        trial_copies: Copies of the trial over all its runners, which the schedule's steps count; by default N.
    """

    options: AntOptions

    def __init__(
        self,
        options: AntOptions,
        *,
        num_threads: int = 1,
        dtype: type[np.float32] | type[np.float64] = np.float32,
        task_seed: int = 0,
        trial_copies: int | None = None,
    ):
        physics = MujocoPhysics(
            gymnasium_asset("ant.xml"),
            options.num_envs,
            substeps=FRAME_SKIP,
            body="torso",
            contact_forces=options.observation != 27,
            num_threads=num_threads,
        )
        self._z = physics.qpos[:, 2]  # a view
        # Clipping leaves positions and velocities alone; forces, if there are any, are kept within [-1, 1].
        bound = np.ones(physics.readings.shape[1])
        bound[:STATE_SIZE] = np.inf
        self._force_bounds = -bound, bound
        self._clipped = np.empty(physics.readings.shape)
        self._clipped_forces = self._clipped[:, STATE_SIZE:]
        self._seen = [self._clipped[:, 2:]]  # without x and y
        if options.observation == 105:  # and without the forces on the world
            self._seen = [self._clipped[:, 2:STATE_SIZE], self._clipped[:, STATE_SIZE + 6 :]]
        super().__init__(options, physics, options.observation, dtype, physics.body_xpos[:, 0], task_seed, trial_copies)

    def _observe(self) -> NDArray[Any]:
        """[N, observation], as a new array; `_clipped` then holds the readings with clipped forces."""
        lowest, highest = self._force_bounds
        np.maximum(self._physics.readings, lowest, out=self._clipped)
        np.minimum(self._clipped, highest, out=self._clipped)
        return np.concatenate(self._seen, axis=1, dtype=self._dtype, casting="same_kind")

    def _healthy(self) -> NDArray[np.bool_] | Literal[True]:
        readings, z, (low, high) = self._clipped, self._z, HEALTHY_Z
        lowest, highest = (z.item(),) * 2 if self.num_envs == 1 else (np.minimum.reduce(z), np.maximum.reduce(z))
        # NaN fails these comparisons, and a non-finite value anywhere makes the sum of squares non-finite.
        if low <= lowest and highest <= high and math.isfinite(np.vdot(readings, readings)):
            return True
        return np.isfinite(readings[:, :STATE_SIZE]).all(axis=1) & (z >= low) & (z <= high)

    def _rewards(self, actions: Actions, x_before: Any, healthy: NDArray[np.bool_] | Literal[True]) -> Floats:
        options, numbers = self.options, self._numbers
        forward = (numbers(self._x) - x_before) / self._physics.control_s * options.forward_reward_weight
        alive = options.healthy_reward * (healthy if options.observation == 105 else 1.0)
        costs = options.ctrl_cost_weight * numbers(np.add.reduce(np.square(actions), axis=1))
        if options.observation != 27:
            costs += options.contact_cost_weight * numbers(np.add.reduce(np.square(self._clipped_forces), axis=1))
        return np.array(forward + alive - costs, ndmin=1)

    def _draw_noise(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        physics, scale = self._physics, self.options.reset_noise_scale
        positions = generator.uniform(-scale, scale, len(physics.initial_qpos))
        return positions, scale * generator.standard_normal(len(physics.initial_qvel))
