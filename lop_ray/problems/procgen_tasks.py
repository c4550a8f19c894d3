"""The tasks of problem `procgen`: what changes when the problem shifts.

A task is a pure function of the options, the trial's seed and the task's number, so the sequence is the same for every
variant of a trial's seed, for training and evaluation, and a run can go on anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator

from lop_ray.options import Options
from lop_ray.problems.procgen_games import (
    GAMES,
    IMAGE_SHAPE,
    LEVELS,
    GameName,
    GameSettings,
    Mode,
    check_installed,
    frame_limit,
    has_mode,
)
from lop_ray.problems.schedule import ScheduleOptions
from lop_ray.seeding import numpy_generator

Split = Literal["train", "test"]


class ShiftOptions(Options):
    """How the problem changes, and when. All copies change together, and begin new episodes in the new task.

    | kind | task k | in the code of Juliani & Ash (2024) |
    |---|---|---|
    | none | the same for ever | none |
    | permute | the image's tiles stand in another order, drawn for each task | permute |
    | window | levels [start + k n, start + (k + 1) n), n = num_levels | window |
    | expand | levels [start, start + (k + 1) n) | expand |
    | actions | the actions' numbers mean other actions, drawn for each task | shuffle |
    | difficulty | easy and hard levels in turn | difficulty |
    | game | the games of `games` in turn | - |

    The held-out levels move and grow with the training levels. That code differs in five things. Its `permute` draws
    one permutation p and shows task k in the order p^(k+1), so that the first task is permuted already (`first_task`).
    Its `shuffle` gives every env copy an order of its own, the test copies too. Its `difficulty` changes a number that
    is never used. Its levels are [c, c + n), c in [0, n) drawn from the seed; on held-out ones [10000 + c, 10000 + c +
    n), c in [0, 10000 + n). And it makes a new optimiser at every shift, in every condition: here that is a variant's.
    """

    kind: Literal["none", "permute", "window", "expand", "actions", "difficulty", "game"] = "none"
    """What changes."""
    every_steps: Annotated[int, Ge(1)] = 1_024_000
    """Steps a task, over all copies of the trial: 1,000 updates of 1,024."""
    tasks: Literal["new", "same"] = "new"
    """new: every task is another one. same: every change takes place, to the first task again (a control)."""
    tiles: int = 16
    """For permute: the image is cut into so many times so many tiles."""
    first_task: Literal["plain", "shifted"] = "plain"
    """For permute and actions. plain: the first task shows ProcGen's own order. shifted: it has been drawn, too (the
    images of Juliani & Ash's code)."""
    games: tuple[GameName, ...] = ()
    """For game: which come after `game`, in turn, before it comes again."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ShiftOptions:
        if self.tiles < 2 or IMAGE_SHAPE[0] % self.tiles:
            allowed = [n for n in range(2, IMAGE_SHAPE[0] + 1) if IMAGE_SHAPE[0] % n == 0]
            raise ValueError(f"tiles={self.tiles} does not divide the image's 64 pixels: choose one of {allowed}")
        if self.kind == "game" and not self.games:
            raise ValueError("kind=game needs the other games: give shift.games, such as [jumper, ninja]")
        return self

    def schedule(self) -> ScheduleOptions:
        """When tasks change."""
        every = None if self.kind == "none" else self.every_steps
        return ScheduleOptions(every_steps=every, at="once", tasks=self.tasks)


class ProcgenOptions(Options):
    """ProcGen's options. Defaults are those of Juliani & Ash (2024) for CoinRun, with 8 copies (their code: 11)."""

    game: GameName = "coinrun"
    """Which game; the first, where games change."""
    num_envs: Annotated[int, Ge(1)] = 8
    """Copies that step together."""
    distribution_mode: Mode = "easy"
    """How hard and how varied levels are; extreme and memory exist for some games only."""
    start_level: Annotated[int, Ge(0)] = 0
    """The first training level."""
    num_levels: int | None = 100
    """How many levels are trained on; null: all 2^31 - 1."""
    test_start_level: Annotated[int, Ge(0)] = 10_000
    """The first held-out level."""
    test_num_levels: int | None = 100
    """How many levels are held out for evaluation; null: all, the training levels among them (ProcGen's protocol)."""
    max_episode_steps: Annotated[int, Ge(1)] = 200
    """Steps after which an episode is truncated (201 in the code, which compares with >). Has to be sooner than
    ProcGen's own limit, of which the last image can't be had."""
    action_repeat: Annotated[int, Ge(1)] = 2
    """Frames a step: the action is repeated, rewards are added up, the end of an episode ends the step."""
    step_penalty: float = 0.01
    """Taken off every step's reward."""
    actions: Literal[9, 15] = 9
    """9: the eight directions and none. 15: ProcGen's special actions too, which fire in some games."""
    use_backgrounds: bool = True
    """Pictures, not black, behind the game."""
    restrict_themes: bool = False
    """One theme of assets only, in games that have several."""
    paint_vel_info: bool = True
    """Show the agent's velocity in the image's corner, in games where it matters."""
    shift: ShiftOptions = ShiftOptions()
    """How the problem changes."""

    @model_validator(mode="after")
    def _can_be_played(self) -> ProcgenOptions:
        check_installed()
        for key in ("num_levels", "test_num_levels"):
            number = getattr(self, key)
            if number is not None and number < 1:
                raise ValueError(f"{key}={number}: the range of levels is empty; give at least 1, or null for all")
        for game in {self.game, *(self.shift.games if self.shift.kind == "game" else ())}:
            for mode in self._modes():
                self._check_game(game, mode)
        if self.shift.kind in ("window", "expand") and self.num_levels is None:
            raise ValueError(f"shift.kind={self.shift.kind} has no effect with num_levels=null, which are all levels")
        if self.num_levels is None and self.start_level:
            raise ValueError(f"start_level={self.start_level} has no effect with num_levels=null, which are all levels")
        self.check_tasks(1)
        return self

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """[64, 64, 3]: height, width, channels."""
        return IMAGE_SHAPE

    def task_schedule(self) -> ScheduleOptions:
        """When tasks change."""
        return self.shift.schedule()

    def check_tasks(self, count: int) -> None:
        """Raises unless the levels of the first `count` tasks exist, and none is both trained on and held out.

        Raises:
            ValueError: So it is not.
        """
        train, test = _levels(self, 0, "train"), _levels(self, 0, "test")
        if self.shift.kind in ("window", "expand") and test.start < train.start:
            raise ValueError(
                f"test_start_level: with shift.kind={self.shift.kind} held-out levels from {test.start} on would be "
                f"those of earlier tasks, as training begins with level {train.start}; choose a larger one"
            )
        for number in {0, count - 1}:  # both ranges move or grow steadily
            train, test = _levels(self, number, "train"), _levels(self, number, "test")
            if self.test_num_levels is not None and train.start < test.stop and test.start < train.stop:
                raise ValueError(
                    f"test_start_level: training levels [{train.start}, {train.stop}) and held-out levels "
                    f"[{test.start}, {test.stop}) of task {number} overlap; choose another one"
                )
            for key, levels in (("start_level", train), ("test_start_level", test)):
                if levels.stop > LEVELS:
                    raise ValueError(
                        f"{key}: levels [{levels.start}, {levels.stop}) of task {number} reach beyond ProcGen's last, "
                        f"{LEVELS - 1}; begin lower"
                    )

    def _modes(self) -> tuple[Mode, ...]:
        if self.shift.kind != "difficulty":
            return (self.distribution_mode,)
        if self.distribution_mode not in ("easy", "hard"):
            raise ValueError(
                f"shift.kind=difficulty goes between easy and hard levels; distribution_mode={self.distribution_mode}"
            )
        return ("easy", "hard")

    def _check_game(self, game: GameName, mode: Mode) -> None:
        if not has_mode(game, mode):
            known = [each for each in GAMES if has_mode(each, mode)]
            raise ValueError(f"{game} has no distribution_mode {mode}; games that have: {', '.join(known)}")
        limit = frame_limit(game, mode)
        if self.max_episode_steps * self.action_repeat >= limit:
            raise ValueError(
                f"max_episode_steps={self.max_episode_steps} of {self.action_repeat} frames: ProcGen ends {game} "
                f"itself after {limit} frames; give at most {(limit - 1) // self.action_repeat}"
            )


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        games: What is played.
        tile_order: Where each tile of the image comes from [tiles^2], row by row; None: as it is.
        action_order: ProcGen's action for each action number [actions].
    """

    games: GameSettings
    tile_order: NDArray[np.int64] | None
    action_order: NDArray[np.int64]


def task_of(options: ProcgenOptions, number: int, seed: int, split: Split) -> Task:
    """The task with this number.

    Args:
        options: The problem.
        number: 0 is the first.
        seed: The trial's.
        split: Training levels, or those held out.

    Returns:
        The task.

    Raises:
        ValueError: Its levels are among the others', or beyond the last one.
    """
    shift, kind = options.shift, options.shift.kind
    options.check_tasks(number + 1)
    levels = _levels(options, number, split)
    names = (options.game, *shift.games) if kind == "game" else (options.game,)
    mode = options.distribution_mode
    if kind == "difficulty" and number % 2:
        mode = "hard" if mode == "easy" else "easy"
    drawn = number > 0 or shift.first_task == "shifted"
    tile_order, action_order = None, np.arange(options.actions)
    if kind == "permute" and drawn:
        tile_order = numpy_generator(seed, "procgen", "tiles", number).permutation(shift.tiles**2)
    if kind == "actions" and drawn:
        action_order = numpy_generator(seed, "procgen", "actions", number).permutation(options.actions)
    games = GameSettings(
        game=names[number % len(names)],
        mode=mode,
        start_level=levels.start,
        num_levels=len(levels),
        use_backgrounds=options.use_backgrounds,
        restrict_themes=options.restrict_themes,
        paint_vel_info=options.paint_vel_info,
    )
    return Task(games, tile_order, action_order)


def _levels(options: ProcgenOptions, task: int, split: Split) -> range:
    start, count = options.start_level, options.num_levels
    if split == "test":
        start, count = options.test_start_level, options.test_num_levels
    if count is None:
        return range(LEVELS)
    step = task * (options.num_levels or 0)
    moved, grown = step * (options.shift.kind == "window"), step * (options.shift.kind == "expand")
    return range(start + moved, start + moved + count + grown)
