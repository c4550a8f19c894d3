import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.curvature import (
    DensityOptions,
    EigenvalueOptions,
    curvature_operator,
    dense_eigenvalues,
    density_quadrature,
    epsilon_rank,
    lanczos,
    measure_density,
    measure_eigenvalues,
    numerical_rank,
    rank_bound,
    smoothing,
    spectral_density,
    top_eigenvalues,
)
from lop_ray.diagnostics.losses import Batch, Problem, cross_entropy, perturbed_output, squared_error, td_error
from lop_ray.networks import hidden_layers, record
from tests.diagnostics.conftest import make_mlp

# torch's own forward-mode differentiation scripts its decompositions when first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


def surrogate(mean: Tensor, batch: Batch) -> Tensor:
    """PPO's clipped surrogate for a Gaussian of unit variance."""
    log_ratio = -0.5 * ((batch["actions"] - mean).square() - (batch["actions"] - batch["old_mean"]).square()).sum(-1)
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * batch["advantages"], ratio.clamp(0.8, 1.2) * batch["advantages"]).mean()


def make_problem(kind: str, network: nn.Module, inputs: Tensor) -> Problem:
    generator = torch.Generator().manual_seed(9)
    n, outputs = len(inputs), network(inputs).shape[1]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=inputs.dtype)

    labels = torch.randint(outputs, (n,), generator=generator)
    if kind == "cross_entropy":
        return Problem.of(network, cross_entropy, {"inputs": inputs, "labels": labels})
    if kind == "td":
        return Problem.of(network, td_error, {"inputs": inputs, "actions": labels, "targets": draw(n)})
    if kind == "value":
        return Problem.of(network, squared_error, {"inputs": inputs, "targets": draw(n, outputs)})
    if kind == "ppo":
        old = network(inputs).detach() + 0.1 * draw(n, outputs)
        actions = old + draw(n, outputs)
        return Problem.of(
            network, surrogate, {"inputs": inputs, "actions": actions, "old_mean": old, "advantages": draw(n)}
        )
    return Problem.of(network, *perturbed_output(network.eval(), inputs, generator))


LOSSES = ["cross_entropy", "td", "value", "ppo", "perturbed_output"]


def flat_outputs(network: nn.Module, inputs: Tensor):
    """The parameters as one vector, and the outputs as a function of it."""
    shapes = {name: p.shape for name, p in network.named_parameters()}
    start = torch.cat([p.detach().flatten() for p in network.parameters()])

    def outputs(theta: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return torch.func.functional_call(network, named, (inputs,))

    return start, outputs


def brute_hessian(network: nn.Module, problem: Problem) -> Tensor:
    """By eager double backward through the network as it is."""
    start, outputs = flat_outputs(network, problem.batch["inputs"])
    return torch.autograd.functional.hessian(lambda theta: problem.loss(outputs(theta), problem.batch), start)


def brute_ggn(network: nn.Module, problem: Problem) -> Tensor:
    start, outputs = flat_outputs(network, problem.batch["inputs"])
    jacobian = torch.autograd.functional.jacobian(outputs, start).flatten(0, 1)
    f = outputs(start).detach()
    inner = torch.autograd.functional.hessian(lambda out: problem.loss(out.view_as(f), problem.batch), f.flatten())
    return jacobian.T @ inner @ jacobian


class Matrix:
    """A known symmetric matrix that counts its products."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.shape, self.products = matrix, tuple(matrix.shape), 0
        self.dtype, self.device = matrix.dtype, matrix.device

    def __matmul__(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ vector


def known(eigenvalues: list[float]) -> Matrix:
    q, _ = torch.linalg.qr(
        torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    return Matrix(q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_operators_are_the_matrices_of_torch_func(kind, matrix, network_and_inputs):
    network, inputs = network_and_inputs
    problem = make_problem(kind, network, inputs)
    brute = brute_hessian(network, problem) if matrix == "hessian" else brute_ggn(network, problem)
    operator = curvature_operator(problem, matrix, chunk=5)
    found = operator @ torch.eye(len(brute), dtype=torch.float64)
    torch.testing.assert_close(found, brute, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(6), (5, 6)),
        (nn.LayerNorm((2, 3), elementwise_affine=False), (4, 2, 3)),
        (nn.GroupNorm(3, 6), (4, 6, 2, 2)),
    ],
)
def test_normalisation_in_the_analysed_copy_gives_the_same_outputs(norm, shape):
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    network = nn.Sequential(norm, nn.Flatten())
    copy = Problem.of(network, squared_error, {"inputs": inputs}).network
    assert type(copy[0]) is not type(norm)
    torch.testing.assert_close(copy(inputs), network(inputs))
    assert [name for name, _ in copy.named_parameters()] == [name for name, _ in network.named_parameters()]


def test_lanczos_of_full_order_finds_every_eigenvalue_once():
    eigenvalues = [-3.0, -0.5, 0.0, 0.1, 0.2, 1.0, 5.0, 100.0]
    nodes, weights = lanczos(known(eigenvalues), 50, torch.Generator().manual_seed(1))
    assert nodes.tolist() == pytest.approx(eigenvalues, abs=1e-10)
    assert float(weights.sum()) == pytest.approx(1.0)


def test_lanczos_stops_when_the_space_is_exhausted():
    operator = known([2.0] * 5 + [7.0] * 5)
    nodes, _ = lanczos(operator, 10, torch.Generator().manual_seed(1))
    assert nodes.tolist() == pytest.approx([2.0, 7.0])
    assert operator.products == 2


def test_in_single_precision_no_eigenvalue_is_found_twice():
    # Without re-orthogonalisation Lanczos returns the outer eigenvalues again and again.
    eigenvalues = [1e4, 3e3, 2e3, *np.linspace(-1, 1, 117).tolist()]
    operator = known(eigenvalues)
    single = Matrix(operator.matrix.float())
    nodes, weights = lanczos(single, 60, torch.Generator().manual_seed(1))
    assert single.products == 60
    assert nodes[-3:].tolist() == pytest.approx([2e3, 3e3, 1e4], rel=1e-4)
    assert nodes[-4] < 1.01
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)
    exact, _ = lanczos(operator, 60, torch.Generator().manual_seed(1))
    assert nodes[-3:].tolist() == pytest.approx(exact[-3:].tolist(), rel=1e-4)


def test_epsilon_rank_of_many_draws_is_the_share_of_eigenvalues_beyond():
    eigenvalues = [0.0] * 30 + [0.05] * 5 + [-0.2] * 5 + np.linspace(0.3, 9, 10).tolist()
    nodes, weights = density_quadrature(known(eigenvalues), 50, 300, torch.Generator().manual_seed(0))
    # Weights of a draw are those of one random direction: shares of 50 with a standard error of about 0.004.
    assert epsilon_rank(nodes, weights, 0.1) == pytest.approx(15 / 50, abs=0.015)
    assert epsilon_rank(nodes, weights, 0.01) == pytest.approx(20 / 50, abs=0.015)


def test_one_product_a_step():
    operator = known(np.linspace(-1, 9, 300).tolist())
    nodes, _ = lanczos(operator, 40, torch.Generator().manual_seed(1))
    assert (operator.products, len(nodes)) == (40, 40)
    assert (float(nodes[0]), float(nodes[-1])) == pytest.approx((-1.0, 9.0), abs=0.05)


def test_quadrature_gives_the_moments_of_its_direction_exactly():
    # k nodes integrate polynomials up to degree 2k - 1: compare with v^T A^d v for the same direction v.
    operator = known([0.5, 1.0, 2.0, 3.0, 5.0, 8.0])
    nodes, weights = lanczos(operator, 3, torch.Generator().manual_seed(4))
    v = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    v /= v.norm()
    for degree in range(6):
        expected = v @ torch.linalg.matrix_power(operator.matrix, degree) @ v
        assert float(weights @ nodes**degree) == pytest.approx(float(expected), rel=1e-9)


def test_the_mean_over_draws_estimates_the_trace():
    operator = known(np.linspace(0, 4, 50).tolist())
    nodes, weights = density_quadrature(operator, 10, 40, torch.Generator().manual_seed(2))
    assert len(nodes) == 400
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float(nodes @ weights) == pytest.approx(2.0, abs=0.1)  # standard error about 0.04


def test_density_integrates_to_one_and_its_mass_beyond_epsilon_is_the_epsilon_rank():
    nodes = torch.tensor([-1.0, 0.0, 0.1, 3.0], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.1, 0.2], dtype=torch.float64)
    variance = smoothing(nodes)
    assert variance == pytest.approx(4.02e-5)
    grid = torch.linspace(-2, 4, 200_001, dtype=torch.float64)
    density = spectral_density(nodes, weights, grid, variance)
    step = float(grid[1] - grid[0])
    assert float(density.sum()) * step == pytest.approx(1.0, abs=1e-6)
    outside = float(density[grid.abs() > 0.1].sum()) * step
    assert epsilon_rank(nodes, weights, 0.1, variance) == pytest.approx(outside, abs=1e-3)
    assert epsilon_rank(nodes, weights, 0.1, variance) == pytest.approx(0.2 + 0.05 + 0.2, abs=1e-9)
    assert epsilon_rank(nodes, weights, 0.05) == pytest.approx(0.5)


def test_smoothing_never_uses_a_range_below_one():
    assert smoothing(torch.tensor([0.0, 0.5])) == pytest.approx(1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_top_eigenvalues_are_those_of_the_brute_force_hessian(k, network_and_inputs):
    network, inputs = network_and_inputs
    problem = make_problem("cross_entropy", network, inputs)
    expected = torch.linalg.eigvalsh(brute_hessian(network, problem)).flip(0)[:k]
    found = top_eigenvalues(curvature_operator(problem), k, torch.Generator().manual_seed(0), tolerance=0)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_all_eigenvalues_can_be_asked_for():
    network = nn.Linear(2, 1).double()
    inputs = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    problem = Problem.of(network, squared_error, {"inputs": inputs, "targets": torch.zeros(2, 1, dtype=torch.float64)})
    matrix = torch.tensor([[1.0, 0.0, 1.0], [0.0, 4.0, 2.0], [1.0, 2.0, 2.0]], dtype=torch.float64)  # X^T X with bias
    expected = torch.linalg.eigvalsh(matrix)
    operator = curvature_operator(problem)
    torch.testing.assert_close(dense_eigenvalues(operator), expected)
    torch.testing.assert_close(top_eigenvalues(operator, 3, torch.Generator()), expected.flip(0))
    assert numerical_rank(dense_eigenvalues(operator)) == 2


def kill(network: nn.Module, layer: int, units: list[int]) -> None:
    found = hidden_layers(network)[layer]
    with torch.no_grad():
        (found.normalisation or found.incoming).bias[units] = -1e3


def test_bound_by_dead_units_is_the_theorems_for_one_hidden_layer():
    network, inputs = make_mlp(hidden=(6,)).double(), torch.rand(20, 4, dtype=torch.float64)
    kill(network, 0, [1, 4])
    alive = int((record(network, inputs).pre_activations[0].amax(0) < 0).sum())
    size = 6 * 4 + 6 + 2 * 6 + 2
    assert rank_bound(network, inputs) == (size - alive * (4 + 2 + 1), size, alive)


@pytest.mark.parametrize("kind", ["cross_entropy", "value"])
def test_the_bound_holds_for_the_hessian_and_flat_parameters_are_flat(kind, network_and_inputs):
    network, inputs = network_and_inputs
    for layer, units in [(0, [0, 2]), (1, [1, 3])]:
        kill(network, layer, units)
    problem = make_problem(kind, network, inputs)
    bound, size, dead = rank_bound(network, inputs)
    hessian = brute_hessian(network, problem)
    zero_rows = int((hessian.abs().amax(1) == 0).sum())
    assert len(hessian) == size
    assert numerical_rank(torch.linalg.eigvalsh(hessian), 1e-12) <= bound
    assert size - zero_rows <= bound
    is_tanh = isinstance(hidden_layers(network)[0].activation, nn.Tanh)
    assert (dead == 0 and bound == size) if is_tanh else (dead >= 4 and bound < size)


def test_weights_between_dead_units_are_counted_once():
    network, inputs = make_mlp(hidden=(3, 2)).double(), torch.rand(8, 4, dtype=torch.float64)
    kill(network, 0, [0, 1, 2])
    kill(network, 1, [0, 1])
    # Everything is flat but the head's two biases.
    assert rank_bound(network, inputs) == (2, (12 + 3) + (6 + 2) + (4 + 2), 5)


def test_the_density_diagnostic_describes_the_brute_force_spectrum(network_and_inputs):
    network, inputs = network_and_inputs
    problem = make_problem("value", network, inputs)
    extra = {"losses": {"q": problem.loss}, "batches": {"q": problem.batch}}
    subject = Subject("q", network, inputs, extra=extra)
    found = measure_density(subject, DensityOptions(order=60))
    values = {row["metric"]: row["value"] for row in found.probes}
    hessian = brute_hessian(network, problem)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    direction = torch.randn(len(hessian), generator=subject.generator("hessian_density"), dtype=torch.float64)
    direction /= direction.norm()
    assert values["largest"] == pytest.approx(float(eigenvalues[-1]), rel=1e-6)
    assert values["smallest"] == pytest.approx(float(eigenvalues[0]), rel=1e-4)
    assert values["trace"] == pytest.approx(len(hessian) * float(direction @ hessian @ direction), rel=1e-9)
    assert values["parameters"] == len(eigenvalues)
    assert 0 < values["epsilon_rank"] < 1
    assert values["rank_bound"] <= values["parameters"]
    spectrum = found.spectra[0]
    assert (spectrum["spectrum"], spectrum["layer"]) == ("hessian_density", None)
    assert math.fsum(spectrum["y"]) == pytest.approx(1.0)


def test_the_same_update_draws_the_same_direction():
    network, inputs = make_mlp().double(), torch.rand(6, 4, dtype=torch.float64)
    options = DensityOptions(order=3, loss="perturbed_output")
    first, again, other = (measure_density(Subject("q", network, inputs, update=u), options) for u in (5, 5, 6))
    assert (first.probes, first.spectra) == (again.probes, again.spectra)
    assert first.spectra != other.spectra


def test_the_eigenvalue_diagnostic_stores_all_k(network_and_inputs):
    network, inputs = network_and_inputs
    found = measure_eigenvalues(
        Subject("q", network, inputs), EigenvalueOptions(loss="perturbed_output", k=4, matrix="ggn")
    )
    assert found.spectra[0]["spectrum"] == "ggn_top_eigenvalues"
    values = found.spectra[0]["x"]
    assert values == sorted(values, reverse=True)
    assert len(values) == 4
    assert found.probes[0]["value"] == values[0]


def test_a_run_needs_its_loss_and_batch_for_the_training_loss_only():
    suite = DiagnosticSuite({"hessian_density": {"every": 2}})
    assert suite.needs(2) == {"losses", "batches"}
    assert suite.samples == 0
    own = DiagnosticSuite({"hessian_density": {"every": 2, "loss": "perturbed_output", "samples": 50}})
    assert own.needs(2) == frozenset()
    assert own.samples == 50


def test_non_finite_losses_are_refused():
    network = make_mlp().double()
    with torch.no_grad():
        network.head.weight[0, 0] = float("nan")
    inputs = torch.rand(4, 4, dtype=torch.float64)
    batch = {"inputs": inputs, "targets": torch.zeros(4, 2, dtype=torch.float64)}
    subject = Subject("q", network, inputs, extra={"losses": {"q": squared_error}, "batches": {"q": batch}})
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        measure_density(subject, DensityOptions())
