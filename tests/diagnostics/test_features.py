import copy

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.features import (
    FeatureOptions,
    PredictiveMarginOptions,
    duplicates,
    measure_features,
    measure_predictive_margins,
    never_active,
    saturation,
    sparsity,
)
from lop_ray.diagnostics.units import margins
from lop_ray.networks import hidden_layers, record

H = torch.tensor([[0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 4.0], [0.0, 3.0, 1e-20, 6.0]])


def test_never_active_units_are_zero_on_every_sample():
    assert never_active(H).tolist() == [True, False, False, False]


def test_sparsity_is_the_share_of_zeros_whatever_the_unit():
    assert sparsity(H) == pytest.approx(6 / 12)


def test_saturation_is_beyond_two_on_both_sides():
    assert saturation(torch.tensor([[2.0, -2.5], [3.0, 0.0]])) == 0.5
    assert saturation(torch.tensor([[2.0, -2.5], [3.0, 0.0]]), beyond=2.75) == 0.25


def test_duplicates_are_units_that_follow_an_earlier_one():
    t = torch.tensor([0.0, 1.0, 2.0, 3.0])
    other = torch.tensor([1.0, -1.0, -1.0, 1.0])  # uncorrelated with t
    values = torch.stack([t, 3 * t + 7, other, -t, other + 0.05 * t, torch.full((4,), 0.1)], dim=1)
    assert duplicates(values).tolist() == [False, True, False, True, True, False]


@given(arrays("float64", (6, 4), elements=st.floats(-3, 3, width=16)))
def test_duplicates_agree_with_numpys_correlations(values):
    assume(bool((values.std(0) > 1e-3).all()))
    correlation = np.abs(np.corrcoef(values.T))
    assume(bool((np.abs(correlation - 0.95) > 1e-6).all()))
    expected = [bool((correlation[:i, i] > 0.95).any()) for i in range(4)]
    assert duplicates(torch.from_numpy(values)).tolist() == expected


@pytest.mark.parametrize("measure", [never_active, duplicates])
def test_non_finite_values_are_refused(measure):
    values = H.clone()
    values[1, 3] = float("nan")
    with pytest.raises(ValueError, match="activations hold NaN"):
        measure(values)


def test_one_sample_has_no_duplicates():
    assert not duplicates(torch.rand(1, 5)).any()


def test_the_diagnostic_measures_every_layer(network_and_inputs):
    network, inputs = network_and_inputs
    rows = measure_features(Subject("q", network, inputs), FeatureOptions()).layers
    recording = record(network, inputs)
    for row, z, h in zip(rows, recording.pre_activations, recording.activations, strict=True):
        assert row["sparsity"] == pytest.approx(np.mean(h.numpy() == 0))
        assert row["saturation"] == pytest.approx(np.mean(np.abs(z.numpy()) > 2))
        assert row["never_active"] == sum(not unit.any() for unit in h.movedim(1, 0))


def test_predictive_margins_are_of_the_old_weights_on_the_new_data(network_and_inputs):
    network, inputs = network_and_inputs
    before = copy.deepcopy(network)
    first = hidden_layers(network)[0]
    with torch.no_grad():
        module = first.normalisation or first.incoming
        module.bias[0] -= 1e6
    rows = measure_predictive_margins(
        Subject("q", network, inputs, extra={"before": {"q": before}}), PredictiveMarginOptions()
    ).layers
    old = [margins(z).highest for z in record(before, inputs).pre_activations]
    new = [margins(z).highest for z in record(network, inputs).pre_activations]
    for row, a, b in zip(rows, old, new, strict=True):
        assert row["predictive_dead"] == int((a < 0).sum())
        assert row["predictive_mean_margin"] == pytest.approx(float(a.mean()))
        assert row["predictive_dead"] + row["died"] - row["revived"] == int((b < 0).sum())
    assert rows[0]["died"] == int(old[0][0] >= 0)
