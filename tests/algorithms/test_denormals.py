"""Denormal numbers do not slow a training down: what decays towards them becomes 0, in every kind of training."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from lop_ray.algorithms import make_training
from lop_ray.algorithms.supervised.group import SupervisedGroup
from lop_ray.algorithms.supervised.training import SupervisedTraining
from lop_ray.denormals import denormals_as_zero
from lop_ray.networks import MLP
from tests.algorithms.small import small_trial
from tests.algorithms.supervised_trials import trial

DENORMAL = 1e-39
SUPERVISED = {
    "problem": "labelled_images",
    "supervised": {"minibatch_size": 20},
    "optimizer": {"name": "adam"},
    "network": {"activation": "relu"},
}


def computes_denormals() -> bool:
    return (torch.tensor(DENORMAL) * 0.5).item() != 0


def test_it_lasts_as_long_as_the_context():
    assert computes_denormals()
    with denormals_as_zero():
        assert not computes_denormals()
        with denormals_as_zero():
            assert not computes_denormals()
        assert not computes_denormals()
    assert computes_denormals()


def test_an_error_ends_it():
    with pytest.raises(ValueError, match="any"), denormals_as_zero():
        raise ValueError("any")
    assert computes_denormals()


def test_scipy_loads_without_a_warning_meanwhile():
    code = """
from lop_ray.denormals import flush_denormals
flush_denormals()
import scipy.linalg, scipy.stats, scipy.sparse.linalg
"""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


def die(network: MLP, optimizer: torch.optim.Optimizer) -> Tensor:
    """Kills the first unit, whose average gradients have become denormal; returns the averages of its layer."""
    layer = network.hidden_layers()[0].incoming
    with torch.no_grad():
        layer.bias[0] -= 1000
    average = optimizer.state[layer.weight]["exp_avg"]
    average[0] = DENORMAL
    return average


def test_an_update_of_one_network_leaves_none():
    training = SupervisedTraining(trial(**SUPERVISED))
    training.update()
    average = die(training.learner.network, training.learner.optimizer)
    training.update()
    assert (average[0] == 0).all()
    assert (average[1:] != 0).any()
    assert computes_denormals()


def test_an_update_of_a_batch_of_seeds_leaves_none():
    members = [SupervisedTraining(trial(seed=seed, **SUPERVISED)) for seed in range(2)]
    together = SupervisedGroup(members)
    together.update()
    averages = [die(m.learner.network, m.learner.optimizer) for m in members]
    together.update()
    for average in averages:
        assert (average[0] == 0).all()
        assert (average[1:] != 0).any()
    assert computes_denormals()


def test_measuring_counts_them_as_zero_too():
    """A trial's process does throughout: what `lop_ray.diagnose` finds later must be the same."""
    training = SupervisedTraining(trial(diagnostics={"weights": {}}, **SUPERVISED))
    with torch.no_grad():
        training.learner.network.hidden_layers()[0].incoming.weight.fill_(DENORMAL)
    assert training.suite is not None
    (row, *_) = training.suite.diagnose(1, training.diagnosis, torch.empty(0)).tables()["layers"]
    assert row["weight_magnitude"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_an_update_of_ppo_leaves_none():
    training = make_training(small_trial(), [])
    training.update()
    learner = training.algorithm.learner
    policy = learner.actor_critic.networks()["policy"]
    average = die(policy, learner.get_optimizer("default_policy"))
    training.update()
    assert (average[0] == 0).all()
    assert (average[1:] != 0).any()
    assert computes_denormals()
    training.close()
