"""Features: sparsity, saturation, copies of one another, and margins before and after an update."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt, Lt
from jaxtyping import Bool, Float
from torch import Tensor

from lop_ray.diagnostics.base import Diagnostic, Findings, ObservingOptions, Row, Subject, check_finite, check_samples
from lop_ray.diagnostics.pieces import blocks, mean_over
from lop_ray.diagnostics.units import count_states, margins, margins_of


@torch.no_grad()
def never_active(activations: Float[Tensor, "samples units *positions"]) -> Bool[Tensor, " units"]:
    """Units whose output is exactly 0 on every sample.

    The "dead" units of Dohare et al. 2024's supervised problems (over 2,000 samples there), and the
    "never active" of some reports on ProcGen.

    Args:
        activations: [N, units] or [N, channels, ...].

    Returns:
        [units], bool.
    """
    check_samples(activations, "activations")
    largest = torch.stack([rows.abs().amax(0) for rows in blocks(activations)]).amax(0)
    check_finite(largest, "activations")
    return largest == 0


@torch.no_grad()
def sparsity(activations: Float[Tensor, "samples units *positions"]) -> float:
    """Share of outputs that are exactly 0 (`dead_units` of Juliani & Ash 2024's code).

    Args:
        activations: [N, units] or [N, channels, ...].

    Returns:
        In [0, 1].
    """
    check_samples(activations, "activations")
    check_finite(torch.stack([rows.abs().amax() for rows in blocks(activations)]), "activations")
    return 1.0 - sum(int(torch.count_nonzero(rows)) for rows in blocks(activations)) / activations.numel()


@torch.no_grad()
def saturation(pre_activations: Float[Tensor, "samples units *positions"], beyond: float = 2.0) -> float:
    """Share of pre-activations with |z| > 2, where tanh has lost 93 % of its slope (simple-lop).

    Args:
        pre_activations: [N, units] or [N, channels, ...].
        beyond: The bound on |z|.

    Returns:
        In [0, 1].
    """
    check_samples(pre_activations, "pre-activations")
    check_finite(torch.stack([rows.abs().amax() for rows in blocks(pre_activations)]), "pre-activations")
    return sum(int((rows.abs() > beyond).sum()) for rows in blocks(pre_activations)) / pre_activations.numel()


@torch.no_grad()
def duplicates(
    activations: Float[Tensor, "samples units *positions"], correlation: float = 0.95
) -> Bool[Tensor, " units"]:
    """Units whose outputs have |Pearson correlation| > 0.95 with those of an earlier unit (simple-lop).

    A unit that never varies has no correlation and is no duplicate.

    Args:
        activations: [N, units] or [N, channels, ...].
        correlation: The bound.

    Returns:
        [units], bool. Which of two copies counts depends on their order; their number hardly does.
    """
    check_samples(activations, "activations")
    mean = mean_over((len(rows), rows.mean(0, dtype=torch.float64)) for rows in blocks(activations))
    size, products = torch.zeros_like(mean), torch.zeros(len(mean), len(mean)).to(mean)
    for rows in blocks(activations):
        size += rows.double().square().sum(0)
        centred = rows - mean
        products += centred.T @ centred
    norms = products.diagonal().sqrt()
    check_finite(norms, "activations")
    # Rounding leaves a constant unit with a residue of about one unit in the last place of its value.
    noise = 8 * torch.finfo(activations.dtype).eps * size.sqrt()
    inverse = torch.where(norms > noise, 1 / norms, 0.0)
    return ((products * inverse[:, None] * inverse).abs().triu(1) > correlation).any(0)


class FeatureOptions(ObservingOptions):
    """Sparsity, saturation and duplication."""

    saturated: Annotated[float, Gt(0.0)] = 2.0
    """A pre-activation is saturated when |z| is larger."""
    correlation: Annotated[float, Gt(0.0), Lt(1.0)] = 0.95
    """A unit repeats an earlier one when |correlation| is larger."""


def measure_features(subject: Subject, options: FeatureOptions) -> Findings:
    """Columns never_active, duplicates (counts of units), sparsity, saturation (shares)."""
    rows: list[Row] = []
    pairs = zip(subject.pre_activations(options.samples), subject.activations(options.samples), strict=True)
    for z, h in pairs:
        rows.append(
            {
                "never_active": int(never_active(h).sum()),
                "duplicates": int(duplicates(h, options.correlation).sum()),
                "sparsity": sparsity(h),
                "saturation": saturation(z, options.saturated),
            }
        )
    return Findings(layers=rows)


class PredictiveMarginOptions(ObservingOptions):
    """Margins of the weights from before the update on the data of now.

    `margins` gives the *actual* margins, of theta_k on the data M_k that theta_{k-1} has gathered; these are
    the *predictive* ones, of theta_{k-1} on M_k. What differs between the two is the step of the weights;
    what differs between the predictive margins and the actual ones one update ago is the shift of the data.
    """

    at_risk: Annotated[float, Gt(0.0)] = 0.1
    """As of `margins`."""

    def needs(self) -> frozenset[str]:
        """The network from before the update."""
        return frozenset({"before"})


def measure_predictive_margins(subject: Subject, options: PredictiveMarginOptions) -> Findings:
    """Columns predictive_dead, predictive_at_risk, predictive_mean_margin, and died, revived.

    `died` counts units that the step of the weights killed on this data (alive under the old weights, dead
    under the new); `revived` the opposite.
    """
    before = margins_of(subject.of_network("before"), subject.observations[-options.samples :])
    rows: list[Row] = []
    for old, after in zip(before, subject.pre_activations(options.samples), strict=True):
        new = margins(after)
        counts = count_states(old, options.at_risk)
        rows.append(
            {
                "predictive_dead": counts.dead,
                "predictive_at_risk": counts.at_risk,
                "predictive_mean_margin": counts.mean_margin,
                "died": int(((old.highest >= 0) & (new.highest < 0)).sum()),
                "revived": int(((old.highest < 0) & (new.highest >= 0)).sum()),
            }
        )
    return Findings(layers=rows)


FEATURES = Diagnostic("features", FeatureOptions, measure_features)
PREDICTIVE_MARGINS = Diagnostic("predictive_margins", PredictiveMarginOptions, measure_predictive_margins)
