"""Weights: their magnitude, their norm, and how far they moved.

The weight of a layer is what the forward pass multiplies with: under spectral normalisation the
normalised one. Biases are left out, as in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from lop_ray.diagnostics.base import Diagnostic, DiagnosticOptions, Findings, Row, Subject, check_finite
from lop_ray.diagnostics.ranks import effective_rank, singular_values
from lop_ray.networks import evaluation_mode, hidden_layers

Weights = dict[str, Tensor]
"""Weights of a network by the name of their module, detached; see `copy_weights`."""


@torch.no_grad()
def copy_weights(network: nn.Module) -> Weights:
    """A copy of the weight of every Linear and convolution of `network`, heads included, biases left out.

    Args:
        network: Any module.

    Returns:
        The weights that its forward pass uses, by module name.
    """
    with evaluation_mode(network):  # a spectral norm would otherwise take a step of its power iteration
        return {name: module.weight.detach().clone() for name, module in network.named_modules() if _weighs(module)}


def _weighs(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))


@torch.no_grad()
def weight_magnitude(weight: Float[Tensor, "*shape"]) -> float:
    """Mean |w| (`pol_weights` of the reference; Dohare et al. 2024, Fig. 4).

    Args:
        weight: Of any shape.

    Returns:
        The mean.
    """
    magnitude = weight.abs().mean()
    check_finite(magnitude, "weights")
    return float(magnitude)


@torch.no_grad()
def weight_norm(weight: Float[Tensor, "*shape"]) -> float:
    """||W||_F, the root of the sum of squares.

    Args:
        weight: Of any shape.

    Returns:
        The norm.
    """
    norm = torch.linalg.vector_norm(weight, dtype=torch.float64)
    check_finite(norm, "weights")
    return float(norm)


@torch.no_grad()
def weight_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Sum of |w' - w| over all weights (`weight_change` of the reference: over the policy's, per PPO update).

    Args:
        before: From `copy_weights`, before the update.
        after: After it.

    Returns:
        The sum.

    Raises:
        ValueError: The two are not from the same network.
    """
    if {name: weight.shape for name, weight in before.items()} != {
        name: weight.shape for name, weight in after.items()
    }:
        raise ValueError(
            f"weights {sorted(before)} and {sorted(after)} differ in names or shapes: "
            "both must be copies from one network"
        )
    change = sum(float((after[name] - before[name]).abs().sum(dtype=torch.float64)) for name in before)
    check_finite(torch.tensor(change), "weights")
    return change


def weight_singular_values(weight: Float[Tensor, "out in *taps"]) -> Float64[Tensor, " values"]:
    """Singular values of a weight by SVD; a kernel [out, in, ...] is reshaped to [out, in * ...].

    Args:
        weight: [out, in, ...].

    Returns:
        [min(out, in * ...)], float64, largest first.
    """
    return singular_values(weight.flatten(1), exact=True)


def condition_number(sigma: Float[Tensor, " values"]) -> float:
    """sigma_max / sigma_min; infinite for a weight that is singular to working precision of float64.

    Args:
        sigma: [K], largest first.

    Returns:
        In [1, inf].
    """
    return float("inf") if sigma[-1] <= sigma[0] * torch.finfo(torch.float64).eps else float(sigma[0] / sigma[-1])


def incoming_names(network: nn.Module) -> list[str]:
    """For every hidden layer, the module name of its incoming weights, as in `copy_weights`."""
    names = {module: name for name, module in network.named_modules()}
    return [names[layer.incoming] for layer in hidden_layers(network)]


class WeightOptions(DiagnosticOptions):
    """Magnitude, norm and change of every hidden layer's incoming weights."""

    def uses(self) -> frozenset[str]:
        """The network before the update, and as it was initialised."""
        return frozenset({"before", "initial"})


def measure_weights(subject: Subject, _options: WeightOptions) -> Findings:
    """Columns weight_magnitude, weight_norm; weight_change with `before`, init_distance with `initial`."""
    after = copy_weights(subject.network)
    before, initial = (subject.of_network(key) for key in ("before", "initial"))
    weights_before = None if before is None else copy_weights(before)
    weights_initial = None if initial is None else copy_weights(initial)
    rows: list[Row] = []
    for name in incoming_names(subject.network):
        row: Row = {"weight_magnitude": weight_magnitude(after[name]), "weight_norm": weight_norm(after[name])}
        if weights_before is not None:
            row["weight_change"] = weight_change({name: weights_before[name]}, {name: after[name]})
        if weights_initial is not None:
            row["init_distance"] = weight_norm(after[name] - weights_initial[name])
        rows.append(row)
    return Findings(layers=rows)


class WeightSpectrumOptions(DiagnosticOptions):
    """Singular values of every hidden layer's incoming weights."""

    store: bool = False
    """Whether all singular values are written to `spectra`."""


def measure_weight_spectrum(subject: Subject, options: WeightSpectrumOptions) -> Findings:
    """Columns spectral_norm, condition_number, weight_rank (effective rank of the weight matrix)."""
    found, weights = Findings(), copy_weights(subject.network)
    for layer, name in enumerate(incoming_names(subject.network)):
        sigma = weight_singular_values(weights[name])
        found.layers.append(
            {
                "spectral_norm": float(sigma[0]),
                "condition_number": condition_number(sigma),
                "weight_rank": effective_rank(sigma),
            }
        )
        if options.store:
            found.add_spectrum("weight_singular_values", sigma, layer=layer)
    return found


WEIGHTS = Diagnostic("weights", WeightOptions, measure_weights)
WEIGHT_SPECTRUM = Diagnostic("weight_spectrum", WeightSpectrumOptions, measure_weight_spectrum)
