import gc
import pickle
import threading
import warnings
from functools import cache

import gymnasium
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from lop_ray.problems.ant import AntOptions, VectorAnt
from lop_ray.seeding import derive_seed

GYMNASIUM = {
    27: ("Ant-v4", {}),
    105: ("Ant-v5", {}),
    111: ("Ant-v4", {"use_contact_forces": True}),
}
SEEDS = [3, 12]
LIMIT = 150  # short, so that 1,000 steps hold several time limits


def gymnasium_ant(observation, **kwargs):
    name, more = GYMNASIUM[observation]
    with warnings.catch_warnings():
        # Ant-v4 is the older version on purpose: it is the one that the papers' 27 and 111 numbers come from.
        warnings.filterwarnings("ignore", message=".*Ant-v4 is out of date", category=DeprecationWarning)
        return gymnasium.make(name, disable_env_checker=True, **more, **kwargs)


def ant(num_threads=1, dtype=np.float64, **options):
    return VectorAnt(AntOptions(**options), num_threads=num_threads, dtype=dtype)


def random_actions(steps, num_envs, seed=0):
    """Copies with even numbers stand for long; those with odd ones go far outside [-1, 1] and fall early."""
    actions = np.random.default_rng(seed).standard_normal((steps, num_envs, 8))
    actions *= np.where(np.arange(num_envs) % 2, 2.0, 0.2)[:, None]
    return actions.astype(np.float32)


def gymnasium_step(env, action):
    """Reward, terminated, truncated, last observation, and the next one (a new episode's first if it ended)."""
    last, reward, terminated, truncated, _ = env.step(action)
    return reward, terminated, truncated, last, env.reset()[0] if terminated or truncated else last


@cache
def gymnasium_run(observation, k):
    """First observation and 1,000 steps of gymnasium's copy k."""
    env = gymnasium_ant(observation, max_episode_steps=LIMIT)
    first, _ = env.reset(seed=SEEDS[k])
    return first, [gymnasium_step(env, action) for action in random_actions(1000, 2)[:, k]]


@pytest.mark.parametrize(("num_envs", "num_threads"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("observation", GYMNASIUM)
def test_equal_to_gymnasium_over_1000_steps_and_resets(observation, num_envs, num_threads):
    firsts, runs = zip(*(gymnasium_run(observation, k) for k in range(num_envs)), strict=True)
    env = ant(num_threads, observation=observation, num_envs=num_envs, max_episode_steps=LIMIT)
    obs, infos = env.reset(seed=SEEDS[:num_envs])
    assert obs.shape == (num_envs, observation)
    assert_array_equal(obs, np.array(firsts))
    assert infos == {}
    for t, actions in enumerate(random_actions(1000, 2)[:, :num_envs]):
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


def test_the_reference_runs_hold_deaths_and_time_limits():
    stands, falls = (gymnasium_run(111, k)[1] for k in range(2))
    assert sum(step[2] for step in stands) >= 5
    assert sum(step[1] for step in falls) >= 5


def test_float32_observations_are_the_rounded_float64_ones():
    single, double = (ant(dtype=dtype, num_envs=2) for dtype in (np.float32, np.float64))
    assert single.reset(seed=1)[0].dtype == np.float32 == single.observation_space.dtype
    double.reset(seed=1)
    for actions in random_actions(60, 2):
        a, b = single.step(actions), double.step(actions)
        assert_array_equal(a[0], b[0].astype(np.float32))
        assert_array_equal(a[1], b[1])


def test_reward_weights_are_gymnasiums():
    weights = {"forward_reward_weight": 3.0, "healthy_reward": 0.7, "ctrl_cost_weight": 0.2, "contact_cost_weight": 0.1}
    env, theirs = (
        ant(observation=105, reset_noise_scale=0.2, **weights),
        gymnasium_ant(105, reset_noise_scale=0.2, **weights),
    )
    assert_array_equal(env.reset(seed=[5])[0][0], theirs.reset(seed=5)[0])
    for actions in random_actions(100, 2)[:, 1:]:
        reward, *_ = gymnasium_step(theirs, actions[0])
        assert_allclose(env.step(actions)[1], reward, rtol=0, atol=1e-6)


def test_clipped_actions_act_and_cost_as_if_they_had_been_in_range():
    raw, clipping = ant(num_envs=2), ant(num_envs=2, clip_actions=True)
    for env in raw, clipping:
        env.reset(seed=0)
    actions = np.full((2, 8), [[3.0], [-0.5]], np.float32)
    obs, reward, *_ = raw.step(actions)
    clipped_obs, clipped_reward, *_ = clipping.step(actions)
    assert_array_equal(clipped_obs, obs)  # the actuators clamp in any case
    # Control costs 0.5 * 8 * 3^2 = 36 and 0.5 * 8 * 1^2 = 4; the second copy is in range.
    assert_allclose(clipped_reward - reward, [36 - 4, 0], atol=1e-9)


def test_time_limit_truncates_and_starts_again():
    env = ant(num_envs=2, max_episode_steps=4)
    env.reset(seed=0)
    actions = np.zeros((2, 8), np.float32)
    ends = []
    for _ in range(9):
        obs, _, terminated, truncated, infos = env.step(actions)
        assert not terminated.any()
        ends.append(truncated.tolist())
        if truncated.any():
            assert (obs != infos["final_obs"]).any(axis=1).all()
    assert ends == ([[False, False]] * 3 + [[True, True]]) * 2 + [[False, False]]


def test_time_limit_is_gymnasiums_by_default():
    assert AntOptions().max_episode_steps == gymnasium.spec("Ant-v5").max_episode_steps == 1000


@pytest.mark.parametrize(("num_envs", "num_threads"), [(1, 1), (3, 2)])
def test_restored_state_has_the_same_future_bit_for_bit(num_envs, num_threads):
    options = {"num_envs": num_envs, "max_episode_steps": 60}
    env = ant(num_threads, **options)
    env.reset(seed=7)
    env.set_friction(np.linspace(0.1, 1.5, num_envs))
    before, after = random_actions(50, num_envs, seed=1), random_actions(80, num_envs, seed=2)
    for actions in before:
        obs = env.step(actions)[0]
    saved = pickle.dumps(env.get_state())
    future = [env.step(actions) for actions in after]
    assert sum(bool(step[4]) for step in future) >= 2  # across the ends of episodes

    env.close()
    env = ant(num_threads, **options)
    assert_array_equal(env.set_state(pickle.loads(saved)), obs)
    for actions, step in zip(after, future, strict=True):
        for new, old in zip(env.step(actions)[:4], step[:4], strict=True):
            assert_array_equal(new, old)
    env.close()


def test_saved_state_does_not_follow_the_environment():
    env = ant(num_envs=2)
    env.reset(seed=7)
    state = env.get_state()
    first = pickle.dumps(state)
    for actions in random_actions(30, 2):
        env.step(actions)
    assert pickle.dumps(state) == first


def test_state_of_another_number_of_copies_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, .*needs \(3, .*num_envs"):
        ant(num_envs=3).set_state(ant(num_envs=2).get_state())


def test_friction_of_one_copy_is_that_of_all_geoms_in_gymnasium():
    theirs = [gymnasium_ant(111) for _ in SEEDS]
    theirs[1].unwrapped.model.geom_friction[:, 0] = 0.05
    env, default = ant(num_envs=2), ant(num_envs=2)
    env.set_friction(0.05, env_ids=[1])
    for e in env, default:
        e.reset(seed=SEEDS)
    for e, seed in zip(theirs, SEEDS, strict=True):
        e.reset(seed=seed)
    for actions in random_actions(150, 2):
        steps = [gymnasium_step(e, action) for e, action in zip(theirs, actions, strict=True)]
        obs, other = env.step(actions)[0], default.step(actions)[0]
        assert_array_equal(obs, [step[4] for step in steps])
        assert_array_equal(obs[0], other[0])
    assert np.abs(obs[1] - other[1]).max() > 0.01
    assert_array_equal(env.get_state()["physics"]["slide_friction"], np.full((2, 14), [[1.0], [0.05]]))


@pytest.mark.parametrize("values", [-0.1, np.nan, [0.5], [[0.5, 0.5]]])
def test_bad_friction_is_refused(values):
    with pytest.raises(ValueError, match="friction"):
        ant(num_envs=2).set_friction(values)


def test_copy_k_has_the_stream_of_the_trials_seed():
    one, three = ant(num_envs=1), ant(num_envs=3)
    obs = three.reset(seed=5)[0]
    assert_array_equal(one.reset(seed=5)[0], obs[:1])
    assert len({tuple(row) for row in obs}) == 3
    for k in range(3):
        assert_array_equal(gymnasium_ant(111).reset(seed=derive_seed(5, "env", k))[0], obs[k])
    assert (three.reset(seed=6)[0] != obs).any(axis=1).all()
    assert_array_equal(three.reset(seed=np.int64(5))[0], obs)


def test_reset_without_a_seed_goes_on_with_the_stream():
    env, theirs = ant(), gymnasium_ant(111)
    env.reset(seed=[5])
    theirs.reset(seed=5)
    assert_array_equal(env.reset()[0][0], theirs.reset()[0])


def test_wrong_number_of_seeds_is_refused():
    with pytest.raises(ValueError, match="3 seeds for 2 copies"):
        ant(num_envs=2).reset(seed=[1, 2, 3])


@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 7)])
def test_actions_of_a_wrong_shape_are_refused(shape):
    env = ant(num_envs=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"copies need \(2, 8\)"):
        env.step(np.zeros(shape, np.float32))


@pytest.mark.parametrize("what", ["NaN action", "unstable physics"])
def test_divergence_is_gymnasiums_and_leaves_no_log_file(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo would write MUJOCO_LOG.TXT
    env, theirs = ant(), gymnasium_ant(111)
    env.reset(seed=[5])
    theirs.reset(seed=5)
    actions = random_actions(12, 1)
    if what == "NaN action":
        actions[3, 0, 2] = np.nan
    else:  # MuJoCo finds huge accelerations and puts the copy back to its initial state
        qpos, qvel = theirs.unwrapped.init_qpos, np.full(14, 1e9)
        theirs.unwrapped.set_state(qpos, qvel)
        env._physics.reset([0], qpos[None], qvel[None])
    for t, action in enumerate(actions):
        reward, terminated, _, last, _ = gymnasium_step(theirs, action[0])
        obs, rewards, term, _, _ = env.step(action)
        assert_array_equal(obs[0], last)
        assert_array_equal(term, [terminated])
        assert_allclose(rewards, [reward], rtol=1e-12, atol=1e-6)
        assert np.isnan(reward) == (what == "NaN action" and t == 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "column"), [("qpos", 0), ("qpos", 1), ("qpos", 2), ("qpos", 14), ("qvel", 0), ("qvel", 13)]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_state_that_is_not_finite_terminates(field, column, value, num_envs, monkeypatch):
    env = ant(num_envs=num_envs)
    env.reset(seed=0)
    spoil_next_step(env, monkeypatch, field, column, value)
    obs, _, terminated, truncated, infos = env.step(np.zeros((num_envs, 8), np.float32))
    assert_array_equal(terminated, np.arange(num_envs) == num_envs - 1)
    assert not truncated.any()
    if (field, column) not in [("qpos", 0), ("qpos", 1)]:  # which are not observed
        assert not np.isfinite(infos["final_obs"][-1]).all()
    assert np.isfinite(obs).all()


@pytest.mark.parametrize(
    ("z", "healthy"), [(0.2, True), (np.nextafter(0.2, 0), False), (1.0, True), (np.nextafter(1.0, 2), False)]
)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_bounds_of_the_healthy_height_belong_to_it(z, healthy, num_envs, monkeypatch):
    env = ant(num_envs=num_envs)
    env.reset(seed=0)
    spoil_next_step(env, monkeypatch, "qpos", 2, z)
    terminated = env.step(np.zeros((num_envs, 8), np.float32))[2]
    assert_array_equal(terminated, (np.arange(num_envs) == num_envs - 1) & (not healthy))


def spoil_next_step(env, monkeypatch, field, column, value):
    """Writes a value into the last copy's state after its physics has stepped."""
    step = env._physics.step

    def spoilt(actions):
        step(actions)
        getattr(env._physics, field)[-1, column] = value

    monkeypatch.setattr(env._physics, "step", spoilt)


def test_threads_end_with_the_last_reference():
    env = ant(num_threads=2, num_envs=2)
    env.reset(seed=0)
    env.step(np.zeros((2, 8), np.float32))
    assert any(thread.name.startswith("physics-") for thread in threading.enumerate())
    del env
    gc.collect()
    assert not any(thread.name.startswith("physics-") for thread in threading.enumerate())


def test_tasks_are_all_the_fixed_one():
    tasks = ant(num_envs=2).tasks
    assert tasks.dtype == np.int32
    assert tasks.tolist() == [0, 0]


def test_defaults_are_those_of_the_paper_and_of_gymnasium():
    options = AntOptions()
    assert (options.observation, options.num_envs, options.clip_actions) == (111, 1, False)
    space = ant(num_envs=2).action_space
    assert space.shape == (2, 8)
    assert (space.low == -1).all()
    assert (space.high == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": 29}, "27, 105 or 111"),
        ({"num_envs": 0}, "greater than or equal to 1"),
        ({"max_episode_steps": 0}, "greater than or equal to 1"),
        ({"reset_noise_scale": -0.1}, "greater than or equal to 0"),
        ({"healthy_reward": float("nan")}, "finite"),
        ({"frictoin": 1.0}, "frictoin"),
        ({"observation": 27, "contact_cost_weight": 1e-3}, "no effect with observation=27"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        AntOptions(**options)
