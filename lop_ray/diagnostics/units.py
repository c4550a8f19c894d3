"""Single units: margins, activity, and the several meanings of "dead", each under a name of its own.

| name | a unit counts when | source |
|---|---|---|
| dead | its pre-activation is < 0 on every sample | margin analysis |
| silent | its output is > 0 on at most 1 % of the samples | `dormant units` of Dohare et al. 2024, Fig. 4 |
| dormant | its mean absolute output is at most tau times the layer's mean | Sokar et al. 2023, Def. 3.1 |
| never active | its output is 0 on every sample | `dead units` of Dohare et al. 2024, supervised |

and one that is no count of units: *sparsity*, the share of outputs that are 0, which Juliani & Ash
2024 plot as "dead units". A convolution's channel is one unit; its positions count as samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lop_ray.diagnostics.base import (
    Diagnostic,
    Findings,
    ObservingOptions,
    Row,
    Subject,
    check_finite,
    check_samples,
)
from lop_ray.diagnostics.pieces import blocks, mean_over, record_pieces


@dataclass(frozen=True)
class Margins:
    """Extremes of the pre-activations z over the samples.

    Attributes:
        highest: [units], max z: the *margin*, negative when the unit's hyperplane misses the data.
        lowest: [units], min z.
    """

    highest: Float[Tensor, " units"]
    lowest: Float[Tensor, " units"]


@torch.no_grad()
def margins(pre_activations: Float[Tensor, "samples units *positions"]) -> Margins:
    """Highest and lowest pre-activation of every unit.

    Args:
        pre_activations: [N, units] or [N, channels, ...].

    Returns:
        The extremes, [units] each.
    """
    check_samples(pre_activations, "pre-activations")
    found = _widest([Margins(rows.amax(0), rows.amin(0)) for rows in blocks(pre_activations)])
    check_finite(found.highest + found.lowest, "pre-activations")
    return found


def _widest(parts: Sequence[Margins]) -> Margins:
    return Margins(
        torch.stack([part.highest for part in parts]).amax(0), torch.stack([part.lowest for part in parts]).amin(0)
    )


def margins_of(network: nn.Module, inputs: Tensor) -> list[Margins]:
    """Margins of every hidden layer on `inputs`, of which only a piece is in memory at a time.

    Args:
        network: With a view of its hidden layers.
        inputs: [N, ...], N >= 1.

    Returns:
        One a layer.
    """
    pieces = [[margins(values) for values in piece.pre_activations] for piece in record_pieces(network, inputs)]
    return [_widest(layer) for layer in zip(*pieces, strict=True)]


@dataclass(frozen=True)
class UnitCounts:
    """How many units are in which state. `at_risk` is no state of its own: such units are also counted below.

    Attributes:
        dead: margin < 0.
        at_risk: 0 <= margin < eps.
        always_on: min z > 0: the unit is linear on the data.
        selective: min z < 0 < margin.
        mean_margin: Mean of the margins over units.
    """

    dead: int
    at_risk: int
    always_on: int
    selective: int
    mean_margin: float


def count_states(found: Margins, at_risk: float = 0.1) -> UnitCounts:
    """Counts dead, at-risk, always-on and selective units.

    Args:
        found: Margins of a layer.
        at_risk: eps, in units of the pre-activation.

    Returns:
        The counts. dead + always_on + selective = units, unless an extreme is exactly 0.
    """
    high, low = found.highest, found.lowest
    states = (high < 0, (high >= 0) & (high < at_risk), low > 0, (low < 0) & (high > 0))
    dead, risky, always_on, selective = torch.stack(states).sum(1).tolist()
    return UnitCounts(dead, risky, always_on, selective, float(high.mean(dtype=torch.float64)))


@torch.no_grad()
def mean_activity(activations: Float[Tensor, "samples units *positions"]) -> Float[Tensor, " units"]:
    """E|h_i| over samples (and positions).

    Args:
        activations: [N, units] or [N, channels, ...].

    Returns:
        [units].
    """
    check_samples(activations, "activations")
    activity = mean_over((len(rows), rows.abs().mean(0)) for rows in blocks(activations))
    check_finite(activity, "activations")
    return activity


def dormant_scores(activity: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
    """Sokar et al. 2023, Definition 3.1: s_i = E|h_i| / mean_k E|h_k|.

    A layer in which every output is 0 has scores 0: all its units are dormant at every tau >= 0.

    Args:
        activity: [units], E|h_i|; see `mean_activity`.

    Returns:
        [units]; their mean is 1, or 0 in an all-zero layer.
    """
    mean = activity.mean()
    return torch.where(mean > 0, activity / mean, torch.zeros_like(activity))


def dormant(scores: Float[Tensor, " units"], tau: float = 0.025) -> Bool[Tensor, " units"]:
    """Which units are dormant: s_i <= tau (Sokar et al. 2023; tau = 0.025 is their choice for DQN).

    Args:
        scores: [units]; see `dormant_scores`.
        tau: Threshold.

    Returns:
        [units], bool.
    """
    return scores <= tau


@torch.no_grad()
def activation_rate(activations: Float[Tensor, "samples units *positions"]) -> Float[Tensor, " units"]:
    """Share of samples on which a unit's output is > 0.

    Args:
        activations: [N, units] or [N, channels, ...].

    Returns:
        [units], in [0, 1].
    """
    check_samples(activations, "activations")
    rate = mean_over((len(rows), rows.clamp(min=0).sign().mean(0)) for rows in blocks(activations))
    check_finite(rate, "activations")
    return rate


def silent(rate: Float[Tensor, " units"], at_most: float = 0.01) -> Bool[Tensor, " units"]:
    """Units that are active on at most 1 % of the samples.

    The reference (`run_ppo.py`, `fig4b.py` of loss-of-plasticity) counts over disjoint windows of 1,000
    environment steps, with the outputs as they were computed while acting; here all samples are seen by
    the present network. Rates are compared with half a sample's tolerance, as they are rounded floats.

    Args:
        rate: [units]; see `activation_rate`.
        at_most: Largest rate of a silent unit.

    Returns:
        [units], bool.
    """
    return rate <= at_most + 1e-6


class MarginOptions(ObservingOptions):
    """Margins: dead, at-risk, always-on and selective units, per layer; every unit's margin now and then."""

    at_risk: Annotated[float, Gt(0.0)] = 0.1
    """A unit is at risk when 0 <= margin < at_risk."""
    neurons_every: Annotated[int, Ge(1)] = 10
    """Updates between rows of table `neurons`, which hold every unit's margin."""


def measure_margins(subject: Subject, options: MarginOptions) -> Findings:
    """Columns dead, at_risk, always_on, selective, mean_margin; table `neurons`."""
    found = Findings()
    for layer, values in enumerate(subject.pre_activations(options.samples)):
        layer_margins = margins(values)
        found.layers.append(vars(count_states(layer_margins, options.at_risk)).copy())
        if subject.update % options.neurons_every == 0:
            found.neurons.append({"layer": layer, "margin": layer_margins.highest.tolist()})
    return found


class DormantOptions(ObservingOptions):
    """Dormant and silent units, mean activity, activation rate."""

    tau: Annotated[float, Ge(0.0)] = 0.025
    """A unit is dormant when its score is <= tau."""
    silent: Annotated[float, Ge(0.0), Le(1.0)] = 0.01
    """A unit is silent when it is active on at most this share of the samples."""


def measure_dormant(subject: Subject, options: DormantOptions) -> Findings:
    """Columns dormant, silent (counts of units), activity and activation_rate (means over units)."""
    rows: list[Row] = []
    for values in subject.activations(options.samples):
        activity, rate = mean_activity(values), activation_rate(values)
        rows.append(
            {
                "dormant": int(dormant(dormant_scores(activity), options.tau).sum()),
                "silent": int(silent(rate, options.silent).sum()),
                "activity": float(activity.mean(dtype=torch.float64)),
                "activation_rate": float(rate.mean(dtype=torch.float64)),
            }
        )
    return Findings(layers=rows)


MARGINS = Diagnostic("margins", MarginOptions, measure_margins)
DORMANT = Diagnostic("dormant", DormantOptions, measure_dormant)
