"""The mixture's generator against its description: means, variances and separations over many tasks."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError
from scipy.stats import chisquare, kstest

from lop_ray.problems.gaussian_mixture import GaussianMixture, GaussianMixtureOptions

TASKS = 1500


def tasks(count=TASKS, seed=0, **options):
    made = GaussianMixture(GaussianMixtureOptions(**options), task_seed=seed)
    return [made.task(number) for number in range(count)]


def by_class(data):
    """Inputs of class 0 and of class 1 [2, n / 2, d]."""
    return np.stack([data.inputs[data.targets == c] for c in (0, 1)])


def assert_moments(values, variance, mean=0.0):
    """Sample mean and variance of normal numbers within four standard errors."""
    values = np.asarray(values).ravel()
    assert abs(values.mean() - mean) < 4 * math.sqrt(variance / len(values))
    assert abs(values.var() / variance - 1) < 4 * math.sqrt(2 / len(values))


@pytest.fixture(scope="module")
def anchors():
    """Without spread and almost without noise all examples of a class are its anchor: [tasks, 2, d]."""
    return np.stack([by_class(data)[:, 0] for data in tasks(spread=0, noise=1e-12, examples=2)])


def test_defaults_are_the_sources():
    options = GaussianMixtureOptions()
    assert (options.dimensions, options.examples, options.components) == (4, 96, 4)
    assert (options.separation, options.spread, options.noise, options.label_noise) == (2.8, 0.7, 0.22, 0.0)
    assert options.steps_per_task == 40
    made = GaussianMixture(options)
    assert made.dtype == np.float64
    assert made.reading == "full_batch"
    assert made.examples_per_task == 40 * 96


def test_anchors_lie_opposite_each_other_at_twice_the_separation(anchors):
    apart = (anchors[:, 1] - anchors[:, 0])[:, :2]
    assert_allclose(np.linalg.norm(apart, axis=1), 2 * 2.8, rtol=1e-9)
    angles = np.arctan2(apart[:, 1], apart[:, 0])
    assert kstest(angles, "uniform", (-math.pi, 2 * math.pi)).pvalue > 0.01


def test_anchors_together_are_shifted_in_the_first_two_dimensions(anchors):
    assert_moments(anchors.mean(axis=1)[:, :2], 0.6**2)


def test_each_anchor_has_its_own_place_in_the_other_dimensions(anchors):
    assert_moments(anchors[:, :, 2:], 0.3**2)
    assert abs(np.corrcoef(anchors[:, 0, 2:].ravel(), anchors[:, 1, 2:].ravel())[0, 1]) < 4 / math.sqrt(2 * TASKS)


def test_separation_zero_gives_both_classes_one_anchor_in_two_dimensions():
    for data in tasks(20, separation=0, dimensions=2, spread=0, noise=1e-12, examples=4):
        assert_allclose(np.ptp(data.inputs, axis=0), 0, atol=1e-10)


def test_examples_scatter_around_the_components_with_the_noise():
    within = [by_class(data).var(axis=1, ddof=1) for data in tasks(components=1, noise=0.35, examples=16)]
    # Of 8 examples a class: a chi-squared variance with 7 degrees of freedom.
    mean = np.mean(within)
    assert abs(mean / 0.35**2 - 1) < 4 * math.sqrt(2 / 7 / (TASKS * 8))


def test_components_scatter_around_the_anchor_with_the_spread():
    # Two components of a class are two spread^2 apart in variance, whatever the anchor is.
    differences = []
    for data in tasks(components=2, spread=0.5, noise=1e-12, examples=32):
        for examples in by_class(data):
            centres = np.unique(examples.round(9), axis=0)
            differences += [centres[1] - centres[0]] if len(centres) == 2 else []
    differences = np.array(differences)
    assert len(differences) > 1.9 * TASKS
    # `unique` orders the two by their first number, so that only its square is that of a normal difference.
    assert abs((differences**2).mean() / (2 * 0.5**2) - 1) < 4 * math.sqrt(2 / differences.size)
    assert_moments(differences[:, 1:], 2 * 0.5**2)


def test_components_are_used_alike():
    made = GaussianMixture(GaussianMixtureOptions(components=5, examples=20_000, noise=1e-9))
    for examples in by_class(made.task(0)):
        _, counts = np.unique(examples.round(6), axis=0, return_counts=True)
        assert len(counts) == 5
        assert chisquare(counts).pvalue > 0.01


def test_classes_together_have_the_variance_of_the_description():
    # Of one coordinate beyond the first two over tasks: anchor, component and noise.
    first = np.array([by_class(data)[:, 0, 2:] for data in tasks(examples=2)])
    assert_moments(first, 0.3**2 + 0.7**2 + 0.22**2)


@pytest.mark.parametrize("seed", [0, 7])
def test_labels_are_balanced_and_stand_in_no_order(seed):
    for data in tasks(20, seed=seed):
        assert data.targets.sum() == 48
        assert 0 < data.targets[:48].sum() < 48


def test_label_noise_exchanges_labels_and_nothing_else():
    plain, noisy = tasks(200), tasks(200, label_noise=0.1)
    changed = 0
    for before, after in zip(plain, noisy, strict=True):
        assert_array_equal(before.inputs, after.inputs)
        changed += (before.targets != after.targets).sum()
    count = 200 * 96
    assert abs(changed / count - 0.1) < 4 * math.sqrt(0.1 * 0.9 / count)


def test_different_tasks_are_independent():
    means = np.stack([by_class(data).mean(axis=1).ravel() for data in tasks()])  # [tasks, 2 d]
    for lag in (1, 2):
        for column in means.T:
            assert abs(np.corrcoef(column[:-lag], column[lag:])[0, 1]) < 4 / math.sqrt(TASKS)


@pytest.mark.parametrize("distance", [0.5, 1.0])
def test_held_out_examples_change_no_other(distance):
    plain, held_out = (tasks(3, distance=distance, test_examples=count) for count in (0, 50))
    for before, after in zip(plain, held_out, strict=True):
        assert_array_equal(before.inputs, after.inputs)
        assert before.test_inputs is None
        assert len(after.test_inputs) == 50


def test_held_out_examples_come_from_the_same_components():
    data = tasks(1, test_examples=400, noise=1e-9)[0]
    assert data.test_targets.sum() == 200
    centres = {(*row, label) for row, label in zip(data.inputs.round(6).tolist(), data.targets.tolist(), strict=True)}
    for row, label in zip(data.test_inputs.round(6).tolist(), data.test_targets.tolist(), strict=True):
        assert (*row, label) in centres


class TestDistance:
    """The knob between successive tasks."""

    def test_marginals_stay_what_they_are_and_neighbours_correlate_as_described(self):
        distance = 0.5
        series = np.stack(
            [by_class(data)[:, 0] for data in tasks(spread=0, noise=1e-12, examples=2, distance=distance)]
        )
        extra = series[:, :, 2:].reshape(TASKS, -1)
        correlation = math.cos(distance * math.pi / 2)
        # n correlated numbers are worth n (1 - r) / (1 + r) independent ones for a mean, (1 - r^2) / (1 + r^2) for a
        # variance.
        independent = extra.size * (1 - correlation**2) / (1 + correlation**2)
        assert abs(extra.var() / 0.3**2 - 1) < 4 * math.sqrt(2 / independent)
        measured = np.mean([np.corrcoef(column[:-1], column[1:])[0, 1] for column in extra.T])
        assert abs(measured - correlation) < 4 * math.sqrt((1 - correlation**2) / extra.size)
        apart = (series[:, 1] - series[:, 0])[:, :2]
        assert_allclose(np.linalg.norm(apart, axis=1), 2 * 2.8, rtol=1e-9)
        turns = np.angle(np.exp(1j * np.diff(np.arctan2(apart[:, 1], apart[:, 0]))))
        assert np.abs(turns).max() <= distance * math.pi
        assert kstest(turns, "uniform", (-distance * math.pi, 2 * distance * math.pi)).pvalue > 0.01

    def test_one_is_the_source(self):
        for a, b in zip(tasks(3), tasks(3, distance=1.0), strict=True):
            assert_array_equal(a.inputs, b.inputs)

    def test_zero_changes_nothing(self):
        first, *others = tasks(4, distance=0, label_noise=0.2)
        for other in others:
            assert_array_equal(first.inputs, other.inputs)
            assert_array_equal(first.targets, other.targets)

    def test_small_steps_change_little(self):
        made = GaussianMixture(GaussianMixtureOptions(distance=0.01))
        before, after = made.task(0), made.task(1)
        assert np.median(np.abs(after.inputs - before.inputs)) < 0.1
        assert_array_equal(before.targets, after.targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 95}, "95 examples cannot be half in each class; choose an even number"),
        ({"dimensions": 1}, "greater than or equal to 2"),
        ({"distance": 1.2}, "less than or equal to 1"),
        ({"noise": 0}, "greater than 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValidationError, match=message):
        GaussianMixtureOptions(**options)
