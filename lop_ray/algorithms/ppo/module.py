"""Policy and value, from networks of their own or from one, as an RLModule."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor, nn

from lop_ray.algorithms.ppo.distributions import Categorical, DiagonalGaussian
from lop_ray.algorithms.ppo.networks import SHARED, draw_networks, split
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.interventions import make_interventions
from lop_ray.seeding import torch_generator

ACTION_DISTRIBUTION = "action_distribution"
"""Where a training pass leaves the distribution itself, rather than its parameters packed into one tensor."""

NETWORK_OUTPUTS = "network_outputs"
"""Where it leaves what each network gave [B, outputs], by name."""


class ActorCritic(TorchRLModule, InferenceOnlyAPI, ValueFunctionAPI):
    """Policy and value: separate networks (network.kind mlp), or two heads of one (conv, impala).

    Continuous actions are normal, with a state-independent log standard deviation; discrete ones categorical.

    `model_config["trial"]` is the trial's specification. Its interventions change the networks here, and
    wait in `interventions` for the learner.

    Attributes:
        log_std: [A] of continuous actions, None with discrete ones.
        shared: Whether one network gives both.
    """

    log_std: nn.Parameter | None

    @override(TorchRLModule)
    def setup(self) -> None:
        """Draws the networks and lets the interventions change them."""
        trial: TrialSpec = self.model_config["trial"]
        discrete = isinstance(self.action_space, gym.spaces.Discrete)
        self.actions = int(self.action_space.n if discrete else self.action_space.shape[0])
        drawn = self._draw(trial.seed)
        self.shared = SHARED in drawn
        self._names = list(drawn)
        for name, network in drawn.items():
            self.add_module(name, network)
        self.log_std = None
        if not discrete:
            first = getattr(trial.network, "log_std_init", 0.0)
            self.log_std = nn.Parameter(torch.full(self.action_space.shape, first))
        self.interventions = make_interventions(trial.interventions)
        self.interventions.build(self.networks(), torch_generator(trial.seed, "interventions", "build"))
        self.action_dist_cls = Categorical if discrete else DiagonalGaussian

    def _draw(self, seed: int) -> dict[str, nn.Module]:
        """The networks by name, with weights of `seed` and without any intervention's changes."""
        trial: TrialSpec = self.model_config["trial"]
        return draw_networks(trial, self.observation_space.shape, self.actions, seed)

    def fresh_networks(self, generator: torch.Generator) -> dict[str, nn.Module]:
        """Newly drawn networks by name, on the CPU, as these were before the interventions changed them."""
        return self._draw(int(torch.randint(2**62, (), generator=generator)))

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name, as interventions and diagnostics know them."""
        return {name: getattr(self, name) for name in self._names}

    def train(self, mode: bool = True) -> ActorCritic:
        """Sets the mode; nothing to do when it is set, which RLlib does before every minibatch."""
        return self if self.training == mode else super().train(mode)

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        """What an env runner does without."""
        return ["interventions"] if self.shared else ["value", "interventions"]

    def distribution(self, output: Tensor, *, fixed_deviation: bool = False) -> Categorical | DiagonalGaussian:
        """The policy's numbers [B, A] -> its distribution over actions; fixed: no gradient reaches `log_std`."""
        if self.log_std is None:
            return Categorical(output)
        return DiagonalGaussian(output, self.log_std.detach() if fixed_deviation else self.log_std)

    def act(self, observations: Tensor) -> tuple[Categorical | DiagonalGaussian, Tensor | None]:
        """[B, observation] -> the policy's distribution over actions, and V [B] where it costs nothing."""
        if self.shared:
            output, values = split(getattr(self, SHARED)(observations))
            return self.distribution(output), values
        return self.distribution(self.policy(observations)), None

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise for so many actions: [*shape, A], what `act` of their distributions reads."""
        return self.action_dist_cls.draw_noise((*shape, self.actions), generator)

    @override(TorchRLModule)
    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.act(batch[Columns.OBS])[0].to_logits()}

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        observations = batch[Columns.OBS]
        outputs = {name: network(observations) for name, network in self.networks().items()}
        policy, values = split(outputs[SHARED]) if self.shared else (outputs["policy"], outputs["value"].squeeze(-1))
        return {
            ACTION_DISTRIBUTION: self.distribution(policy),
            Columns.VF_PREDS: values,
            NETWORK_OUTPUTS: outputs,
        }

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """[B, observation] -> V [B]."""
        observations = batch[Columns.OBS]
        return split(getattr(self, SHARED)(observations))[1] if self.shared else self.value(observations).squeeze(-1)
