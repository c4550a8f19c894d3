"""What may not change a measurement, and how it scales: on MLP, LayerNorm and conv networks, for random changes."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lop_ray.diagnostics import DiagnosticSuite
from lop_ray.diagnostics.curvature import curvature_operator, dense_eigenvalues, rank_bound
from lop_ray.diagnostics.losses import Batch, Problem, cross_entropy, squared_error
from lop_ray.diagnostics.suite import Rows
from lop_ray.networks import HiddenLayer, hidden_layers, outgoing_columns, record
from tests.diagnostics.conftest import NETWORKS

RANKS = [
    "stable_rank",
    "effective_rank",
    "feature_rank",
    "pca_rank",
    "covariance_rank",
    "numerical_rank",
    "relative_rank",
]
WITHOUT_DIRECTIONS: dict[str, Mapping[str, Any]] = {  # all that draw no random directions of weights
    "margins": {"neurons_every": 1},
    "dormant": {"tau": 0.5},
    "ranks": {"ratio": 0, "kinds": RANKS, "spectra_every": 1},
    "features": {"saturated": 0.3, "correlation": 0.5},
    "predictive_margins": {},
    "weights": {},
    "weight_spectrum": {"store": True},
    "gradients": {},
    "gradient_covariance": {"clusters": 1},
    "churn": {},
    "kfac_ranks": {},
    "input_curvature": {"store": True},
}


def make(kind: str) -> tuple[nn.Module, Tensor]:
    build, shape = NETWORKS[kind]
    network = build().double()
    with torch.no_grad():  # some units are always on, some dead
        for layer in hidden_layers(network):
            (layer.normalisation or layer.incoming).bias[:2] = torch.tensor([40.0, -40.0], dtype=torch.float64)
    inputs = torch.randn(10, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return network, inputs


def labelled(inputs: Tensor) -> Batch:
    return {"inputs": inputs, "labels": torch.arange(len(inputs)) % 2}


def measured(network: nn.Module, inputs: Tensor, moved: nn.Module, options: Mapping[str, Any]) -> Rows:
    """With `moved` as the network before the update and as the initial one, and cross-entropy as the loss."""
    extra = {
        "before": {"q": moved},
        "initial": {"q": moved},
        "losses": {"q": cross_entropy},
        "batches": {"q": labelled(inputs)},
    }
    return DiagnosticSuite(options).measure(update=0, networks={"q": network}, observations=inputs, extra=extra)


def permute(network: nn.Module, orders: Sequence[Sequence[int]]) -> nn.Module:
    """The same function with its hidden units in another order."""
    found = copy.deepcopy(network)
    with torch.no_grad():
        for layer, order in zip(hidden_layers(found), orders, strict=True):
            modules = [module for module in (layer.incoming, layer.normalisation) if module is not None]
            for parameter in (parameter for module in modules for parameter in module.parameters()):
                parameter.copy_(parameter[list(order)].clone())
            for reader in layer.readers:
                columns = outgoing_columns(reader, layer.units)
                columns.copy_(columns[:, list(order)].clone())
    return found


def orders_of(network: nn.Module, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [draw.sample(range(layer.units), layer.units) for layer in hidden_layers(network)]


def assert_rows(found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]], **tolerance: float) -> None:
    for row, expected in zip(found, wanted, strict=True):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            close = pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
            assert row[key] == close, key


@pytest.mark.parametrize("kind", ["mlp", "tanh", "layernorm", "conv"])
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_permuting_units_permutes_margins_and_changes_nothing_else(kind, seed):
    network, inputs = make(kind)
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.1).add_(0.01)
    orders = orders_of(network, seed)
    permuted = permute(network, orders)
    torch.testing.assert_close(permuted(inputs), network(inputs))
    wanted = measured(network, inputs, moved, WITHOUT_DIRECTIONS)
    found = measured(permuted, inputs, permute(moved, orders), WITHOUT_DIRECTIONS)
    # Which of two copies is the duplicate depends on the order, and with three in a row so may their number.
    for rows in (wanted, found):
        assert all(0 <= row.pop("duplicates") < row["units"] for row in rows.layers)
    assert_rows(found.layers, wanted.layers)
    assert_rows(found.probes, wanted.probes)
    for row, expected, order in zip(found.neurons, wanted.neurons, orders, strict=True):
        assert row["margin"] == pytest.approx([expected["margin"][unit] for unit in order], rel=1e-9)
    for row, expected in zip(found.spectra, wanted.spectra, strict=True):
        assert row["x"] == pytest.approx(expected["x"], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("kind", ["mlp", "layernorm", "conv"])
@settings(max_examples=3)
@given(seed=st.integers(0, 10**6))
def test_permuting_units_changes_no_eigenvalue_of_the_curvature(kind, seed):
    network, inputs = make(kind)
    permuted = permute(network, orders_of(network, seed))
    for matrix in ("hessian", "ggn"):
        wanted, found = (
            dense_eigenvalues(curvature_operator(Problem.of(each, cross_entropy, labelled(inputs)), matrix))
            for each in (network, permuted)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
    assert rank_bound(permuted, inputs) == rank_bound(network, inputs)


def rescale(layer: HiddenLayer, factor: float) -> None:
    """Makes a ReLU layer's units larger and reads them smaller: the function stays."""
    with torch.no_grad():
        for parameter in layer.incoming.parameters():
            parameter *= factor
        for reader in layer.readers:
            outgoing_columns(reader, layer.units).div_(factor)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@settings(max_examples=5)
@given(factor=st.floats(0.05, 20.0), layer=st.integers(0, 1))
def test_rescaling_a_relu_layer_scales_its_margins_and_leaves_the_function(kind, factor, layer):
    network, inputs = make(kind)
    scaled = copy.deepcopy(network)
    rescale(hidden_layers(scaled)[layer], factor)
    options = {
        "margins": {"neurons_every": 1},
        "dormant": {},
        "ranks": {
            "ratio": 0,
            "kinds": ["stable_rank", "effective_rank", "pca_rank", "covariance_rank", "relative_rank"],
        },
        "features": {},
        "weights": {},
        "weight_spectrum": {},
        "churn": {},
        "input_curvature": {},
    }
    wanted, found = (measured(each, inputs, each, options) for each in (network, scaled))
    for index, (row, expected) in enumerate(zip(found.layers, wanted.layers, strict=True)):
        own = factor if index == layer else 1 / factor if index == layer + 1 else 1.0
        outgoing = factor if index == layer else 1.0
        for column in ("mean_margin", "activity"):
            assert row[column] == pytest.approx(outgoing * expected[column], rel=1e-9)
        for column in ("weight_magnitude", "weight_norm", "spectral_norm"):
            assert row[column] == pytest.approx(own * expected[column], rel=1e-9)
        same = "dead always_on selective dormant silent activation_rate never_active duplicates sparsity "
        same += "stable_rank effective_rank pca_rank covariance_rank relative_rank condition_number weight_rank"
        for column in same.split():
            assert row[column] == pytest.approx(expected[column], rel=1e-6)
    assert_rows(found.probes, wanted.probes)  # churn and curvature in the input are of the function


@pytest.mark.parametrize("kind", ["mlp", "layernorm", "conv"])
@pytest.mark.parametrize("factor", [0.01, 3.0, 1e4])
def test_derivatives_scale_with_the_loss(kind, factor):
    network, inputs = make(kind)
    targets = torch.zeros(len(inputs), 2, dtype=torch.float64)
    batch = {"inputs": inputs, "targets": targets}
    names = ("gradients", "gradient_covariance", "kfac_ranks", "input_curvature", "top_eigenvalues", "hessian_density")
    options = {name: {"every": 1} for name in names} | {
        "gradient_covariance": {"clusters": 1},
        "top_eigenvalues": {"k": 1, "tolerance": 0},
        "hessian_density": {"order": 5},
    }

    def scaled(output: Tensor, columns: Batch) -> Tensor:
        return factor * squared_error(output, columns)

    wanted, found = (
        DiagnosticSuite(options).measure(
            update=0,
            networks={"q": network},
            observations=inputs,
            extra={"losses": {"q": loss}, "batches": {"q": batch}},
        )
        for loss in (squared_error, scaled)
    )
    powers = {"gradient_norm": 1, "gradient_snr": 0}
    for row, expected in zip(found.layers, wanted.layers, strict=True):
        for column in expected.keys() - {"network", "layer", "units"}:
            assert row[column] == pytest.approx(factor ** powers.get(column, 0) * expected[column], rel=1e-6), column
    metrics = {("input_curvature", each): 2 for each in ("mean", "median", "maximum")}
    metrics |= {("hessian_density", each): 1 for each in ("largest", "smallest", "trace")}
    metrics[("top_eigenvalues", "largest")] = 1
    for row, expected in zip(found.probes, wanted.probes, strict=True):
        if row["metric"] in ("epsilon_rank", "numerical_rank"):
            continue  # both have a scale of their own
        power = metrics.get((row["probe"], row["metric"]), 0)
        assert row["value"] == pytest.approx(factor**power * expected["value"], rel=1e-5), row


@settings(max_examples=20)
@given(samples=st.integers(1, 12), kind=st.sampled_from(["mlp", "layernorm", "conv"]), seed=st.integers(0, 10**6))
def test_ranks_of_a_network_lie_between_one_and_the_smaller_side(samples, kind, seed):
    network, _ = make(kind)
    shape = NETWORKS[kind][1]
    inputs = torch.randn(samples, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = DiagnosticSuite({"ranks": {"ratio": 0, "kinds": RANKS}}).measure(
        update=0, networks={"q": network}, observations=inputs
    )
    recording = record(network, inputs)
    for row, h, z in zip(rows.layers, recording.activations, recording.pre_activations, strict=True):
        positions = h[0, 0].numel()
        largest = min(samples * positions, h.shape[1])
        for rank in RANKS:
            least = 0 if rank in ("feature_rank", "covariance_rank") or not bool(h.any()) else 1
            assert least - 1e-9 <= row[rank] <= largest + 1e-9, rank
        assert (row["covariance_rank"] >= 1 - 1e-9) == bool((z.amax(0) > z.amin(0)).any() or positions > 1)
