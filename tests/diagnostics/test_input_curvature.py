import pytest
import torch
from torch import nn

from lop_ray.diagnostics import pieces
from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.input_curvature import InputCurvatureOptions, input_curvature, measure_input_curvature
from lop_ray.diagnostics.losses import Problem, squared_error
from lop_ray.networks.conv import ConvNet, ConvOptions
from tests.diagnostics.conftest import make_mlp


def smooth_problem() -> Problem:
    inputs = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = make_mlp(activation="tanh").double()
    return Problem.of(network, squared_error, {"inputs": inputs, "targets": torch.ones(5, 2, dtype=torch.float64)})


def brute_hessians(problem: Problem) -> torch.Tensor:
    def loss(x: torch.Tensor) -> torch.Tensor:
        return problem.loss(problem.network(x[None]), {"targets": torch.ones(1, 2, dtype=torch.float64)})

    return torch.stack([torch.autograd.functional.hessian(loss, x) for x in problem.batch["inputs"]])


def test_trace_form_is_the_mean_of_squared_products_with_the_hessian():
    problem, n = smooth_problem(), 7
    generator = torch.Generator().manual_seed(1)
    signs = [torch.randint(0, 2, (5, 4), generator=generator).double() * 2 - 1 for _ in range(n)]
    hessians = brute_hessians(problem)
    products = torch.stack([torch.einsum("nij,nj->ni", hessians, v) for v in signs])
    found = input_curvature(problem, torch.Generator().manual_seed(1), step=1e-6, directions=n)
    torch.testing.assert_close(found, products.square().sum(-1).mean(0), rtol=1e-4, atol=1e-8)
    shortcut = input_curvature(problem, torch.Generator().manual_seed(1), step=1e-6, directions=n, form="published")
    torch.testing.assert_close(shortcut, 1e-6 * products.norm(dim=-1).mean(0), rtol=1e-4, atol=1e-12)


def test_a_quadratic_is_known():
    # l = (w x)^2 has H = 2 w^2, Tr(H^2) = 4 w^4 = 64 for w = 2.
    network = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(network.weight, 2.0)
    inputs = torch.tensor([[0.5], [-3.0]], dtype=torch.float64)
    problem = Problem.of(network, squared_error, {"inputs": inputs, "targets": torch.zeros_like(inputs)})
    assert input_curvature(problem, torch.Generator(), directions=1).tolist() == pytest.approx([64.0, 64.0])
    assert input_curvature(problem, torch.Generator(), directions=1, form="published").tolist() == pytest.approx(
        [8e-3, 8e-3]
    )


def test_the_diagnostic_leaves_the_observations_alone(network_and_inputs):
    network, inputs = network_and_inputs
    before = inputs.clone()
    options = InputCurvatureOptions(loss="perturbed_output", store=True, form="published")
    found = measure_input_curvature(Subject("q", network, inputs), options)
    assert torch.equal(inputs, before)
    assert not inputs.requires_grad
    values = torch.tensor(found.spectra[0]["x"])
    assert {row["probe"] for row in found.probes} == {"input_curvature_published"}
    assert [row["value"] for row in found.probes] == pytest.approx(
        [values.mean().item(), values.median().item(), values.max().item()]
    )
    assert all(parameter.grad is None for parameter in network.parameters())


def test_images_are_scaled_and_may_come_in_pieces(monkeypatch):
    images = torch.randint(0, 256, (5, 8, 8, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    options = ConvOptions(channels=(4,), hidden=(6,), activation="tanh")
    network = ConvNet((8, 8, 2), {"policy": 2}, options, seed=0).double()
    targets = torch.ones(5, 2, dtype=torch.float64)
    of_bytes = Problem.of(network, squared_error, {"inputs": images, "targets": targets})
    of_floats = Problem.of(network, squared_error, {"inputs": images.double() / 255, "targets": targets})
    found = input_curvature(of_bytes, torch.Generator().manual_seed(1), step=1e-4, directions=2)
    assert torch.equal(found, input_curvature(of_floats, torch.Generator().manual_seed(1), step=1e-4, directions=2))
    assert (found > 0).all()
    monkeypatch.setattr(pieces, "_PIECE", 2 * 8 * 8 * 2)
    many = {"directions": 400, "step": 1e-4}
    apart = input_curvature(of_bytes, torch.Generator().manual_seed(1), **many)
    assert apart.shape == (5,)
    torch.testing.assert_close(
        apart, input_curvature(of_floats, torch.Generator().manual_seed(2), **many), rtol=0.2, atol=0
    )


def test_whole_numbers_that_no_network_scales_are_refused():
    network = nn.Linear(1, 1).double()
    inputs = torch.ones(2, 1, dtype=torch.uint8)
    problem = Problem(network, squared_error, {"inputs": inputs, "targets": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match=r"type torch\.uint8 have no derivatives, and Linear has no method `scaled`"):
        input_curvature(problem, torch.Generator())
