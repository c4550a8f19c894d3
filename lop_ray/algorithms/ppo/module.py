"""Policy and value network as an RLModule."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from lop_ray.algorithms.ppo.distributions import DiagonalGaussian
from lop_ray.algorithms.ppo.networks import draw_networks
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.interventions import make_interventions
from lop_ray.seeding import torch_generator

ACTION_DISTRIBUTION = "action_distribution"
"""Where a training pass leaves the distribution itself, rather than its parameters packed into one tensor."""


class ActorCritic(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """Separate policy and value networks, with a state-independent log standard deviation.

    `model_config["trial"]` is the trial's specification. Its interventions change the networks here, and
    wait in `interventions` for the learner.
    """

    @override(TorchRLModule)
    def setup(self) -> None:
        """Draws the networks and lets the interventions change them."""
        trial: TrialSpec = self.model_config["trial"]
        drawn = self._draw(trial.seed)
        self.policy, self.value = drawn["policy"], drawn["value"]
        self.log_std = nn.Parameter(torch.full(self.action_space.shape, trial.network.log_std_init))
        self.interventions = make_interventions(trial.interventions)
        self.interventions.build(self.networks(), torch_generator(trial.seed, "interventions", "build"))
        self.action_dist_cls = DiagonalGaussian

    def _draw(self, seed: int) -> dict[str, nn.Module]:
        """The networks by name, with weights of `seed` and without any intervention's changes."""
        trial: TrialSpec = self.model_config["trial"]
        return draw_networks(trial, self.observation_space.shape, self.action_space.shape[0], seed)

    def fresh_networks(self, generator: torch.Generator) -> dict[str, nn.Module]:
        """Newly drawn networks by name, on the CPU, as these were before the interventions changed them."""
        return self._draw(int(torch.randint(2**62, (), generator=generator)))

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, as interventions and diagnostics know them."""
        return {"policy": self.policy, "value": self.value}

    def network_outputs(self, forward: dict[str, Any]) -> dict[str, Tensor]:
        """By name, what each network gave [B, outputs], from the result of a forward pass in training."""
        return {"policy": forward[ACTION_DISTRIBUTION].loc, "value": forward[Columns.VF_PREDS].unsqueeze(-1)}

    def train(self, mode: bool = True) -> ActorCritic:
        """Sets the mode; nothing to do when it is set, which RLlib does before every minibatch."""
        return self if self.training == mode else super().train(mode)

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        """What an env runner does without."""
        return ["value", "interventions"]

    def action_distribution(self, observations: Tensor) -> DiagonalGaussian:
        """[B, observation] -> the policy's distribution over actions [B, A]."""
        return DiagonalGaussian(self.policy(observations), self.log_std)

    @override(TorchRLModule)
    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.action_distribution(batch[Columns.OBS]).to_logits()}

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {
            ACTION_DISTRIBUTION: self.action_distribution(batch[Columns.OBS]),
            Columns.VF_PREDS: self.compute_values(batch),
        }

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """[B, observation] -> V [B]."""
        return self.value(batch[Columns.OBS]).squeeze(-1)
