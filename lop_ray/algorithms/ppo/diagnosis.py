"""What PPO offers to diagnostics: its losses as functions of the networks' outputs, and its batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lop_ray.algorithms.ppo.loss import policy_loss, standardised_minibatch, value_loss
from lop_ray.algorithms.ppo.networks import SHARED, split, with_policy
from lop_ray.diagnostics.diagnosable import Diagnosable
from lop_ray.diagnostics.losses import Batch, Loss
from lop_ray.networks import evaluation_mode

if TYPE_CHECKING:
    from lop_ray.algorithms.ppo.distributions import Categorical, DiagonalGaussian
    from lop_ray.algorithms.ppo.learner import PlasticityLearner


class PPODiagnosis(Diagnosable):
    """Policy and value network of a PPO learner, or the one network under both heads.

    With the coefficients c_v, c_e and epsilon of the `ppo:` section, and mean [N, A] and V [N, 1] as the outputs:

        policy:  -mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A)) - c_e mean(H),   rho = pi(a|s) / pi_old(a|s)
        value:   c_v mean((V - R)^2)

    Their sum, which is the loss of `policy_value`, is what the learner minimises, without the penalties of
    interventions: those are functions of the weights, or couple rows. Where advantages are standardised by minibatch,
    they are here by the batch that the loss is asked for. The log standard deviation is a parameter outside all
    networks and stands still.

    Args:
        learner: A learner that has been built.
    """

    def __init__(self, learner: PlasticityLearner):
        self._learner = learner
        self._initial: dict[str, nn.Module] = {}

    def networks(self) -> Mapping[str, nn.Module]:
        """`policy` and `value`, or `policy_value`."""
        return self._learner.actor_critic.networks()

    def prepare(self, entries: frozenset[str]) -> None:
        """Has the learner keep the coming update's batch if it will be asked for."""
        self._learner.keep_batch = bool(entries & {"batches", "ratios", "steps"})

    def initial(self) -> Mapping[str, nn.Module]:
        """Built again from the trial's seed, interventions' changes included; once, then kept."""
        if not self._initial:
            now = self._learner.actor_critic
            module = type(now)(
                observation_space=now.observation_space, action_space=now.action_space, model_config=now.model_config
            )
            device = next(now.parameters()).device
            self._initial = {name: network.to(device).eval() for name, network in module.networks().items()}
        return self._initial

    def losses(self) -> Mapping[str, Loss]:
        """Of each network, with the coefficients."""
        options = self._learner.options

        def policy(output: Tensor, batch: Batch) -> Tensor:
            dist, advantages = self._distribution(output), batch["advantages"]
            if options.normalize_advantages == "minibatch":
                advantages = standardised_minibatch(advantages)
            loss, _ = policy_loss(dist.logp(batch["actions"]), batch["logp"], advantages, options.clip_param)
            return loss - options.entropy_coefficient * dist.entropy().mean()

        def value(output: Tensor, batch: Batch) -> Tensor:
            return options.value_loss_coefficient * value_loss(output.squeeze(-1), batch["returns"])

        def both(output: Tensor, batch: Batch) -> Tensor:
            for_policy, values = split(output)
            return policy(for_policy, batch) + value(values, batch)

        return {SHARED: both} if SHARED in self.networks() else {"policy": policy, "value": value}

    def batches(self) -> Mapping[str, Batch]:
        """The whole batch of the latest update, rows time-major; advantages as the learner standardised them."""
        from lop_ray.algorithms.ppo.batch import ACTIONS, ADVANTAGES, LOGP, OBS, RETURNS  # loads RLlib

        columns = self._batch()
        inputs = {"inputs": columns[OBS]}
        policy = {"actions": columns[ACTIONS], "logp": columns[LOGP], "advantages": columns[ADVANTAGES]}
        value = {"returns": columns[RETURNS]}
        if SHARED in self.networks():
            return {SHARED: {**inputs, **policy, **value}}
        return {"policy": {**inputs, **policy}, "value": {**inputs, **value}}

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """One optimiser trains all."""
        from ray.rllib.core import DEFAULT_MODULE_ID

        return dict.fromkeys(self.networks(), self._learner.get_optimizer(DEFAULT_MODULE_ID))

    @torch.no_grad()
    def ratios(self) -> Mapping[str, Tensor]:
        """Of the policy, on the whole batch of the latest update."""
        name, network = with_policy(self.networks())
        batch = self.batches()[name]
        with evaluation_mode(network):
            output = network(batch["inputs"])
        policy = split(output)[0] if name == SHARED else output
        return {name: (self._distribution(policy).logp(batch["actions"]) - batch["logp"]).exp()}

    def steps(self) -> tuple[np.ndarray, np.ndarray]:
        """The fragments of the latest update, copies of all env runners side by side."""
        fragments = self._learner.kept_fragments
        tasks = [np.concatenate([fragment.tasks, fragment.task[None]]) for fragment in fragments]
        if len(fragments) == 1:
            return fragments[0].obs, tasks[0]
        return np.concatenate([fragment.obs for fragment in fragments], 1), np.concatenate(tasks, 1)

    def _distribution(self, output: Tensor) -> Categorical | DiagonalGaussian:
        return self._learner.actor_critic.distribution(output, fixed_deviation=True)

    def _batch(self) -> Mapping[str, Tensor]:
        if not self._learner.kept_batch:
            raise RuntimeError("the learner kept no batch: call prepare({'batches'}) before the update")
        return self._learner.kept_batch
