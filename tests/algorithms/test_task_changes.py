"""Promises of PPO on a problem that changes: rows, interventions, remote env runners, resumption."""

import numpy as np
import pytest
import torch

from lop_ray.algorithms import make_training
from lop_ray.algorithms.ppo.training import PPOTraining
from lop_ray.config.grid import load_grid, parse_assignment
from lop_ray.interventions.base import Interventions
from lop_ray.sweep import make_trials
from tests.algorithms.small import assert_same_weights, train, without_times

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SMALL = (
    "slippery_ant.num_envs=4",
    "slippery_ant.max_episode_steps=40",
    "slippery_ant.schedule.every_steps=600",
    "ppo.batch_size=256",
    "ppo.minibatch_size=64",
    "ppo.num_epochs=2",
    "total_steps=4096",
)
ONCE = "slippery_ant.schedule.at=once"


def trial_of(*flags, variant="cbp", seed=0):
    grid = load_grid("slippery_ant_grid", [parse_assignment(flag) for flag in (*SMALL, *flags)])
    return make_trials(grid, [variant], [seed])[0]


@pytest.fixture
def told(monkeypatch):
    """Tasks that interventions are told of, in order."""
    tasks = []
    monkeypatch.setattr(Interventions, "at_task_change", lambda self, task: tasks.append(task))
    return tasks


@pytest.mark.parametrize("flags", [(), (ONCE,), (ONCE, "slippery_ant.schedule.window_steps=400")])
def test_half_and_half_equals_straight_bit_for_bit(flags, told):
    trial = trial_of(*flags)
    straight, end = train(trial, 8)
    told_straight = told.copy()
    told.clear()
    first, middle = train(trial, 3)
    second, resumed_end = train(trial, 5, state=middle)
    assert repr(straight) == repr(first + second)
    assert_same_weights(end, resumed_end)
    # 8 * 256 steps, a change every 600: three changes (the first ends of episodes after them come at most 40 * 4 later)
    assert told == told_straight == [1, 2, 3]


def test_tasks_of_rows_are_those_of_the_batchs_last_step():
    rows, _ = train(trial_of(ONCE), 8)
    # Task j lasts from step 600 j on; update u ends with the step that begins at 256 u - 4.
    expected = [(256 * u - 4) // 600 for u in range(1, 9)]
    assert expected == [0, 0, 1, 1, 2, 2, 2, 3]
    assert [each["updates"][0]["task"] for each in rows] == expected
    for each, task in zip(rows, expected, strict=True):
        assert {row["task"] for row in each["layers"]} == {task}
        for episode in each["episodes"]:  # env_steps: those made when the episode ended
            assert episode["task"] == (episode["env_steps"] - 4) // 600


def test_the_fragment_says_the_task_of_every_step():
    training = make_training(trial_of(ONCE), [])
    runner = training.algorithm.env_runner
    fragments = [runner.sample()[0] for _ in range(3)]
    tasks = np.concatenate([fragment.tasks for fragment in fragments])
    assert tasks.dtype == np.int32
    np.testing.assert_array_equal(tasks, np.repeat((np.arange(192) * 4 // 600)[:, None], 4, axis=1))
    assert fragments[-1].task.tolist() == [1] * 4
    training.close()


def test_interventions_act_after_the_update_and_the_next_sampling_has_their_weights(monkeypatch):
    def zero_head(self, task):
        heads.append(training.learner.gradient_steps)
        with torch.no_grad():
            list(training.learner.actor_critic.policy.parameters())[-2].zero_()

    heads = []
    monkeypatch.setattr(Interventions, "at_task_change", zero_head)
    training: PPOTraining = make_training(trial_of(ONCE), [])
    for _ in range(3):
        training.update()
    assert heads == [3 * 2 * 4]  # once, after the last gradient step of the third update
    in_runner = list(training.algorithm.env_runner.module.policy.parameters())[-2]
    assert not in_runner.any()
    training.close()


def test_remote_env_runners_change_together_and_give_the_same_tasks(told):
    trial = trial_of(ONCE, "resources.env_runners=2")
    rows, end = train(trial, 5)
    assert [each["updates"][0]["task"] for each in rows] == [(256 * u - 4) // 600 for u in range(1, 6)]
    assert told == [1, 2]
    told.clear()
    first, middle = train(trial, 3)
    second, resumed_end = train(trial, 2, state=middle)
    assert repr(rows) == repr(first + second)
    assert_same_weights(end, resumed_end)
    assert told == [1, 2]


def test_variants_of_a_seed_see_the_same_frictions_and_seeds_others():
    def frictions(variant, seed):
        training = make_training(trial_of(ONCE, variant=variant, seed=seed), [])
        seen = []
        for _ in range(3):
            training.update()
            seen.append(training.algorithm.env_runner.env.unwrapped.get_state()["physics"]["slide_friction"])
        training.close()
        return np.stack(seen)

    std = frictions("std", 0)
    assert (std == std[:, :1, :1]).all()
    assert std[0, 0, 0] != std[2, 0, 0]
    np.testing.assert_array_equal(std, frictions("ns", 0))
    assert (std != frictions("std", 1)).all()


@pytest.mark.parametrize(("grid", "problem"), [("hopper_grid", "hopper"), ("walker_grid", "walker2d")])
def test_bodies_in_a_plane_train_and_resume(grid, problem):
    flags = (f"{problem}.num_envs=4", "ppo.batch_size=256", "ppo.minibatch_size=64", "ppo.num_epochs=2")
    trial = make_trials(load_grid(grid, [parse_assignment(flag) for flag in flags]), ["ns"], [0])[0]
    straight, end = train(trial, 2)
    first, middle = train(trial, 1)
    second, resumed_end = train(trial, 1, state=middle)
    assert repr(straight) == repr(first + second)
    assert_same_weights(end, resumed_end)


def test_same_task_again_fires_and_leaves_training_as_without_a_change(told):
    same = trial_of("slippery_ant.schedule.tasks=same")
    fixed = trial_of("slippery_ant.schedule.every_steps=null")
    rows, end = train(same, 4)
    assert told == [1]
    fixed_rows, fixed_end = train(fixed, 4)
    assert told == [1]
    assert_same_weights(end, fixed_end)
    assert [row["updates"][0]["policy_loss"] for row in rows] == [
        row["updates"][0]["policy_loss"] for row in fixed_rows
    ]
    assert [row["updates"][0]["task"] for row in rows] == [0, 0, 1, 1]
    assert without_times(fixed_rows[-1])["updates"][0]["task"] == 0
