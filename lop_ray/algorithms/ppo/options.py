"""The `ppo:` section of a grid. Defaults are those of Dohare et al. 2024 (Nature 632, Methods; `cfg/ant/std.yml`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import model_serializer, model_validator
from pydantic.functional_serializers import SerializerFunctionWrapHandler

from lop_ray.options import Options

Fraction = Annotated[float, Ge(0.0), Le(1.0)]


class EvaluationOptions(Options):
    """The `ppo.evaluation:` section: whole episodes on held-out data, for problems that hold some out."""

    every_updates: Annotated[int, Gt(0)] = 100
    """Updates between evaluations."""
    episodes: Annotated[int, Gt(0)] = 30
    """How many at least: every env copy plays the same number of whole ones."""
    explore: bool = True
    """Draw actions as in training, or take the most likely ones."""


class PPOOptions(Options):
    """Proximal policy optimisation (Schulman et al. 2017)."""

    lr: Annotated[float, Gt(0.0)] = 1e-4
    """Adam's step size."""
    batch_size: Annotated[int, Gt(0)] = 2048
    """Environment steps an update, over all env copies."""
    minibatch_size: Annotated[int, Gt(0)] = 128
    """Steps a gradient step; divides `batch_size`."""
    num_epochs: Annotated[int, Gt(0)] = 10
    """Passes over the batch an update, each in a new order."""
    gamma: Fraction = 0.99
    """Discount."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalised advantage estimation (Schulman et al. 2016)."""
    clip_param: Annotated[float, Gt(0.0)] = 0.2
    """Epsilon of the clipped surrogate."""
    value_loss_coefficient: Annotated[float, Ge(0.0)] = 1.0
    """Weight of the mean squared value error."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    grad_clip: Annotated[float, Gt(0.0)] | None = None
    """Largest global gradient norm, or null."""
    normalize_advantages: bool | Literal["minibatch"] = True
    """Subtract the mean and divide by the standard deviation, over the whole batch; minibatch: over each minibatch,
    1e-8 added to its deviation (Juliani & Ash 2024's code)."""
    time_limit: Literal["cut", "bootstrap"] = "cut"
    """What a time limit does to the value target. cut: as a terminal state (the paper's code);
    bootstrap: V of the last observation stands in (Pardo et al. 2018)."""
    evaluation: EvaluationOptions | None = None
    """Evaluations on held-out data; null: none."""

    @model_validator(mode="after")
    def _minibatches_divide_the_batch(self) -> PPOOptions:
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"minibatch_size {self.minibatch_size} does not divide batch_size {self.batch_size}; "
                "choose a divisor, so that every step of the batch is used once an epoch"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked_for(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)  # without evaluation a trial is what it was before there was any
        return {key: value for key, value in dumped.items() if key != "evaluation" or value is not None}
