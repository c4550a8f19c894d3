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
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.interventions import make_interventions
from lop_ray.networks import MLP
from lop_ray.seeding import torch_generator


class ActorCritic(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """Separate policy and value networks, with a state-independent log standard deviation.

    `model_config["trial"]` is the trial's specification. Its interventions change the networks here, and
    wait in `interventions` for the learner.
    """

    @override(TorchRLModule)
    def setup(self) -> None:
        """Draws the networks and lets the interventions change them."""
        trial: TrialSpec = self.model_config["trial"]
        observations = self.observation_space.shape[0]
        actions = self.action_space.shape[0]
        self.policy = MLP(observations, actions, trial.network, seed=trial.seed, name="policy")
        self.value = MLP(observations, 1, trial.network, seed=trial.seed, name="value")
        self.log_std = nn.Parameter(torch.full((actions,), trial.network.log_std_init))
        self.interventions = make_interventions(trial.interventions)
        self.interventions.build(self.networks(), torch_generator(trial.seed, "interventions", "build"))
        self.action_dist_cls = DiagonalGaussian

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, as interventions and diagnostics know them."""
        return {"policy": self.policy, "value": self.value}

    def train(self, mode: bool = True) -> ActorCritic:
        """Sets the mode; nothing to do when it is set, which RLlib does before every minibatch."""
        return self if self.training == mode else super().train(mode)

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        """What an env runner does without."""
        return ["value", "interventions"]

    def distribution_inputs(self, observations: Tensor) -> Tensor:
        """[B, observation] -> means and log standard deviations [B, 2 A]."""
        mean = self.policy(observations)
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)

    @override(TorchRLModule)
    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.distribution_inputs(batch[Columns.OBS])}

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {**self._forward(batch), Columns.VF_PREDS: self.compute_values(batch)}

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """[B, observation] -> V [B]."""
        return self.value(batch[Columns.OBS]).squeeze(-1)
