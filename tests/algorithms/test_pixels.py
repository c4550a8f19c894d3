"""Promises of PPO on images: one network under both heads, discrete actions, ProcGen; small, in real RLlib."""

import numpy as np
import pytest
import torch

from lop_ray.algorithms import make_training
from lop_ray.algorithms.ppo.batch import ADVANTAGES, LOGP, RETURNS, VALUES
from lop_ray.algorithms.ppo.networks import split
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.config.grid import load_grid, parse_assignment
from lop_ray.sweep import make_trials
from tests.algorithms.small import assert_same_weights, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]
pytest.importorskip("procgen")

SMALL = (
    "procgen.num_envs=4",
    "procgen.max_episode_steps=20",
    "procgen.shift.every_steps=192",  # in the middle of the fourth update
    "ppo.batch_size=64",
    "ppo.minibatch_size=32",
    "ppo.num_epochs=2",
    "ppo.evaluation={every_updates: 2, episodes: 5}",
    "network.channels=[4, 4, 8, 8]",
    "network.hidden=[16]",
    "diagnostics=null",
    "diagnostics.margins={every: 1, samples: 40, neurons_every: 2}",
    "diagnostics.ranks={every: 2, samples: 64}",
    "total_steps=4096",
)
VARIANTS = ["baseline", "mish", "layernorm", "rmsnorm", "redo", "specnorm", "specnorm_value", "adamw_reset", "crelu"]


def small_pixels(variant: str = "baseline", flags: tuple[str, ...] = ()) -> TrialSpec:
    flags = (f"grid.variant=[{variant}]", *SMALL, *flags)
    if variant == "redo":
        flags = (*flags, "interventions.redo.period=1", "interventions.redo.threshold=0.5")
    return make_trials(load_grid("coinrun_quick", [parse_assignment(flag) for flag in flags]))[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_and_half_equals_straight_bit_for_bit(variant):
    """With a shift of the images, and evaluations, on either side of the interruption."""
    trial = small_pixels(variant)
    straight, end = train(trial, 6)
    first, middle = train(trial, 3)
    second, resumed_end = train(trial, 3, state=middle)
    assert repr(straight) == repr(first + second)
    assert_same_weights(end, resumed_end)
    assert [rows["updates"][0]["task"] for rows in straight] == [0, 0, 0, 1, 1, 1]
    assert [len(rows.get("evaluations", [])) for rows in straight] == [0, 1, 0, 1, 0, 1]


def test_impala_too():
    trial = small_pixels("specnorm", ("network={kind: impala, channels: [4, 8], hidden: [16], blocks: 1}",))
    straight, end = train(trial, 4)
    first, middle = train(trial, 2)
    second, resumed_end = train(trial, 2, state=middle)
    assert repr(straight) == repr(first + second)
    assert_same_weights(end, resumed_end)


def test_evaluation_and_diagnostics_change_nothing():
    watched, end = train(small_pixels(), 4)
    plain, plain_end = train(small_pixels(flags=("ppo.evaluation=null", "diagnostics=null")), 4)
    assert_same_weights(end, plain_end)
    assert [rows["episodes"] for rows in watched] == [rows["episodes"] for rows in plain]


def test_evaluation_plays_as_many_whole_episodes_in_each_copy_on_held_out_levels():
    rows, _ = train(small_pixels(), 2)
    (row,) = rows[1]["evaluations"]
    assert (row["split"], row["episodes"], len(row["returns"])) == ("test", 8, 8)  # 5 asked for, 4 copies
    returns = np.array(row["returns"], np.float64)
    np.testing.assert_allclose(row["episode_return_mean"], returns.mean(), rtol=1e-6)
    np.testing.assert_allclose(row["episode_return_std"], returns.std(ddof=1), rtol=1e-6)
    assert row["length_mean"] <= 20
    assert returns.max() <= 10
    assert returns.min() >= -0.2 - 1e-6  # 20 steps at -0.01


def test_values_kept_while_acting_are_those_of_the_learner():
    training = make_training(small_pixels(), [])
    learner = training.learner
    learner.keep_batch = True
    before = {name: tensor.clone() for name, tensor in learner.actor_critic.policy_value.state_dict().items()}
    training.update()
    columns = {key: value.clone() for key, value in learner.kept_batch.items()}
    network = learner.actor_critic.policy_value
    network.load_state_dict(before)
    with torch.no_grad():
        logits, values = split(network.eval()(columns["obs"]))
    torch.testing.assert_close(values, columns[VALUES], rtol=1e-5, atol=1e-6)
    logp = logits.log_softmax(-1).gather(1, columns["actions"].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(logp, columns[LOGP], rtol=1e-5, atol=1e-6)
    # Advantages are standardised by minibatch, so the batch holds them as they are.
    torch.testing.assert_close(columns[RETURNS] - columns[VALUES], columns[ADVANTAGES], rtol=1e-5, atol=1e-5)
    training.close()


def test_remote_env_runners_continue_bit_for_bit():
    trial = small_pixels(flags=("resources.env_runners=2",))
    straight, end = train(trial, 4)
    first, middle = train(trial, 2)
    second, resumed_end = train(trial, 2, state=middle)
    assert repr(straight) == repr(first + second)
    assert_same_weights(end, resumed_end)
