"""What interventions are given by PPO: losses, outputs, the update's inputs, fresh networks; and what runners get."""

from __future__ import annotations

import pytest
import torch

from lop_ray.algorithms import make_training
from lop_ray.interventions import CChain, LossStep
from tests.algorithms.small import small_trial

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def test_a_penalty_sees_the_minibatch_the_update_and_each_networks_own_loss(monkeypatch):
    seen = []

    def look(self, step):
        networks = self.training.networks
        with torch.no_grad():
            expected = {name: network(step.minibatch) for name, network in networks.items()}
        seen.append((step, expected))
        return step.losses["value"] * 0.0

    monkeypatch.setattr(CChain, "loss_term", look)
    training = make_training(small_trial("c_chain"), [])
    row = training.update()["updates"][0]
    training.close()
    assert len(seen) == 8  # 2 epochs of 4 minibatches
    for step, expected in seen:
        assert isinstance(step, LossStep)
        assert (len(step.inputs), len(step.minibatch)) == (256, 64)
        assert step.inputs is seen[0][0].inputs
        assert {tuple(x) for x in step.minibatch.tolist()} <= {tuple(x) for x in step.inputs.tolist()}
        for name, outputs in expected.items():
            torch.testing.assert_close(step.outputs[name], outputs)
            assert step.outputs[name].requires_grad
            assert step.losses[name].requires_grad
    last = [step.losses for step, _ in seen[-4:]]
    for name in ("policy", "value"):
        mean = sum(losses[name].item() for losses in last) / 4
        assert row[f"{name}_loss"] == pytest.approx(mean, rel=1e-5, abs=1e-7)


def test_fresh_networks_are_new_ones_without_what_interventions_changed():
    training = make_training(small_trial("specnorm"), [])
    module, generator = training.learner.actor_critic, torch.Generator().manual_seed(0)
    first, second = module.fresh_networks(generator), module.fresh_networks(generator)
    again = module.fresh_networks(torch.Generator().manual_seed(0))
    training.close()
    present = module.networks()
    assert list(first) == list(second) == list(present)
    for name in present:
        weights = [networks[name].head.weight for networks in (first, second, again)]
        assert not torch.equal(weights[0], weights[1])
        assert torch.equal(weights[0], weights[2])
        assert weights[0].shape == present[name].head.weight.shape
        assert not any("parametrizations" in key for key in first[name].state_dict())


@pytest.mark.parametrize("runners", [0, 2])
def test_env_runners_act_with_the_injected_policy(runners):
    training = make_training(small_trial("injection", flags=(f"resources.env_runners={runners}",)), [])
    for _ in range(3):
        training.update()  # an injection after the second
    training._send_weights()
    observations = torch.randn(5, 111, generator=torch.Generator().manual_seed(0))
    expected = training.learner.actor_critic.policy(observations).detach()
    assert len(training.learner.actor_critic.policy.injection.copies) == 1
    for found in training.algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner.module.unwrapped().policy(observations).detach(), local_env_runner=not runners
    ):
        torch.testing.assert_close(found, expected)
    training.close()
