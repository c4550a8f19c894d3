"""Bodies that are rewarded for running in the direction +x, all copies stepped together: what they have in common.

What a body adds is in a module of its own: its model, what it observes, when it is healthy, its costs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from annotated_types import Ge
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from lop_ray.options import Options
from lop_ray.problems.friction import Frictions, SlipperyOptions
from lop_ray.problems.physics import Actions, Floats, Physics
from lop_ray.problems.schedule import NEVER, Schedule
from lop_ray.seeding import numpy_generator


class LocomotionOptions(Options):
    """Options of all bodies. Defaults that are numbers of gymnasium's are set by the body."""

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
    """Reward for each step alive (gymnasium's v4 also gives it for the step in which the body falls)."""


class VectorLocomotion(VectorEnv[NDArray[Any], Actions, NDArray[Any]]):
    """N copies of a body that step together, each with its own model, friction, state and random generator.

    A copy that ended is reset in the same step (`AutoresetMode.SAME_STEP`): the step returns its first new
    observation, and `infos["final_obs"]`, [N, observation], its last old one in the rows where
    `infos["_final_obs"]`, [N], is true. `infos` is empty when no copy ended. Observations and rewards are new arrays;
    `terminated` and `truncated` are read-only where they are false throughout. Where MuJoCo meets a non-finite or
    huge value within a step it puts that copy back to its initial position by itself; as in gymnasium, the episode
    then goes on.

    With `SlipperyOptions` a copy has the friction of its task, from the first step on. A change takes effect with the
    step that follows, and a step without one pays for a single comparison.

    Args:
        options: The body's, and `SlipperyOptions` if its friction changes.
        physics: Of all copies.
        observation_size: Length of an observation.
        dtype: Of observations: float32 or float64.
        x: [N], the position that the reward is for: a view of the physics' array, which it overwrites in place.
        task_seed: The trial's seed, from which the tasks are drawn where there are several.
        trial_copies: Copies of the trial over all its runners, which the schedule's steps count; by default N.

    Attributes:
        tasks: [N], int32, the task of each copy's next step: 0 where it never changes. A new array after a change.
    """

    options: LocomotionOptions

    def __init__(
        self,
        options: LocomotionOptions,
        physics: Physics,
        observation_size: int,
        dtype: type[np.float32] | type[np.float64],
        x: Floats,
        task_seed: int,
        trial_copies: int | None,
    ):
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = n = options.num_envs
        self.options = options
        self._physics = physics
        self._x = x
        self._dtype = np.dtype(dtype)
        self._low, self._high = physics.ctrl_range.astype(np.float32).T
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation_size,), dtype)
        self.single_action_space = gymnasium.spaces.Box(self._low, self._high, dtype=np.float32)
        self._actions_shape = (n, len(self._low))
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)

        # What a reward is computed from: arrays, or for a single copy plain floats, to the same bits in a third of
        # the time.
        self._numbers: Callable[[NDArray[Any]], Any] = np.ndarray.item if n == 1 else _as_float64
        self._nowhere = _read_only(np.zeros(n, np.bool_))
        self._clock = 0  # steps that every copy has made
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

    @abstractmethod
    def _observe(self) -> NDArray[Any]:
        """[N, observation], as a new array, of what the physics shows."""

    @abstractmethod
    def _healthy(self) -> NDArray[np.bool_] | Literal[True]:
        """Who is healthy, [N], or True: all. Called after `_observe`."""

    @abstractmethod
    def _rewards(self, actions: Actions, x_before: Any, healthy: NDArray[np.bool_] | Literal[True]) -> Floats:
        """[N], in gymnasium's order of operations. Called after `_observe`."""

    @abstractmethod
    def _draw_noise(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """What is added to initial positions and velocities, in gymnasium's order of draws."""

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
        """Sets the slide friction of all geoms, floor and body, from the next step on.

        Args:
            values: Multiples of the model's own friction (which is 1 in all geoms of the Ant): one value, or one
                for each of `env_ids`.
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
        if isinstance(seed, (int, np.integer)):
            self._generators = [numpy_generator(int(seed), "env", k) for k in range(self.num_envs)]
        elif seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(f"got {len(seed)} seeds for {self.num_envs} copies: give one seed, or one a copy")
            self._generators = [np.random.default_rng(s) for s in seed]
        if seed is not None and self._schedule is not None:
            self._clock = 0
            self._schedule.restart()
            self._enter_tasks(range(self.num_envs))
        self._start_episodes(range(self.num_envs))
        return self._observe(), {}

    def step(
        self, actions: Actions
    ) -> tuple[NDArray[Any], Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps all copies, and starts a new episode in those that ended.

        Args:
            actions: [N, actuators], float32 or float64; squared in that precision, as gymnasium does.

        Returns:
            Observations [N, observation], rewards [N] in float64, terminated [N], truncated [N], infos.

        Raises:
            ValueError: The actions' shape is not [N, actuators].
        """
        options = self.options
        actions = np.asarray(actions)
        if actions.shape != self._actions_shape:
            raise ValueError(f"actions have shape {actions.shape}, {self.num_envs} copies need {self._actions_shape}")
        if options.clip_actions:
            actions = np.minimum(np.maximum(actions, self._low), self._high)

        x_before = self._numbers(self._x)
        self._physics.step(actions)
        self._clock += 1
        if self._clock >= self._next_change:
            self._enter_tasks(self._schedule.after_step(self._clock))  # type: ignore[union-attr]
        observations = self._observe()
        healthy = self._healthy()
        terminated = self._nowhere if healthy is True else ~healthy
        truncated = self._nowhere
        if self._clock >= self._next_timeout:
            truncated = self._clock - self._started >= options.max_episode_steps
        rewards = self._rewards(actions, x_before, healthy)
        if terminated is self._nowhere and truncated is self._nowhere:
            return observations, rewards, terminated, truncated, {}
        ended = terminated | truncated
        infos = {"final_obs": observations, "_final_obs": ended}
        self._start_episodes(np.flatnonzero(ended).tolist())
        return self._observe(), rewards, terminated, truncated, infos

    def _start_episodes(self, ids: Sequence[int]) -> None:
        """Draws new initial states, after the change of task that may be due."""
        physics = self._physics
        if self._schedule is not None:
            changed = self._schedule.start_episodes(ids, self._clock)
            if changed:
                self._enter_tasks(changed)
        qpos = np.tile(physics.initial_qpos, (len(ids), 1))
        qvel = np.tile(physics.initial_qvel, (len(ids), 1))
        for i, k in enumerate(ids):
            positions, velocities = self._draw_noise(self._generators[k])
            qpos[i] += positions
            qvel[i] += velocities
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
            state: From an environment with the same options and task seed.

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


def gymnasium_asset(name: str) -> str:
    """Path of a MuJoCo model that gymnasium ships."""
    return str(files("gymnasium") / "envs" / "mujoco" / "assets" / name)


def _as_float64(values: NDArray[Any]) -> Floats:
    return np.array(values, np.float64)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
