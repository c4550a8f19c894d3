"""What PPO hands to diagnostics."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Normal

from lop_ray.algorithms.ppo.diagnosis import PPODiagnosis
from lop_ray.algorithms.ppo.module import ActorCritic
from lop_ray.algorithms.ppo.options import PPOOptions
from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.diagnostics.losses import Problem
from tests.algorithms.small import small_trial

N, OBSERVATION, ACTION = 30, 5, 2


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Learner:
    """As much of `PlasticityLearner` as is looked at, without RLlib's machinery around it."""

    def __init__(self, variant: str = "std", **options: float):
        self.trial = small_trial(variant, flags=("network.hidden=[7, 6]",))
        self.options = PPOOptions(**options)
        spaces = [gym.spaces.Box(-np.inf, np.inf, (size,), np.float32) for size in (OBSERVATION, ACTION)]
        self.actor_critic = ActorCritic(
            observation_space=spaces[0], action_space=spaces[1], model_config={"trial": self.trial}
        )
        with torch.no_grad():
            self.actor_critic.log_std += torch.tensor([-0.5, 0.25])
        self.optimizer = torch.optim.Adam(self.actor_critic.parameters(), lr=1e-3)
        self.keep_batch = False
        self.kept_batch = {
            "obs": normal(N, OBSERVATION, seed=0),
            "actions": normal(N, ACTION, seed=1),
            "action_logp": normal(N, seed=2) - 2,
            "advantages": normal(N, seed=3),
            "value_targets": normal(N, seed=4),
            "vf_preds": normal(N, seed=5),
        }

    def get_optimizer(self, _module_id: str) -> torch.optim.Optimizer:
        return self.optimizer


def logp_of(learner: Learner) -> torch.Tensor:
    """log pi(a|s) by torch's own distribution."""
    module, batch = learner.actor_critic, learner.kept_batch
    dist = Normal(module.policy(batch["obs"]), module.log_std.exp())
    return dist.log_prob(batch["actions"]).sum(-1)


def losses_by_hand(learner: Learner, clip: float, c_v: float, c_e: float) -> tuple[torch.Tensor, torch.Tensor]:
    module, batch = learner.actor_critic, learner.kept_batch
    surrogates = []
    for new, old, advantage in zip(logp_of(learner), batch["action_logp"], batch["advantages"], strict=True):
        ratio = (new - old).exp()
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        surrogates.append(min(ratio * advantage, bounded * advantage))
    entropy = sum(0.5 + 0.5 * np.log(2 * np.pi) + float(s) for s in module.log_std.detach())
    policy = -torch.stack(surrogates).mean() - c_e * entropy
    value = c_v * (module.value(batch["obs"])[:, 0] - batch["value_targets"]).square().mean()
    return policy, value


@pytest.mark.parametrize("clip", [0.05, 0.3])
def test_losses_are_ppos_with_the_coefficients_of_the_grid(clip):
    learner = Learner(clip_param=clip, value_loss_coefficient=0.7, entropy_coefficient=0.03)
    offered = PPODiagnosis(learner)
    for name, by_hand in zip(("policy", "value"), losses_by_hand(learner, clip, 0.7, 0.03), strict=True):
        network = offered.networks()[name]
        problem = Problem.of(network, offered.losses()[name], offered.batches()[name])
        torch.testing.assert_close(problem.value(), by_hand, rtol=1e-5, atol=1e-6)
        found = torch.autograd.grad(problem.value(), list(problem.network.parameters()))
        for one, other in zip(found, torch.autograd.grad(by_hand, list(network.parameters())), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["policy", "value"])
def test_a_loss_is_the_mean_over_rows(name):
    offered = PPODiagnosis(Learner(entropy_coefficient=0.5))
    loss, batch = offered.losses()[name], offered.batches()[name]
    output = offered.networks()[name](batch["inputs"])
    rows = [loss(output[i : i + 1], {key: column[i : i + 1] for key, column in batch.items()}) for i in range(N)]
    torch.testing.assert_close(torch.stack(rows).mean(), loss(output, batch))


def test_ratios_are_of_the_policy_as_it_is_now():
    learner = Learner()
    offered = PPODiagnosis(learner)
    wanted = (logp_of(learner) - learner.kept_batch["action_logp"]).exp()
    torch.testing.assert_close(offered.ratios(), {"policy": wanted.detach()})
    with torch.no_grad():
        learner.kept_batch["action_logp"] = logp_of(learner)
    torch.testing.assert_close(offered.ratios()["policy"], torch.ones(N))


@pytest.mark.parametrize("variant", ["std", "layernorm", "specnorm"])
def test_initial_networks_are_those_of_the_seed(variant):
    learner = Learner(variant)
    module = learner.actor_critic
    first = {name: {key: x.clone() for key, x in net.state_dict().items()} for name, net in module.networks().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    random = torch.get_rng_state()
    offered = PPODiagnosis(learner)
    initial = {name: net.state_dict() for name, net in offered.initial().items()}
    torch.testing.assert_close(initial, first, rtol=0, atol=0)
    assert offered.initial()["policy"] is offered.initial()["policy"]
    assert torch.equal(torch.get_rng_state(), random)
    for network in offered.initial().values():
        assert not any(p is q for p in network.parameters() for q in module.parameters())


def test_the_batch_is_kept_only_while_it_is_wanted():
    learner = Learner()
    offered = PPODiagnosis(learner)
    for entries, kept in [(set(), False), ({"initial", "before", "optimizers", "losses"}, False)]:
        offered.prepare(frozenset(entries))
        assert learner.keep_batch is kept
    for entries in ({"batches"}, {"ratios"}):
        offered.prepare(frozenset())
        offered.prepare(frozenset(entries))
        assert learner.keep_batch
    learner.kept_batch = {}
    with pytest.raises(RuntimeError, match="the learner kept no batch"):
        offered.batches()


def test_diagnostics_draw_from_streams_of_their_own():
    """Another seed, network or update draws other numbers; the same ones draw the same."""
    learner = Learner()
    offered = PPODiagnosis(learner)

    def draws(seed: int, update: int) -> dict[str, float]:
        suite = DiagnosticSuite({"hessian_density": {"every": 1, "order": 2, "samples": 20}}, seed=seed)
        rows = suite.diagnose(update, offered, learner.kept_batch["obs"])
        return {row["network"]: row["value"] for row in rows.probes if row["metric"] == "trace"}

    assert draws(0, 1) == draws(0, 1)
    assert len({draws(0, 1)["policy"], draws(1, 1)["policy"], draws(0, 2)["policy"]}) == 3
