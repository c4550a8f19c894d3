"""Problem `ant`: MuJoCo's four-legged Ant that is rewarded for running in the direction +x.

Equal to gymnasium's Ant, bit for bit in state, observation and termination, but all copies step together:

| observation | gymnasium | positions, velocities, contact forces |
|---|---|---|
| 27 | `Ant-v4` | 13 + 14 |
| 105 | `Ant-v5` | 13 + 14 + 78 (13 bodies) |
| 111 | `Ant-v4`, `use_contact_forces=True`; `Ant-v3` | 13 + 14 + 84 (14 bodies: the world's six zeros, too) |

111 is what Dohare et al. (2024), "Loss of plasticity in deep continual learning", Nature 632, train on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from annotated_types import Ge
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from lop_ray.options import Options
from lop_ray.problems.friction import Frictions, SlipperyOptions
from lop_ray.problems.mujoco_physics import MujocoPhysics
from lop_ray.problems.physics import Actions, Floats, Physics
from lop_ray.problems.schedule import NEVER, Schedule
from lop_ray.seeding import numpy_generator

FRAME_SKIP = 5
HEALTHY_Z = (0.2, 1.0)
STATE_SIZE = 15 + 14  # positions and velocities


class AntOptions(Options):
    """The Ant's options. Defaults are gymnasium's, and the observation that of Dohare et al. (2024)."""

    observation: Literal[27, 105, 111] = 111
    """Length of the observation: 27 Ant-v4, 105 Ant-v5, 111 Ant-v4 with contact forces (Ant-v3)."""
    num_envs: Annotated[int, Ge(1)] = 1
    """Copies that step together."""
    max_episode_steps: Annotated[int, Ge(1)] = 1000
    """Steps after which an episode is truncated."""
    clip_actions: bool = False
    """Clip actions to the actuators' range [-1, 1] before the environment, and so before the control cost.

    False, as in the reference: the actuators clamp in any case, but the cost is on the raw action."""
    forward_reward_weight: float = 1.0
    """Reward for each metre a second in the direction +x."""
    healthy_reward: float = 1.0
    """Reward for each step alive (Ant-v4 also gives it for the step in which the Ant dies)."""
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


class VectorAnt(VectorEnv[NDArray[Any], Actions, NDArray[Any]]):
    """N copies of the Ant that step together, each with its own model, friction, state and random generator.

    The reward of a step from torso position x_t to x_{t+1}, under the action a (as given, not clamped) and
    the contact forces f, is

        r = w_f (x_{t+1} - x_t) / dt + r_h - w_c sum_i a_i^2 - w_k sum_j clip(f_j, -1, 1)^2,   dt = 0.05 s

    where r_h is paid while healthy (always, for observations 27 and 111), and the last term is missing with
    observation 27. An episode terminates when the torso's height leaves [0.2, 1.0] m or the state is not finite,
    and is truncated after `max_episode_steps`. Where MuJoCo meets a non-finite or huge value within a step it
    puts that copy back to its initial position by itself; as in gymnasium, the episode then goes on.

    A copy that ended is reset in the same step (`AutoresetMode.SAME_STEP`): the step returns its first new
    observation, and `infos["final_obs"]`, [N, observation], its last old one in the rows where
    `infos["_final_obs"]`, [N], is true. `infos` is empty when no copy ended. Observations and rewards are new arrays;
    `terminated` and `truncated` are read-only where they are false throughout.

    With `SlipperyAntOptions` the slide friction of all geoms is that of the copy's task, from the first step on. A
    change takes effect with the next step, and costs nothing in steps without one.

    Args:
        options: The problem.
        num_threads: Threads that step the physics, the calling one included. They never change a number.
        dtype: Of observations: float32 or float64.
        task_seed: The trial's seed, from which the tasks are drawn where there are several.
        trial_copies: Copies of the trial over all its runners, which the schedule's steps count; by default those here.
    """

    def __init__(
        self,
        options: AntOptions,
        *,
        num_threads: int = 1,
        dtype: type[np.float32] | type[np.float64] = np.float32,
        task_seed: int = 0,
        trial_copies: int | None = None,
    ):
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.options = options
        self.num_envs = n = options.num_envs
        self._dtype = np.dtype(dtype)
        self._physics: Physics = MujocoPhysics(
            str(files("gymnasium") / "envs" / "mujoco" / "assets" / "ant.xml"),
            n,
            substeps=FRAME_SKIP,
            body="torso",
            contact_forces=options.observation != 27,
            num_threads=num_threads,
        )
        self._low, self._high = self._physics.ctrl_range.astype(np.float32).T
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (options.observation,), dtype)
        self.single_action_space = gymnasium.spaces.Box(self._low, self._high, dtype=np.float32)
        self._actions_shape = (n, len(self._low))
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)

        # Views of the physics' arrays, which it overwrites in place.
        self._x, self._z = self._physics.body_xpos[:, 0], self._physics.qpos[:, 2]
        # Clipping leaves positions and velocities alone; forces, if there are any, are kept within [-1, 1].
        bound = np.ones(self._physics.readings.shape[1])
        bound[:STATE_SIZE] = np.inf
        self._force_bounds = -bound, bound
        self._clipped = np.empty(self._physics.readings.shape)
        self._clipped_forces = self._clipped[:, STATE_SIZE:]
        self._seen = [self._clipped[:, 2:]]  # without x and y
        if options.observation == 105:  # and without the forces on the world
            self._seen = [self._clipped[:, 2:STATE_SIZE], self._clipped[:, STATE_SIZE + 6 :]]
        # What a reward is computed from: arrays, or for a single copy plain floats, to the same bits in a third of
        # the time.
        self._numbers: Callable[[NDArray[Any]], Any] = np.ndarray.item if n == 1 else _as_float64
        self._nowhere = _read_only(np.zeros(n, np.bool_))
        self._clock = 0
        self._started = np.zeros(n, np.int64)  # what the clock showed when the current episode began
        self._next_timeout = options.max_episode_steps
        self._generators = [np.random.default_rng() for _ in range(n)]
        self.tasks: NDArray[np.int32] = _read_only(np.zeros(n, np.int32))
        self._next_change = NEVER
        self._schedule: Schedule | None = None
        if isinstance(options, SlipperyOptions):
            self._frictions = Frictions(options.friction, task_seed)
            self._schedule = Schedule(options.schedule, n, trial_copies=trial_copies, num_tasks=self._frictions.count)
            self._enter_tasks(range(n))

    def _enter_tasks(self, ids: Sequence[int]) -> None:
        """Gives some copies the friction of where they are in the schedule."""
        schedule, frictions = self._schedule, self._frictions
        assert schedule is not None
        values = np.empty(len(ids))
        for i, k in enumerate(ids):
            task = int(schedule.tasks[k])
            before = schedule.which(max(task - 1, 0))
            values[i] = frictions.between(before, schedule.which(task), schedule.progress(k, self._clock))
        self._physics.set_slide_friction(ids, values)
        self.tasks, self._next_change = schedule.tasks, schedule.next_check

    def set_friction(self, values: ArrayLike, env_ids: Sequence[int] | None = None) -> None:
        """Sets the slide friction of all geoms, floor and legs, from the next step on.

        Args:
            values: One value, or one for each of `env_ids`.
            env_ids: Copies; all of them if None.

        Raises:
            ValueError: A value is negative or not finite, or their number does not fit.
        """
        ids = range(self.num_envs) if env_ids is None else env_ids
        friction = np.asarray(values, np.float64)
        if friction.shape not in ((), (len(ids),)):
            raise ValueError(
                f"friction has shape {friction.shape}: give one value, or one for each of {len(ids)} copies"
            )
        if not (np.isfinite(friction) & (friction >= 0)).all():
            raise ValueError(f"friction must be finite and not negative, got {friction}")
        self._physics.set_slide_friction(ids, np.broadcast_to(friction, (len(ids),)))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Starts a new episode in all copies.

        Args:
            seed: The trial's seed, which gives copy k the stream `numpy_generator(seed, "env", k)`; or one seed
                a copy, each used as gymnasium's `Env.reset(seed=...)` uses it (several runners of one trial
                pass `derive_seed(seed, "env", k)` with their own k); or None to go on with the generators as
                they are, which a first reset draws from the operating system. With a seed the tasks begin anew, too.
            options: Unused.

        Returns:
            Observations [N, observation], and {}.

        Raises:
            ValueError: The number of seeds is not the number of copies.
        """
        if seed is not None and self._schedule is not None:
            self._clock = 0
            self._schedule.restart()
            self._enter_tasks(range(self.num_envs))
        if isinstance(seed, (int, np.integer)):
            self._generators = [numpy_generator(int(seed), "env", k) for k in range(self.num_envs)]
        elif seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(f"got {len(seed)} seeds for {self.num_envs} copies: give one seed, or one a copy")
            self._generators = [np.random.default_rng(s) for s in seed]
        self._start_episodes(range(self.num_envs))
        return self._observe(), {}

    def step(
        self, actions: Actions
    ) -> tuple[NDArray[Any], Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps all copies, and starts a new episode in those that ended.

        Args:
            actions: [N, 8], float32 or float64; squared in that precision, as gymnasium does.

        Returns:
            Observations [N, observation], rewards [N] in float64, terminated [N], truncated [N], infos.

        Raises:
            ValueError: The actions' shape is not [N, 8].
        """
        options, physics = self.options, self._physics
        actions = np.asarray(actions)
        if actions.shape != self._actions_shape:
            raise ValueError(f"actions have shape {actions.shape}, {self.num_envs} copies need {self._actions_shape}")
        if options.clip_actions:
            actions = np.minimum(np.maximum(actions, self._low), self._high)

        x_before = self._numbers(self._x)
        physics.step(actions)
        self._clock += 1
        if self._clock >= self._next_change:
            self._enter_tasks(self._schedule.after_step(self._clock))  # type: ignore[union-attr]
        observations = self._observe()
        healthy, terminated, truncated = self._endings()
        rewards = self._rewards(actions, x_before, healthy)
        if terminated is self._nowhere and truncated is self._nowhere:
            return observations, rewards, terminated, truncated, {}
        ended = terminated | truncated
        infos = {"final_obs": observations, "_final_obs": ended}
        self._start_episodes(np.flatnonzero(ended).tolist())
        return self._observe(), rewards, terminated, truncated, infos

    def _endings(self) -> tuple[NDArray[np.bool_] | bool, NDArray[np.bool_], NDArray[np.bool_]]:
        """Who is healthy (True: all), terminated and truncated, [N] each; `_nowhere` itself if nobody is."""
        readings, z, (low, high) = self._clipped, self._z, HEALTHY_Z
        healthy: Any = True
        terminated = truncated = self._nowhere
        lowest, highest = (z.item(),) * 2 if self.num_envs == 1 else (np.minimum.reduce(z), np.maximum.reduce(z))
        # NaN fails these comparisons, and a non-finite value anywhere makes the sum of squares non-finite.
        if not (low <= lowest and highest <= high and math.isfinite(np.vdot(readings, readings))):
            healthy = np.isfinite(readings[:, :STATE_SIZE]).all(axis=1) & (z >= low) & (z <= high)
            terminated = ~healthy
        if self._clock >= self._next_timeout:
            truncated = self._clock - self._started >= self.options.max_episode_steps
        return healthy, terminated, truncated

    def _rewards(self, actions: Actions, x_before: Any, healthy: NDArray[np.bool_] | bool) -> Floats:
        """[N], in gymnasium's order of operations; needs the forces that `_observe` clipped."""
        options, numbers = self.options, self._numbers
        forward = (numbers(self._x) - x_before) / self._physics.control_s * options.forward_reward_weight
        alive = options.healthy_reward * (healthy if options.observation == 105 else 1.0)
        costs = options.ctrl_cost_weight * numbers(np.add.reduce(np.square(actions), axis=1))
        if options.observation != 27:
            costs += options.contact_cost_weight * numbers(np.add.reduce(np.square(self._clipped_forces), axis=1))
        return np.array(forward + alive - costs, ndmin=1)

    def _observe(self) -> NDArray[Any]:
        """[N, observation], as a new array; `_clipped` then holds the readings with clipped forces."""
        lowest, highest = self._force_bounds
        np.maximum(self._physics.readings, lowest, out=self._clipped)
        np.minimum(self._clipped, highest, out=self._clipped)
        return np.concatenate(self._seen, axis=1, dtype=self._dtype, casting="same_kind")

    def _start_episodes(self, ids: Sequence[int]) -> None:
        """Draws new initial states, in gymnasium's order of draws."""
        if self._schedule is not None:
            changed = self._schedule.start_episodes(ids, self._clock)
            if changed:
                self._enter_tasks(changed)
        physics, scale = self._physics, self.options.reset_noise_scale
        qpos = np.tile(physics.initial_qpos, (len(ids), 1))
        qvel = np.tile(physics.initial_qvel, (len(ids), 1))
        for i, k in enumerate(ids):
            generator = self._generators[k]
            qpos[i] += generator.uniform(-scale, scale, qpos.shape[1])
            qvel[i] += scale * generator.standard_normal(qvel.shape[1])
        physics.reset(ids, qpos, qvel)
        self._started[ids] = self._clock
        self._next_timeout = int(self._started.min()) + self.options.max_episode_steps

    def get_state(self) -> dict[str, Any]:
        """Everything that the copies' future depends on: friction, random generators and tasks, too."""
        state = {
            "physics": self._physics.get_state(),
            "steps": self._clock - self._started,
            "generators": [generator.bit_generator.state for generator in self._generators],
        }
        if self._schedule is not None:
            state |= {"clock": self._clock, "schedule": self._schedule.get_state()}
        return state

    def set_state(self, state: Mapping[str, Any]) -> NDArray[Any]:
        """Takes back what `get_state` gave, also in a new object: the future is then the same bit for bit.

        Args:
            state: From an environment with the same options.

        Returns:
            The current observations [N, observation].
        """
        self._physics.set_state(state["physics"])
        self._clock = 0
        if self._schedule is not None:
            self._clock = state["clock"]
            self._schedule.set_state(state["schedule"], self._clock)
            self.tasks, self._next_change = self._schedule.tasks, self._schedule.next_check
        self._started[:] = np.subtract(self._clock, state["steps"])
        self._next_timeout = int(self._started.min()) + self.options.max_episode_steps
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        return self._observe()

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the physics' threads."""
        if hasattr(self, "_physics"):  # not if the constructor failed
            self._physics.close()


def _as_float64(values: NDArray[Any]) -> Floats:
    return np.array(values, np.float64)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
