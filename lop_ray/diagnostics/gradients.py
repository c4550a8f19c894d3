"""Gradients: norms and signal-to-noise per layer, the covariance of per-sample gradients, churn, trust region."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from lop_ray.diagnostics.base import (
    Diagnostic,
    DiagnosticOptions,
    Findings,
    ObservingOptions,
    Subject,
    check_finite,
)
from lop_ray.diagnostics.losses import Batch, LossOptions, Problem
from lop_ray.diagnostics.pieces import Passed
from lop_ray.diagnostics.ranks import effective_rank
from lop_ray.networks import HiddenLayer, hidden_layers

_MOST_NUMBERS = 2**26
"""Of per-sample gradients in memory, where they can be done without: 256 MB in float32."""


def batch_gradient(problem: Problem) -> dict[str, Tensor]:
    """Gradient of the mean loss, by parameter name.

    Args:
        problem: Network, loss and batch.

    Returns:
        A tensor of each parameter's shape.
    """
    names, parameters = zip(*problem.network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(problem.value(), parameters, materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


def per_sample_gradients(problem: Problem, chunk: int | None = None) -> dict[str, Tensor]:
    """Gradient of every row's loss, by parameter name (torch.func; one vectorised pass).

    Args:
        problem: Network, loss and batch of N rows.
        chunk: Rows at once; all by default. Bounds the memory of intermediate results.

    Returns:
        [N, *shape] for each parameter.
    """
    parameters = {name: value.detach() for name, value in problem.network.named_parameters()}
    buffers = dict(problem.network.named_buffers())

    def loss_of_row(parameters: dict[str, Tensor], row: Batch) -> Tensor:
        batch = {name: column.unsqueeze(0) for name, column in row.items()}
        output = torch.func.functional_call(problem.network, (parameters, buffers), (batch["inputs"],))
        return problem.loss(output, batch)

    gradient = torch.func.vmap(torch.func.grad(loss_of_row), in_dims=(None, 0), chunk_size=chunk)
    found: dict[str, Tensor] = gradient(parameters, dict(problem.batch))
    return found


def layer_parameters(network: nn.Module, layer: HiddenLayer) -> list[str]:
    """Names, in `network`, of a hidden layer's own parameters: incoming weights, biases, normalisation."""
    own = {id(p) for module in (layer.incoming, layer.normalisation) if module is not None for p in module.parameters()}
    return [name for name, parameter in network.named_parameters() if id(parameter) in own]


def norm(tensors: Iterable[Float[Tensor, ...]]) -> float:
    """Root of the sum of squares over several tensors."""
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors]).sum().sqrt())


def signal_to_noise(gradients: Iterable[Float[Tensor, "samples ..."]]) -> float:
    """||mean_i g_i|| / sqrt(mean_i ||g_i - mean g||^2) of per-sample gradients g_i.

    Args:
        gradients: Parts of the gradients, [N, ...] each.

    Returns:
        At least 0; infinite if all samples agree, 0 if all gradients are 0.
    """
    signal, noise = 0.0, 0.0
    for part in gradients:
        rows = part.flatten(1)
        mean = rows.mean(0, dtype=torch.float64)
        signal += float(mean.square().sum())
        # In blocks, and deviations from the mean: in one piece these are gigabytes, and squares less squares cancel.
        noise += sum(float((some - mean).square().sum()) for some in rows.split(32)) / len(rows)
    return _ratio(signal, noise)


def _ratio(signal: float, noise: float) -> float:
    check_finite(torch.tensor([signal, noise]), "per-sample gradients")
    if noise == 0:
        return float("inf") if signal else 0.0
    return (signal / noise) ** 0.5


def deviations(problem: Problem, mean: Mapping[str, Tensor], rows_at_once: int) -> dict[str, float]:
    """(1/N) sum_i ||g_i - m||^2 of the rows' gradients g_i, by parameter name, with some rows in memory at a time.

    Args:
        problem: Network, loss and batch of N rows.
        mean: m, by parameter name.
        rows_at_once: How many.

    Returns:
        A number for each parameter.
    """
    size = len(problem.batch["inputs"])
    found = dict.fromkeys(mean, 0.0)
    for start in range(0, size, rows_at_once):
        some = {name: column[start : start + rows_at_once] for name, column in problem.batch.items()}
        for name, part in per_sample_gradients(replace(problem, batch=some)).items():
            found[name] += float((part - mean[name]).double().square().sum()) / size
    return found


def gradient_covariance(
    gradients: Iterable[Float[Tensor, "samples ..."]],
) -> Float64[Tensor, "samples samples"]:
    """Lyle et al. 2023, eq. 3: C[i, j] = <g_i, g_j> / (||g_i|| ||g_j||).

    A sample whose gradient is 0 has no direction; its row, column and diagonal entry are 0.

    Args:
        gradients: Parts of the per-sample gradients, [k, ...] each.

    Returns:
        [k, k], float64, symmetric.
    """
    parts = [part.flatten(1) for part in gradients]
    gram = torch.stack([(part @ part.T).double() for part in parts]).sum(0)
    norms = gram.diagonal().clamp(min=0).sqrt()
    check_finite(norms, "per-sample gradients")
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return (gram * inverse[:, None] * inverse).clamp(-1, 1)


def negative_share(covariance: Float[Tensor, "samples samples"]) -> float:
    """Share of off-diagonal entries of C_k that are negative: interference between samples.

    Args:
        covariance: [k, k].

    Returns:
        In [0, 1]; NaN for one sample.
    """
    k = len(covariance)
    if k < 2:
        return float("nan")
    return float((covariance < 0).sum() - (covariance.diagonal() < 0).sum()) / (k * (k - 1))


def covariance_effective_rank(covariance: Float[Tensor, "samples samples"]) -> float:
    """exp(H(lambda / sum lambda)) of the eigenvalues of C_k: few directions give few.

    Args:
        covariance: [k, k], positive semi-definite.

    Returns:
        In [1, k], or 0 if all gradients are 0.
    """
    return effective_rank(torch.linalg.eigvalsh(covariance).clamp(min=0))


def order_by_kmeans(
    covariance: Float[Tensor, "samples samples"], clusters: int = 10, seed: int = 0
) -> Int[Tensor, " samples"]:
    """An order of the samples that puts similar rows of C_k side by side, for the heat map.

    k-means on the rows (Lyle et al. 2023, Appendix A.1: k = 10 for the ten states of their problem). Clusters
    follow one another by size, largest first; within one the order stays.

    Args:
        covariance: [k, k].
        clusters: How many, at most k.
        seed: Of the k-means starts.

    Returns:
        [k], a permutation.
    """
    from sklearn.cluster import KMeans

    means = KMeans(min(clusters, len(torch.unique(covariance, dim=0))), n_init=4, random_state=seed)
    labels = torch.from_numpy(means.fit_predict(covariance.cpu().numpy())).long()
    sizes = torch.bincount(labels)
    return torch.argsort(-sizes[labels] * len(sizes) + labels, stable=True)


class GradientOptions(LossOptions):
    """Norm and signal-to-noise of every hidden layer's gradient."""

    samples: Annotated[int, Ge(1)] = 512
    """Rows of the batch, the latest."""
    chunk: Annotated[int, Ge(1)] | None = None
    """Rows at once."""


def measure_gradients(subject: Subject, options: GradientOptions) -> Findings:
    """Columns gradient_norm (of the mean loss) and gradient_snr."""
    problem = options.problem(subject, "gradients")
    mean = batch_gradient(problem)
    layers = [layer_parameters(problem.network, layer) for layer in hidden_layers(problem.network)]
    size = sum(gradient.numel() for gradient in mean.values())
    if size * len(problem.batch["inputs"]) <= _MOST_NUMBERS:
        each = per_sample_gradients(problem, options.chunk)
        ratios = [signal_to_noise([each[name] for name in names]) for names in layers]
    else:
        noise = deviations(problem, mean, min(options.chunk or _MOST_NUMBERS, max(1, _MOST_NUMBERS // (4 * size))))
        ratios = [
            _ratio(norm(mean[name] for name in names) ** 2, sum(noise[name] for name in names)) for names in layers
        ]
    pairs = zip(layers, ratios, strict=True)
    return Findings(
        layers=[{"gradient_norm": norm(mean[name] for name in names), "gradient_snr": snr} for names, snr in pairs]
    )


class CovarianceOptions(LossOptions):
    """Covariance C_k of per-sample gradients over all parameters."""

    samples: Annotated[int, Ge(2)] = 512
    """k: rows of the batch, the latest."""
    chunk: Annotated[int, Ge(1)] | None = None
    """Rows at once."""
    clusters: Annotated[int, Ge(1)] = 10
    """Clusters of the order in which the matrix is stored."""
    store: bool = True
    """Whether the ordered matrix is written to `spectra` (k^2 numbers)."""


def measure_gradient_covariance(subject: Subject, options: CovarianceOptions) -> Findings:
    """Probe `gradient_covariance`: negative_share, effective_rank, mean_cosine (of off-diagonal entries)."""
    found = Findings()
    problem = options.problem(subject, "gradient_covariance")
    covariance = gradient_covariance(per_sample_gradients(problem, options.chunk).values())
    k = len(covariance)
    found.add_probe(
        "gradient_covariance",
        negative_share=negative_share(covariance),
        effective_rank=covariance_effective_rank(covariance),
        mean_cosine=float(covariance.sum() - covariance.trace()) / (k * (k - 1)) if k > 1 else float("nan"),
    )
    if options.store:
        order = order_by_kmeans(covariance, options.clusters)
        found.add_spectrum("gradient_covariance", covariance[order][:, order])
    return found


def churn(before: Float[Tensor, "samples ..."], after: Float[Tensor, "samples ..."]) -> float:
    """Mean over samples of ||f'(x) - f(x)||_2, f and f' the outputs before and after an update.

    Args:
        before: [N, ...].
        after: [N, ...].

    Returns:
        The mean distance.
    """
    moved = torch.linalg.vector_norm((after - before).flatten(1).double(), dim=1)
    check_finite(moved, "outputs before or after the update")
    return float(moved.mean())


def greedy_churn(before: Float[Tensor, "samples outputs"], after: Float[Tensor, "samples outputs"]) -> float:
    """Share of samples whose largest output is another one after the update (Schaul et al. 2022, policy churn).

    Args:
        before: [N, outputs].
        after: [N, outputs].

    Returns:
        In [0, 1].
    """
    check_finite(torch.maximum(before.abs(), after.abs()).amax(), "outputs before or after the update")
    return float((before.argmax(1) != after.argmax(1)).double().mean())


class ChurnOptions(ObservingOptions):
    """Change of the outputs on the latest observations by one update."""

    def needs(self) -> frozenset[str]:
        """The network from before the update."""
        return frozenset({"before"})


def measure_churn(subject: Subject, options: ChurnOptions) -> Findings:
    """Probe `churn`: distance; and greedy_share where outputs are scores of choices (networks q, classifier)."""
    found = Findings()
    before = Passed.of(subject.of_network("before"), subject.observations[-options.samples :]).output
    after = subject.outputs(options.samples)
    found.add_probe("churn", distance=churn(before, after))
    if subject.name in ("q", "classifier"):
        found.add_probe("churn", greedy_share=greedy_churn(before, after))
    return found


def trust_region_excess(ratios: Float[Tensor, " samples"], clip: float = 0.2) -> float:
    """Share of probability ratios outside [1 - clip, 1 + clip] at the end of an update.

    Args:
        ratios: pi_new(a|s) / pi_old(a|s), [N].
        clip: PPO's epsilon.

    Returns:
        In [0, 1].
    """
    check_finite(ratios, "ratios")
    return float(((ratios - 1).abs() > clip).double().mean())


class TrustRegionOptions(DiagnosticOptions):
    """Probability ratios outside PPO's clip once the update is done."""

    clip: Annotated[float, Gt(0.0)] = 0.2
    """PPO's epsilon."""

    def needs(self) -> frozenset[str]:
        """The ratios under the new policy, on the batch it was trained on."""
        return frozenset({"ratios"})


def measure_trust_region(subject: Subject, options: TrustRegionOptions) -> Findings:
    """Probe `trust_region`: excess_share, max_ratio."""
    found, ratios = Findings(), subject.of_network("ratios")
    excess = trust_region_excess(ratios, options.clip)
    found.add_probe("trust_region", excess_share=excess, max_ratio=float(ratios.max()))
    return found


GRADIENTS = Diagnostic("gradients", GradientOptions, measure_gradients)
GRADIENT_COVARIANCE = Diagnostic("gradient_covariance", CovarianceOptions, measure_gradient_covariance)
CHURN = Diagnostic("churn", ChurnOptions, measure_churn)
TRUST_REGION = Diagnostic("trust_region", TrustRegionOptions, measure_trust_region)
