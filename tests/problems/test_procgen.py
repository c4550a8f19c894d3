"""ProcGen: equal to a plain loop over its frames, episodes cut where they should be, tasks, exact resumption."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydantic import ValidationError

from lop_ray.problems.procgen import ProcgenOptions, TileOrder, VectorProcgen
from lop_ray.problems.procgen_games import GAMES, Games
from lop_ray.problems.procgen_tasks import task_of
from lop_ray.problems.schedule import HasTasks, ScheduleOptions
from lop_ray.seeding import derive_seed

gym3 = pytest.importorskip("procgen", reason="needs the extra procgen")


def procgen(num_threads=1, *, task_seed=0, split="train", task=None, trial_copies=None, **options):
    env = VectorProcgen(
        ProcgenOptions(**{"num_envs": 2, **options}),
        num_threads=num_threads,
        task_seed=task_seed,
        split=split,
        task=task,
        trial_copies=trial_copies,
    )
    env.reset(seed=5)
    return env


def random_actions(steps, num_envs, seed=0, actions=9):
    return np.random.default_rng(seed).integers(0, actions, (steps, num_envs))


class PlainCopy:
    """Copy k of a game, played frame by frame in an environment of its own; what the other copies do there is noise."""

    def __init__(self, k, seed, num_envs, *, game, mode="easy", start=0, levels=100):
        self.k = k
        self.env = gym3.ProcgenGym3Env(
            num=num_envs,
            env_name=game,
            distribution_mode=mode,
            start_level=start,
            num_levels=levels,
            paint_vel_info=True,
            rand_seed=derive_seed(seed, "env", "train", 0) % 2**31,
            num_threads=0,
        )
        self.noise = np.random.default_rng(k)
        self.length = 0

    def image(self):
        return self.env.observe()[1]["rgb"][self.k]

    def frame(self, action):
        actions = self.noise.integers(0, 15, self.env.num)
        actions[self.k] = action
        self.env.act(actions)
        reward, _, first = self.env.observe()
        return reward[self.k], first[self.k]

    def step(self, action, *, repeat, penalty, limit):
        """Next image, reward, terminated, truncated, the last image before a truncation, frames that were played."""
        total, ended, frames = -penalty, False, 0
        while frames < repeat and not ended:
            reward, ended = self.frame(action)
            total += reward
            frames += 1
        self.length += 1
        cut = not ended and self.length == limit
        last = self.image()
        if cut:
            self.frame(-1)
        if cut or ended:
            self.length = 0
        return self.image(), total, ended, cut, last, frames


@pytest.mark.parametrize(
    ("game", "mode", "repeat", "limit", "threads"),
    [("coinrun", "easy", 2, 40, 1), ("bigfish", "hard", 3, 25, 2), ("starpilot", "extreme", 1, 60, 1)],
)
def test_equal_to_playing_every_copy_frame_by_frame(game, mode, repeat, limit, threads):
    copies, rules = 3, {"repeat": repeat, "penalty": 0.25, "limit": limit}
    env = procgen(
        threads,
        game=game,
        num_envs=copies,
        distribution_mode=mode,
        action_repeat=repeat,
        max_episode_steps=limit,
        step_penalty=0.25,
    )
    plain = [PlainCopy(k, 5, copies, game=game, mode=mode) for k in range(copies)]
    assert_array_equal(env.reset(seed=5)[0], [copy.image() for copy in plain])
    terminations, truncations, early = 0, 0, 0
    for actions in random_actions(250, copies):
        steps = [copy.step(action, **rules) for copy, action in zip(plain, actions, strict=True)]
        images, rewards, ended, cut, last, frames = (np.array(column) for column in zip(*steps, strict=True))
        obs, reward, terminated, truncated, infos = env.step(actions)
        assert_array_equal(obs, images)
        np.testing.assert_allclose(reward, rewards, atol=1e-9)
        assert_array_equal(terminated, ended)
        assert_array_equal(truncated, cut)
        assert bool(infos) == (ended | cut).any()
        if infos:
            assert_array_equal(infos["_final_obs"], cut)
            assert_array_equal(infos["final_obs"][cut], last[cut])
            assert not infos["final_obs"][~cut].any()  # ProcGen does not show how an episode ended
        terminations, truncations = terminations + ended.sum(), truncations + cut.sum()
        early += (frames < repeat).sum()
    assert terminations >= 3
    assert truncations >= 3
    assert early or repeat == 1


def test_the_coin_pays_ten_less_the_step_penalty():
    env = procgen(num_levels=1, start_level=3)
    paid = []
    for _ in range(150):  # right and up: along the level
        _, rewards, terminated, *_ = env.step(np.full(2, 8))
        paid += rewards[terminated].tolist()
        assert (rewards[~terminated] == -0.01).all()
    assert 9.99 in paid


def test_observations_are_new_arrays_of_bytes():
    env = procgen()
    assert env.observation_space.shape == (2, 64, 64, 3)
    assert env.single_action_space.n == 9
    first = env.step(np.zeros(2, int))[0]
    kept = first.copy()
    second = env.step(np.full(2, 7))[0]
    assert first.dtype == second.dtype == np.uint8
    assert_array_equal(first, kept)
    assert (second != first).any()


@pytest.mark.parametrize(("split", "start"), [("train", 50), ("test", 700)])
def test_levels_are_those_of_the_range(split, start):
    env = procgen(split=split, num_envs=8, start_level=50, num_levels=4, test_start_level=700, test_num_levels=4)
    seen = set()
    for _ in range(12):
        env.reset()
        seen |= set(env.levels.tolist())
    assert seen == set(range(start, start + 4))


def test_all_levels():
    env = procgen(num_levels=None, test_num_levels=None, num_envs=8)
    assert len(set(env.levels.tolist())) == 8
    assert max(env.levels) > 2**20


def test_a_seed_gives_every_copy_a_stream_of_its_own():
    levels = []
    for env in procgen(num_envs=2), procgen(num_envs=4), procgen(num_envs=4):
        levels.append([env.levels, *(env.reset() and env.levels for _ in range(5))])
    two, four, again = (np.array(each) for each in levels)
    assert_array_equal(four, again)
    assert_array_equal(two, four[:, :2])
    assert len({tuple(column) for column in four.T}) == 4
    other = procgen(num_envs=4)
    other.reset(seed=6)
    assert (other.levels != four[0]).any()
    other.reset(seed=5)
    assert_array_equal(other.levels, four[0])


# --- tasks ---------------------------------------------------------------------------------------


def test_all_copies_are_cut_and_change_together_when_a_task_is_over():
    env = procgen(num_envs=2, trial_copies=8, max_episode_steps=6, shift={"kind": "permute", "every_steps": 80})
    cuts, tasks = [], []
    for _ in range(25):
        *_, terminated, truncated, _ = env.step(np.full(2, 4))
        assert not terminated.any()
        cuts.append(truncated.tolist())
        tasks.append(env.tasks.tolist())
    # 8 copies in the trial: a task has 10 steps of each. Episodes of 6 steps begin with it.
    ends = {6, 10, 16, 20}
    assert cuts == [[step in ends] * 2 for step in range(1, 26)]
    assert tasks == [[0, 0]] * 9 + [[1, 1]] * 10 + [[2, 2]] * 6
    assert env.tasks.dtype == np.int32


def test_the_last_image_of_a_task_is_in_its_own_order_and_the_next_in_the_next():
    options = {"num_envs": 2, "shift": {"kind": "permute", "every_steps": 2, "first_task": "shifted"}}
    env = procgen(**options)
    plain = procgen(num_envs=2)
    orders = [TileOrder(task_of(env.options, k, 0, "train").tile_order) for k in range(2)]
    obs, *_, infos = env.step(np.full(2, 4))
    assert_array_equal(infos["final_obs"], orders[0](plain.step(np.full(2, 4))[0]))
    second = Games(task_of(env.options, 1, 0, "train").games, 2, seed=derive_seed(5, "env", "train", 1))
    assert_array_equal(obs, orders[1](second.images()))


@pytest.mark.parametrize("tiles", [2, 16, 64])
def test_tiles_are_moved_as_wholes(tiles):
    rng = np.random.default_rng(0)
    images, order = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8), rng.permutation(tiles**2)
    size = 64 // tiles
    expected = np.empty_like(images)
    for to, source in enumerate(order):
        (row, column), (r, c) = divmod(to, tiles), divmod(int(source), tiles)
        expected[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = images[
            :, r * size : (r + 1) * size, c * size : (c + 1) * size
        ]
    moved = TileOrder(order)(images)
    assert_array_equal(moved, expected)
    assert moved.flags.c_contiguous
    assert TileOrder(None)(images) is images


def tasks(kind, numbers=range(4), seed=0, split="train", **more):
    shift = {"kind": kind, **more.pop("shift", {})}
    return [task_of(ProcgenOptions(shift=shift, **more), k, seed, split) for k in numbers]


def test_permutations_depend_on_seed_and_task_alone():
    plain, *orders = [task.tile_order for task in tasks("permute")]
    assert plain is None
    for order in orders:
        assert_array_equal(np.sort(order), np.arange(256))
    assert (orders[0] != orders[1]).any()
    assert_array_equal(tasks("permute", [2], game="maze")[0].tile_order, orders[1])
    assert (tasks("permute", [2], seed=1)[0].tile_order != orders[1]).any()
    shifted = tasks("permute", shift={"first_task": "shifted", "tiles": 8})
    assert_array_equal(np.sort(shifted[0].tile_order), np.arange(64))


@pytest.mark.parametrize(
    ("kind", "train", "test"),
    [
        ("window", [(20, 30), (50, 30), (80, 30)], [(500, 10), (530, 10), (560, 10)]),
        ("expand", [(20, 30), (20, 60), (20, 90)], [(500, 10), (500, 40), (500, 70)]),
        ("permute", [(20, 30)] * 3, [(500, 10)] * 3),
    ],
)
def test_levels_of_each_task(kind, train, test):
    levels = {"start_level": 20, "num_levels": 30, "test_start_level": 500, "test_num_levels": 10}
    for split, expected in ("train", train), ("test", test):
        games = [task.games for task in tasks(kind, range(3), split=split, **levels)]
        assert [(each.start_level, each.num_levels) for each in games] == expected


def test_difficulty_and_games_take_turns():
    assert [task.games.mode for task in tasks("difficulty")] == ["easy", "hard", "easy", "hard"]
    assert [task.games.mode for task in tasks("difficulty", distribution_mode="hard")] == ["hard", "easy"] * 2
    games = [task.games.game for task in tasks("game", shift={"games": ["maze", "ninja"]})]
    assert games == ["coinrun", "maze", "ninja", "coinrun"]


def test_shuffled_actions_mean_other_ones():
    shift = {"kind": "actions", "every_steps": 2}
    env, plain = procgen(shift=shift), procgen(shift={"kind": "none"})
    order = task_of(env.options, 1, 0, "train").action_order
    assert sorted(order) == list(range(9))
    env.step(np.full(2, 4))  # to the first shift
    plain._games = Games(env._task.games, 2, seed=derive_seed(5, "env", "train", 1))
    plain._lengths[:] = 0
    for actions in random_actions(60, 2):
        assert_array_equal(env._games.frame(order[actions])[0], plain._games.frame(order[actions])[0])
    env, plain = procgen(shift=shift | {"every_steps": 10**6, "first_task": "shifted"}), procgen()
    order = task_of(env.options, 0, 0, "train").action_order
    for actions in random_actions(60, 2):
        assert_array_equal(env.step(actions)[0], plain.step(order[actions])[0])
    assert (order != np.arange(9)).any()


def test_tasks_are_another_array_only_when_they_have_changed():
    env, fixed = procgen(shift={"kind": "permute", "every_steps": 4}), procgen(task=2)
    before, stays = env.tasks, fixed.tasks
    for changed in (False, True):
        env.step(np.full(2, 4))
        fixed.step(np.full(2, 4))
        assert (env.tasks is not before) == changed
        assert fixed.tasks is stays
    assert before.tolist() == [0, 0]
    assert stays.tolist() == [2, 2]


def test_a_run_is_told_when_and_how_many_tasks_there_are():
    options = ProcgenOptions(shift={"kind": "expand"})
    assert isinstance(options, HasTasks)
    assert options.task_schedule() == ScheduleOptions(every_steps=1_024_000, at="once")
    assert options.task_schedule().most_tasks(3_072_000) == 3
    assert ProcgenOptions().task_schedule().most_tasks(10**12) == 1


def test_the_same_task_again_changes_nothing_but_the_episodes():
    env = procgen(shift={"kind": "permute", "every_steps": 6, "tasks": "same"})
    ends = [env.step(np.full(2, 4))[3].all() for _ in range(7)]
    assert ends == [False, False, True, False, False, True, False]
    assert env.tasks.tolist() == [2, 2]
    assert env._task.tile_order is None


def test_an_evaluation_stays_in_its_task_on_held_out_levels():
    env = procgen(split="test", task=3, num_envs=4, shift={"kind": "window", "every_steps": 4})
    for _ in range(5):
        env.step(np.full(4, 7))
    assert env.tasks.tolist() == [3] * 4
    assert all(10_300 <= level < 10_400 for level in env.levels)


# --- resumption ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ({"shift": {"kind": "none"}}, 1),
        ({"shift": {"kind": "permute", "every_steps": 100}}, 2),
        ({"shift": {"kind": "game", "every_steps": 100, "games": ["bigfish", "miner"]}}, 1),
        ({"shift": {"kind": "window", "every_steps": 100}, "game": "starpilot", "action_repeat": 3}, 1),
    ],
    ids=lambda value: value["shift"]["kind"] if isinstance(value, dict) else "",
)
def test_restored_state_has_the_same_future_bit_for_bit(options, threads):
    options = {"num_envs": 2, "max_episode_steps": 23, **options}
    env = procgen(threads, task_seed=3, **options)
    before, after = random_actions(70, 2, seed=1), random_actions(60, 2, seed=2)
    for actions in before:
        obs = env.step(actions)[0]
    saved = pickle.dumps(env.get_state())
    future = [(*env.step(actions), env.tasks) for actions in after]
    assert sum(bool(step[4]) for step in future) >= 2  # across the ends of episodes
    assert pickle.dumps(env.get_state()) != saved
    env.close()

    env = procgen(task_seed=3, **options)
    assert_array_equal(env.set_state(pickle.loads(saved)), obs)
    for actions, step in zip(after, future, strict=True):
        new = (*env.step(actions), env.tasks)
        for there, here in zip((*step[:4], step[5]), (*new[:4], new[5]), strict=True):
            assert_array_equal(there, here)
        assert step[4].keys() == new[4].keys()
        for key in step[4]:
            assert_array_equal(step[4][key], new[4][key])
    assert pickle.dumps(env.get_state()) != saved


@pytest.mark.parametrize("game", GAMES)
def test_every_game_goes_on_from_its_state(game):
    env = procgen(game=game, action_repeat=1)
    other = procgen(game=game, action_repeat=1, task_seed=9)
    for actions in random_actions(25, 2, seed=1):
        env.step(actions)
    other.set_state(env.get_state())
    for actions in random_actions(25, 2, seed=2):
        assert_array_equal(env.step(actions)[0], other.step(actions)[0])


def test_saved_state_does_not_follow_the_environment():
    env = procgen()
    state = env.get_state()
    first = pickle.dumps(state)
    for actions in random_actions(20, 2):
        env.step(actions)
    assert pickle.dumps(state) == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "maze"}, "the saved state is of .*coinrun.* these copies play .*maze"),
        ({"num_levels": 7}, "num_levels=100.* these copies play .*num_levels=7"),
        ({"num_envs": 3}, "2 copies, this problem has 3"),
    ],
)
def test_state_of_other_options_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        procgen(**options).set_state(procgen().get_state())


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "coinrunner"}, "'coinrun', 'dodgeball'"),
        ({"num_levels": 0}, "num_levels=0: the range of levels is empty"),
        ({"test_num_levels": -3}, "test_num_levels=-3: the range of levels is empty"),
        ({"num_levels": 20_000}, r"training levels \[0, 20000\) and held-out levels \[10000, 10100\) .* overlap"),
        ({"num_levels": None}, "overlap"),
        ({"num_levels": None, "test_num_levels": None, "start_level": 3}, "start_level=3 has no effect"),
        ({"num_levels": None, "test_num_levels": None, "shift": {"kind": "window"}}, "no effect with num_levels=null"),
        ({"test_start_level": 2**31 - 50}, "test_start_level: levels .* reach beyond ProcGen's last, 2147483646"),
        ({"distribution_mode": "memory"}, "coinrun has no distribution_mode memory; games that have: caveflyer, "),
        ({"game": "maze", "max_episode_steps": 250}, "ProcGen ends maze itself after 500 frames; give at most 249"),
        ({"max_episode_steps": 1000, "action_repeat": 1}, "after 1000 frames; give at most 999"),
        ({"shift": {"tiles": 12}}, r"tiles=12 does not divide the image's 64 pixels: choose one of \[2, 4, 8, 16"),
        ({"shift": {"kind": "game"}}, "kind=game needs the other games"),
        ({"shift": {"kind": "game", "games": ["maze"]}, "max_episode_steps": 300}, "maze itself after 500"),
        ({"shift": {"kind": "game", "games": ["maze"]}, "distribution_mode": "memory"}, "coinrun has no"),
        (
            {"shift": {"kind": "difficulty"}, "distribution_mode": "extreme", "game": "chaser"},
            "difficulty goes between easy and hard levels; distribution_mode=extreme",
        ),
        (
            {"shift": {"kind": "window"}, "start_level": 1000, "test_start_level": 0},
            "held-out levels from 0 on would be those of earlier tasks",
        ),
        ({"shift": {"kind": "shuffle"}}, "'actions'"),
        ({"levels": 3}, "levels"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ProcgenOptions(**options)


def test_levels_that_grow_into_the_held_out_ones_are_refused():
    options = ProcgenOptions(shift={"kind": "expand"})
    options.check_tasks(100)  # [0, 10000)
    with pytest.raises(ValueError, match=r"\[0, 10100\) and held-out levels \[10000, 20100\) of task 100 overlap"):
        options.check_tasks(101)


@pytest.mark.parametrize("actions", [[0], [0, 9], [-1, 0], [[0, 1]]])
def test_bad_actions_are_refused(actions):
    with pytest.raises(ValueError, match="actions must be 2 numbers from 0 to 8"):
        procgen().step(np.array(actions))


def test_a_seed_for_each_copy_is_refused():
    with pytest.raises(ValueError, match="give a single number"):
        procgen().reset(seed=[1, 2])


def test_without_procgen_the_options_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "procgen", None)
    with pytest.raises(ValidationError, match=r"pip install 'lop_ray\[procgen\]'"):
        ProcgenOptions()


def test_the_module_needs_no_procgen():
    code = "import sys, lop_ray.problems.procgen; assert not {'procgen', 'gym3', 'gym', 'cffi'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_procgen_says_nothing():
    code = "from lop_ray.problems.procgen import *; VectorProcgen(ProcgenOptions(num_envs=1)).reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == done.stderr == ""
