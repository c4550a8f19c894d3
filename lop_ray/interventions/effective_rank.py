"""The effective-rank penalty (ER; with L2 in the optimiser: L2-ER).

He et al. 2025 (`KevinGuo27/lop-jax`, `effective_rank_loss`): gradient ascent on

    R(theta) = sum_networks mean_layers exp(H(p)),   p_i = sigma_i / sum_j sigma_j,

sigma the singular values of a hidden layer's outputs [N, units], neither centred nor scaled, and H the entropy in
nats (Roy & Vetterli 2007).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from pydantic import model_validator
from torch import Tensor, nn

from lop_ray.interventions.base import GradientStep, Intervention, LossStep, Training
from lop_ray.interventions.layers import trainable
from lop_ray.networks import by_unit, evaluation_mode, features_of, hidden_layers
from lop_ray.options import Options


class EffectiveRankOptions(Options):
    """The options of `effective_rank`."""

    strength: Annotated[float, Gt(0.0)] = 1e-6
    """Step size of the ascent (lop-jax searches {1e-5, 1e-6, 1e-7} for PPO, {1e-2, 1e-3, 1e-4} for MNIST), or
    coefficient of the loss term."""
    form: Literal["step", "loss_term"] = "step"
    """step: theta <- theta + strength grad R, plain gradient ascent on every observation of the update, apart from the
    optimiser and its moments (published). loss_term: - strength R, on each minibatch, goes through the optimiser."""
    period: Annotated[int, Ge(1)] = 16
    """Of form step: gradient steps between ascents. 16 is an epoch of 2048 observations in minibatches of 128; the
    code ascends once an epoch, before its minibatches, here it is after them."""
    layers: Literal["all", "last_two"] = "all"
    """all hidden layers (PPO, MNIST); last_two of each network (the code for ImageNet and CIFAR)."""

    @model_validator(mode="after")
    def _period_has_a_meaning(self) -> EffectiveRankOptions:
        if self.form == "loss_term" and "period" in self.model_fields_set:
            raise ValueError("period belongs to form: step; a loss term is in every loss; leave period away")
        return self


class EffectiveRank(Intervention):
    """Raises the effective rank of the hidden layers.

    The extra forward passes are in evaluation mode, so that no other method takes them for training.
    """

    Options = EffectiveRankOptions
    options: EffectiveRankOptions

    def attach(self, training: Training) -> None:
        """Remembers the networks."""
        super().attach(training)
        self._parameters = [p for network in training.networks.values() for p in trainable(network.parameters())]

    def loss_term(self, step: LossStep) -> Tensor | None:
        """- strength R of the minibatch, in form loss_term."""
        return -self.options.strength * self.rank(step.minibatch) if self.options.form == "loss_term" else None

    def after_gradient_step(self, step: GradientStep) -> None:
        """Ascends when `step.count` is a multiple of the period, in form step."""
        if self.options.form != "step" or step.count % self.options.period:
            return
        gradients = torch.autograd.grad(self.rank(step.inputs), self._parameters, allow_unused=True)
        pairs = [(p, g) for p, g in zip(self._parameters, gradients, strict=True) if g is not None]
        if pairs:
            parameters, ascent = map(list, zip(*pairs, strict=True))
            with torch.no_grad():
                torch._foreach_add_(parameters, ascent, alpha=self.options.strength)

    def rank(self, inputs: Tensor) -> Tensor:
        """R on `inputs` [N, ...], a scalar with its graph, in the type of the inputs."""
        means = []
        for network in self.training.networks.values():
            outputs = _outputs(network, inputs)
            chosen = outputs[-2:] if self.options.layers == "last_two" else outputs
            means.append(torch.stack([effective_rank(values) for values in chosen]).mean())
        return torch.stack(means).sum().to(inputs.dtype)


def effective_rank(features: Tensor) -> Tensor:
    """exp(H(sigma / sum sigma)), differentiable; 0 for a matrix of zeros.

    From the eigenvalues of the smaller Gram matrix in float64: its gradient needs no division by differences of
    singular values, and it is several times faster than an SVD. Singular values below sqrt(max(N, D) u) sigma_1, with
    u = 2.2e-16, cannot be told from 0; they count as 0 and have no gradient. (In an SVD the direction of such a
    gradient would be arbitrary.)

    Args:
        features: [N, D], or [N, channels, ...] with positions as samples.

    Returns:
        A scalar, float64.
    """
    rows = by_unit(features).double()
    gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    eigenvalues = torch.linalg.eigvalsh(gram)
    floor = max(rows.shape) * torch.finfo(torch.float64).eps * eigenvalues.detach()[-1]
    sigma = eigenvalues[eigenvalues > floor].sqrt()
    if not len(sigma):
        return rows.sum() * 0.0
    return torch.special.entr(sigma / sigma.sum()).sum().exp()


def _outputs(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """What every hidden layer hands on, with its graph."""
    layers = hidden_layers(network)
    seen: dict[int, Tensor] = {}

    def keep(module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        seen[id(module)] = output

    handles = [layer.activation.register_forward_hook(keep) for layer in layers]
    try:
        with evaluation_mode(network), torch.enable_grad():
            network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [features_of(layer, seen[id(layer.activation)]) for layer in layers]
