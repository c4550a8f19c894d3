"""Shrink and perturb: theta <- shrink * theta + perturb * noise.

Ash & Adams 2020 (arXiv 1910.08475, section 4). Public codes differ in when they act, in the noise and in what they
perturb; each is an option, and this is how to get each:

| source | options |
|---|---|
| Juliani & Ash 2024, `sp-5-5`: .5 theta + .5 theta_new at a shift | the defaults |
| Juliani & Ash, `soft-sp` (every minibatch, a newly drawn network each time) | `when: gradient_step, shrink: 0.999999, perturb: 1e-6` |
| Ash & Adams: Gaussian noise at a change of the data | `noise: gaussian`, `perturb: sigma` |
| Dohare et al. 2024 (`perturb`), lop-jax: + N(0, sigma^2) every step; the shrinking is L2's | `when: gradient_step, shrink: 1, perturb: sigma, noise: gaussian, parameters: layers`, with `weight_decay` |
| Kumar et al. 2023 (`ShrinkAndPerturbAgent`) | `when: gradient_step, shrink: 1 - p, perturb: q` |
| Chung et al. 2024 (`parseval_reg`): + .001 theta_fresh every step | `when: gradient_step, shrink: 1, perturb: 1e-3, parameters: weights`, with decoupled `weight_decay: 1e-3` |
"""  # noqa: E501

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from pydantic import model_validator
from torch import Tensor

from lop_ray.interventions.base import GradientStep, Training
from lop_ray.interventions.fresh import Drawable, FreshWeights, Role
from lop_ray.interventions.occasional import Occasional, OccasionalOptions
from lop_ray.interventions.optimizer_state import forget, optimizer_parameters
from lop_ray.interventions.spectral_norm import settle_spectral_norms

_ROLES: dict[str, tuple[Role, ...]] = {
    "all": ("weight", "bias", "normalisation", "other"),
    "layers": ("weight", "bias"),
    "weights": ("weight",),
}


class ShrinkPerturbOptions(OccasionalOptions):
    """The options of `shrink_perturb`; defaults are `sp-5-5` of Juliani & Ash."""

    when: Literal["task_change", "update", "gradient_step"] = "task_change"
    """At a task change; after an update; after a gradient step ("soft")."""
    shrink: Annotated[float, Ge(0.0), Le(1.0)] = 0.5
    """What theta is multiplied by."""
    perturb: Annotated[float, Ge(0.0)] = 0.5
    """What the noise is multiplied by; for Gaussian noise its standard deviation."""
    noise: Literal["fresh", "gaussian"] = "fresh"
    """fresh: the weights of a newly drawn network, other ones each time; gaussian: N(0, 1) for each number."""
    parameters: Literal["all", "layers", "weights"] = "all"
    """What shrinks and is perturbed. all: every parameter of the networks, a normalisation's too (Juliani & Ash,
    Kumar et al.); layers: weights and biases (Dohare et al., lop-jax); weights (Chung et al.). PPO's log standard
    deviation is in no network and never meant."""
    optimizer: Literal["keep", "reset"] = "keep"
    """The optimiser's state. reset: all of it starts anew (Juliani & Ash's code, at every shift)."""

    @model_validator(mode="after")
    def _makes_sense(self) -> ShrinkPerturbOptions:
        if self.shrink == 1.0 and self.perturb == 0.0:
            raise ValueError("shrink: 1 with perturb: 0 changes nothing; shrink less or perturb more")
        if self.when == "gradient_step" and self.optimizer == "reset":
            raise ValueError("optimizer: reset with when: gradient_step leaves no moments at all; use optimizer: keep")
        return self


class ShrinkPerturb(Occasional):
    """Shrinks the weights and adds noise, in every network."""

    Options = ShrinkPerturbOptions
    options: ShrinkPerturbOptions

    def attach(self, training: Training) -> None:
        """Remembers what to perturb."""
        super().attach(training)
        self._fresh = FreshWeights(training)
        roles = _ROLES[self.options.parameters]
        self._drawables = [drawable for drawable in self._fresh.drawables if drawable.role in roles]
        self._parameters: list[Tensor] = [drawable.parameter for drawable in self._drawables]

    @torch.no_grad()
    def act(self, step: GradientStep | None) -> None:
        """Shrinks and perturbs."""
        options, generator = self.options, self.training.generator
        if options.shrink != 1.0:
            torch._foreach_mul_(self._parameters, options.shrink)
        if options.perturb > 0.0:
            if options.noise == "fresh":
                noise = self._fresh.draw(self._drawables, generator)
            else:
                noise = [_gaussian(drawable, generator) for drawable in self._drawables]
            torch._foreach_add_(self._parameters, noise, alpha=options.perturb)
        if options.when != "gradient_step":
            settle_spectral_norms(self.training.networks)
        if options.optimizer == "reset":
            forget(self.training.optimizer, optimizer_parameters(self.training.optimizer))


def _gaussian(drawable: Drawable, generator: torch.Generator) -> Tensor:
    like = drawable.parameter
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
