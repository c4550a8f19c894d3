"""Power iteration against SVD: by hand, and on networks that are normalised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.diagnostics.base import NonFiniteError
from lop_ray.diagnostics.spectral_norm import normalised_weights, power_iteration_error
from lop_ray.interventions import GradientStep, SpectralNorm
from lop_ray.networks import MLP, NetworkOptions, trainable_weight
from lop_ray.networks.impala import ImpalaNet, ImpalaOptions
from tests.interventions import tiny

WEIGHT = torch.tensor([[0.0, 3.0], [4.0, 0.0]])


@pytest.mark.parametrize(
    ("u", "v", "error"),
    [
        ([0.0, 1.0], [1.0, 0.0], 0.0),  # u' W v = 4
        ([1.0, 0.0], [0.0, 1.0], 0.25),  # 3
        ([0.6, 0.8], [0.8, 0.6], 1 - 3.64 / 4),  # .6 * 3 * .6 + .8 * 4 * .8
        ([0.0, -1.0], [1.0, 0.0], 2.0),
    ],
)
def test_error_by_hand(u: list[float], v: list[float], error: float) -> None:
    sigma, found = power_iteration_error(WEIGHT, torch.tensor(u), torch.tensor(v))
    assert sigma == pytest.approx(4.0)
    assert found == pytest.approx(error, abs=1e-7)


def test_a_weight_of_zeros_has_no_error() -> None:
    sigma, error = power_iteration_error(torch.zeros(2, 3), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    assert sigma == 0.0
    assert math.isnan(error)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_weights_and_vectors_are_refused(bad: float) -> None:
    unit = torch.tensor([0.6, 0.8])
    with pytest.raises(NonFiniteError, match="u and v of a spectral norm"):
        power_iteration_error(WEIGHT, torch.tensor([bad, 0.0]), unit)
    with pytest.raises(NonFiniteError, match="weights, or u"):
        power_iteration_error(torch.tensor([[bad, 0.0], [0.0, 1.0]]), unit, unit)


def _measured(net: nn.Module) -> dict[tuple[str, str], float]:
    rows = DiagnosticSuite({"spectral_norm_error": {}}).measure(
        update=3, networks={"net": net}, observations=torch.empty(0)
    )
    assert not rows.layers
    return {(row["probe"], row["metric"]): row["value"] for row in rows.probes}


def test_every_normalised_weight_of_a_network_and_no_other() -> None:
    options = ImpalaOptions(channels=(4, 6), blocks=1, hidden=(8,))
    net = ImpalaNet((8, 8, 2), {"policy": 3, "value": 1}, options, seed=0)
    norm = SpectralNorm(heads=["value"])
    norm.build({"net": net}, torch.Generator().manual_seed(0))
    tiny.attached(norm, net)
    first = _measured(net)
    blocks = [f"body.stage_{i}{part}" for i in range(2) for part in ("", "_block_0.inner.conv_a", "_block_0.conv_b")]
    names = [*blocks, "top.body.hidden_0", "top.heads.value"]
    assert list(first) == [(probe, name) for name in names for probe in ("spectral_norm_error", "spectral_norm_exact")]
    for name in names:
        raw = trainable_weight(net.get_submodule(name)).detach().double().flatten(1).numpy()
        assert first["spectral_norm_exact", name] == pytest.approx(np.linalg.norm(raw, ord=2))
        used = net.get_submodule(name).weight.detach().double().flatten(1).numpy()
        assert first["spectral_norm_error", name] == pytest.approx(1 - 1 / np.linalg.norm(used, ord=2), abs=1e-6)
    for _ in range(300):
        norm.after_gradient_step(GradientStep(1, {}, torch.empty(0)))
    settled = _measured(net)
    assert all(abs(settled["spectral_norm_error", name]) < 1e-5 for name in names)
    assert max(first["spectral_norm_error", name] for name in names) > 1e-4


def test_torchs_own_normalisation_is_seen_too_and_is_left_as_it_is() -> None:
    net = MLP(4, 2, NetworkOptions(hidden=(8,)), seed=0)
    with torch.random.fork_rng():
        nn.utils.parametrizations.spectral_norm(net.body.linear_0)
    net.train()
    before = tiny.snapshot(net)
    assert set(_measured(net)) == {
        ("spectral_norm_error", "body.linear_0"),
        ("spectral_norm_exact", "body.linear_0"),
    }
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_network_without_a_spectral_norm_has_no_rows() -> None:
    net = MLP(4, 2, NetworkOptions(hidden=(8,)), seed=0)
    assert not list(normalised_weights(net))
    assert not _measured(net)
