"""Promises of PPO inside RLlib, on real Ant and real RLlib, small."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lop_ray.algorithms import make_training
from lop_ray.algorithms.divergence import DivergedError
from lop_ray.algorithms.ppo.training import network_states
from lop_ray.networks import MLP
from lop_ray.seeding import torch_generator
from tests.algorithms.small import assert_same_weights, small_trial, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]
VARIANTS = ["std", "ns", "l2", "cbp", "redo", "layernorm", "specnorm"]
VARIANTS += ["crelu", "injection", "adamrel", "upgd", "c_chain"]


def assert_same_rows(a, b):
    assert repr(a) == repr(b)  # repr: NaN equals NaN


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_and_half_equals_straight_bit_for_bit(variant):
    trial = small_trial(variant)
    straight, end = train(trial, 6)
    first, middle = train(trial, 3)
    second, resumed_end = train(trial, 3, state=middle)
    assert_same_rows(straight, first + second)
    assert_same_weights(end, resumed_end)


def test_same_with_remote_env_runners():
    trial = small_trial("cbp", flags=("resources.env_runners=2",))
    straight, end = train(trial, 4)
    first, middle = train(trial, 2)
    second, resumed_end = train(trial, 2, state=middle)
    assert_same_rows(straight, first + second)
    assert_same_weights(end, resumed_end)
    assert straight[-1]["updates"][0]["env_steps"] == 4 * 256


def test_diagnostics_and_cores_change_nothing():
    _, plain = train(small_trial("cbp", flags=("diagnostics=null",)), 4)
    _, diagnosed = train(small_trial("cbp"), 4)
    _, two_cores = train(small_trial("cbp", flags=("resources.cpus=2",)), 4)
    assert_same_weights(plain, diagnosed)
    assert_same_weights(plain, two_cores)


def test_another_seed_is_another_run():
    _, a = train(small_trial(seed=0), 1)
    _, b = train(small_trial(seed=1), 1)
    with pytest.raises(AssertionError):
        assert_same_weights(a, b)


def test_an_update_is_the_papers_written_out_plainly():
    """One update of the learner against a plain implementation of `lop/algos/rl/ppo.py`'s mathematics."""
    trial = small_trial("l2", flags=("ant.num_envs=1", "ppo.batch_size=512", "ppo.minibatch_size=128"))
    training = make_training(trial, [])
    fragments = []
    runner = training.algorithm.env_runner
    sample = runner.sample
    runner.sample = lambda **kwargs: fragments.append(sample(**kwargs)[0]) or [fragments[-1]]
    training.update()
    after = network_states(training.state())
    log_std_after = training.learner.actor_critic.log_std.detach().clone()
    training.close()

    fragment = fragments[0]
    policy = MLP(111, 8, trial.network, seed=trial.seed, name="policy")
    value = MLP(111, 1, trial.network, seed=trial.seed, name="value")
    log_std = nn.Parameter(torch.zeros(8))
    obs, actions = torch.from_numpy(fragment.obs[:, 0]), torch.from_numpy(fragment.actions[:, 0])
    rewards = fragment.rewards[:, 0]
    done = (fragment.terminateds | fragment.truncateds)[:, 0]
    with torch.no_grad():
        old_logp = torch.distributions.Normal(policy(obs), log_std.exp()).log_prob(actions).sum(-1)
        v = value(torch.cat([obs, torch.from_numpy(fragment.last_obs)]))[:, 0].numpy().astype(np.float64)
    advantages = np.zeros(len(rewards) + 1)
    for t in reversed(range(len(rewards))):
        going_on = 1.0 - done[t]
        delta = rewards[t] + going_on * 0.99 * v[t + 1] - v[t]
        advantages[t] = delta + going_on * 0.99 * 0.95 * advantages[t + 1]
    returns = torch.from_numpy((advantages[:-1] + v[:-1]).astype(np.float32))
    standard = torch.from_numpy(advantages[:-1])
    standard = ((standard - standard.mean()) / standard.std()).float()
    parameters = [*policy.parameters(), *value.parameters(), log_std]
    adam = torch.optim.Adam(parameters, lr=1e-4, betas=(0.99, 0.99), weight_decay=1e-3)
    shuffle = torch_generator(trial.seed, "minibatches")
    for _ in range(2):
        for rows in torch.randperm(512, generator=shuffle).split(128):
            logp = torch.distributions.Normal(policy(obs[rows]), log_std.exp()).log_prob(actions[rows]).sum(-1)
            ratio = (logp - old_logp[rows]).exp()
            surrogate = torch.min(ratio * standard[rows], ratio.clamp(0.8, 1.2) * standard[rows])
            loss = -surrogate.mean() + (value(obs[rows])[:, 0] - returns[rows]).pow(2).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    for network, states in (("policy", policy.state_dict()), ("value", value.state_dict())):
        for name, tensor in states.items():
            torch.testing.assert_close(after[network][name], tensor, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log_std_after, log_std.detach(), rtol=1e-4, atol=1e-6)


def test_the_behaviour_policy_drew_the_actions_and_the_env_got_them_unclipped():
    trial = small_trial()
    training = make_training(trial, [])
    fragment = training.algorithm.env_runner.sample()[0]
    policy = MLP(111, 8, trial.network, seed=trial.seed, name="policy")
    with torch.no_grad():
        mean = policy(torch.from_numpy(fragment.obs))
    actions = torch.from_numpy(fragment.actions)
    logp = torch.distributions.Normal(mean, 1.0).log_prob(actions).sum(-1)
    torch.testing.assert_close(torch.from_numpy(fragment.logp), logp, rtol=1e-5, atol=1e-4)
    noise = actions - mean
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1
    assert float(actions.abs().max()) > 2
    # The control cost of an unclipped action of norm^2 about 8 is about 4 a step.
    assert -0.5 * float(actions.square().sum(-1).mean()) < -3
    assert float(fragment.rewards.mean()) < -2
    training.close()


def test_divergence_names_the_tensor_and_takes_no_step():
    trial = small_trial(flags=("ppo.lr=1e30",))
    training = make_training(trial, [])
    with pytest.raises(DivergedError, match="not finite at gradient step") as caught:
        training.update()
    assert all(bool(torch.isfinite(p).all()) for p in training.learner.actor_critic.parameters())
    assert training.learner.gradient_steps == caught.value.gradient_step - 1
    training.close()


def test_gradient_clipping_bounds_the_step():
    trial = small_trial(flags=("ppo.grad_clip=0.5",))
    training = make_training(trial, [])
    norms = []
    learner = training.learner
    apply = learner.apply_gradients

    def spy(gradients):
        norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients.values())))
        apply(gradients)

    learner.apply_gradients = spy
    row = training.update()["updates"][0]
    assert row["grad_norm"] > 0.5
    assert max(norms) <= 0.5 * (1 + 1e-4)
    training.close()


@pytest.mark.parametrize(
    ("variant", "betas", "decay"),
    [("std", (0.9, 0.999), 0.0), ("ns", (0.99, 0.99), 0.0), ("l2", (0.99, 0.99), 1e-3), ("cbp", (0.99, 0.99), 1e-4)],
)
def test_variants_reach_the_optimiser(variant, betas, decay):
    training = make_training(small_trial(variant), [])
    optimizer = training.learner.get_optimizer("default_policy")
    group = optimizer.param_groups[0]
    assert (type(optimizer), tuple(group["betas"]), group["weight_decay"]) == (torch.optim.Adam, betas, decay)
    assert (group["lr"], group["eps"]) == (1e-4, 1e-8)
    assert len(group["params"]) == 2 * 6 + 1  # two networks of three layers, and log_std
    training.close()
