"""Spectral regularisation: keeps the largest singular value of every weight near a target.

Lewandowski et al. 2025 (ICLR, arXiv 2406.06811), as coded in lop-jax (`compute_spectral_regularization`):

    lambda ( sum_W (sigma_1(W)^k - target)^2 + sum_b |b|^2 + sum_scale |scale - 1|^2 )
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import normalize

from lop_ray.interventions.base import Intervention, LossStep, Training
from lop_ray.interventions.layers import affine_layers, normalisations
from lop_ray.networks import trainable_weight
from lop_ray.options import Options


class SpectralRegularisationOptions(Options):
    """The options of `spectral_regularisation`."""

    strength: Annotated[float, Gt(0.0)] = 1e-3
    """lambda; lop-jax searches {1e-2, 1e-3, 1e-4} for PPO."""
    exponent: Annotated[int, Ge(1)] = 2
    """k."""
    target: Annotated[float, Gt(0.0)] = 1.0
    """What sigma_1^k is drawn to: 1 in the paper, 2 in lop-jax."""
    heads: bool = True
    """Also the output layers."""
    power_iterations: Annotated[int, Gt(0)] = 10
    """v <- W'W v / |W'W v| so many times before sigma_1 = |W v|."""
    start: Literal["fixed", "running"] = "fixed"
    """Where the iteration starts in each loss. fixed: one random vector, always the same (lop-jax). running: where it
    ended in the loss before, so that one iteration a loss is enough; it starts with 15."""
    gradient: Literal["singular_vectors", "through_iterations"] = "singular_vectors"
    """How sigma_1 is differentiated. singular_vectors: v held fixed, d sigma_1 = u' dW v, which is exact where the
    iteration has converged. through_iterations: through every iteration (lop-jax)."""


class SpectralRegularisation(Intervention):
    """Adds the penalty to the loss. A kernel is taken as the matrix [out, in * height * width].

    Biases are those of the layers and the shifts of their normalisations.
    """

    Options = SpectralRegularisationOptions
    options: SpectralRegularisationOptions

    def attach(self, training: Training) -> None:
        """Remembers the parameters and draws where the power iterations start."""
        super().attach(training)
        self._weights: list[Tensor] = []
        to_zero: list[Tensor | None] = []
        self._to_one: list[Tensor] = []
        for network in training.networks.values():
            modules = affine_layers(network, heads=self.options.heads).values()
            self._weights += map(trainable_weight, modules)
            to_zero += [module.bias for module in modules]
            for norm in normalisations(network):
                named = dict(norm.named_parameters())
                to_zero.append(named.get("bias"))
                self._to_one += [named["weight"]] if "weight" in named else []
        self._to_zero = [bias for bias in to_zero if bias is not None]
        self._vectors = [self._start(weight) for weight in self._weights]

    def _start(self, weight: Tensor) -> Tensor:
        matrix = weight.detach().flatten(1)
        drawn = torch.randn(matrix.shape[1], generator=self.training.generator, dtype=weight.dtype).to(weight.device)
        vector = normalize(drawn, dim=0)
        return _iterate(matrix, vector, 15) if self.options.start == "running" else vector

    def loss_term(self, step: LossStep) -> Tensor:
        """The penalty, a scalar."""
        options = self.options
        terms = [
            (self._largest_singular_value(i).pow(options.exponent) - options.target).square()
            for i in range(len(self._weights))
        ]
        terms += [bias.square().sum() for bias in self._to_zero]
        terms += [(scale - 1.0).square().sum() for scale in self._to_one]
        return options.strength * torch.stack(terms).sum()

    def _largest_singular_value(self, index: int) -> Tensor:
        matrix = self._weights[index].flatten(1)
        with torch.set_grad_enabled(self.options.gradient == "through_iterations"):
            vector = _iterate(matrix, self._vectors[index], self.options.power_iterations)
        if self.options.start == "running":
            self._vectors[index] = vector.detach()
        return torch.linalg.vector_norm(matrix @ vector)

    def state_dict(self) -> dict[str, Any]:
        """Where the power iterations start."""
        return {"vectors": [vector.clone() for vector in self._vectors]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        pairs = zip(self._vectors, state["vectors"], strict=True)
        self._vectors = [saved.to(vector, copy=True) for vector, saved in pairs]


def _iterate(matrix: Tensor, vector: Tensor, times: int) -> Tensor:
    for _ in range(times):
        vector = normalize(matrix.T @ (matrix @ vector), dim=0)
    return vector
