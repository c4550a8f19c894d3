"""Problems `hopper`, `walker2d` and their slippery kinds: bodies in a plane that are to run in the direction +x.

Equal to gymnasium's Hopper and Walker2d, bit for bit in state, observation and termination, but all copies step
together. Version v4 has the formulas and settings of gym's v3, which Dohare et al. (2024), "Loss of plasticity in deep
continual learning", Nature 632, train on. v5 differs in two things: nothing is paid for being healthy in the step in
which the body falls, and both feet of the Walker have friction 1.9, where v4's right one has 0.9.

The slippery kinds, which the paper does not have, multiply the friction of every geom, floor and body alike. At a
friction of 1 they are gymnasium's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from lop_ray.problems.friction import SlipperyOptions
from lop_ray.problems.locomotion import LocomotionOptions, VectorLocomotion, gymnasium_asset
from lop_ray.problems.mujoco_physics import MujocoPhysics
from lop_ray.problems.physics import Actions, Floats

FRAME_SKIP = 4
LARGEST_VELOCITY = 10.0
"""Observed velocities are kept within this, in metres or radians a second."""


@dataclass(frozen=True)
class PlanarBody:
    """What tells two bodies apart.

    Attributes:
        models: File of the model in gymnasium, by version.
        healthy_z: Metres between which the torso's height must be.
        healthy_angle: Radians between which its inclination must be.
        healthy_state: All other positions and all velocities must be between this and its negative; None: no matter.
    """

    models: Mapping[str, str]
    healthy_z: tuple[float, float]
    healthy_angle: tuple[float, float]
    healthy_state: float | None


HOPPER = PlanarBody({"v4": "hopper.xml", "v5": "hopper.xml"}, (0.7, np.inf), (-0.2, 0.2), 100.0)
WALKER2D = PlanarBody({"v4": "walker2d.xml", "v5": "walker2d_v5.xml"}, (0.8, 2.0), (-1.0, 1.0), None)


class PlanarOptions(LocomotionOptions):
    """Options of the bodies in a plane. Defaults are those of gymnasium and of Dohare et al. (2024)."""

    body: ClassVar[PlanarBody]
    version: Literal["v4", "v5"] = "v4"
    """Which of gymnasium's: v4, with the formulas of gym's v3, or v5."""
    ctrl_cost_weight: Annotated[float, Ge(0)] = 1e-3
    """Cost on the sum of squared actions."""
    reset_noise_scale: Annotated[float, Ge(0)] = 5e-3
    """Initial positions and velocities are uniform within this."""


class HopperOptions(PlanarOptions):
    """The one-legged Hopper: 11 observations, 3 actuators."""

    body = HOPPER


class Walker2dOptions(PlanarOptions):
    """The two-legged Walker2d: 17 observations, 6 actuators."""

    body = WALKER2D


class SlipperyHopperOptions(SlipperyOptions, HopperOptions):
    """The options of the Hopper, and when and to what its friction changes."""


class SlipperyWalker2dOptions(SlipperyOptions, Walker2dOptions):
    """The options of the Walker2d, and when and to what its friction changes."""


class VectorPlanar(VectorLocomotion):
    """N copies of a body in a plane.

    The reward of a step from x_t to x_{t+1} under the action a (as given, not clamped) is

        r = w_f (x_{t+1} - x_t) / dt + r_h - w_c sum_i a_i^2,   dt = 0.008 s

    where r_h is paid while healthy (v5) or always (v4). An episode terminates when the body is no longer healthy,
    that is when the torso's height or inclination, or a number of the Hopper's state, leaves its range, whose bounds
    do not belong to it; it is truncated after `max_episode_steps`. Observed are all positions but x, and the
    velocities, clipped to [-10, 10].

    Args:
        options: The problem.
        num_threads: Threads that step the physics, the calling one included. They never change a number.
        dtype: Of observations: float32 or float64.
        task_seed: The trial's seed, from which the frictions are drawn where they change.
        trial_copies: Copies of the trial over all its runners, which the schedule's steps count; by default N.
    """

    options: PlanarOptions

    def __init__(
        self,
        options: PlanarOptions,
        *,
        num_threads: int = 1,
        dtype: type[np.float32] | type[np.float64] = np.float32,
        task_seed: int = 0,
        trial_copies: int | None = None,
    ):
        physics = MujocoPhysics(
            gymnasium_asset(options.body.models[options.version]),
            options.num_envs,
            substeps=FRAME_SKIP,
            body="torso",
            contact_forces=False,
            num_threads=num_threads,
        )
        # Views of the physics' arrays, which it overwrites in place.
        self._z, self._angle = physics.qpos[:, 1], physics.qpos[:, 2]
        self._rest = physics.readings[:, 2:]  # without x and z, as gymnasium's check of the Hopper's state
        bound = np.full(physics.readings.shape[1], np.inf)
        bound[physics.qpos.shape[1] :] = LARGEST_VELOCITY
        self._bounds = -bound[1:], bound[1:]
        self._observed = physics.readings[:, 1:]
        size = physics.readings.shape[1] - 1
        super().__init__(options, physics, size, dtype, physics.qpos[:, 0], task_seed, trial_copies)

    def _observe(self) -> NDArray[Any]:
        lowest, highest = self._bounds
        return np.minimum(np.maximum(self._observed, lowest), highest).astype(self._dtype, copy=False)

    def _healthy(self) -> NDArray[np.bool_] | Literal[True]:
        body = self.options.body
        (low_z, high_z), (low_angle, high_angle) = body.healthy_z, body.healthy_angle
        # NaN fails every comparison.
        if self.num_envs == 1:
            healthy = low_z < self._z.item() < high_z and low_angle < self._angle.item() < high_angle
            if healthy and body.healthy_state is not None:
                healthy = bool(np.maximum.reduce(np.abs(self._rest), axis=None) < body.healthy_state)
            return True if healthy else np.zeros(1, np.bool_)
        z, angle = self._z, self._angle
        who = (low_z < z) & (z < high_z) & (low_angle < angle) & (angle < high_angle)
        if body.healthy_state is not None:
            who &= np.maximum.reduce(np.abs(self._rest), axis=1) < body.healthy_state
        return True if who.all() else who

    def _rewards(self, actions: Actions, x_before: Any, healthy: NDArray[np.bool_] | Literal[True]) -> Floats:
        options, numbers = self.options, self._numbers
        forward = (numbers(self._x) - x_before) / self._physics.control_s * options.forward_reward_weight
        alive = options.healthy_reward * (healthy if options.version == "v5" else 1.0)
        costs = options.ctrl_cost_weight * numbers(np.add.reduce(np.square(actions), axis=1))
        return np.array(forward + alive - costs, ndmin=1)

    def _draw_noise(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        physics, scale = self._physics, self.options.reset_noise_scale
        positions = generator.uniform(-scale, scale, len(physics.initial_qpos))
        return positions, generator.uniform(-scale, scale, len(physics.initial_qvel))
