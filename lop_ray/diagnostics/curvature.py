"""Loss curvature: Hessian and Gauss-Newton matrix as operators, their spectra, and what dead units cost in rank.

The operators are curvlinops'; a product costs a few forward passes and no matrix is ever formed. The spectral
density comes from stochastic Lanczos quadrature (Ghorbani et al. 2019, ICML, Algorithms 1-2), with the
defaults of the spectral-collapse code: order 100, one draw, full re-orthogonalisation. curvlinops' own
Lanczos does not re-orthogonalise, which returns copies of the outer eigenvalues.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Float64, Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lop_ray.diagnostics.base import Diagnostic, Findings, Subject, check_finite
from lop_ray.diagnostics.features import never_active
from lop_ray.diagnostics.losses import Batch, Loss, LossOptions, Problem
from lop_ray.diagnostics.units import margins
from lop_ray.networks import hidden_layers, outgoing_columns, record, trainable_weight


@runtime_checkable
class SymmetricOperator(Protocol):
    """What is asked of a matrix: its shape, type, place, and products with vectors."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def __matmul__(self, vector: Tensor) -> Tensor:
        """The product, [P]."""
        ...


class _Criterion(nn.Module):
    """A loss in the form that curvlinops takes: of outputs, and of the rows of the batch they belong to."""

    reduction = "mean"

    def __init__(self, loss: Loss, batch: Batch):
        super().__init__()
        self.loss, self.batch = loss, batch

    def forward(self, output: Tensor, rows: Tensor) -> Tensor:
        return self.loss(output, {name: column[rows] for name, column in self.batch.items()})


def curvature_operator(
    problem: Problem, matrix: Literal["hessian", "ggn"] = "hessian", chunk: int | None = None
) -> SymmetricOperator:
    """The Hessian of the mean loss, or its generalised Gauss-Newton matrix, in all trainable parameters.

    Hessian: H = d^2 L / d theta^2. Gauss-Newton: G = mean_n J_n^T (d^2 l_n / d f^2) J_n with the outputs' Jacobian
    J_n; H = G + R with the residual R (Schraudolph 2002; used by He et al. 2025).

    Args:
        problem: Network, loss and batch.
        matrix: Which.
        chunk: Rows of the batch at once; all by default. Bounds memory, and does not change the result.

    Returns:
        Operator of shape [P, P]; parameters in the order of `network.parameters()`.
    """
    with warnings.catch_warnings():  # linear_operator and torch's forward mode still script when first used
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script`", category=DeprecationWarning)
        from curvlinops import GGNLinearOperator, HessianLinearOperator

        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))

    inputs = problem.batch["inputs"]
    rows = torch.arange(len(inputs), device=inputs.device).split(chunk or len(inputs))
    kind = {"hessian": HessianLinearOperator, "ggn": GGNLinearOperator}[matrix]
    parameters = [p for p in problem.network.parameters() if p.requires_grad]
    operator: SymmetricOperator = kind(
        problem.network,
        _Criterion(problem.loss, problem.batch),
        parameters,
        [(inputs[some], some) for some in rows],
        check_deterministic=False,  # the network is in evaluation mode and the batch is a tensor
        num_data=len(inputs),
    )
    return operator


@torch.no_grad()
def lanczos(
    operator: SymmetricOperator, order: int, generator: torch.Generator
) -> tuple[Float64[Tensor, " nodes"], Float64[Tensor, " nodes"]]:
    """Gauss quadrature of the spectrum: nodes and weights with v^T f(A) v = sum_i w_i f(lambda_i) for a random v.

    `order` steps of Lanczos from a Gaussian direction on the unit sphere, each new vector orthogonalised against
    all before. E[w_i f(lambda_i)] = tr f(A) / P. It stops early when the space is exhausted, where the quadrature
    is exact.

    Args:
        operator: Symmetric, [P, P].
        order: Steps; one product with `operator` each.
        generator: Draws the direction (CPU).

    Returns:
        Nodes (Ritz values) ascending and weights, which sum to 1; float64, at most `order` of them.
    """
    size = operator.shape[0]
    order = min(order, size)
    vector = torch.randn(size, generator=generator, dtype=torch.float64).to(operator.device, operator.dtype)
    vector /= torch.linalg.vector_norm(vector)
    basis = torch.empty(order, size, dtype=operator.dtype, device=operator.device)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    scale = 0.0
    for step in range(order):
        basis[step] = vector
        image = operator @ vector
        if step:
            image.sub_(basis[step - 1], alpha=off_diagonal[-1])
        diagonal.append(float(image @ vector))
        image.sub_(vector, alpha=diagonal[-1])
        length = _orthogonalise(image, basis[: step + 1])
        check_finite(torch.tensor([diagonal[-1], length]), "products with the curvature")
        scale = max(scale, abs(diagonal[-1]), length)
        if length <= 10 * torch.finfo(operator.dtype).eps * scale:
            break
        off_diagonal.append(length)
        vector = image / length
    steps = len(diagonal)
    main, off = (torch.tensor(entries, dtype=torch.float64) for entries in (diagonal, off_diagonal[: steps - 1]))
    nodes, vectors = torch.linalg.eigh(torch.diag(main) + torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, vectors[0].square()


def _orthogonalise(vector: Float[Tensor, " parameters"], basis: Float[Tensor, "rows parameters"]) -> float:
    """Takes from `vector`, in place, its components along the rows of an orthonormal `basis`; returns its norm.

    Once, and again if less than half of its square is left: twice is enough (Parlett 1998, Section 6.9). Reading the
    basis is what costs in `lanczos` beside the products.
    """
    before = float(torch.linalg.vector_norm(vector))
    for _ in range(2):
        vector.sub_(torch.mv(basis.T, torch.mv(basis, vector)))
        length = float(torch.linalg.vector_norm(vector))
        if length * length >= 0.5 * before * before:
            break
        before = length
    return length


def smoothing(nodes: Float[Tensor, " nodes"], sigma_squared: float = 1e-5, margin: float = 0.01) -> float:
    """Variance of the Gaussians that stand for single eigenvalues: sigma^2 max(1, range), range widened by a margin.

    Args:
        nodes: Of all draws.
        sigma_squared: 1e-5 in Ghorbani et al.'s code and the spectral-collapse code.
        margin: Added on both sides of the range.

    Returns:
        The variance.
    """
    return sigma_squared * max(1.0, float(nodes.max() - nodes.min()) + 2 * margin)


def spectral_density(
    nodes: Float[Tensor, " nodes"], weights: Float[Tensor, " nodes"], grid: Float[Tensor, " points"], variance: float
) -> Float[Tensor, " points"]:
    """p(t) = sum_i w_i N(t; lambda_i, variance), the smoothed density of eigenvalues.

    Args:
        nodes: [K], of one draw, or of several joined with weights divided by their number.
        weights: [K].
        grid: [M] points t.
        variance: See `smoothing`.

    Returns:
        [M].
    """
    deviation = variance**0.5
    z = (grid[:, None] - nodes) / deviation
    return (weights * torch.exp(-0.5 * z.square())).sum(1) / (deviation * (2 * torch.pi) ** 0.5)


def epsilon_rank(
    nodes: Float[Tensor, " nodes"], weights: Float[Tensor, " nodes"], epsilon: float = 0.1, variance: float = 0.0
) -> float:
    """Share of the smoothed density with |lambda| > epsilon (He et al. 2025, spectral collapse).

    Integrated in closed form instead of on a grid.

    Args:
        nodes: [K].
        weights: [K], summing to 1.
        epsilon: The bound; the source sweeps 1e-4 to 1e-1.
        variance: See `smoothing`; 0 counts the nodes themselves.

    Returns:
        In [0, 1].
    """
    if variance == 0:
        return float(weights[nodes.abs() > epsilon].sum())
    scale = (2 * variance) ** 0.5
    inside = (torch.erf((epsilon - nodes) / scale) + torch.erf((epsilon + nodes) / scale)) / 2
    return float((weights * (1 - inside)).sum())


def top_eigenvalues(
    operator: SymmetricOperator, k: int, generator: torch.Generator, *, tolerance: float = 1e-3
) -> Float64[Tensor, " {k}"]:
    """The k algebraically largest eigenvalues, by ARPACK on products.

    Args:
        operator: Symmetric, [P, P].
        k: How many, at most P.
        generator: Draws the start (CPU).
        tolerance: Relative accuracy; 0 for machine precision.

    Returns:
        [k], float64, largest first.
    """
    from scipy.sparse.linalg import eigsh

    size = operator.shape[0]
    drawn = torch.randn(size, generator=generator, dtype=torch.float64)
    check_finite(operator @ drawn.to(operator.device, operator.dtype), "products with the curvature")
    if k >= size - 1:
        return dense_eigenvalues(operator).flip(0)[:k]
    start = drawn.numpy()
    linear = operator.to_scipy()  # type: ignore[attr-defined]
    found = eigsh(linear, k=k, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return torch.as_tensor(found, dtype=torch.float64).sort(descending=True).values


def dense_eigenvalues(operator: SymmetricOperator) -> Float64[Tensor, " parameters"]:
    """All eigenvalues, from the matrix itself (P products at once): for tiny networks.

    Args:
        operator: Symmetric, [P, P].

    Returns:
        [P], float64, smallest first.
    """
    matrix = operator @ torch.eye(operator.shape[0], dtype=operator.dtype, device=operator.device)
    return torch.linalg.eigvalsh(((matrix + matrix.T) / 2).double())


def numerical_rank(eigenvalues: Float[Tensor, " parameters"], tolerance: float | None = None) -> int:
    """Number of |lambda| > tolerance * max |lambda|.

    Args:
        eigenvalues: [P], all of them.
        tolerance: P times the precision of float64 by default.

    Returns:
        In 0 .. P.
    """
    sizes = eigenvalues.abs()
    if tolerance is None:
        tolerance = len(sizes) * torch.finfo(torch.float64).eps
    return int((sizes > tolerance * sizes.max()).sum())


@torch.no_grad()
def rank_bound(network: nn.Module, inputs: Shaped[Tensor, "samples ..."]) -> tuple[int, int, int]:
    """Upper bound of the Hessian's rank by dead units: P - k (I + O + 1) (He et al. 2025, Theorem 6.2).

    A dead unit (margin < 0 and output 0 on every input) leaves the loss flat in its I incoming weights, its bias
    and its O outgoing weights. Counted here are the parameters that belong to at least one dead unit: with one
    hidden layer that is the theorem's number; with several, its sum would count the weights between dead units of
    adjacent layers twice. Where a normalisation or a parametrisation (spectral norm) couples units, only what is
    really flat is counted: the unit's scale and shift and its outgoing weights.

    Args:
        network: With a view of its hidden layers.
        inputs: [N, ...].

    Returns:
        The bound, the number of parameters P, and the number of dead units k.
    """
    recording = record(network, inputs)
    flat = {parameter: torch.zeros_like(parameter, dtype=torch.bool) for parameter in network.parameters()}
    count = 0
    for layer, z, h in zip(hidden_layers(network), recording.pre_activations, recording.activations, strict=True):
        dead = (margins(z).highest < 0) & never_active(h)
        count += int(dead.sum())
        source = layer.incoming if layer.normalisation is None else layer.normalisation
        if not parametrize.is_parametrized(source):
            for parameter in source.parameters():
                flat[parameter][dead] = True
        for reader in layer.readers:
            if not parametrize.is_parametrized(reader):
                outgoing_columns(reader, layer.units, flat[trainable_weight(reader)])[:, dead] = True
    size = sum(parameter.numel() for parameter in flat)
    return size - sum(int(mask.sum()) for mask in flat.values()), size, count


class DensityOptions(LossOptions):
    """Spectral density of the Hessian or Gauss-Newton matrix."""

    every: Annotated[int, Ge(1)] = 500
    """Updates between two measurements."""
    matrix: Literal["hessian", "ggn"] = "hessian"
    """Which matrix."""
    order: Annotated[int, Ge(2)] = 100
    """Lanczos steps: products with the matrix a draw."""
    draws: Annotated[int, Ge(1)] = 1
    """Random directions."""
    sigma_squared: Annotated[float, Gt(0.0)] = 1e-5
    """Smoothing; see `smoothing`."""
    epsilon: Annotated[float, Gt(0.0)] = 0.1
    """Bound of `epsilon_rank`."""
    chunk: Annotated[int, Ge(1)] | None = None
    """Rows of the batch at once."""


def density_quadrature(
    operator: SymmetricOperator, order: int, draws: int, generator: torch.Generator
) -> tuple[Float64[Tensor, " nodes"], Float64[Tensor, " nodes"]]:
    """`lanczos` from several directions, joined; weights sum to 1."""
    found: Sequence[tuple[Tensor, Tensor]] = [lanczos(operator, order, generator) for _ in range(draws)]
    return torch.cat([nodes for nodes, _ in found]), torch.cat([weights for _, weights in found]) / draws


def measure_density(subject: Subject, options: DensityOptions) -> Findings:
    """Probe named after the matrix: largest, smallest (Ritz values), trace, epsilon_rank, numerical_rank.

    And parameters, dead_units and rank_bound, on the same batch. numerical_rank is P times the share of the density
    with |lambda| above the smoothing's deviation, the finest that the density resolves. Nodes and weights go to
    `spectra`: `spectral_density` draws the curve from them.
    """
    name = f"{options.matrix}_density"
    problem = options.problem(subject, name)
    operator = curvature_operator(problem, options.matrix, options.chunk)
    nodes, weights = density_quadrature(operator, options.order, options.draws, subject.generator(name))
    variance = smoothing(nodes, options.sigma_squared)
    bound, size, dead = rank_bound(problem.network, problem.batch["inputs"])
    found = Findings()
    found.add_probe(
        name,
        largest=float(nodes.max()),
        smallest=float(nodes.min()),
        trace=size * float(nodes @ weights),
        epsilon_rank=epsilon_rank(nodes, weights, options.epsilon, variance),
        numerical_rank=size * epsilon_rank(nodes, weights, variance**0.5),
        parameters=size,
        dead_units=dead,
        rank_bound=bound,
    )
    found.add_spectrum(name, nodes, weights)
    return found


class EigenvalueOptions(LossOptions):
    """The largest eigenvalues of the Hessian or Gauss-Newton matrix."""

    every: Annotated[int, Ge(1)] = 500
    """Updates between two measurements."""
    matrix: Literal["hessian", "ggn"] = "hessian"
    """Which matrix."""
    k: Annotated[int, Ge(1)] = 10
    """How many."""
    tolerance: Annotated[float, Ge(0.0)] = 1e-3
    """Relative accuracy; 0 for machine precision."""
    chunk: Annotated[int, Ge(1)] | None = None
    """Rows of the batch at once."""


def measure_eigenvalues(subject: Subject, options: EigenvalueOptions) -> Findings:
    """Probe `top_eigenvalues`, metric `largest`; all k in `spectra`."""
    operator = curvature_operator(options.problem(subject, "top_eigenvalues"), options.matrix, options.chunk)
    generator = subject.generator("top_eigenvalues")
    eigenvalues = top_eigenvalues(operator, options.k, generator, tolerance=options.tolerance)
    found = Findings()
    found.add_probe("top_eigenvalues", largest=float(eigenvalues[0]))
    found.add_spectrum(f"{options.matrix}_top_eigenvalues", eigenvalues)
    return found


HESSIAN_DENSITY = Diagnostic("hessian_density", DensityOptions, measure_density)
TOP_EIGENVALUES = Diagnostic("top_eigenvalues", EigenvalueOptions, measure_eigenvalues)
