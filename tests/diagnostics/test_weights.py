import copy

import numpy as np
import pytest
import torch
from torch import nn

from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.weights import (
    WeightOptions,
    WeightSpectrumOptions,
    condition_number,
    copy_weights,
    incoming_names,
    measure_weight_spectrum,
    measure_weights,
    weight_change,
    weight_magnitude,
    weight_norm,
    weight_singular_values,
)
from lop_ray.networks import hidden_layers


def test_magnitude_and_norm_by_hand():
    weight = torch.tensor([[3.0, -4.0], [0.0, 1.0]])
    assert weight_magnitude(weight) == 2.0
    assert weight_norm(weight) == pytest.approx(26**0.5)


def test_change_sums_absolute_differences_of_weights_and_leaves_biases_out():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    before = copy_weights(network)
    assert sorted(before) == ["0", "2"]
    with torch.no_grad():
        network[0].weight += torch.tensor([[0.5, -0.25], [0.0, 1.0]])
        network[0].bias += 100.0
        network[2].weight -= 2.0
    assert weight_change(before, copy_weights(network)) == pytest.approx(1.75 + 4.0, rel=1e-6)


def test_a_copy_does_not_follow_the_network():
    network = nn.Linear(2, 2)
    before = copy_weights(network)
    with torch.no_grad():
        network.weight.zero_()
    assert not torch.equal(before[""], network.weight)


def test_weights_of_different_networks_are_not_compared():
    with pytest.raises(ValueError, match="copies from one network"):
        weight_change(copy_weights(nn.Linear(2, 2)), copy_weights(nn.Linear(3, 2)))


def test_under_spectral_norm_the_used_weight_is_measured_and_the_power_iteration_does_not_move():
    network = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5)), nn.ReLU(), nn.Linear(5, 1))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    copy = copy_weights(network)["0"]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert network.training
    network.eval()
    assert torch.equal(copy, network[0].weight)


def test_rows_hold_the_incoming_weights_of_each_layer(network_and_inputs):
    network, inputs = network_and_inputs
    extra = {"before": {"q": copy.deepcopy(network)}, "initial": {"q": copy.deepcopy(network)}}
    with torch.no_grad():
        hidden_layers(network)[1].incoming.weight += 0.5
    rows = measure_weights(Subject("q", network, inputs, extra=extra), WeightOptions()).layers
    weights = [layer.incoming.weight for layer in hidden_layers(network)]
    assert [row["weight_magnitude"] for row in rows] == pytest.approx([w.abs().mean().item() for w in weights])
    assert [row["weight_change"] for row in rows] == pytest.approx([0.0, 0.5 * weights[1].numel()])
    assert [row["init_distance"] for row in rows] == pytest.approx([0.0, 0.5 * weights[1].numel() ** 0.5])
    assert len(incoming_names(network)) == len(set(incoming_names(network))) == 2


def test_without_earlier_networks_there_is_no_change_column(network_and_inputs):
    network, inputs = network_and_inputs
    rows = measure_weights(Subject("q", network, inputs), WeightOptions()).layers
    assert all(row.keys() == {"weight_magnitude", "weight_norm"} for row in rows)


def test_spectral_norm_and_condition_of_each_weight(network_and_inputs):
    network, inputs = network_and_inputs
    found = measure_weight_spectrum(Subject("q", network, inputs), WeightSpectrumOptions(store=True))
    for row, spectrum, layer in zip(found.layers, found.spectra, hidden_layers(network), strict=True):
        matrix = layer.incoming.weight.detach().flatten(1).numpy()
        sigma = np.linalg.svd(matrix, compute_uv=False)
        assert row["spectral_norm"] == pytest.approx(np.linalg.norm(matrix, 2))
        assert row["condition_number"] == pytest.approx(np.linalg.cond(matrix))
        assert spectrum["x"] == pytest.approx(sigma.tolist())


def test_a_singular_weight_has_infinite_condition():
    assert condition_number(weight_singular_values(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))) == float("inf")
    assert condition_number(weight_singular_values(torch.diag(torch.tensor([4.0, 0.5])))) == 8.0
