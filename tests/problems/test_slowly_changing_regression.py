"""Slow bits, fast bits and the target network against the paper's description."""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from pydantic import ValidationError

from lop_ray.problems.slowly_changing_regression import (
    SlowlyChangingRegression,
    SlowlyChangingRegressionOptions,
    TargetNetwork,
)


def stream(seed=0, **options):
    return SlowlyChangingRegression(SlowlyChangingRegressionOptions(**{"flip_every": 500} | options), task_seed=seed)


def test_defaults_are_the_papers():
    made = SlowlyChangingRegression(SlowlyChangingRegressionOptions())
    assert made.input_shape == (21,)
    assert made.examples_per_task == 10_000
    assert made.options.flipping_bits == 15
    assert made.options.flips == 1
    assert made.target.weights.shape == (100, 20)
    assert made.options.beta == 0.7
    assert made.reading == "once"
    assert made.dtype == np.float32


def test_slow_bits_stay_and_one_of_them_flips_at_a_change():
    made = stream()
    slow = []
    for number in range(40):
        bits = made.task(number).inputs[:, :15]
        assert_array_equal(bits, np.broadcast_to(bits[0], bits.shape))
        slow.append(bits[0])
    flips = np.abs(np.diff(slow, axis=0))
    assert_array_equal(flips.sum(axis=1), 1)
    assert (flips.sum(axis=0) > 0).sum() > 10  # of 15 bits, in 39 flips


def test_fast_bits_are_fair_coins_and_the_last_is_one():
    inputs = stream(flip_every=4000).task(3).inputs
    assert set(np.unique(inputs)) == {0.0, 1.0}
    assert_array_equal(inputs[:, -1], 1)
    fast = inputs[:, 15:-1]
    assert fast.shape[1] == 5
    assert np.abs(fast.mean(axis=0) - 0.5).max() < 4 * 0.5 / math.sqrt(4000)
    correlations = np.corrcoef(fast.T)[np.triu_indices(5, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(4000)


def test_code_shows_no_constant_and_the_same_bits():
    paper, code = stream().task(2), stream(constant_input=False).task(2)
    assert_array_equal(paper.inputs[:, :-1], code.inputs)
    assert_array_equal(paper.targets, code.targets)


def test_target_is_the_paper_s_network_unit_by_unit():
    made = stream()
    net, data = made.target, made.task(1)
    for array in (net.weights, net.biases, net.output, np.array([net.output_bias])):
        assert set(np.unique(array)) <= {-1.0, 1.0}
    for x, y in zip(data.inputs[:20], data.targets[:20, 0], strict=True):
        total = net.output_bias
        for weights, bias, out in zip(net.weights, net.biases, net.output, strict=True):
            # A unit is active where more than beta (m + 1) of its m + 1 inputs agree with their weight: 1 with +1,
            # 0 with -1.
            agreeing = sum((xj == 1) == (wj == 1) for xj, wj in zip(x, [*weights, bias], strict=True))
            total += out * (agreeing > 0.7 * 21)
        assert y == total


def test_thresholds_by_hand():
    options = {"inputs": 3, "flipping_bits": 1, "target_units": 64, "beta": 0.75}
    nets = {
        kind: TargetNetwork(SlowlyChangingRegressionOptions(**options, threshold=kind), np.random.default_rng(0))
        for kind in ("paper", "code")
    }
    paper, code = nets["paper"], nets["code"]
    assert_array_equal(paper.weights, code.weights)
    unit = np.flatnonzero((paper.weights.sum(axis=1) == 1) & (paper.biases == 1))[0]  # one weight is -1
    assert paper.thresholds[unit] == 0.75 * 4 - 1
    assert code.thresholds[unit] == 0.75 * 4 - (3 - 1 + 1) / 2
    unit = np.flatnonzero((paper.weights.sum(axis=1) == 1) & (paper.biases == -1))[0]
    assert paper.thresholds[unit] == 0.75 * 4 - 2
    assert code.thresholds[unit] == 0.75 * 4 - (3 - 1 - 1) / 2


def test_target_stays_throughout_a_trial_and_is_another_one_for_another_seed():
    made, other = stream(), stream(seed=1)
    for number in (0, 9):
        data = made.task(number)
        assert_array_equal(data.targets[:, 0], made.target(data.inputs[:, :-1]))
    assert not np.array_equal(made.target.weights, other.target.weights)


@pytest.mark.parametrize("flips", [0, 3, 15])
def test_more_bits_may_flip(flips):
    made = stream(flips=flips)
    slow = np.array([made.task(number).inputs[0, :15] for number in range(5)])
    assert_array_equal(np.abs(np.diff(slow, axis=0)).sum(axis=1), flips)


def test_all_bits_may_be_drawn_anew():
    made = stream(flips=None, flip_every=1)
    slow = np.array([made.task(number).inputs[0, :15] for number in range(400)])
    changed = np.abs(np.diff(slow, axis=0))
    assert abs(changed.mean() - 0.5) < 4 * 0.5 / math.sqrt(changed.size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flipping_bits": 21}, "flipping_bits=21 is more than inputs=20"),
        ({"flips": 16}, "flips=16 is more than flipping_bits=15: choose at most as many, or null"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValidationError, match=message):
        SlowlyChangingRegressionOptions(**options)
