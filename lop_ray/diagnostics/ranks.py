"""Ranks of feature matrices: many definitions, one decomposition.

Ranks take the singular values sigma of a feature matrix X [samples N, features D], so that one
decomposition serves all. `singular_values` gets them from the eigenvalues of the smaller Gram matrix
(X^T X or X X^T) in float64, which is several times faster than an SVD.

**How exact that is.** Squaring costs half of the digits: with u = 2.2e-16, an eigenvalue is known to about
max(N, D) u lambda_max, so a singular value to about max(N, D) u sigma_max^2 / sigma: relative 1e-13 for
the large ones, and nothing is known below sqrt(max(N, D) u) sigma_max (5e-7 sigma_max for 1,000 samples).
Values under that floor are returned as exactly 0. All ranks here look at values far above it (1 % of the
sum, 1 % of sqrt(N)), where both ways agree; float32 features are themselves only known to 6e-8 of the
largest. A numerical rank of float64 features, whose tolerance is max(N, D) u, needs `exact=True`.

A matrix of zeros has rank 0 under every definition.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Len, Lt
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from lop_ray.diagnostics.base import (
    Diagnostic,
    Findings,
    ObservingOptions,
    Row,
    Subject,
    check_finite,
    check_samples,
)
from lop_ray.diagnostics.pieces import blocks, mean_over
from lop_ray.networks import by_unit, projections_of


@torch.no_grad()
def singular_values(
    features: Float[Tensor, "samples features *positions"], *, exact: bool = False, centred: bool = False
) -> Float64[Tensor, " values"]:
    """Singular values of a feature matrix, largest first.

    Args:
        features: [N, D], or [N, channels, ...] with positions as samples.
        exact: By SVD, instead of the Gram matrix's eigenvalues; see above.
        centred: Of the features less their mean over samples.

    Returns:
        [min(N, D)], float64, on the features' device.

    Raises:
        ValueError: NaN or infinity, or no samples.
    """
    check_samples(features, "features")
    rows = by_unit(features)
    count, largest = min(rows.shape), torch.stack([some.abs().amax(0) for some in blocks(features)]).amax(0)
    check_finite(largest, "features")
    alive = largest > 0
    width = int(alive.sum())  # columns of zeros add only zeros to the spectrum
    if not width:
        return features.new_zeros(count, dtype=torch.float64)
    # So that no square overflows or vanishes; squares of float32 cannot.
    scale = float(largest.max()) if rows.dtype == torch.float64 else 1.0
    mean = mean_over((len(some), some.mean(0, dtype=torch.float64)) for some in blocks(features)) if centred else None
    if exact or len(rows) < width:
        rows = rows if width == len(alive) else rows[:, alive]
        rows = (rows if mean is None else rows - mean[alive]) / scale
    if exact:
        found = torch.linalg.svdvals(rows.double())
    else:
        gram = _lower_gram(rows.T) if len(rows) < width else _lower_gram(rows, alive, mean, scale)
        eigenvalues = torch.linalg.eigvalsh(gram).flip(0)
        floor = max(len(rows), width) * torch.finfo(torch.float64).eps * eigenvalues[0]
        found = torch.where(eigenvalues > floor, eigenvalues, 0.0).sqrt()
    found = found * scale
    return torch.nn.functional.pad(found, (0, count - len(found)))


def _lower_gram(
    rows: Float[Tensor, "samples features"],
    columns: Bool[Tensor, " features"] | None = None,
    mean: Float64[Tensor, " features"] | None = None,
    scale: float = 1.0,
) -> Float64[Tensor, "chosen chosen"]:
    """X^T X [D, D] in float64, lower triangle (all that `eigvalsh` reads), by cache-sized blocks of X [N, D].

    X is `(rows - mean) / scale`, of the columns chosen.
    """
    chosen = slice(None) if columns is None or bool(columns.all()) else columns
    width = rows[:1, chosen].shape[1]
    gram = rows.new_zeros(width, width, dtype=torch.float64)
    for some in rows.split(512):
        block = (some[:, chosen] / scale).double()
        if mean is not None:
            block -= mean[chosen] / scale
        for i in range(0, width, 64):
            gram[i : i + 64, : i + 64].addmm_(block[:, i : i + 64].T, block[:, : i + 64])
    return gram


def stable_rank(sigma: Float[Tensor, " values"], share: float = 0.99) -> int:
    """The reference's stable rank: least k with sum_{i<=k} sigma_i >= share * sum_i sigma_i.

    The singular values are not squared (`compute_abs_approximate_rank` of loss-of-plasticity; plotted in
    Dohare et al. 2024, Fig. 4). It is the srank_delta of Kumar et al. 2021 (share = 1 - delta) and not
    ||X||_F^2 / ||X||_2^2, which elsewhere goes by this name.

    Args:
        sigma: [K], largest first.
        share: 1 - delta.

    Returns:
        k in 1 .. K, or 0 for a matrix of zeros.
    """
    return _count_to_share(sigma, share)


def effective_rank(sigma: Float[Tensor, " values"]) -> float:
    """Roy & Vetterli 2007: exp(H(p)), p_i = sigma_i / sum sigma, H the Shannon entropy in nats, 0 log 0 = 0.

    Args:
        sigma: [K], not negative.

    Returns:
        In [1, K], or 0 for a matrix of zeros.
    """
    total = sigma.sum()
    if total <= 0:
        return 0.0
    return float(torch.special.entr(sigma / total).sum().exp())


def feature_rank(sigma: Float[Tensor, " values"], samples: int, threshold: float = 0.01) -> int:
    """Lyle et al. 2022: number of singular values of X / sqrt(N) above a threshold.

    Args:
        sigma: [K], singular values of X.
        samples: N, rows of X.
        threshold: eps; 0.01 in the source.

    Returns:
        In 0 .. K.
    """
    return int((sigma / math.sqrt(samples) > threshold).sum())


def pca_rank(sigma: Float[Tensor, " values"], share: float = 0.99) -> int:
    """Least k with sum_{i<=k} sigma_i^2 >= share * sum sigma_i^2 (Yang et al. 2020, "approximate rank").

    `compute_approximate_rank` of loss-of-plasticity. Features are not centred.

    Args:
        sigma: [K], largest first.
        share: Of the sum of squares.

    Returns:
        In 1 .. K, or 0 for a matrix of zeros.
    """
    return _count_to_share(sigma.square(), share)


def relative_rank(sigma: Float[Tensor, " values"], threshold: float = 0.01) -> int:
    """Number of sigma_i > threshold * sigma_1.

    Args:
        sigma: [K], largest first.
        threshold: Of the largest.

    Returns:
        In 1 .. K, or 0 for a matrix of zeros.
    """
    return int((sigma > threshold * sigma[0]).sum())


def covariance_rank(pre_activations: Float[Tensor, "samples units *positions"]) -> float:
    """exp(H(lambda / sum lambda)) of the eigenvalues of the centred covariance of pre-activations.

    The effective rank of simple-lop's Gaussian-mixture experiment: of squares, centred, and before the
    activation, so another number than `effective_rank` of features.

    Args:
        pre_activations: [N, units] or [N, channels, ...].

    Returns:
        In [1, units], or 0 if nothing varies.
    """
    rows = by_unit(pre_activations).double()
    return effective_rank(singular_values(rows - rows.mean(0)).square())


def centred_effective_rank(features: Float[Tensor, "samples features *positions"]) -> float:
    """`effective_rank` of the features less their mean over samples.

    `compute_effective_rank` of kai666-song/rl-plasticity-specnorm, which also adds 1e-10 to every singular value. A
    mean that is large beside what varies hides under one large singular value otherwise.

    Args:
        features: [N, D] or [N, channels, ...].

    Returns:
        In [1, D], or 0 if nothing varies.
    """
    return effective_rank(singular_values(features, centred=True))


def numerical_rank(features: Float[Tensor, "samples features *positions"]) -> int:
    """Number of singular values above max(N, D) * u * sigma_1, u the precision of the features' type.

    What `numpy.linalg.matrix_rank` counts. Of float32 features it comes from the Gram matrix (the tolerance is
    1e-4 sigma_1 for 1,000 samples), of float64 features from an SVD.

    Args:
        features: [N, D] or [N, channels, ...].

    Returns:
        In 1 .. min(N, D), or 0 for a matrix of zeros.
    """
    sigma = singular_values(features, exact=features.dtype == torch.float64)
    tolerance = max(by_unit(features).shape) * torch.finfo(features.dtype).eps * sigma[0]
    return int((sigma > tolerance).sum())


def _count_to_share(weights: Tensor, share: float) -> int:
    total = weights.sum()
    if total <= 0:
        return 0
    reached = weights.cumsum(0) >= share * total
    return int(reached.to(torch.uint8).argmax()) + 1 if bool(reached.any()) else len(weights)


def refusal(samples: int, features: int, ratio: float) -> str | None:
    """Why a rank of this many samples would mislead, or None if there are enough.

    With N samples no rank exceeds N, and near N = D it measures the sample rather than the network. The
    ProcGen study behind `metrics.py` of no-representation-no-trust asks for N >= D, its analysis for 10 D.

    Args:
        samples: N.
        features: D.
        ratio: The least N / D.

    Returns:
        One line, or None.
    """
    if samples >= ratio * features:
        return None
    return f"{samples} samples for {features} features: a rank needs at least {ratio:g} samples a feature"


RankName = Literal[
    "stable_rank",
    "effective_rank",
    "centred_effective_rank",
    "feature_rank",
    "pca_rank",
    "covariance_rank",
    "numerical_rank",
    "relative_rank",
]


class RankOptions(ObservingOptions):
    """Ranks of every hidden layer's outputs."""

    kinds: Annotated[tuple[RankName, ...], Len(1)] = ("stable_rank", "effective_rank", "feature_rank")
    """Which ranks, each a column."""
    ratio: Annotated[float, Ge(0.0)] = 1.0
    """Least samples a feature; below it every rank is NaN and column `rank_refusal` says why."""
    share: Annotated[float, Gt(0.0), Lt(1.0)] = 0.99
    """Share of the singular values' sum that `stable_rank` explains, and of their squares' that `pca_rank` does."""
    threshold: Annotated[float, Gt(0.0)] = 0.01
    """Threshold of `feature_rank` and `relative_rank`."""
    spectra_every: Annotated[int, Ge(1)] | None = None
    """Updates between rows of table `spectra` with all singular values (a multiple of `every`); none by default."""


def measure_ranks(subject: Subject, options: RankOptions) -> Findings:
    """Columns named in `kinds`, of the post-activation features (`covariance_rank`: of the pre-activations)."""
    found = Findings()
    pairs = zip(subject.features(options.samples), subject.pre_activations(options.samples), strict=True)
    for layer, (values, pre_activations) in enumerate(pairs):
        pre_activations = projections_of(subject.layers[layer], pre_activations)
        samples, features = by_unit(values).shape
        reason = refusal(samples, features, options.ratio)
        row: Row = dict.fromkeys(options.kinds, math.nan)
        if reason is None:
            sigma = singular_values(values)
            row = {kind: float(_rank(kind, sigma, values, pre_activations, options)) for kind in options.kinds}
            if options.spectra_every and subject.update % options.spectra_every == 0:
                found.add_spectrum("feature_singular_values", sigma, layer=layer)
        found.layers.append({**row, "rank_refusal": reason})
    return found


def _rank(kind: RankName, sigma: Tensor, features: Tensor, pre_activations: Tensor, options: RankOptions) -> float:
    match kind:
        case "stable_rank":
            return stable_rank(sigma, options.share)
        case "effective_rank":
            return effective_rank(sigma)
        case "centred_effective_rank":
            return centred_effective_rank(features)
        case "feature_rank":
            return feature_rank(sigma, by_unit(features).shape[0], options.threshold)
        case "pca_rank":
            return pca_rank(sigma, options.share)
        case "covariance_rank":
            return covariance_rank(pre_activations)
        case "numerical_rank":
            return numerical_rank(features)
        case "relative_rank":
            return relative_rank(sigma, options.threshold)


RANKS = Diagnostic("ranks", RankOptions, measure_ranks)
