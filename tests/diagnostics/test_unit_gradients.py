"""Gradients on units: by hand on one ReLU, against finite differences, on every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.diagnostics.losses import Problem, squared_error
from lop_ray.diagnostics.unit_gradients import unit_gradients
from lop_ray.networks import hidden_layers
from tests.diagnostics.conftest import make_mlp


def problem_of(network: nn.Module, inputs: torch.Tensor) -> Problem:
    targets = torch.randn(len(inputs), 2, dtype=inputs.dtype, generator=torch.Generator().manual_seed(3))
    return Problem.of(network, squared_error, {"inputs": inputs, "targets": targets})


def test_by_hand():
    # One input, two units, one output y = h1 + h2, loss (y - t)^2 on two samples.
    network = make_mlp(hidden=(2,), outputs=1).double()
    layer = hidden_layers(network)[0]
    with torch.no_grad():
        layer.incoming.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
        layer.incoming.bias.copy_(torch.tensor([0.0, -5.0]))  # unit 1 is dead on both samples
        layer.readers[0].weight.fill_(1.0)
        layer.readers[0].bias.zero_()
    inputs = torch.zeros(2, 4, dtype=torch.float64)
    inputs[:, 0] = torch.tensor([1.0, 3.0])
    targets = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    found = unit_gradients(Problem.of(network, squared_error, {"inputs": inputs, "targets": targets}))[0]
    # dL/dz = 2 (y - t) / 2 = 1 and -1; so the weight's gradient is 1 * 1 - 1 * 3 = -2 and the bias's 0.
    assert found.pushes.tolist() == [0.0, 0.0]
    assert found.norms.tolist() == [2.0, 0.0]
    targets = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    found = unit_gradients(Problem.of(network, squared_error, {"inputs": inputs, "targets": targets}))[0]
    # Outputs above both targets: 1 and 2; both samples push the unit down.
    assert found.pushes.tolist() == [3.0, 0.0]
    assert found.norms.tolist() == pytest.approx([(7.0**2 + 3.0**2) ** 0.5, 0.0])


def test_pushes_are_derivatives_in_a_constant_added_to_the_pre_activations(network_and_inputs):
    problem = problem_of(*network_and_inputs)
    found = unit_gradients(problem)
    epsilon = 1e-6
    for layer, each in zip(hidden_layers(problem.network), found, strict=True):
        assert len(each.pushes) == len(each.norms) == layer.units
        for unit in range(layer.units):
            values = []
            for sign in (1, -1):

                def shift(_module, args, unit=unit, sign=sign):
                    moved = args[0].clone()
                    moved[:, unit] += sign * epsilon
                    return (moved,)

                handle = layer.activation.register_forward_pre_hook(shift)
                values.append(float(problem.value().detach()))
                handle.remove()
            assert float(each.pushes[unit]) == pytest.approx((values[0] - values[1]) / (2 * epsilon), abs=1e-6)


def test_norms_are_those_of_a_units_own_rows(network_and_inputs):
    problem = problem_of(*network_and_inputs)
    found = unit_gradients(problem)
    problem.network.zero_grad()
    problem.value().backward()
    for layer, each in zip(hidden_layers(problem.network), found, strict=True):
        rows = torch.cat([layer.incoming.weight.grad.flatten(1), layer.incoming.bias.grad[:, None]], dim=1)
        assert each.norms.tolist() == pytest.approx(torch.linalg.vector_norm(rows, dim=1).tolist())


def test_the_push_on_a_unit_that_hands_on_two_numbers_is_the_biass_gradient():
    network = make_mlp(hidden=(6, 4), activation="crelu").double()
    inputs = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    problem = problem_of(network, inputs)
    found = unit_gradients(problem)
    problem.network.zero_grad()
    problem.value().backward()
    for layer, each in zip(hidden_layers(problem.network), found, strict=True):
        assert each.pushes.tolist() == pytest.approx(layer.incoming.bias.grad.tolist())


def test_margins_and_gradients_stand_in_one_row():
    network = make_mlp()
    seen = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    extra = {
        "losses": {"classifier": squared_error},
        "batches": {"classifier": {"inputs": seen, "targets": torch.zeros(20, 2)}},
    }
    suite = DiagnosticSuite({"margins": {"neurons_every": 2}, "unit_gradients": {"every": 4}})
    rows = suite.measure(update=4, networks={"classifier": network}, observations=seen, extra=extra).neurons
    assert [(row["network"], row["layer"]) for row in rows] == [("classifier", 0), ("classifier", 1)]
    assert all(len(row["margin"]) == len(row["gradient"]) == len(row["push"]) for row in rows)
    rows = suite.measure(update=2, networks={"classifier": network}, observations=seen, extra=extra).neurons
    assert [set(row) for row in rows] == [{"network", "layer", "margin"}] * 2
