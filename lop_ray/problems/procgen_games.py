"""ProcGen's games as one gym3 environment: stepping, saving and restarting single copies.

Cobbe et al. 2020, "Leveraging procedural generation to benchmark reinforcement learning" (arXiv 1912.01588), in the
builds of `procgen-mirror`. Two things that ProcGen does not offer are made here of what it does offer:

- *Ending the episode of one copy.* An action of -1 does nothing for one frame and then begins a new episode, but an
  action can't be given to one copy alone. So the copy's state is moved to an environment of a single copy, ended
  there, and moved back. The result is bit for bit what the action does in place.
- *Holding a copy still* while the others go on: its state is saved before and put back after.

A state holds level, physics and all random generators of a copy (some 20 to 40 kB); moving one takes about 0.3 ms.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

GameName = Literal[
    "bigfish",
    "bossfight",
    "caveflyer",
    "chaser",
    "climber",
    "coinrun",
    "dodgeball",
    "fruitbot",
    "heist",
    "jumper",
    "leaper",
    "maze",
    "miner",
    "ninja",
    "plunder",
    "starpilot",
]
Mode = Literal["easy", "hard", "extreme", "memory"]
GAMES: tuple[GameName, ...] = get_args(GameName)
IMAGE_SHAPE = (64, 64, 3)
LEVELS = 2**31 - 1
"""How many levels a game has; they are numbered from 0."""

_EXTREME = ("chaser", "dodgeball", "leaper", "starpilot")
_MEMORY = ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner")
_FRAME_LIMITS = {"bigfish": 6000, "bossfight": 4000, "leaper": 500, "maze": 500, "plunder": 4000}
_END_EPISODE = -1
_STATE_BYTES = 2**20


def has_mode(game: GameName, mode: Mode) -> bool:
    """Whether the game has levels of that distribution mode; all have easy and hard ones."""
    return mode in ("easy", "hard") or game in (_EXTREME if mode == "extreme" else _MEMORY)


def frame_limit(game: GameName, mode: Mode) -> int:
    """Frames after which ProcGen itself ends an episode (`timeout` in the games' sources)."""
    return 2000 if (game, mode) == ("jumper", "memory") else _FRAME_LIMITS.get(game, 1000)


def check_installed() -> None:
    """Raises unless ProcGen can be imported.

    Raises:
        ValueError: It is not installed.
    """
    if importlib.util.find_spec("procgen") is None:
        raise ValueError("problem procgen needs the package procgen-mirror: pip install 'lop_ray[procgen]'")


@dataclass(frozen=True)
class GameSettings:
    """What the copies of one environment play.

    Attributes:
        game: Its name.
        mode: Distribution mode.
        start_level: The first level.
        num_levels: How many, from there on; `LEVELS` for all.
        use_backgrounds: ProcGen's option: pictures, not black, behind the game.
        restrict_themes: ProcGen's option: one theme of assets only.
        paint_vel_info: ProcGen's option: squares in the corner show the agent's velocity, in games where it matters.
    """

    game: GameName
    mode: Mode
    start_level: int
    num_levels: int
    use_backgrounds: bool
    restrict_themes: bool
    paint_vel_info: bool


class Games:
    """N copies of a game.

    Args:
        settings: The game and its levels.
        num_copies: N.
        seed: Draws the levels; copy k's sequence depends on seed and k only.
        num_threads: Threads that step the copies; 1: the calling one.
    """

    def __init__(self, settings: GameSettings, num_copies: int, *, seed: int, num_threads: int = 1):
        from cffi import FFI  # type: ignore[import-untyped]  # comes with gym3

        self.settings, self.num_copies = settings, num_copies
        self._seed = seed % 2**31
        self._env = self._make(num_copies, 0 if num_threads == 1 else num_threads)
        self._single: Any = None
        self._ffi = FFI()
        self._buffer = self._ffi.new("char[]", _STATE_BYTES)

    def _make(self, num_copies: int, num_threads: int) -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # procgen imports gym, which asks to be replaced by gymnasium
            from procgen import ProcgenGym3Env
        s = self.settings
        return ProcgenGym3Env(
            num=num_copies,
            env_name=s.game,
            distribution_mode=s.mode,
            start_level=s.start_level,
            num_levels=0 if s.num_levels == LEVELS else s.num_levels,
            use_backgrounds=s.use_backgrounds,
            restrict_themes=s.restrict_themes,
            paint_vel_info=s.paint_vel_info,
            rand_seed=self._seed,
            num_threads=num_threads,
        )

    def frame(self, actions: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_]]:
        """One frame of all copies.

        Args:
            actions: [N], ProcGen's.

        Returns:
            Images [N, 64, 64, 3], rewards [N], and which copies ended their episode [N]: those already show the
            first image of the next one. New arrays.
        """
        self._env.act(actions)
        reward, observation, first = self._env.observe()
        return observation["rgb"], reward, first

    def images(self) -> NDArray[np.uint8]:
        """The copies' images as they are now, [N, 64, 64, 3]: a new array."""
        return self._env.observe()[1]["rgb"]

    def level_seeds(self) -> NDArray[np.int32]:
        """[N], the level that each copy is in."""
        return np.array([info["level_seed"] for info in self._env.get_info()], np.int32)

    def restart_all(self) -> None:
        """Ends the episodes of all copies; each draws a new level."""
        self._env.act(np.full(self.num_copies, _END_EPISODE, np.int32))
        self._env.observe()

    def restart(self, copy: int) -> None:
        """Ends the episode of one copy, which draws a new level; the others stay as they are."""
        if self._single is None:
            self._single = self._make(1, 0)
        self._load(self._single, 0, self.save(copy))
        self._single.act(np.full(1, _END_EPISODE, np.int32))
        self.load(copy, self._save(self._single, 0))

    def save(self, copy: int) -> bytes:
        """The state of one copy."""
        return self._save(self._env, copy)

    def load(self, copy: int, state: bytes) -> None:
        """Puts one copy into a state from `save` of an environment with the same settings."""
        self._load(self._env, copy, state)

    def _save(self, env: Any, copy: int) -> bytes:
        size = env.call_c_func("get_state", copy, self._buffer, _STATE_BYTES)
        return bytes(self._ffi.buffer(self._buffer, size))

    def _load(self, env: Any, copy: int, state: bytes) -> None:
        env.call_c_func("set_state", copy, state, len(state))

    def close(self) -> None:
        """Ends the threads; may be called twice."""
        for env in (self._env, self._single):
            if env is not None:
                env.close()
