"""PPO's checkpoints, read without RLlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.ppo.networks import draw_networks
from lop_ray.algorithms.ppo.options import PPOOptions
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.algorithms.stored import StoredTraining
from lop_ray.interventions import make_interventions
from lop_ray.seeding import torch_generator


class StoredPPO(StoredTraining):
    """The networks, and the optimiser of all of them, as `PPOTraining.state` wrote them.

    Networks are drawn from the trial's seed, changed by its interventions as at the start of the run, and given the
    checkpoint's weights and buffers.

    Args:
        trial: What was trained.
        files: `networks.pt` and `training.pt`.
    """

    def __init__(self, trial: TrialSpec, files: Mapping[str, bytes]):
        self._trial = trial
        weights = torch.load(io.BytesIO(files["networks.pt"]), weights_only=True, map_location="cpu")
        state = torch.load(io.BytesIO(files["training.pt"]), weights_only=False, map_location="cpu")
        (module_state,) = state["learner"]["rl_module"].values()
        self._buffers = [
            runner["sampler"]["observation_buffer"]
            for _, runner in sorted(state["runners"].items())
            if runner.get("sampler", {}).get("observation_buffer") is not None
        ]
        log_std = module_state.get("log_std")
        self._actions: int = state["actions"] if "actions" in state else len(log_std)
        self.observation_shape = state["observation_shape"] if "actions" in state else _first_width(weights["policy"])
        self._networks, self._initial = self._draw(), self._draw()
        for name, network in self._networks.items():
            network.load_state_dict(weights[name])
        self._optimizer = self._restored(state["learner"]["optimizer"], log_std)

    def _draw(self) -> dict[str, nn.Module]:
        trial = self._trial
        networks = draw_networks(trial, self.observation_shape, self._actions, trial.seed)
        interventions = make_interventions(trial.interventions)
        interventions.build(networks, torch_generator(trial.seed, "interventions", "build"))
        return {name: network.eval() for name, network in networks.items()}

    def _restored(self, states: Mapping[str, Any], log_std: np.ndarray | None) -> torch.optim.Optimizer:
        """The optimiser with its state; the parameters are in the order of the RLModule's.

        Raises:
            ValueError: The state is of other parameters.
        """
        (state,) = (each["state"] for each in states.values())
        own = [] if log_std is None else [nn.Parameter(torch.from_numpy(np.array(log_std)))]
        networks = self._networks.values()
        parameters = [*own, *(parameter for network in networks for parameter in network.parameters())]
        options, lr = self._trial.optimizer, PPOOptions(**self._trial.algorithm_options).lr
        optimizer = make_optimizer(parameters, options, lr, networks=networks, seed=self._trial.seed)
        optimizer.load_state_dict(_tensors(state))
        for parameter, entries in optimizer.state.items():
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"the optimiser's {name} {list(value.shape)} is not of {list(parameter.shape)}")
        return optimizer

    def networks(self) -> Mapping[str, nn.Module]:
        """`policy` and `value`, or `policy_value`."""
        return self._networks

    def initial(self) -> Mapping[str, nn.Module]:
        """As the run began, interventions' changes included."""
        return self._initial

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """One optimiser trains all."""
        return dict.fromkeys(self._networks, self._optimizer)

    def observations(self) -> Tensor | None:
        """Of all env runners, each with the same share of the latest."""
        if not self._buffers:
            return None
        share = -(-max(map(len, self._buffers)) // len(self._buffers))
        return torch.from_numpy(np.concatenate([buffer[-share:] for buffer in self._buffers]))


def _first_width(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The inputs of a fully connected network; for checkpoints from before there were images, which lack the shape."""
    first, *_ = (value for value in weights.values() if value.ndim > 1)
    return tuple(first.shape[1:])


def _tensors(state: Any) -> Any:
    """RLlib writes arrays for tensors, and plain numbers for step counts."""
    if isinstance(state, dict):
        return {
            key: torch.tensor(value) if key == "step" and isinstance(value, float) else _tensors(value)
            for key, value in state.items()
        }
    if isinstance(state, list):
        return [_tensors(value) for value in state]
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state
