"""The shared table of networks and interventions: every new one joins here and is trained in every combination."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.spec import OptimizerOptions
from lop_ray.interventions import Interventions, LossStep, Training, make_interventions
from lop_ray.networks import MLP, HiddenLayer, Initialiser, NetworkOptions
from lop_ray.networks.conv import ConvOptions
from lop_ray.networks.impala import ImpalaOptions
from lop_ray.networks.kinds import make_image_network
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


def _image(options: ConvOptions | ImpalaOptions) -> NetworkCase:
    heads = {"policy": 3, "value": 2}
    return NetworkCase(lambda seed: make_image_network(options, (8, 8, 2), heads, seed=seed), (8, 8, 2), outputs=5)


NETWORKS: dict[str, NetworkCase] = {
    "mlp_relu": _mlp(),
    "mlp_layernorm": _mlp(normalisation="layernorm"),
    "mlp_rmsnorm": _mlp(normalisation="rmsnorm", init="torch_default"),
    "mlp_tanh": _mlp(activation="tanh", init="orthogonal"),
    "mlp_crelu": _mlp(activation="crelu", normalisation="layernorm"),
    "conv": NetworkCase(SmallConvNet, (2, 5, 5)),
    "conv_net": _image(ConvOptions(channels=(4, 6), hidden=(8,), normalisation="layernorm")),
    "impala_crelu": _image(
        ImpalaOptions(channels=(8, 8), blocks=1, hidden=(8,), activation="crelu", normalisation="rmsnorm")
    ),
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
    "redo_per_update": {
        "redo": {
            "threshold": 0.6,
            "period": 2,
            "period_unit": "updates",
            "score": "per_sample",
            "score_batch": "minibatch_anew",
            "silent": "reset",
            "outgoing": "same_kind",
            "bias": "keep",
        }
    },
    "spectral_norm": {"spectral_norm": {}},
    "spectral_norm_first": {"spectral_norm": {"layers": "first", "heads": True, "power_iterations": 2}},
    "cbp_spectral_norm": {"cbp": {**_CBP, "correct_next_bias": True}, "spectral_norm": {"heads": True}},
    "spectral_norm_redo": {"spectral_norm": {}, "redo": _REDO},
    "reset_all": {"reset": {}},
    "reset_last_spectral_norm": {"spectral_norm": {}, "reset": {"weights": "last", "when": "update", "every": 4}},
    "shrink_perturb": {"shrink_perturb": {"optimizer": "reset"}},
    "shrink_perturb_soft": {"shrink_perturb": {"when": "gradient_step", "shrink": 0.999, "perturb": 1e-3}},
    "l2_init": {"l2_init": {"strength": 0.1}},
    "w2_init": {"l2_init": {"strength": 0.1, "form": "mean", "compare": "sorted"}},
    "weight_clipping": {"weight_clipping": {"kappa": 0.8}},
    "weight_projection": {"weight_projection": {"period": 2, "affine": "joint"}},
    "parseval": {"parseval": {}},
    "spectral_regularisation": {
        "spectral_regularisation": {"start": "running", "power_iterations": 1, "gradient": "through_iterations"}
    },
    "effective_rank": {"effective_rank": {"strength": 0.01, "period": 4}},
    "effective_rank_loss": {"effective_rank": {"strength": 0.01, "form": "loss_term", "layers": "last_two"}},
    "bias_clipping": {"bias_clipping": {"minimum": -0.01}},
    "activation_clamping": {"activation_clamping": {"minimum": 0.1, "gradient": "through"}},
    "resurrection": {"resurrection": {"when": "gradient_step", "every": 3}},
    "kill_units_cbp": {"kill_units": {"percent": 30}, "cbp": _CBP},
    "random_walk": {"random_walk": {}},
    "injection": {"plasticity_injection": {}},
    "injection_once_spectral_norm": {
        "spectral_norm": {"heads": True},
        "plasticity_injection": {"when": "update", "every": 2, "times": 1},
    },
    "injection_linear": {"plasticity_injection": {"head": 1, "original": "trained", "copy_gradient": False}},
    "injection_linear_frozen_redo": {"plasticity_injection": {"head": 1}, "redo": _REDO},
    "adam_rel": {"adam_rel": {}},
    "adam_rel_moments": {"adam_rel": {"moments": "reset"}},
    "c_chain": {"c_chain": {"networks": ["net"], "coefficient": 10.0, "warm_up": 2}},
    "c_chain_injection_cbp": {
        "plasticity_injection": {},
        "c_chain": {"networks": ["net"], "target": None, "at_task_change": "keep"},
        "cbp": _CBP,
    },
    "kitchen_sink": {
        "spectral_norm": {},
        "kill_units": {"percent": 25, "at_update": 2},
        "activation_clamping": {},
        "l2_init": {},
        "parseval": {},
        "effective_rank": {"period": 3},
        "shrink_perturb": {},
        "redo": _REDO,
        "weight_clipping": {},
    },
}

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adamw": {"betas": (0.9, 0.9), "weight_decay": 0.1, "decoupled": True},
    "rooted_adam": {"betas": (0.9, 0.9), "eps": 1e-9, "eps_root": 1e-3, "weight_decay": 0.01},
    "sgd": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    "upgd": {"name": "upgd", "weight_decay": 0.1, "upgd": {"utility": "local", "noise": 0.01}},
    "ada_upgd": {"name": "ada_upgd", "eps": 1e-5, "weight_decay": 1e-3, "decoupled": True},
    "ada_upgd_hidden": {"name": "ada_upgd", "upgd": {"layers": "hidden", "maximum": "uncorrected"}},
    "upgd_output": {"name": "upgd", "upgd": {"layers": "output", "protect": False, "ungated": 1.0}},
}


class Trainer:
    """A bare training loop on random data, with everything that must survive a restart."""

    def __init__(
        self,
        case: NetworkCase,
        spec: Mapping[str, Mapping[str, Any]],
        *,
        seed: int = 0,
        lr: float = 1e-2,
        optimizer: Mapping[str, Any] | None = None,
    ):
        self.case = case
        self.network = case.make(seed)
        self.interventions: Interventions = make_interventions(spec)
        generator = torch_generator(seed, "interventions")
        self.interventions.build({"net": self.network}, generator)
        options = OptimizerOptions(**(optimizer or {}))
        self.optimizer = make_optimizer(self.network.parameters(), options, lr, networks=[self.network], seed=seed)
        self.interventions.attach(Training({"net": self.network}, self.optimizer, generator, self.fresh))
        self.data = torch_generator(seed, "data")
        self.count = 0

    def fresh(self, generator: torch.Generator) -> dict[str, nn.Module]:
        return {"net": self.case.make(int(torch.randint(2**62, (), generator=generator)))}

    def gradient_step(self) -> Tensor:
        """Everything of one step but what interventions do after it; returns the inputs."""
        inputs, targets = self.case.batch(self.data)
        outputs = self.network(inputs)
        loss = (outputs - targets).square().mean()
        penalty = self.interventions.loss_term(LossStep(inputs, inputs, {"net": loss}, {"net": outputs}))
        loss = loss if penalty is None else loss + penalty
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.count += 1
        return inputs

    def train(self, steps: int) -> None:
        """Every 5 steps are an update, every second update brings the next task."""
        for _ in range(steps):
            inputs = self.gradient_step()
            self.interventions.after_gradient_step(self.count, inputs)
            if self.count % 5 == 0:
                self.interventions.after_update(self.count, inputs)
            if self.count % 10 == 5:
                self.interventions.at_task_change(self.count // 10 + 1)

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
