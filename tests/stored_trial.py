"""A trial as a run leaves it, made without RLlib: a few steps of Adam on random targets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.ppo.networks import draw_networks
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.interventions import make_interventions
from lop_ray.results import Checkpoints, Store
from lop_ray.seeding import torch_generator
from tests.algorithms.small import small_trial

OBSERVATIONS, ACTIONS = 7, 2
TINY = ("network.hidden=[8, 6]",)


class Life:
    """Networks and optimiser of a trial, as RLlib's module holds them, and the checkpoints of its updates."""

    def __init__(self, results: Path | str, variant: str = "std", seed: int = 0, buffers: int = 1):
        self.spec: TrialSpec = small_trial(variant, seed=seed, flags=TINY)
        self.store = Store(results, self.spec.grid)
        self.networks = draw_networks(self.spec, (OBSERVATIONS,), ACTIONS, seed)
        self.interventions = make_interventions(self.spec.interventions)
        self.interventions.build(self.networks, torch_generator(seed, "interventions", "build"))
        self.log_std = nn.Parameter(torch.zeros(ACTIONS))
        parameters = [self.log_std, *(p for network in self.networks.values() for p in network.parameters())]
        self.optimizer = make_optimizer(parameters, self.spec.optimizer, 1e-2, networks=self.networks.values())
        self.update = 0
        generator = torch_generator(seed, "made_up")
        self.buffers = [torch.randn(60, OBSERVATIONS, generator=generator).numpy() for _ in range(buffers)]
        writer = self.store.trial_writer(self.spec.trial_id)
        writer.set_status(
            "running", **self.spec.model_dump(include={"grid", "problem", "variant", "seed"}), config=self.config()
        )
        self.writer = writer

    def config(self) -> str:
        return self.spec.model_dump_json()

    def train(self, updates: int = 1) -> None:
        """Each with a row of `updates` and a checkpoint."""
        for _ in range(updates):
            self.update += 1
            for _ in range(3):
                self.optimizer.zero_grad()
                inputs = torch.from_numpy(self.buffers[0])
                loss = (self.networks["policy"](inputs) - 1).square().mean() + self.log_std.square().sum()
                (loss + self.networks["value"](inputs).square().mean()).backward()
                self.optimizer.step()
            self.writer.append("updates", {"update": self.update, "env_steps": 100 * self.update, "task": 4})
        self.writer.commit()
        Checkpoints(self.store.location, self.spec.trial_id).save(
            self.update, 100 * self.update, self.files(), {"lop_ray": "0.1"}
        )

    def files(self) -> dict[str, bytes]:
        """As `PPOTraining.state` gives them; RLlib turns tensors into arrays, and counts into numbers."""
        module = {"log_std": self.log_std}
        state: dict[str, Any] = {"module_id": "default_policy", "state": _plain(self.optimizer.state_dict())}
        training = {
            "updates": self.update,
            "learner": {"rl_module": {"default_policy": _plain(module)}, "optimizer": {"default_optimizer": state}},
            "runners": {i: {"sampler": {"observation_buffer": b}} for i, b in enumerate(self.buffers)},
        }
        networks = {name: network.state_dict() for name, network in self.networks.items()}
        return {"training.pt": _bytes(training), "networks.pt": _bytes(networks)}

    @property
    def folder(self) -> str:
        return f"{self.store.location}/trials/{self.spec.trial_id}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Tensor):
        array: np.ndarray = value.detach().numpy().copy()
        return array if array.ndim else float(array)
    return value


def _bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
