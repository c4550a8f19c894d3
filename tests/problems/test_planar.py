import pickle
import warnings
from functools import cache

import gymnasium
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from lop_ray.problems import make_problem
from lop_ray.problems.planar import (
    HopperOptions,
    SlipperyHopperOptions,
    SlipperyWalker2dOptions,
    VectorPlanar,
    Walker2dOptions,
)

NAMES = {"Hopper-v4", "Hopper-v5", "Walker2d-v4", "Walker2d-v5"}
OPTIONS = {"Hopper": HopperOptions, "Walker2d": Walker2dOptions}
SLIPPERY = {"Hopper": SlipperyHopperOptions, "Walker2d": SlipperyWalker2dOptions}
ACTUATORS = {"Hopper": 3, "Walker2d": 6}
SEEDS = [3, 12]
LIMIT = 40  # short, so that 1,000 steps hold several time limits


def gymnasium_env(name, **kwargs):
    with warnings.catch_warnings():
        # v4 is the older version on purpose: it has the formulas of v3, which the paper trains on.
        warnings.filterwarnings("ignore", message=".*-v4 is out of date", category=DeprecationWarning)
        return gymnasium.make(name, disable_env_checker=True, **kwargs)


def planar(name, num_threads=1, dtype=np.float64, classes=OPTIONS, **options):
    body, version = name.split("-")
    return VectorPlanar(classes[body](version=version, **options), num_threads=num_threads, dtype=dtype)


def random_actions(name, steps, num_envs, seed=0):
    """Copies with even numbers hold on for long; those with odd ones go far outside [-1, 1] and fall early."""
    actuators = ACTUATORS[name.split("-")[0]]
    actions = np.random.default_rng(seed).standard_normal((steps, num_envs, actuators))
    actions *= np.where(np.arange(num_envs) % 2, 3.0, 0.05)[:, None]
    return actions.astype(np.float32)


def gymnasium_step(env, action):
    """Reward, terminated, truncated, last observation, and the next one (a new episode's first if it ended)."""
    last, reward, terminated, truncated, _ = env.step(action)
    return reward, terminated, truncated, last, env.reset()[0] if terminated or truncated else last


@cache
def gymnasium_run(name, k):
    """First observation and 1,000 steps of gymnasium's copy k."""
    env = gymnasium_env(name, max_episode_steps=LIMIT)
    first, _ = env.reset(seed=SEEDS[k])
    return first, [gymnasium_step(env, action) for action in random_actions(name, 1000, 2)[:, k]]


def assert_equal_to_gymnasium(env, name, num_envs):
    firsts, runs = zip(*(gymnasium_run(name, k) for k in range(num_envs)), strict=True)
    assert_array_equal(env.reset(seed=SEEDS[:num_envs])[0], np.array(firsts))
    for t, actions in enumerate(random_actions(name, 1000, 2)[:, :num_envs]):
        rewards, terminated, truncated, last, new = (np.array(x) for x in zip(*(run[t] for run in runs), strict=True))
        obs, reward, term, trunc, infos = env.step(actions)
        assert_array_equal(obs, new)
        assert_array_equal(term, terminated)
        assert_array_equal(trunc, truncated)
        assert_allclose(reward, rewards, rtol=0, atol=1e-6)
        assert bool(infos) == (term | trunc).any()
        if infos:
            assert_array_equal(infos["_final_obs"], term | trunc)
            assert_array_equal(infos["final_obs"], last)
    env.close()


@pytest.mark.parametrize(("num_envs", "num_threads"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_equal_to_gymnasium_over_1000_steps_and_resets(name, num_envs, num_threads):
    env = planar(name, num_threads, num_envs=num_envs, max_episode_steps=LIMIT)
    assert_equal_to_gymnasium(env, name, num_envs)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_slippery_kinds_at_friction_1_are_gymnasiums(name):
    env = planar(name, 2, classes=SLIPPERY, num_envs=2, max_episode_steps=LIMIT, friction={"values": [1.0]})
    assert_equal_to_gymnasium(env, name, 2)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_reference_runs_hold_falls_and_time_limits(name):
    holds, falls = (gymnasium_run(name, k)[1] for k in range(2))
    assert sum(step[2] for step in holds) >= 5
    assert sum(step[1] for step in falls) >= 5


@pytest.mark.parametrize("name", ["Hopper-v4", "Walker2d-v5"])
def test_friction_multiplies_that_of_every_geom(name):
    theirs = gymnasium_env(name)
    theirs.unwrapped.model.geom_friction[:, 0] *= 0.05
    env, default = (
        planar(name, classes=c, **o) for c, o in ((SLIPPERY, {"friction": {"values": [0.05]}}), (OPTIONS, {}))
    )
    assert_array_equal(env.reset(seed=[3])[0][0], theirs.reset(seed=3)[0])
    default.reset(seed=[3])
    differs = False
    for actions in random_actions(name, 150, 2)[:, 1:]:
        obs = env.step(actions)[0]
        assert_array_equal(obs[0], gymnasium_step(theirs, actions[0])[4])
        differs |= bool(np.abs(obs - default.step(actions)[0]).max() > 0.01)
    assert differs


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v4"])
def test_reward_weights_are_gymnasiums(name):
    weights = {"forward_reward_weight": 3.0, "healthy_reward": 0.7, "ctrl_cost_weight": 0.2, "reset_noise_scale": 0.01}
    env, theirs = planar(name, **weights), gymnasium_env(name, **weights)
    assert_array_equal(env.reset(seed=[5])[0][0], theirs.reset(seed=5)[0])
    for actions in random_actions(name, 100, 2)[:, 1:]:
        reward, *_ = gymnasium_step(theirs, actions[0])
        assert_allclose(env.step(actions)[1], reward, rtol=0, atol=1e-5)


def spoil_next_step(env, monkeypatch, field, column, value):
    """Writes a value into the last copy's state after its physics has stepped."""
    step = env._physics.step

    def spoilt(actions):
        step(actions)
        getattr(env._physics, field)[-1, column] = value

    monkeypatch.setattr(env._physics, "step", spoilt)


# What gymnasium's `is_healthy` says of each: bounds are strict, x is never looked at, and the Walker's velocities
# and joints are free.
BOUNDS = [
    ("Hopper-v4", "qpos", 1, 0.7, False),
    ("Hopper-v4", "qpos", 1, np.nextafter(0.7, 1), True),
    ("Hopper-v4", "qpos", 1, 50.0, True),
    ("Hopper-v4", "qpos", 1, np.nan, False),
    ("Hopper-v4", "qpos", 2, -0.2, False),
    ("Hopper-v4", "qpos", 2, np.nextafter(0.2, 0), True),
    ("Hopper-v4", "qpos", 2, np.nan, False),
    ("Hopper-v4", "qpos", 0, np.nan, True),
    ("Hopper-v4", "qpos", 5, 100.0, False),
    ("Hopper-v4", "qvel", 0, np.nextafter(100, 0), True),
    ("Hopper-v4", "qvel", 5, -100.0, False),
    ("Hopper-v4", "qvel", 3, np.nan, False),
    ("Walker2d-v4", "qpos", 1, 0.8, False),
    ("Walker2d-v4", "qpos", 1, np.nextafter(2, 0), True),
    ("Walker2d-v4", "qpos", 1, 2.0, False),
    ("Walker2d-v4", "qpos", 2, 1.0, False),
    ("Walker2d-v4", "qpos", 2, np.nextafter(-1, 0), True),
    ("Walker2d-v4", "qvel", 4, 1e5, True),
    ("Walker2d-v4", "qvel", 4, np.nan, True),
]


@pytest.mark.parametrize(("name", "field", "column", "value", "healthy"), BOUNDS)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_who_is_healthy(name, field, column, value, healthy, num_envs, monkeypatch):
    env, theirs = planar(name, num_envs=num_envs), gymnasium_env(name).unwrapped
    theirs.reset(seed=0)
    qpos, qvel = theirs.init_qpos.copy(), theirs.init_qvel.copy()
    {"qpos": qpos, "qvel": qvel}[field][column] = value
    theirs.data.qpos[:], theirs.data.qvel[:] = qpos, qvel
    assert bool(theirs.is_healthy) == healthy
    env.reset(seed=0)
    spoil_next_step(env, monkeypatch, field, column, value)
    terminated = env.step(np.zeros(env.action_space.shape, np.float32))[2]
    assert_array_equal(terminated, (np.arange(num_envs) == num_envs - 1) & (not healthy))


def test_velocities_are_observed_clipped_to_10(monkeypatch):
    env = planar("Walker2d-v4")
    env.reset(seed=0)
    spoil_next_step(env, monkeypatch, "qvel", 4, -70.0)
    assert env.step(np.zeros((1, 6), np.float32))[0][0, 8 + 4] == -10


@pytest.mark.parametrize("body", OPTIONS)
@pytest.mark.parametrize(("num_envs", "num_threads"), [(1, 1), (3, 2)])
def test_restored_state_has_the_same_future_bit_for_bit(body, num_envs, num_threads):
    name, options = f"{body}-v4", {"num_envs": num_envs, "max_episode_steps": 30, "schedule": {"every_steps": 100}}
    env = planar(name, num_threads, classes=SLIPPERY, **options)
    env.reset(seed=7)
    before, after = random_actions(name, 50, num_envs, seed=1), random_actions(name, 80, num_envs, seed=2)
    for actions in before:
        obs = env.step(actions)[0]
    saved = pickle.dumps(env.get_state())
    future = [(*env.step(actions), env.tasks.tolist()) for actions in after]
    assert future[-1][5] != pickle.loads(saved)["schedule"]["tasks"].tolist()  # across changes of task
    env.close()

    env = planar(name, num_threads, classes=SLIPPERY, **options)
    assert_array_equal(env.set_state(pickle.loads(saved)), obs)
    for actions, step in zip(after, future, strict=True):
        for new, old in zip(env.step(actions)[:4], step[:4], strict=True):
            assert_array_equal(new, old)
        assert env.tasks.tolist() == step[5]
    env.close()


@pytest.mark.parametrize(("problem", "observations", "actuators"), [("hopper", 11, 3), ("walker2d", 17, 6)])
def test_defaults_are_those_of_the_paper(problem, observations, actuators):
    env = make_problem(problem, {"num_envs": 2})
    assert env.single_observation_space.shape == (observations,)
    assert env.single_observation_space.dtype == np.float32
    assert env.action_space.shape == (2, actuators)
    assert (env.action_space.low == -1).all()
    assert (env.action_space.high == 1).all()
    assert (env.options.version, env.options.clip_actions, env.options.max_episode_steps) == ("v4", False, 1000)
    assert env.tasks.tolist() == [0, 0]


def test_bad_options_are_refused():
    with pytest.raises(ValidationError, match="'v4' or 'v5'"):
        HopperOptions(version="v3")
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Walker2dOptions(reset_noise_scale=-1)
