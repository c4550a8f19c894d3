"""The shared table of networks and interventions: every new one joins here and is trained in every combination."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lop_ray.interventions import Interventions, Training, make_interventions
from lop_ray.networks import MLP, HiddenLayer, Initialiser, NetworkOptions
from lop_ray.seeding import torch_generator


@dataclass(frozen=True)
class NetworkCase:
    """A small network: how to make it from a seed, and the shape of one input."""

    make: Callable[[int], nn.Module]
    input_shape: tuple[int, ...]
    outputs: int = 2

    def batch(self, generator: torch.Generator, size: int = 16) -> tuple[Tensor, Tensor]:
        """Random inputs and targets."""
        inputs = torch.randn(size, *self.input_shape, generator=generator)
        return inputs, torch.randn(size, self.outputs, generator=generator)


class SmallConvNet(nn.Module):
    """Two convolutions, the second read by a Linear over its flattened positions, and a linear head."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch_generator(seed, "small_conv_net")
        initialiser = Initialiser("kaiming_uniform", gain=2**0.5)
        self.conv_0 = nn.Conv2d(2, 3, kernel_size=3, padding=1)
        self.norm_0 = nn.GroupNorm(1, 3)
        self.conv_1 = nn.Conv2d(3, 4, kernel_size=3, stride=2)
        self.linear = nn.Linear(4 * 2 * 2, 6)
        self.head = nn.Linear(6, 2)
        self.activations = nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.ReLU()])
        for layer in (self.conv_0, self.conv_1, self.linear, self.head):
            initialiser.apply(layer, generator)
        a = self.activations
        self._layers = (
            HiddenLayer("conv_0", self.conv_0, a[0], (self.conv_1,), initialiser, self.norm_0),
            HiddenLayer("conv_1", self.conv_1, a[1], (self.linear,), initialiser),
            HiddenLayer("linear", self.linear, a[2], (self.head,), initialiser),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, 2, 5, 5] -> [B, 2]."""
        h = self.activations[0](self.norm_0(self.conv_0(inputs)))
        h = self.activations[1](self.conv_1(h))
        return self.head(self.activations[2](self.linear(h.flatten(1))))

    def hidden_layers(self) -> Sequence[HiddenLayer]:
        return self._layers


def _mlp(**options: Any) -> NetworkCase:
    return NetworkCase(lambda seed: MLP(4, 2, NetworkOptions(hidden=(8, 6), **options), seed=seed), (4,))


NETWORKS: dict[str, NetworkCase] = {
    "mlp_relu": _mlp(),
    "mlp_layernorm": _mlp(normalisation="layernorm"),
    "mlp_rmsnorm": _mlp(normalisation="rmsnorm", init="torch_default"),
    "mlp_tanh": _mlp(activation="tanh", init="orthogonal"),
    "conv": NetworkCase(SmallConvNet, (2, 5, 5)),
}

_CBP = {"maturity_threshold": 4, "replacement_rate": 0.05}
_REDO = {"threshold": 0.6, "period": 5}

INTERVENTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {},
    "cbp": {"cbp": _CBP},
    "cbp_accumulate": {"cbp": {**_CBP, "replacement": "accumulate", "correct_next_bias": True, "reset_moments": True}},
    "cbp_adaptable": {"cbp": {**_CBP, "utility": "adaptable_contribution", "magnitude": "sum"}},
    "cbp_random": {"cbp": {**_CBP, "utility": "random"}},
    "redo": {"redo": _REDO},
    "redo_update": {
        "redo": {
            **_REDO,
            "score_batch": "update",
            "score": "per_sample",
            "silent": "reset",
            "incoming": "xavier_uniform",
            "bias": "reinitialise",
            "moments": "zero_all",
            "step": "zero",
        }
    },
    "spectral_norm": {"spectral_norm": {}},
    "spectral_norm_first": {"spectral_norm": {"layers": "first", "heads": True, "power_iterations": 2}},
    "cbp_spectral_norm": {"cbp": {**_CBP, "correct_next_bias": True}, "spectral_norm": {"heads": True}},
    "spectral_norm_redo": {"spectral_norm": {}, "redo": _REDO},
}


class Trainer:
    """A bare training loop on random data, with everything that must survive a restart."""

    def __init__(self, case: NetworkCase, spec: Mapping[str, Mapping[str, Any]], *, seed: int = 0, lr: float = 1e-2):
        self.case = case
        self.network = case.make(seed)
        self.interventions: Interventions = make_interventions(spec)
        generator = torch_generator(seed, "interventions")
        self.interventions.build({"net": self.network}, generator)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=lr)
        self.interventions.attach(Training({"net": self.network}, self.optimizer, generator))
        self.data = torch_generator(seed, "data")
        self.count = 0

    def gradient_step(self) -> Tensor:
        """Everything of one step but the interventions; returns the inputs."""
        inputs, targets = self.case.batch(self.data)
        loss = (self.network(inputs) - targets).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.count += 1
        return inputs

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.interventions.after_gradient_step(self.count, self.gradient_step())

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "interventions": self.interventions.state_dict(),
            "data": self.data.get_state(),
            "count": self.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.interventions.load_state_dict(state["interventions"])
        self.data.set_state(state["data"])
        self.count = state["count"]
