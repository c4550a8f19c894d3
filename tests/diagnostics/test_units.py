import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jaxtyping import TypeCheckError

from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.units import (
    DormantOptions,
    MarginOptions,
    activation_rate,
    count_states,
    dormant,
    dormant_scores,
    margins,
    mean_activity,
    measure_dormant,
    measure_margins,
    silent,
)
from lop_ray.networks import record

# Units: dead, at risk and selective, always on, selective, margin exactly 0.
Z = torch.tensor([[-2.0, -1.0, 0.5, 3.0, -1.0], [-0.5, 0.05, 2.0, -4.0, 0.0]])

matrices = arrays("float32", (7, 5), elements=st.floats(-8, 8, width=16)).map(torch.from_numpy)
permutations = st.permutations(range(5))


def test_margins_are_the_extremes_of_each_unit():
    found = margins(Z)
    assert found.highest.tolist() == pytest.approx([-0.5, 0.05, 2.0, 3.0, 0.0])
    assert found.lowest.tolist() == [-2.0, -1.0, 0.5, -4.0, -1.0]


def test_units_are_counted_by_their_margins():
    counts = count_states(margins(Z), at_risk=0.1)
    assert (counts.dead, counts.at_risk, counts.always_on, counts.selective) == (1, 2, 1, 2)
    assert counts.mean_margin == pytest.approx((-0.5 + 0.05 + 2.0 + 3.0 + 0.0) / 5)


def test_at_risk_ends_before_its_threshold():
    found = margins(torch.tensor([[0.25, 0.125, 0.0]]))
    assert count_states(found, at_risk=0.25).at_risk == 2


def test_a_channel_is_one_unit_over_all_positions():
    values = torch.zeros(2, 3, 2, 2)
    values[1, 0, 1, 0] = 7.0
    values[0, 1] = -1.0
    values[:, 2] = 2.0
    assert margins(values).highest.tolist() == [7.0, 0.0, 2.0]
    assert margins(values).lowest.tolist() == [0.0, -1.0, 2.0]
    assert mean_activity(values).tolist() == [7 / 8, 4 / 8, 2.0]
    assert activation_rate(values).tolist() == [1 / 8, 0.0, 1.0]


def test_dormant_scores_compare_with_the_mean_of_the_layer():
    activity = mean_activity(torch.tensor([[0.0, 1.0, -2.0, 0.0], [0.0, 3.0, 2.0, 0.25]]))
    assert activity.tolist() == [0.0, 2.0, 2.0, 0.125]
    scores = dormant_scores(activity)
    assert scores.tolist() == pytest.approx([0.0, 2.0 / 1.03125, 2.0 / 1.03125, 0.125 / 1.03125])
    assert dormant(scores, 0.025).tolist() == [True, False, False, False]
    assert dormant(scores, 0.13).tolist() == [True, False, False, True]


def test_a_unit_on_the_threshold_is_dormant():
    assert dormant(torch.tensor([0.5, 0.75]), 0.5).tolist() == [True, False]


def test_all_units_of_a_layer_of_zeros_are_dormant():
    scores = dormant_scores(mean_activity(torch.zeros(3, 4)))
    assert scores.tolist() == [0.0] * 4
    assert dormant(scores, 0.0).all()


def test_silent_units_are_active_on_at_most_one_sample_in_a_hundred():
    outputs = torch.zeros(1000, 3)
    outputs[:10, 0] = 1e-30
    outputs[:11, 1] = 5.0
    outputs[:, 2] = -1.0
    rate = activation_rate(outputs)
    assert rate.tolist() == pytest.approx([0.01, 0.011, 0.0])
    assert silent(rate).tolist() == [True, False, True]


@given(matrices, permutations)
def test_permuting_units_permutes_what_is_measured(values, order):
    found, permuted = margins(values), margins(values[:, order])
    assert torch.equal(permuted.highest, found.highest[list(order)])
    assert torch.equal(permuted.lowest, found.lowest[list(order)])
    torch.testing.assert_close(mean_activity(values[:, order]), mean_activity(values)[list(order)])
    assert vars(count_states(permuted)) == pytest.approx(vars(count_states(found)))


@given(matrices, st.sampled_from([0.25, 2.0, 8.0]))
def test_margins_scale_and_dormancy_does_not(values, factor):
    assert torch.equal(margins(factor * values).highest, factor * margins(values).highest)
    scores = dormant_scores(mean_activity(values))
    torch.testing.assert_close(dormant_scores(mean_activity(factor * values)), scores)
    assert torch.equal(activation_rate(factor * values), activation_rate(values))


@given(matrices)
def test_every_unit_is_dead_always_on_or_selective_unless_an_extreme_is_zero(values):
    found = margins(values)
    counts = count_states(found)
    touching = int(((found.highest == 0) | (found.lowest == 0)).sum())
    total = counts.dead + counts.always_on + counts.selective
    assert values.shape[1] - touching <= total <= values.shape[1]


def test_one_sample_is_enough():
    counts = count_states(margins(torch.tensor([[-1.0, 0.05, 2.0]])))
    assert (counts.dead, counts.at_risk, counts.always_on, counts.selective) == (1, 1, 2, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_values_are_refused(bad):
    values = torch.zeros(3, 4)
    values[1, 2] = bad
    with pytest.raises(ValueError, match="pre-activations hold NaN or infinity"):
        margins(values)
    with pytest.raises(ValueError, match="activations hold NaN or infinity"):
        mean_activity(values)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("shape", [(4,), (0, 4), (4, 0)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="must be"):
        margins(torch.zeros(shape))


def test_shapes_in_signatures_are_checked_in_tests():
    with pytest.raises(TypeCheckError, match="samples units"):
        margins(torch.zeros(4))
    with pytest.raises(TypeCheckError, match=r"Float.Tensor, 'units'"):
        dormant_scores(torch.zeros(2, 4))


def test_the_diagnostics_measure_every_layer_of_every_network(network_and_inputs):
    network, inputs = network_and_inputs
    recording = record(network, inputs)
    subject = Subject("policy", network, inputs, update=10)
    found = measure_margins(subject, MarginOptions())
    for layer, z in enumerate(recording.pre_activations):
        per_unit = z.movedim(1, 0).flatten(1)  # loops over units, independent of by_unit
        highest = [max(unit.tolist()) for unit in per_unit]
        lowest = [min(unit.tolist()) for unit in per_unit]
        row = found.layers[layer]
        assert row["dead"] == sum(h < 0 for h in highest)
        assert row["always_on"] == sum(v > 0 for v in lowest)
        assert row["selective"] == sum(v < 0 < h for v, h in zip(lowest, highest, strict=True))
        assert found.neurons[layer] == {"layer": layer, "margin": highest}
    rows = measure_dormant(subject, DormantOptions()).layers
    for layer, h in enumerate(recording.activations):
        activity = [sum(abs(v) for v in unit.flatten().tolist()) / unit.numel() for unit in h.movedim(1, 0)]
        assert rows[layer]["activity"] == pytest.approx(sum(activity) / len(activity))
        mean = sum(activity) / len(activity)
        assert rows[layer]["dormant"] == sum(a <= 0.025 * mean for a in activity)


def test_neurons_are_written_at_an_interval_of_their_own(network_and_inputs):
    network, inputs = network_and_inputs
    options = MarginOptions(neurons_every=4)
    for update, rows in [(0, 2), (3, 0), (4, 2)]:
        assert len(measure_margins(Subject("q", network, inputs, update=update), options).neurons) == rows


def test_only_the_latest_samples_count(network_and_inputs):
    network, inputs = network_and_inputs
    whole = measure_margins(Subject("q", network, inputs), MarginOptions(samples=5))
    part = measure_margins(Subject("q", network, inputs[-5:]), MarginOptions())
    assert whole.layers == [pytest.approx(row, rel=1e-12) for row in part.layers]
