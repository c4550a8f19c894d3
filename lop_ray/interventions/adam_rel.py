"""Adam-Rel: Adam counts its steps anew for every new objective.

Ellis et al. 2024 (arXiv 2412.17113, "Adam on Local Time"). Adam divides its moments by 1 - beta^t. With the moments
kept and t counted from the latest change of the objective,

    m^ = m / (1 - beta_1^t),    v^ = v / (1 - beta_2^t),    t = 1, 2, ... within one update,

the first steps after a change are small where the gradients have grown, instead of larger than the learning rate
says. In PPO the objective changes with every batch, that is, with every update.
"""

from __future__ import annotations

from typing import Literal

import torch

from lop_ray.interventions.base import GradientStep, Intervention, Training
from lop_ray.interventions.optimizer_state import forget, optimizer_parameters, zero_step
from lop_ray.options import Options


class AdamRelOptions(Options):
    """The options of `adam_rel`."""

    moments: Literal["keep", "reset"] = "keep"
    """keep: Adam-Rel. reset: m and v start from 0 as well, "Adam-MR" of the paper's comparison."""


class AdamRel(Intervention):
    """After every update, sets Adam's count of steps to 0 in all parameters.

    It is 0 when training begins, so that this is the same as setting it before every update.
    """

    Options = AdamRelOptions
    options: AdamRelOptions

    def attach(self, training: Training) -> None:
        """Looks at the optimiser.

        Raises:
            ValueError: It is not Adam.
        """
        super().attach(training)
        if not isinstance(training.optimizer, torch.optim.Adam):
            raise ValueError(
                f"adam_rel needs Adam's count of steps, which {type(training.optimizer).__name__} does not have; "
                "use optimizer.name: adam"
            )

    def after_update(self, step: GradientStep) -> None:
        """Starts to count anew."""
        optimizer = self.training.optimizer
        parameters = optimizer_parameters(optimizer)
        if self.options.moments == "reset":
            forget(optimizer, parameters)
            return
        for parameter in parameters:
            zero_step(optimizer, parameter)
