"""Killing units by hand: from a moment on, a random share of every hidden layer gives 0, for good.

The ablation that asks whether dead units are enough to lose plasticity: train on task 1, set the output of k % of
the units to 0, train on task 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from pydantic import model_validator
from torch import Tensor, nn

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.networks import hidden_layers
from lop_ray.options import Options

_DEAD_PRE_ACTIVATION = -1.0


class KillUnitsOptions(Options):
    """The options of `kill_units`."""

    percent: Annotated[float, Ge(0.0), Le(100.0)] = 50.0
    """Share of each hidden layer's units, 0 to 100; rounded to whole units. 0 is the control."""
    at_task: Annotated[int, Ge(1)] | None = None
    """Kill when the problem moves on to this task, counted from 0. Without `at_task` and `at_update`: task 1, the
    first change."""
    at_update: Annotated[int, Ge(1)] | None = None
    """Kill after this update."""

    @model_validator(mode="after")
    def _once(self) -> KillUnitsOptions:
        if self.at_task is not None and self.at_update is not None:
            raise ValueError("at_task and at_update are two moments, units are killed at one; give one of them")
        return self


class KillUnits(Intervention):
    """Kills `round(percent / 100 * units)` units of every hidden layer, once.

    A killed unit gives 0 for every input, whatever its activation function, and gets no gradient: it stays dead, also
    if another method draws its weights anew. Measures see it as dead: its pre-activation reads -1.

    Which units die is drawn by the seed and does not depend on `percent` but in number: with one seed, those that die
    at 10 % are among those that die at 25 %. Who is dead is part of the networks' `state_dict`, so that copies of a
    network (such as an env runner's) follow it.
    """

    Options = KillUnitsOptions
    options: KillUnitsOptions

    def build(self, networks: Mapping[str, nn.Module], generator: torch.Generator) -> None:
        """Lets every hidden activation be switched off unit by unit; none is yet."""
        for network in networks.values():
            for layer in hidden_layers(network):
                device = layer.incoming.weight.device
                layer.activation.register_buffer("killed", torch.zeros(layer.units, dtype=torch.bool, device=device))
                layer.activation.register_forward_pre_hook(_dead_pre_activation)
                layer.activation.register_forward_hook(_dead_output)

    def attach(self, training: Training) -> None:
        """Finds the switches.

        Raises:
            ValueError: There are none.
        """
        super().attach(training)
        self._switches: list[Tensor] = []
        for name, network in training.networks.items():
            for layer in hidden_layers(network):
                killed = dict(layer.activation.named_buffers()).get("killed")
                if killed is None:
                    raise ValueError(
                        f"kill_units finds no switch in {name}/{layer.name}; call build before the optimiser is made, "
                        "and list it after what replaces activations"
                    )
                self._switches.append(killed)
        self.updates = 0
        self.done = False

    def after_update(self, step: GradientStep) -> None:
        """Kills after update `at_update`."""
        self.updates += 1
        if self.options.at_update is not None and self.updates >= self.options.at_update:
            self.kill()

    def at_task_change(self, task: int) -> None:
        """Kills when the problem moves on to task `at_task`."""
        if self.options.at_update is None and task >= (self.options.at_task or 1):
            self.kill()

    def kill(self) -> None:
        """Kills now, unless that has been done."""
        if self.done:
            return
        self.done = True
        for killed in self._switches:
            order = torch.randperm(len(killed), generator=self.training.generator)
            killed[order[: round(self.options.percent / 100 * len(killed))].to(killed.device)] = True

    def state_dict(self) -> dict[str, Any]:
        """Updates so far, and whether it is done; who is dead is in the networks."""
        return {"updates": self.updates, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.updates, self.done = state["updates"], state["done"]


def _mask(module: nn.Module, values: Tensor) -> Tensor:
    killed = module.get_buffer("killed")
    return killed.view(-1, *[1] * (values.ndim - 2)) if values.ndim > 2 else killed


def _dead_pre_activation(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
    (values,) = args
    return (torch.where(_mask(module, values), _DEAD_PRE_ACTIVATION, values),)


def _dead_output(module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return torch.where(_mask(module, output), 0.0, output)
