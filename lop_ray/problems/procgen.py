"""Problem `procgen`: ProcGen's games, and the ways in which they shift in Juliani & Ash (2024).

Source: Juliani & Ash 2024, "A study of plasticity loss in on-policy deep reinforcement learning" (arXiv 2405.19153);
details from `envs/mdps.py` of its code as kai666-song/rl-plasticity-specnorm keeps it: action repeat 2, a step limit of
200, 0.01 off every step's reward, nine actions, 100 easy levels of CoinRun, 100 others held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lop_ray.problems.procgen_games import IMAGE_SHAPE, Games
from lop_ray.problems.procgen_tasks import ProcgenOptions, ShiftOptions, Split, Task, task_of
from lop_ray.problems.schedule import Schedule
from lop_ray.seeding import derive_seed

__all__ = ["ProcgenOptions", "ShiftOptions", "VectorProcgen"]

Images = NDArray[np.uint8]


class VectorProcgen(VectorEnv[Images, NDArray[Any], NDArray[Any]]):
    """N copies of a game that step together, in C++ threads.

    A step repeats its action for `action_repeat` frames; the reward is the sum of theirs less `step_penalty`. An
    episode terminates when the game ends it, and is truncated after `max_episode_steps`. Copies whose episode ends
    within a step stand still for the rest of it.

    A copy that ended is reset in the same step (`AutoresetMode.SAME_STEP`): the step returns the first image of its
    next episode. Where an episode was truncated, in the rows where `infos["_final_obs"]`, [N], is true,
    `infos["final_obs"]`, [N, 64, 64, 3], is its last image. ProcGen never shows the last image of an episode that
    *terminated*: those rows are zero, and `_final_obs` false. `infos` is empty when no copy ended.

    When the task changes, all episodes are truncated, and all copies begin anew in the next task; that step still
    returns the old task's rewards and final images, and the new one's observations.

    Every copy's levels are drawn by ProcGen, with a generator of its own that is part of its state.

    Args:
        options: The problem.
        num_threads: Threads that step the copies. They never change a number.
        task_seed: The trial's seed, from which the tasks are drawn.
        trial_copies: Copies of the trial over all its runners, which the shifts' steps count; by default those here.
        split: Training levels, or those held out.
        task: Stay in this task for ever, as an evaluation does; None: shift as the options say.
    """

    def __init__(
        self,
        options: ProcgenOptions,
        *,
        num_threads: int = 1,
        task_seed: int = 0,
        trial_copies: int | None = None,
        split: Split = "train",
        task: int | None = None,
    ):
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.options = options
        self.num_envs = n = options.num_envs
        self._num_threads, self._task_seed, self._split = num_threads, task_seed, split
        self.single_observation_space = gymnasium.spaces.Box(0, 255, IMAGE_SHAPE, np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(options.actions)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        shift = options.shift if task is None else ShiftOptions()
        self._schedule = Schedule(shift.schedule(), n, trial_copies=trial_copies)
        self._fixed_tasks = None if task is None else np.full(n, task, np.int32)
        self._seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])  # until a reset gives one
        self._games: Games | None = None
        self._task: Task
        self._clock = 0
        self._lengths = np.zeros(n, np.int64)

    @property
    def tasks(self) -> NDArray[np.int32]:
        """[N], the task of each copy's next step: the same for all, and another array whenever it has changed."""
        return self._schedule.tasks if self._fixed_tasks is None else self._fixed_tasks

    @property
    def levels(self) -> NDArray[np.int32]:
        """[N], the number of the level that each copy is in."""
        return self._started().level_seeds()

    def _started(self) -> Games:
        if self._games is None:
            raise RuntimeError("call reset() before anything else")
        return self._games

    def _enter_task(self) -> None:
        """Makes the copies anew, for the task of the schedule; with it they draw levels from another stream."""
        number = int(self.tasks[0])
        which = 0 if self.options.shift.tasks == "same" else number
        self._task = task_of(self.options, which, self._task_seed, self._split)
        if self._games is not None:
            self._games.close()
        seed = derive_seed(self._seed, "env", self._split, number)
        self._games = Games(self._task.games, self.num_envs, seed=seed, num_threads=self._num_threads)
        self._reorder = TileOrder(self._task.tile_order)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Images, dict[str, Any]]:
        """Starts a new episode in all copies.

        Args:
            seed: Begins everything anew: the tasks, and in each of them the copies' streams of levels, of which
                ProcGen makes one a copy. None goes on; a first reset without a seed draws one from the operating
                system.
            options: Unused.

        Returns:
            Observations [N, 64, 64, 3], and {}.

        Raises:
            ValueError: `seed` is a sequence.
        """
        if seed is not None:
            if not isinstance(seed, (int, np.integer)):
                raise ValueError("ProcGen draws the streams of all copies from one seed: give a single number")
            self._seed, self._clock = int(seed), 0
            self._schedule.restart()
        if seed is not None or self._games is None:
            self._enter_task()
        else:
            self._games.restart_all()
        self._lengths[:] = 0
        return self._observe(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Images, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps all copies, and starts a new episode in those that ended.

        Args:
            actions: [N], whole numbers below `options.actions`.

        Returns:
            Observations [N, 64, 64, 3], rewards [N] in float64, terminated [N], truncated [N], infos.

        Raises:
            ValueError: Actions of another shape, or that do not exist.
        """
        games, n = self._started(), self.num_envs
        actions = np.asarray(actions)
        if actions.shape != (n,) or actions.min() < 0 or actions.max() >= self.options.actions:
            raise ValueError(f"actions must be {n} numbers from 0 to {self.options.actions - 1}, got {actions}")
        images, rewards, terminated = self._frames(games, self._task.action_order[actions])
        self._clock += 1
        self._lengths += 1
        truncated = ~terminated & (self._lengths >= self.options.max_episode_steps)
        if self._clock >= self._schedule.next_check:
            self._schedule.after_step(self._clock)
            truncated = ~terminated
            infos = self._final_images(images, truncated)
            self._enter_task()
            self._lengths[:] = 0
            return self._observe(), rewards, terminated, truncated, infos
        ended = terminated | truncated
        if not ended.any():
            return self._reorder(images), rewards, terminated, truncated, {}
        infos = self._final_images(images, truncated)
        for copy in np.flatnonzero(truncated).tolist():
            games.restart(copy)
        self._lengths[ended] = 0
        return self._observe(), rewards, terminated, truncated, infos

    def _frames(self, games: Games, actions: NDArray[Any]) -> tuple[Images, NDArray[np.float64], NDArray[np.bool_]]:
        """Repeats the actions; returns images, rewards and who ended: those are in their next episode already."""
        rewards = np.full(self.num_envs, -self.options.step_penalty)
        ended = np.zeros(self.num_envs, np.bool_)
        waiting: dict[int, bytes] = {}
        for left in range(self.options.action_repeat - 1, -1, -1):
            images, reward, first = games.frame(actions)
            if waiting:
                reward[ended], first[ended] = 0.0, False
            rewards += reward
            if first.any():
                ended |= first
                if left:
                    waiting |= {copy: games.save(copy) for copy in np.flatnonzero(first).tolist()}
        for copy, state in waiting.items():
            games.load(copy, state)
        return (games.images() if waiting else images), rewards, ended

    def _final_images(self, images: Images, truncated: NDArray[np.bool_]) -> dict[str, Any]:
        images = self._reorder(images)
        images[~truncated] = 0
        return {"final_obs": images, "_final_obs": truncated}

    def _observe(self) -> Images:
        """[N, 64, 64, 3], as a new array."""
        return self._reorder(self._started().images())

    def get_state(self) -> dict[str, Any]:
        """Everything that the copies' future depends on: ProcGen's own states, levels' generators included; tasks."""
        games = self._started()
        return {
            "games": [games.save(copy) for copy in range(self.num_envs)],
            "settings": str(games.settings),
            "lengths": self._lengths.copy(),
            "seed": self._seed,
            "clock": self._clock,
            "schedule": self._schedule.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> Images:
        """Takes back what `get_state` gave, also in a new object: the future is then the same bit for bit.

        Args:
            state: From an environment with the same options and task seed.

        Returns:
            The current observations [N, 64, 64, 3].

        Raises:
            ValueError: The state is of other options.
        """
        self._seed, self._clock = state["seed"], state["clock"]
        self._schedule.set_state(state["schedule"], self._clock)
        self._enter_task()
        games = self._started()
        # ProcGen would end the process on a state of another game.
        if state["settings"] != str(games.settings):
            raise ValueError(
                f"the saved state is of {state['settings']}, these copies play {games.settings}: restore with the "
                "options that it was saved with"
            )
        for copy, saved in enumerate(state["games"]):
            games.load(copy, saved)
        self._lengths[:] = state["lengths"]
        return self._observe()

    def close_extras(self, **kwargs: Any) -> None:
        """Ends ProcGen's threads."""
        if getattr(self, "_games", None) is not None:  # not if the constructor failed
            self._started().close()


class TileOrder:
    """Puts the tiles of images [N, 64, 64, 3] into another order.

    Args:
        order: Tile i of the result, row by row, is tile `order[i]` of the image [tiles^2]; None: as they are.
    """

    def __init__(self, order: NDArray[np.int64] | None):
        self._strips: NDArray[np.intp] | None = None
        if order is None:
            return
        height, width, channels = IMAGE_SHAPE
        tiles = round(len(order) ** 0.5)
        # A strip is a row of pixels within a tile: what lies together in memory, and is moved as one piece.
        strips = np.arange(height * tiles).reshape(tiles, height // tiles, tiles).swapaxes(1, 2)
        self._strips = strips.reshape(tiles**2, -1)[order].reshape(tiles, tiles, -1).swapaxes(1, 2).ravel()
        self._strip = np.dtype((np.void, width // tiles * channels))

    def __call__(self, images: Images) -> Images:
        """Images in the new order; the same array where the order is the old one."""
        if self._strips is None:
            return images
        strips = images.reshape(len(images), -1).view(self._strip)
        return strips.take(self._strips, axis=1).view(np.uint8).reshape(images.shape)
