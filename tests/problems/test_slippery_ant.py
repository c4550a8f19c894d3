import pickle
import time

import gymnasium
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lop_ray.problems import make_problem
from lop_ray.problems.ant import AntOptions, SlipperyAntOptions, VectorAnt


def slippery(num_threads=1, task_seed=0, trial_copies=None, dtype=np.float64, **options):
    return VectorAnt(
        SlipperyAntOptions(**options),
        num_threads=num_threads,
        dtype=dtype,
        task_seed=task_seed,
        trial_copies=trial_copies,
    )


def random_actions(steps, num_envs, seed=0, scale=0.3):
    return (scale * np.random.default_rng(seed).standard_normal((steps, num_envs, 8))).astype(np.float32)


def friction_of(env):
    """[N], after checking that all geoms of a copy share it."""
    frictions = env.get_state()["physics"]["slide_friction"]
    assert frictions.shape[1] == 14  # floor, torso and legs
    assert (frictions == frictions[:, :1]).all()
    return frictions[:, 0].tolist()


def test_in_gymnasium_all_geoms_of_the_ant_have_friction_1():
    model = gymnasium.make("Ant-v5").unwrapped.model
    assert (model.geom_friction[:, 0] == 1).all()


def test_at_friction_1_equal_to_ant_over_1000_steps_and_resets():
    options = {"num_envs": 2, "max_episode_steps": 150}
    plain = VectorAnt(AntOptions(**options), dtype=np.float64)
    changing = slippery(2, **options, friction={"values": [1.0] * 20}, schedule={"every_steps": 150})
    assert_array_equal(changing.reset(seed=[3, 12])[0], plain.reset(seed=[3, 12])[0])
    for actions in random_actions(1000, 2, scale=1.0):
        for new, old in zip(changing.step(actions)[:4], plain.step(actions)[:4], strict=True):
            assert_array_equal(new, old)
    assert (changing.tasks >= 5).all()
    changing.close()


@pytest.mark.parametrize("copy", [0, 1])
def test_a_low_friction_slips_and_one_of_the_floor_alone_does_not(copy):
    def slide(env):
        """Metres that an Ant thrown along +x slides."""
        physics = env._physics
        qvel = np.tile(physics.initial_qvel, (2, 1))
        qvel[:, 0] = 3.0
        physics.reset([0, 1], np.tile(physics.initial_qpos, (2, 1)), qvel)
        for _ in range(60):
            physics.step(np.zeros((2, 8)))
        return physics.qpos[copy, 0]

    usual, icy, floor_only = (slippery(num_envs=2, friction={"values": [f]}) for f in (1.0, 0.02, 1.0))
    for model in floor_only._physics._models:
        model.geom_friction[0, 0] = 0.02  # the edit that changes nothing: a contact has the larger of two frictions
    assert slide(icy) > 1.5 * slide(usual) > 0
    assert slide(floor_only) == slide(usual)


def test_the_first_task_has_a_drawn_friction_from_its_first_step_on():
    env = slippery(task_seed=4)
    first = friction_of(env)[0]
    assert 0.02 <= first <= 2
    assert first != 1
    fixed = slippery(friction={"values": [first]})
    assert_array_equal(env.reset(seed=0)[0], fixed.reset(seed=0)[0])
    for actions in random_actions(40, 1):
        assert_array_equal(env.step(actions)[0], fixed.step(actions)[0])


def test_friction_follows_the_tasks_at_episode_ends():
    values = [0.5, 0.1, 2.0]
    env = slippery(num_envs=2, max_episode_steps=6, friction={"values": values}, schedule={"every_steps": 20})
    env.reset(seed=0)
    for t in range(40):
        tasks = env.tasks
        assert friction_of(env) == [values[task] for task in tasks]
        infos = env.step(np.zeros((2, 8), np.float32))[4]
        # Episodes end at 6, 12, ...; changes come more than 20 trial steps, that is 10 steps, after the last one.
        assert env.tasks.tolist() == [min(2, (t + 1) // 12)] * 2
        assert (env.tasks is tasks) == (not infos or (t + 1) % 12 != 0 or t + 1 > 24)


def test_friction_changes_at_once_within_episodes():
    values = [0.5, 0.1, 2.0]
    env = slippery(num_envs=2, friction={"values": values}, schedule={"every_steps": 10, "at": "once"})
    env.reset(seed=0)
    for t in range(20):
        assert friction_of(env) == [values[min(2, t // 5)]] * 2
        assert not env.step(np.zeros((2, 8), np.float32))[4]


def test_gradual_change_moves_friction_on_a_logarithmic_scale():
    env = slippery(friction={"values": [0.02, 2.0]}, schedule={"every_steps": 10, "at": "once", "window_steps": 4})
    env.reset(seed=0)
    seen = []
    for _ in range(16):
        seen += friction_of(env)
        env.step(np.zeros((1, 8), np.float32))
    quarter = 100**0.25
    expected = [0.02] * 11 + [0.02 * quarter, 0.2, 0.2 * quarter, 2.0, 2.0]
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


def test_one_trial_of_four_copies_is_two_runners_of_two():
    schedule = {"every_steps": 60, "at": "once", "window_steps": 24}
    whole = slippery(num_envs=4, schedule=schedule, task_seed=9)
    parts = [slippery(num_envs=2, schedule=schedule, task_seed=9, trial_copies=4) for _ in range(2)]
    for env in (whole, *parts):
        env.reset(seed=0)
    for _ in range(40):
        assert friction_of(whole) == [friction for part in parts for friction in friction_of(part)]
        for env in (whole, *parts):
            env.step(np.zeros(env.action_space.shape, np.float32))
    assert whole.tasks.tolist() == [2] * 4


@pytest.mark.parametrize(("num_envs", "num_threads"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("schedule", [{}, {"at": "once"}, {"at": "once", "window_steps": 40}, {"window_steps": 60}])
def test_restored_state_has_the_same_future_bit_for_bit(num_envs, num_threads, schedule):
    options = {"num_envs": num_envs, "max_episode_steps": 25, "schedule": {"every_steps": 60, **schedule}}
    env = slippery(num_threads, task_seed=1, **options)
    env.reset(seed=7)
    for actions in random_actions(75, num_envs, seed=1):
        obs = env.step(actions)[0]
    saved = pickle.dumps(env.get_state())
    after = random_actions(130, num_envs, seed=2)
    future = [(*env.step(actions)[:4], env.tasks, friction_of(env)) for actions in after]
    assert len({str(step[5]) for step in future}) > 1
    env.close()

    env = slippery(num_threads, task_seed=1, **options)
    assert_array_equal(env.set_state(pickle.loads(saved)), obs)
    for actions, step in zip(after, future, strict=True):
        for new, old in zip((*env.step(actions)[:4], env.tasks, friction_of(env)), step, strict=True):
            assert_array_equal(new, old)
    env.close()


def test_a_seed_begins_the_tasks_anew_and_no_seed_goes_on():
    env = slippery(max_episode_steps=5, schedule={"every_steps": 4})
    first = friction_of(env)
    env.reset(seed=0)
    for _ in range(12):
        env.step(np.zeros((1, 8), np.float32))
    assert env.tasks.tolist() == [2]
    env.reset()
    assert env.tasks.tolist() == [2]
    env.reset(seed=0)
    assert env.tasks.tolist() == [0]
    assert friction_of(env) == first


def test_a_change_of_task_costs_less_than_50_ms():
    env = make_problem("slippery_ant", {"num_envs": 8, "schedule": {"every_steps": 80, "at": "once"}})
    env.reset(seed=0)
    actions = np.zeros((8, 8), np.float32)
    took = []
    for _ in range(100):
        tasks, start = env.tasks, time.perf_counter()
        env.step(actions)
        if env.tasks is not tasks:
            took.append(time.perf_counter() - start)
    assert len(took) == 10
    assert min(took) < 0.05  # physics included; the least of ten, as the machine may be busy
