"""Random-walk training: every gradient step is replaced by a step of the same length in a random direction.

Lyle et al. 2023 (arXiv 2303.01486, section 4.2, Fig. 2): what gradient descent does to the loss landscape, against
what moving as far does. There the walk copies the step lengths of a second network, which is trained from the same
initial weights; here each length is that of the optimiser's own step from where the walk is, so that no second network
is needed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lop_ray.interventions.base import GradientStep, Intervention, LossStep, Training
from lop_ray.interventions.optimizer_state import optimizer_parameters
from lop_ray.options import Options


class RandomWalkOptions(Options):
    """The options of `random_walk`."""

    match: Literal["global", "tensor"] = "global"
    """global: one Gaussian direction for all parameters together, scaled to the length of the whole step (Lyle et
    al.). tensor: each parameter's own step is matched, so that every layer moves as far as it would have."""


class RandomWalk(Intervention):
    """After every optimiser step, theta <- theta_before + |theta_after - theta_before| g / |g|, g Gaussian.

    It covers all parameters of the optimiser, PPO's log standard deviation too, and whatever the optimiser does,
    weight decay too. The optimiser goes on to keep the moments of the gradients. List it first: what stands before it
    and changes weights after a gradient step counts as a part of that step.
    """

    Options = RandomWalkOptions
    options: RandomWalkOptions

    def attach(self, training: Training) -> None:
        """Remembers the parameters."""
        super().attach(training)
        self._parameters: list[Tensor] = list(optimizer_parameters(training.optimizer))
        self._before: list[Tensor] = []

    @torch.no_grad()
    def loss_term(self, step: LossStep) -> None:
        """No penalty; notes where the step starts."""
        self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def after_gradient_step(self, step: GradientStep) -> None:
        """Replaces the step that was just taken.

        Raises:
            RuntimeError: `loss_term` was not called before the step.
        """
        if not self._before:
            raise RuntimeError("random_walk does not know where the step started; call loss_term before every step")
        lengths = torch._foreach_norm([p - before for p, before in zip(self._parameters, self._before, strict=True)])
        draw = self.training.generator
        direction = [torch.randn(p.shape, generator=draw, dtype=p.dtype).to(p.device) for p in self._parameters]
        sizes = torch._foreach_norm(direction)
        if self.options.match == "global":
            whole = torch.linalg.vector_norm(torch.stack(lengths)) / torch.linalg.vector_norm(torch.stack(sizes))
            factors = [whole] * len(sizes)
        else:
            factors = [length / size for length, size in zip(lengths, sizes, strict=True)]
        for parameter, before, g, factor in zip(self._parameters, self._before, direction, factors, strict=True):
            parameter.copy_(before + factor * g)
        self._before = []
