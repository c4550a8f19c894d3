"""Activation clamping: outputs and gradients by hand."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from lop_ray.interventions import ActivationClamping
from lop_ray.networks import MLP, NetworkOptions, record
from tests.interventions import tiny


def _net(**options: object) -> MLP:
    net = tiny.network()
    ActivationClamping(**options).build({"net": net}, torch.Generator())
    return net


@pytest.mark.parametrize("training", [True, False])
def test_no_unit_gives_less_than_the_minimum(training: bool) -> None:
    net = _net(minimum=0.5).train(training)
    # Activations [[1, 2], [3, 0]] become [[1, 2], [3, .5]].
    expected = torch.tensor([[1.0, 2.0], [3.0, 0.5]]) @ torch.tensor(tiny.OUTGOING).T
    torch.testing.assert_close(net(tiny.INPUTS).detach(), expected)


def test_measures_see_clamped_outputs_and_untouched_pre_activations() -> None:
    seen = record(_net(minimum=0.5), tiny.INPUTS)
    assert seen.activations[0].tolist() == [[1.0, 2.0], [3.0, 0.5]]
    assert seen.pre_activations[0].tolist() == [[1.0, 2.0], [3.0, -2.0]]


@pytest.mark.parametrize(("gradient", "unit_1"), [("zero", [0.0, 0.0]), ("through", [-3.0, 1.0])])
def test_the_gradient_of_a_clamped_output(gradient: str, unit_1: list[float]) -> None:
    # Second input (3, -1), unit 1 has z = -2; d output_0 / d h_1 = -1, so d / d w_1 = -1 * (3, -1) where it passes.
    net = _net(minimum=0.5, gradient=gradient)
    net(tiny.INPUTS[1:])[0, 0].backward()
    assert net.body.linear_0.weight.grad.tolist() == [[9.0, -3.0], unit_1]


@pytest.mark.parametrize("activation", ["crelu", "fourier"])
def test_paired_activations(activation: str) -> None:
    net = MLP(2, 1, NetworkOptions(hidden=(8,), activation=activation), seed=0)
    ActivationClamping(minimum=0.25, gradient="through").build({"net": net}, torch.Generator())
    outputs = net.body(tiny.INPUTS)
    assert outputs.min().item() == 0.25
    outputs.sum().backward()
    assert net.body.linear_0.weight.grad.isfinite().all()


def test_a_minimum_of_0_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        ActivationClamping(minimum=0.0)
