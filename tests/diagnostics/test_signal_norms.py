"""Norms of what layers give, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lop_ray.diagnostics.base import NonFiniteError, Subject
from lop_ray.diagnostics.signal_norms import SignalOptions, mean_norm, measure_signal
from tests.interventions import tiny


def test_mean_norm_by_hand() -> None:
    assert mean_norm(torch.tensor([[3.0, -4.0], [0.0, 1.0]])) == 3.0  # (5 + 1) / 2
    image = torch.zeros(2, 2, 2, 2)  # all numbers of a sample belong together, whatever channel and position
    image[0, 0, 0, 0], image[0, 1, 1, 0], image[1, 0, 1, 1] = 3.0, 4.0, 7.0
    assert mean_norm(image) == 6.0
    assert mean_norm(image.to(memory_format=torch.channels_last)) == 6.0


def test_non_finite_values_are_refused() -> None:
    with pytest.raises(NonFiniteError):
        mean_norm(torch.tensor([[math.inf, 0.0]]))


def test_columns_and_decay() -> None:
    # z = (1, 2) and (3, -2); h = (1, 2) and (3, 0).
    found = measure_signal(Subject("net", tiny.network(), tiny.INPUTS), SignalOptions())
    (row,) = found.layers
    assert row["pre_activation_norm"] == pytest.approx((math.sqrt(5) + math.sqrt(13)) / 2)
    assert row["activation_norm"] == pytest.approx((math.sqrt(5) + 3) / 2)
    assert [(p["probe"], p["metric"], p["value"]) for p in found.probes] == [("signal", "decay", 1.0)]


def test_decay_is_the_last_layer_by_the_first() -> None:
    from lop_ray.networks import MLP, NetworkOptions

    net = MLP(1, 1, NetworkOptions(hidden=(1, 1)), seed=0)
    with torch.no_grad():
        net.body.linear_0.weight.fill_(5.0)
        net.body.linear_1.weight.fill_(0.01)
    found = measure_signal(Subject("net", net, torch.ones(3, 1)), SignalOptions())
    assert found.probes[0]["value"] == pytest.approx(0.01)
