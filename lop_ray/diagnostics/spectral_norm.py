"""Spectral normalisation as it is, beside as it should be: the running power iteration against an SVD.

A layer that is spectrally normalised uses W / (u' W v), with u and v that one power iteration moves after every
gradient step (Miyato et al. 2018, Algorithm 1). u' W v never exceeds the largest singular value sigma of W, and lags
behind where W moves fast or sigma is close to the next one: the layer's real norm is then sigma / (u' W v) > 1.
kai666-song/rl-plasticity-specnorm compares the two in `analyze_power_iteration.py`, on Gaussian matrices and from a
random u; here it is the weights of a run, with the u and v that it has.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lop_ray.diagnostics.base import Diagnostic, DiagnosticOptions, Findings, Subject, check_finite
from lop_ray.diagnostics.ranks import singular_values
from lop_ray.networks import trainable_weight


def normalised_weights(network: nn.Module) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """The spectrally normalised weights of a network: those of intervention `spectral_norm`, or of torch's own.

    Args:
        network: Any module.

    Yields:
        Name of the module; its weight before normalisation as the matrix [out, rest]; u [out] and v [rest].
    """
    for name, module in network.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        for each in module.parametrizations["weight"]:
            u, v = (getattr(each, key, getattr(each, f"_{key}", None)) for key in "uv")
            if isinstance(u, Tensor) and isinstance(v, Tensor):
                yield name, trainable_weight(module).detach().flatten(1), u, v


@torch.no_grad()
def power_iteration_error(
    weight: Float[Tensor, "out rest"], u: Float[Tensor, " out"], v: Float[Tensor, " rest"]
) -> tuple[float, float]:
    """How far u' W v is from sigma.

    Args:
        weight: W, before normalisation.
        u: Of norm 1.
        v: Of norm 1.

    Returns:
        sigma, the largest singular value of W, by SVD in float64; and 1 - u' W v / sigma, at least 0 but for rounding
        (NaN for a weight of zeros).
    """
    estimate = torch.dot(u.double(), weight.double() @ v.double())
    check_finite(estimate, "weights, or u and v of a spectral norm,")
    sigma = float(singular_values(weight, exact=True)[0])
    return sigma, 1.0 - float(estimate) / sigma if sigma else float("nan")


class SpectralNormErrorOptions(DiagnosticOptions):
    """Power iteration against SVD, of every spectrally normalised weight."""


def measure_spectral_norm_error(subject: Subject, _options: SpectralNormErrorOptions) -> Findings:
    """Probes `spectral_norm_error` (1 - u' W v / sigma) and `spectral_norm_exact` (sigma), a metric a weight.

    Metrics are named by the module, such as `body.conv_0`; a network without a spectral norm has none.
    """
    found = Findings()
    for name, weight, u, v in normalised_weights(subject.network):
        sigma, error = power_iteration_error(weight, u, v)
        found.add_probe("spectral_norm_error", **{name: error})
        found.add_probe("spectral_norm_exact", **{name: sigma})
    return found


SPECTRAL_NORM_ERROR = Diagnostic("spectral_norm_error", SpectralNormErrorOptions, measure_spectral_norm_error)
