"""The narrow interface behind which the physics of many copies of one body stands.

A problem (reward, observation, episodes) is written against `Physics` and never sees the engine, so
another engine, on a GPU for instance, can take the place of the threaded CPU one
(`lop_ray.problems.mujoco_physics`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Actions = NDArray[np.floating[Any]]  # float32 or float64


class Physics(Protocol):
    """N copies of one model, stepped together; every copy has its own state and its own friction.

    The arrays are live: `step`, `reset` and `set_state` overwrite them in place. `body_xpos` and
    `cfrc_ext` are as the last step left them, and an engine may leave them a substep behind the state
    (MuJoCo's RK4 integrator does); they therefore belong to what `get_state` saves.

    Attributes:
        num_copies: N.
        control_s: Seconds of simulated time a call of `step` advances.
        ctrl_range: [nu, 2], lowest and highest control that the actuators obey.
        initial_qpos: [nq], positions of the model's initial state.
        initial_qvel: [nv], its velocities.
        readings: [N, nq + nv + forces], the three that follow, side by side.
        qpos: [N, nq], positions.
        qvel: [N, nv], velocities.
        cfrc_ext: [N, forces], external torque and force on each body, body by body; zero after a reset. `forces`
            is 6 nbody, or 0 where contact forces were not asked for.
        body_xpos: [N, 3], position of the tracked body in metres.
    """

    num_copies: int
    control_s: float
    ctrl_range: Floats
    initial_qpos: Floats
    initial_qvel: Floats
    readings: Floats
    qpos: Floats
    qvel: Floats
    cfrc_ext: Floats
    body_xpos: Floats

    @property
    def slide_friction(self) -> Floats:
        """[N, geoms], slide friction of every geom of every copy (a new array)."""
        ...

    def set_slide_friction(self, ids: Sequence[int], values: Floats) -> None:
        """Gives all geoms of copy `ids[i]` `values[i]` times their slide friction in the model; no state changes."""
        ...

    def step(self, actions: Actions) -> None:
        """Holds the controls `actions: [N, nu]` for `control_s` seconds."""
        ...

    def reset(self, ids: Sequence[int], qpos: Floats, qvel: Floats) -> None:
        """Puts copy `ids[i]` into the state (`qpos[i]`, `qvel[i]`), with everything else as at the start."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Everything that the copies' future depends on, as arrays."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what `get_state` gave: the future is then the same bit for bit."""
        ...

    def close(self) -> None:
        """Releases threads and memory; may be called twice."""
        ...
