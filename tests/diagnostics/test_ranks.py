import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lop_ray.diagnostics.base import Subject
from lop_ray.diagnostics.ranks import (
    RankOptions,
    centred_effective_rank,
    covariance_rank,
    effective_rank,
    feature_rank,
    measure_ranks,
    numerical_rank,
    pca_rank,
    refusal,
    relative_rank,
    singular_values,
    stable_rank,
)
from lop_ray.networks import record

matrices = arrays("float64", st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.floats(-4, 4, width=16)).map(
    torch.from_numpy
)


def relu_features(samples: int, units: int, dead: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(units, units, generator=generator)
    features = torch.relu(torch.randn(samples, units, generator=generator) @ mixing / 8 + 0.5)
    features[:, :dead] = 0
    return features.to(dtype)


@pytest.mark.parametrize(
    ("samples", "units", "dead"), [(1000, 256, 0), (1000, 256, 100), (100, 256, 3), (1, 7, 0), (30, 1, 0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_eigenvalues_give_the_singular_values_of_numpys_svd(samples, units, dead, dtype):
    features = relu_features(samples, units, dead, dtype)
    expected = np.linalg.svd(features.double().numpy(), compute_uv=False)
    found = singular_values(features)
    assert found.dtype == torch.float64
    assert found.shape == (min(samples, units),)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-7 * expected[0])
    np.testing.assert_allclose(
        singular_values(features, exact=True).numpy(), expected, rtol=1e-9, atol=1e-13 * expected[0]
    )


def test_every_rank_equals_that_of_numpys_svd():
    features = relu_features(1000, 256, dead=40)
    sigma = np.linalg.svd(features.double().numpy(), compute_uv=False)
    found = singular_values(features)
    assert stable_rank(found) == 1 + int(np.argmax(np.cumsum(sigma) >= 0.99 * sigma.sum()))
    p = sigma[sigma > 1e-12] / sigma.sum()
    assert effective_rank(found) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert feature_rank(found, 1000) == int((sigma / math.sqrt(1000) > 0.01).sum())


def test_singular_values_below_the_floor_are_zero_from_the_gram_matrix_and_found_by_svd():
    features = torch.diag(torch.tensor([1.0, 1e-5, 1e-9], dtype=torch.float64))
    assert singular_values(features).tolist() == pytest.approx([1.0, 1e-5, 0.0], rel=1e-9)
    assert singular_values(features, exact=True).tolist() == pytest.approx([1.0, 1e-5, 1e-9], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_squares_neither_overflow_nor_vanish(scale):
    features = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64)) * scale
    assert singular_values(features).tolist() == pytest.approx([4 * scale, 3 * scale], rel=1e-12)
    if 1e-38 < scale < 1e38:
        assert singular_values(features.float()).tolist() == pytest.approx([4 * scale, 3 * scale], rel=1e-6)


def test_stable_rank_counts_unsquared_values_past_99_percent():
    # Of 100: 90, 98, 99 -> the third reaches the share. Squared, the first two would.
    assert stable_rank(torch.tensor([90.0, 8.0, 1.0, 1.0]).double()) == 3
    assert stable_rank(torch.tensor([90.0, 8.0, 0.5, 1.5]).double().sort(descending=True).values) == 3
    assert stable_rank(torch.tensor([90.0, 8.0, 1.0, 1.0]).double(), share=0.9) == 1
    assert stable_rank(torch.ones(100).double()) == 99


def test_effective_rank_is_the_exponential_of_the_entropy():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


def test_feature_rank_divides_by_the_root_of_the_samples():
    sigma = torch.tensor([1.0, 0.11, 0.09])
    assert feature_rank(sigma, samples=100) == 2
    assert feature_rank(sigma, samples=100, threshold=0.02) == 1


def test_a_matrix_of_zeros_has_rank_zero():
    sigma = singular_values(torch.zeros(5, 3))
    assert sigma.tolist() == [0.0, 0.0, 0.0]
    assert (stable_rank(sigma), effective_rank(sigma), feature_rank(sigma, 5)) == (0, 0.0, 0)


@pytest.mark.parametrize("features", [torch.full((9, 4), 2.5), torch.rand(1, 6) + 0.1])
def test_constant_features_and_a_single_sample_have_rank_one(features):
    sigma = singular_values(features)
    assert (stable_rank(sigma), feature_rank(sigma, len(features))) == (1, 1)
    assert effective_rank(sigma) == pytest.approx(1.0, abs=1e-6)


@given(matrices, st.randoms(use_true_random=False))
def test_permuting_units_changes_nothing(features, random):
    order = list(range(features.shape[1]))
    random.shuffle(order)
    torch.testing.assert_close(singular_values(features[:, order]), singular_values(features), rtol=1e-7, atol=1e-6)


@given(matrices, st.sampled_from([1e-3, 0.5, 1e4]))
def test_singular_values_scale_with_the_features(features, factor):
    torch.testing.assert_close(
        singular_values(factor * features), factor * singular_values(features), rtol=1e-7, atol=1e-6 * factor
    )


@given(matrices)
def test_ranks_lie_between_one_and_the_smaller_side(features):
    sigma = singular_values(features)
    assert torch.equal(sigma, sigma.sort(descending=True).values)
    if bool((features != 0).any()):
        assert 1 <= stable_rank(sigma) <= min(features.shape)
        assert 1 - 1e-9 <= effective_rank(sigma) <= min(features.shape) + 1e-9
        assert 0 <= feature_rank(sigma, len(features)) <= min(features.shape)


def test_non_finite_features_are_refused():
    features = torch.ones(4, 3)
    features[2, 1] = float("nan")
    with pytest.raises(ValueError, match="features hold NaN or infinity"):
        singular_values(features)


def test_the_diagnostic_measures_post_activations_of_every_layer(network_and_inputs):
    network, inputs = network_and_inputs
    rows = measure_ranks(Subject("q", network, inputs), RankOptions()).layers
    for row, h in zip(rows, record(network, inputs).activations, strict=True):
        flat = h.movedim(1, -1).reshape(-1, h.shape[1]).numpy()
        sigma = np.linalg.svd(flat, compute_uv=False)
        assert row["stable_rank"] == 1 + int(np.argmax(np.cumsum(sigma) >= 0.99 * sigma.sum()))
        assert row["feature_rank"] == int((sigma / math.sqrt(len(flat)) > 0.01).sum())


def test_pca_rank_counts_squares_and_relative_rank_compares_with_the_largest():
    sigma = torch.tensor([10.0, 1.0, 0.5, 0.05]).double()  # squares: 100, 1, 0.25, 0.0025; 99 % of 101.2525 is 100.24
    assert pca_rank(sigma) == 2
    assert stable_rank(sigma) == 3
    assert relative_rank(sigma) == 3
    assert relative_rank(sigma, 0.004) == 4
    assert (pca_rank(torch.zeros(3)), relative_rank(torch.zeros(3))) == (0, 0)


def test_covariance_rank_is_of_eigenvalues_of_the_centred_covariance():
    values = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.arange(1.0, 6.0, dtype=torch.float64)
    )
    values += 100.0
    eigenvalues = np.linalg.eigvalsh(np.cov(values.numpy().T))
    p = eigenvalues / eigenvalues.sum()
    assert covariance_rank(values) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert covariance_rank(torch.full((6, 3), 2.0)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_numerical_rank_is_numpys_matrix_rank(dtype, rank):
    generator = torch.Generator().manual_seed(rank)
    features = torch.randn(60, rank, generator=generator, dtype=dtype) @ torch.randn(
        rank, 20, generator=generator, dtype=dtype
    )
    assert numerical_rank(features) == np.linalg.matrix_rank(features.numpy()) == rank


def test_too_few_samples_are_refused_with_a_reason_and_no_number(network_and_inputs):
    network, inputs = network_and_inputs
    found = measure_ranks(Subject("q", network, inputs), RankOptions(ratio=1e4, spectra_every=1))
    assert not found.spectra
    for row in found.layers:
        assert all(math.isnan(row[kind]) for kind in ("stable_rank", "effective_rank", "feature_rank"))
        assert "a rank needs at least 10000 samples a feature" in row["rank_refusal"]


def test_refusal_begins_below_the_ratio():
    assert refusal(100, 10, 10.0) is None
    assert refusal(99, 10, 10.0) == "99 samples for 10 features: a rank needs at least 10 samples a feature"


def test_kinds_are_the_columns_and_spectra_can_be_stored(network_and_inputs):
    network, inputs = network_and_inputs
    kinds = ("pca_rank", "covariance_rank", "numerical_rank", "relative_rank")
    options = RankOptions(kinds=kinds, spectra_every=2)
    found = measure_ranks(Subject("q", network, inputs, update=4), options)
    recording = record(network, inputs)
    for layer, (row, h, z) in enumerate(
        zip(found.layers, recording.activations, recording.pre_activations, strict=True)
    ):
        assert row.keys() == {*kinds, "rank_refusal"}
        assert row["rank_refusal"] is None
        flat = h.movedim(1, -1).reshape(-1, h.shape[1]).numpy()
        assert row["numerical_rank"] == np.linalg.matrix_rank(flat)
        assert row["covariance_rank"] == covariance_rank(z)
        spectrum = found.spectra[layer]
        assert (spectrum["spectrum"], spectrum["layer"]) == ("feature_singular_values", layer)
        assert spectrum["x"] == pytest.approx(np.linalg.svd(flat, compute_uv=False).tolist(), abs=1e-6)
    assert not measure_ranks(Subject("q", network, inputs, update=3), options).spectra


@pytest.mark.parametrize("exact", [False, True])
def test_centred_singular_values_by_hand_and_by_numpy(exact):
    features = torch.tensor([[101.0, 2.0, 7.0], [99.0, 2.0, 7.0]])  # less the mean: (1, 0, 0) and (-1, 0, 0)
    assert singular_values(features, exact=exact, centred=True).tolist() == pytest.approx([2**0.5, 0.0], abs=1e-6)
    features = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 5
    expected = np.linalg.svd(features.numpy() - features.numpy().mean(0), compute_uv=False)
    found = singular_values(features, exact=exact, centred=True)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_centred_effective_rank_of_two_equal_directions_is_2():
    features = torch.tensor([[1.0, 0.0, 3.0], [-1.0, 0.0, 3.0], [0.0, 1.0, 3.0], [0.0, -1.0, 3.0]])
    assert centred_effective_rank(features) == pytest.approx(2.0)
    assert centred_effective_rank(torch.ones(4, 3)) == 0.0
    image = features.T.reshape(1, 3, 2, 2)  # positions are samples
    assert centred_effective_rank(image) == pytest.approx(2.0)
