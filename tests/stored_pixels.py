"""A trial on ProcGen as a run leaves it, made without RLlib: networks as drawn, or as the test sets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.ppo.networks import SHARED, draw_networks
from lop_ray.algorithms.spec import TrialSpec
from lop_ray.config.grid import load_grid, parse_assignment
from lop_ray.interventions import make_interventions
from lop_ray.networks.image import ImageNetwork
from lop_ray.results import Checkpoints, Store
from lop_ray.seeding import torch_generator
from lop_ray.sweep import make_trials
from tests.stored_trial import _bytes, _plain

SHAPE = (64, 64, 3)
TINY = ("procgen.num_envs=2", "network.channels=[3, 4]", "network.hidden=[8]", "network.kind=conv")


def pixel_trial(variant: str = "baseline", flags: tuple[str, ...] = ()) -> TrialSpec:
    chosen = (f"grid.variant=[{variant}]", *TINY, *flags)
    return make_trials(load_grid("coinrun_quick", [parse_assignment(flag) for flag in chosen]))[0]


class PixelLife:
    """One checkpoint of a trial, after one update, in task 1."""

    def __init__(self, results: Path, variant: str = "baseline", flags: tuple[str, ...] = (), images: int = 6):
        self.spec = pixel_trial(variant, flags)
        self.store = Store(results, self.spec.grid)
        self.networks: dict[str, nn.Module] = draw_networks(self.spec, SHAPE, 9, self.spec.seed)
        made = make_interventions(self.spec.interventions)
        made.build(self.networks, torch_generator(self.spec.seed, "interventions", "build"))
        self.buffer = np.random.default_rng(0).integers(0, 256, (images, *SHAPE), dtype=np.uint8)
        writer = self.store.trial_writer(self.spec.trial_id)
        place = self.spec.model_dump(include={"grid", "problem", "variant", "seed"})
        writer.set_status("running", **place, config=self.spec.model_dump_json())
        writer.append("updates", {"update": 1, "env_steps": 1024, "task": 1})
        writer.commit()

    @property
    def network(self) -> ImageNetwork:
        found = self.networks[SHARED]
        assert isinstance(found, ImageNetwork)
        return found

    def save(self) -> None:
        """Writes the checkpoint."""
        optimizer = make_optimizer(
            list(self.network.parameters()), self.spec.optimizer, 1e-3, networks=self.networks.values()
        )
        state: dict[str, Any] = {"module_id": "default_policy", "state": _plain(optimizer.state_dict())}
        training = {
            "updates": 1,
            "learner": {"rl_module": {"default_policy": {}}, "optimizer": {"default_optimizer": state}},
            "runners": {0: {"sampler": {"observation_buffer": self.buffer}}},
            "observation_shape": SHAPE,
            "actions": 9,
        }
        networks = {name: network.state_dict() for name, network in self.networks.items()}
        files = {"training.pt": _bytes(training), "networks.pt": _bytes(networks)}
        Checkpoints(self.store.location, self.spec.trial_id).save(1, 1024, files, {"lop_ray": "0.1"})

    @property
    def folder(self) -> str:
        return f"{self.store.location}/trials/{self.spec.trial_id}"
