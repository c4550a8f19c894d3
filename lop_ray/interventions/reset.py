"""Resets: the oracle that starts anew at each task, and its two halves.

Full re-initialisation is the oracle of C-CHAIN (Tang et al. 2025; `crl_run_ppo_dmc_oracle.py`: a new agent and a new
optimiser for each task) and `reset-all` of Juliani & Ash 2024; the last layer is that of Nikishin et al. 2022 and
`reset-final`; Juliani & Ash's code makes a new AdamW at every shift, in all of its conditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import model_validator

from lop_ray.interventions.base import GradientStep, Training
from lop_ray.interventions.fresh import FreshWeights
from lop_ray.interventions.occasional import Occasional, OccasionalOptions
from lop_ray.interventions.optimizer_state import forget, optimizer_parameters
from lop_ray.interventions.spectral_norm import settle_spectral_norms


class ResetOptions(OccasionalOptions):
    """The options of `reset`."""

    when: Literal["task_change", "update"] = "task_change"
    """task_change: an oracle, for it knows of the change. update: after an update, every `every` updates (Nikishin et
    al. 2022 reset periodically)."""
    weights: Literal["all", "last", "none"] = "all"
    """all: every weight, bias, scale and shift of every network; last: their output layers; none: the optimiser's
    state alone."""
    optimizer: Literal["changed", "all", "keep"] = "changed"
    """Whose state (Adam's moments and count of steps) starts anew. changed: that of what is reset, so with
    `weights: all` all of it (C-CHAIN); all (Juliani & Ash's code); keep."""
    others: Literal["reset", "keep"] = "reset"
    """With `weights: all`, what the optimiser has besides the networks: PPO's log standard deviation. reset: to its
    first value (C-CHAIN makes a new agent); keep."""

    @model_validator(mode="after")
    def _does_something(self) -> ResetOptions:
        if self.weights == "none" and self.optimizer != "all":
            raise ValueError(f"weights: none with optimizer: {self.optimizer} resets nothing; use optimizer: all")
        return self


class Reset(Occasional):
    """Draws weights anew in the distribution of the first ones, and lets the optimiser forget them.

    Every reset draws other weights. In PPO it comes after an update and before the next rollout, so that the
    policy that acts is the policy that is trained.
    """

    Options = ResetOptions
    options: ResetOptions

    def attach(self, training: Training) -> None:
        """Remembers what to reset, and the first values of what is drawn by no rule."""
        super().attach(training)
        options = self.options
        self._fresh = FreshWeights(training)
        everything = options.weights == "all"
        self._drawables = [d for d in self._fresh.drawables if everything or (d.head and options.weights == "last")]
        mine = {id(drawable.parameter) for drawable in self._fresh.drawables}
        others = [p for p in optimizer_parameters(training.optimizer) if id(p) not in mine]
        self._others = others if everything and options.others == "reset" else []
        self._first = [parameter.detach().clone() for parameter in self._others]

    @torch.no_grad()
    def act(self, step: GradientStep | None) -> None:
        """Resets."""
        values = self._fresh.draw(self._drawables, self.training.generator)
        changed = [drawable.parameter for drawable in self._drawables] + self._others
        for parameter, value in zip(changed, values + self._first, strict=True):
            parameter.copy_(value)
        if self._drawables:
            settle_spectral_norms(self.training.networks)
        optimizer = self.training.optimizer
        if self.options.optimizer == "all":
            forget(optimizer, optimizer_parameters(optimizer))
        elif self.options.optimizer == "changed":
            forget(optimizer, changed)

    def state_dict(self) -> dict[str, Any]:
        """The count of moments, and the first values of what is drawn by no rule."""
        return {**super().state_dict(), "first": [value.clone() for value in self._first]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        super().load_state_dict(state)
        for value, saved in zip(self._first, state["first"], strict=True):
            value.copy_(saved)
