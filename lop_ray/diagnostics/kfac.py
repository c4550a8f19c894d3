"""Ranks of the two Kronecker factors of each layer's curvature.

KFAC (Martens & Grosse 2015) approximates a layer's block of the Gauss-Newton matrix by A (x) G, with the
covariance A = E[x x^T] of the layer's inputs and G = E[g g^T] of the gradients with respect to its outputs, so
rank(A (x) G) = rank A * rank G: dead or copied units below lower the first, dead units above the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lop_ray.diagnostics.base import Diagnostic, Findings, Row, Subject
from lop_ray.diagnostics.losses import LossOptions, Problem
from lop_ray.diagnostics.ranks import effective_rank, numerical_rank, singular_values
from lop_ray.networks import hidden_layers


@dataclass(frozen=True)
class Factors:
    """Matrices whose second moments are the factors, a row a sample (and position).

    Attributes:
        inputs: [M, in], what the layer reads; patches [M, in * taps] for a convolution.
        gradients: [M, out], gradients of each row's loss with respect to the layer's outputs.
    """

    inputs: Float[Tensor, "rows inputs"]
    gradients: Float[Tensor, "rows outputs"]


def kfac_factors(problem: Problem) -> list[Factors]:
    """Inputs and output gradients of every hidden layer's incoming weights.

    The gradients are those of the loss on the batch's own targets (the empirical factor), not on targets drawn
    from the model.

    Args:
        problem: Network, loss and batch.

    Returns:
        One pair per hidden layer.
    """
    layers = hidden_layers(problem.network)
    inputs: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}

    def keep(index: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[index], outputs[index] = args[0].detach(), output

        return hook

    handles = [layer.incoming.register_forward_hook(keep(index)) for index, layer in enumerate(layers)]
    try:
        value = problem.value()
    finally:
        for handle in handles:
            handle.remove()
    each = torch.autograd.grad(value * len(problem.batch["inputs"]), [outputs[index] for index in range(len(layers))])
    return [
        Factors(_patches(layer.incoming, inputs[index]), each[index].movedim(1, -1).flatten(0, -2))
        for index, layer in enumerate(layers)
    ]


def _patches(layer: nn.Linear | nn.Conv2d, inputs: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    if isinstance(layer.padding, str) or layer.groups != 1 or layer.padding_mode != "zeros":
        raise ValueError(f"factors of {layer} are not defined here: groups, named or non-zero padding")
    patches = nn.functional.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.movedim(1, -1).flatten(0, -2)


class KfacOptions(LossOptions):
    """Ranks of the factors of every hidden layer."""


def measure_kfac_ranks(subject: Subject, options: KfacOptions) -> Findings:
    """Columns kfac_input_rank, kfac_gradient_rank (numerical ranks) and their effective ranks.

    Ranks are of the matrices of inputs and gradients, and so of their second moments; effective ranks are of
    singular values, as for features.
    """
    rows: list[Row] = []
    for factors in kfac_factors(options.problem(subject, "kfac_ranks")):
        rows.append(
            {
                "kfac_input_rank": float(numerical_rank(factors.inputs)),
                "kfac_gradient_rank": float(numerical_rank(factors.gradients)),
                "kfac_input_effective_rank": effective_rank(singular_values(factors.inputs)),
                "kfac_gradient_effective_rank": effective_rank(singular_values(factors.gradients)),
            }
        )
    return Findings(layers=rows)


KFAC_RANKS = Diagnostic("kfac_ranks", KfacOptions, measure_kfac_ranks)
