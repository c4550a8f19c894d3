"""Bias clipping: which biases, and from which side."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from lop_ray.interventions import BiasClipping
from tests.interventions import tiny


def test_hidden_biases_and_shifts_stay_above_the_minimum() -> None:
    net = tiny.network(normalisation="layernorm")
    clipping = BiasClipping(minimum=-0.5)
    tiny.attached(clipping, net)
    with torch.no_grad():
        for bias in (net.body.linear_0.bias, net.body.norm_0.bias, net.head.bias):
            bias.copy_(torch.tensor([-3.0, 0.25]))
        net.body.norm_0.weight.fill_(-3.0)
    clipping.after_gradient_step(tiny.step())
    assert net.body.linear_0.bias.tolist() == [-0.5, 0.25]
    assert net.body.norm_0.bias.tolist() == [-0.5, 0.25]
    assert net.body.norm_0.weight.tolist() == [-3.0, -3.0]
    assert net.head.bias.tolist() == [-3.0, 0.25]
    assert net.body.linear_0.weight.tolist() == tiny.INCOMING


def test_a_positive_minimum_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 0"):
        BiasClipping(minimum=0.1)
