import numpy as np
import pytest
import torch

from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.gradients import per_sample_gradients
from lop_ray.diagnostics.kfac import KfacOptions, kfac_factors, measure_kfac_ranks
from lop_ray.diagnostics.losses import Problem, cross_entropy
from lop_ray.networks import hidden_layers
from tests.diagnostics.conftest import make_mlp


@pytest.fixture
def problem(network_and_inputs) -> Problem:
    network, inputs = network_and_inputs
    labels = torch.randint(2, (len(inputs),), generator=torch.Generator().manual_seed(3))
    return Problem.of(network, cross_entropy, {"inputs": inputs, "labels": labels})


def test_inputs_and_gradients_make_up_the_weights_gradients(problem):
    # d l_n / d W = sum over positions of g x^T, whatever the layer.
    names = {id(p): name for name, p in problem.network.named_parameters()}
    each = per_sample_gradients(problem)
    for layer, factors in zip(hidden_layers(problem.network), kfac_factors(problem), strict=True):
        expected = each[names[id(layer.incoming.weight)]].flatten(2)
        n = len(expected)
        x, g = factors.inputs.unflatten(0, (n, -1)), factors.gradients.unflatten(0, (n, -1))
        torch.testing.assert_close(torch.einsum("npo,npi->noi", g, x), expected)


def test_ranks_are_those_of_the_second_moments(problem, network_and_inputs):
    network, inputs = network_and_inputs
    extra = {"losses": {"q": problem.loss}, "batches": {"q": problem.batch}}
    rows = measure_kfac_ranks(Subject("q", network, inputs, extra=extra), KfacOptions()).layers
    for row, factors in zip(rows, kfac_factors(problem), strict=True):
        assert row["kfac_input_rank"] == np.linalg.matrix_rank(factors.inputs.numpy())
        assert row["kfac_gradient_rank"] == np.linalg.matrix_rank(factors.gradients.numpy())
        assert 1 <= row["kfac_input_effective_rank"] <= row["kfac_input_rank"] + 1e-9


def test_dead_units_lower_the_gradient_rank():
    inputs = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = {"inputs": inputs, "labels": torch.arange(20) % 2}
    problem = Problem.of(make_mlp().double(), cross_entropy, batch)
    assert np.linalg.matrix_rank(kfac_factors(problem)[0].gradients.numpy()) == 5
    with torch.no_grad():
        hidden_layers(problem.network)[0].incoming.bias[2:] = -1e3
    # Two units are left, and the layer above passes gradients of rank two or more to them.
    assert np.linalg.matrix_rank(kfac_factors(problem)[0].gradients.numpy()) == 2
