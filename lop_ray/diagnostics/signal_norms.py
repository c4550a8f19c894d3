"""Whether the signal vanishes on its way up: norms of what every layer gives, from the first to the last.

With `gradient_norm` of `gradients`, the way down, this is the check of kai666-song/rl-plasticity-specnorm
(`analyze_layer_norms.py`) for whether layers of spectral norm 1 let the features die out with depth.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lop_ray.diagnostics.base import Diagnostic, Findings, ObservingOptions, Row, Subject, check_finite, check_samples
from lop_ray.diagnostics.pieces import blocks


@torch.no_grad()
def mean_norm(values: Float[Tensor, "samples units *positions"]) -> float:
    """(1/N) sum_n ||x_n||_2, over all numbers that a layer gives for a sample.

    Args:
        values: [N, units] or [N, channels, ...].

    Returns:
        The mean.
    """
    check_samples(values, "values")
    squares = [rows.double().square().sum(1) for rows in blocks(values)]
    norms = torch.cat(squares).view(len(values), -1).sum(1).sqrt()
    check_finite(norms, "values")
    return float(norms.mean())


class SignalOptions(ObservingOptions):
    """Mean norms of pre-activations and activations, layer by layer."""


def measure_signal(subject: Subject, options: SignalOptions) -> Findings:
    """Columns pre_activation_norm and activation_norm; probe `signal`: decay.

    `decay` is the pre-activations' norm in the last hidden layer by that in the first. Pre-activations are what the
    activations see; without a normalisation those are the outputs of Linear and Conv2d that the source looks at. It
    counts the heads too, and calls a decay below 0.1 vanishing.
    """
    found = Findings()
    pairs = zip(subject.pre_activations(options.samples), subject.activations(options.samples), strict=True)
    for z, h in pairs:
        row: Row = {"pre_activation_norm": mean_norm(z), "activation_norm": mean_norm(h)}
        found.layers.append(row)
    first, last = (found.layers[i]["pre_activation_norm"] for i in (0, -1))
    found.add_probe("signal", decay=last / first if first else float("nan"))
    return found


SIGNAL = Diagnostic("signal", SignalOptions, measure_signal)
