"""Activations written in place are torch's own, and so are their gradients."""

import pytest
import torch
from torch import nn

from lop_ray.networks.in_place import activate_, activation_gradient


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh()], ids=lambda a: type(a).__name__)
def test_values_and_gradients_are_autograds(activation):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    gradient = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    leaf = values.clone().requires_grad_()
    wanted = activation(leaf)
    wanted.backward(gradient)

    memory = values.clone()
    found = activate_(activation, memory)
    assert found.data_ptr() == memory.data_ptr()
    assert torch.equal(found, wanted)
    out = activation_gradient(activation, gradient, found, out=gradient)
    assert out.data_ptr() == gradient.data_ptr()
    torch.testing.assert_close(out, leaf.grad, rtol=1e-15, atol=1e-15)
