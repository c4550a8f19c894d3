"""What holds for all streams, and the distance between tasks."""

import itertools
import math
from importlib import import_module

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lop_ray.problems import PROBLEMS
from lop_ray.problems.schedule import HasTasks
from lop_ray.problems.stream import MOST_COMPARED, TaskData, Walk, task_distance

STREAMS = [name for name, problem in PROBLEMS.items() if problem.kind == "stream"]
SMALL = {
    "gaussian_mixture": {"examples": 12, "steps_per_task": 3, "test_examples": 4},
    "labelled_images": {"kind": "pixels_permuted", "examples": 20, "epochs_per_task": 2},
    "slowly_changing_regression": {"flip_every": 30},
}
STEPS = {"gaussian_mixture": 12 * 3, "labelled_images": 20 * 2, "slowly_changing_regression": 30}


def stream(name, seed=0, **options):
    problem = PROBLEMS[name]
    make = getattr(import_module(problem.module), problem.env_class)
    return make(problem.Options(**SMALL[name] | options), task_seed=seed)


def arrays(data):
    return [data.inputs, data.targets, *([] if data.test_inputs is None else [data.test_inputs, data.test_targets])]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


@pytest.mark.parametrize("name", STREAMS)
class TestStreams:
    def test_task_has_the_shape_that_is_promised(self, name):
        made = stream(name)
        data = made.task(0)
        assert data.inputs.shape == (made.examples, *made.input_shape)
        assert len(data) == made.examples
        assert data.inputs.dtype == made.dtype
        if made.loss == "mean_squared_error":
            assert data.targets.shape == (made.examples, made.outputs)
            assert data.targets.dtype == made.dtype
        else:
            classes = 2 if made.loss == "binary_cross_entropy" else made.outputs
            assert data.targets.shape == (made.examples,)
            assert data.targets.dtype == np.int64
            assert set(data.targets) <= set(range(classes))
        if data.test_inputs is not None:
            assert data.test_inputs.shape[1:] == made.input_shape
            assert data.test_inputs.dtype == made.dtype
            assert len(data.test_targets) == len(data.test_inputs)
            assert data.test_targets.dtype == data.targets.dtype

    def test_task_depends_on_options_seed_and_number_alone(self, name):
        made, again = stream(name), stream(name)
        in_order = [made.task(number) for number in range(5)]
        backwards = [again.task(number) for number in reversed(range(5))][::-1]
        assert all(map(equal, in_order, backwards))
        assert not any(equal(a, b) for a, b in itertools.combinations(in_order, 2))
        assert not equal(stream(name, seed=1).task(0), in_order[0])

    def test_same_task_again_as_a_control(self, name):
        made, other = stream(name, tasks="same"), stream(name)
        assert [made.which(number) for number in (0, 1, 7)] == [0, 0, 0]
        assert [other.which(number) for number in (0, 1, 7)] == [0, 1, 7]
        assert equal(made.task(7), other.task(0))

    def test_task_lasts_as_long_as_its_schedule_says(self, name):
        made = stream(name)
        options = made.options
        assert isinstance(options, HasTasks)
        schedule = options.task_schedule()
        assert made.examples_per_task == schedule.every_steps == STEPS[name]
        assert made.examples == options.task_examples
        assert schedule.most_tasks(3 * STEPS[name]) == 3
        assert schedule.most_tasks(3 * STEPS[name] + 1) == 4
        options.check_tasks(1000)


def test_walk_gives_each_state_in_any_order_and_steps_once_where_it_can():
    asked = []

    def advance(state, number):
        asked.append(number)
        return [*state, number]

    walk = Walk(lambda: [0], advance)
    assert walk[3] == [0, 1, 2, 3]
    assert walk[3] == [0, 1, 2, 3]
    assert walk[5] == [0, 1, 2, 3, 4, 5]
    assert asked == [1, 2, 3, 4, 5]
    assert walk[1] == [0, 1]
    assert walk[0] == [0]


def brute_force(before, after):
    """The definition, over all permutations."""
    x, x_after = before.inputs.reshape(len(before), -1), after.inputs.reshape(len(after), -1)
    n = len(x)
    inputs = np.array([[math.dist(a, b) for b in x_after] for a in x])
    if before.targets.ndim == 1:
        labels = np.array([[float(a != b) for b in after.targets] for a in before.targets])
    else:
        labels = np.array([[math.dist(a, b) for b in after.targets] for a in before.targets])
        labels /= labels.mean()
    cost = inputs / inputs.mean() + labels
    return min(sum(cost[i, p[i]] for i in range(n)) / n for p in itertools.permutations(range(n)))


class TestTaskDistance:
    def test_by_hand(self):
        # Distances 0 and 1 between equal and different points: s_x = 1/2, so that a step costs 2 and a label 1.
        before = TaskData(np.array([[0.0], [1.0]]), np.array([0, 1]))
        assert task_distance(before, TaskData(np.array([[0.0], [1.0]]), np.array([0, 0]))) == pytest.approx(0.5)
        # Both labels exchanged: to leave the points where they are costs 1 each, to exchange the points 2.
        assert task_distance(before, TaskData(np.array([[0.0], [1.0]]), np.array([1, 0]))) == pytest.approx(1.0)

    @pytest.mark.parametrize("targets", ["classes", "numbers"])
    def test_against_all_permutations(self, targets):
        rng = np.random.default_rng(0)
        for _ in range(5):
            before, after = (
                TaskData(
                    rng.normal(size=(5, 2, 2)),
                    rng.integers(3, size=5) if targets == "classes" else rng.normal(size=(5, 2)),
                )
                for _ in range(2)
            )
            assert task_distance(before, after) == pytest.approx(brute_force(before, after), rel=1e-12)

    def test_is_symmetric_and_zero_for_equal_data_in_any_order(self):
        made = stream("gaussian_mixture")
        before, after = made.task(0), made.task(1)
        assert task_distance(before, after) == pytest.approx(task_distance(after, before), rel=1e-12)
        order = np.random.default_rng(0).permutation(len(before))
        assert task_distance(before, TaskData(before.inputs[order], before.targets[order])) == 0
        assert task_distance(before, after) > 0.3

    def test_all_inputs_equal(self):
        ones = np.ones((4, 2))
        before, after = TaskData(ones, np.array([0, 0, 1, 1])), TaskData(ones, np.array([0, 1, 1, 1]))
        assert task_distance(before, after) == 0.25

    def test_many_examples_are_thinned_out_at_the_same_places(self):
        n = 4 * MOST_COMPARED
        inputs = np.random.default_rng(0).normal(size=(n, 3))
        labels = np.zeros(n, np.int64)
        before, after = TaskData(inputs, labels), TaskData(inputs, labels + 1)
        assert task_distance(before, after) == pytest.approx(1.0)
        assert task_distance(before, before) == 0

    def test_different_streams_have_none(self):
        with pytest.raises(ValueError, match=r"inputs \(4,\) and \(400,\).* are not of one stream"):
            task_distance(
                stream("gaussian_mixture").task(0),
                TaskData(np.zeros((12, 400)), np.zeros(12, np.int64)),
            )

    @pytest.mark.parametrize(
        ("name", "doses"),
        [
            ("gaussian_mixture", [{"distance": c} for c in (0, 0.1, 0.3, 1)]),
            ("labelled_images", [{"kind": "labels_random", "examples": 200, "share": s} for s in (0, 0.2, 0.5, 1)]),
            ("labelled_images", [{"kind": "labels_permuted", "examples": 200, "share": s} for s in (0, 0.2, 0.5, 1)]),
            ("labelled_images", [{"kind": "pixels_permuted", "examples": 200, "share": s} for s in (0, 0.1, 0.3, 1)]),
            ("slowly_changing_regression", [{"flip_every": 400, "flips": f} for f in (0, 1, 15)]),
        ],
    )
    def test_knobs_are_doses(self, name, doses):
        measured = []
        for dose in doses:
            trials = [stream(name, seed, **dose) for seed in range(3)]
            measured.append(np.mean([task_distance(t.task(k), t.task(k + 1)) for t in trials for k in range(2)]))
        assert measured == sorted(measured)
        assert all(b > 1.2 * a for a, b in itertools.pairwise(measured))
        if name != "slowly_changing_regression":
            assert measured[0] == 0


def test_same_places_of_equal_tasks():
    made = stream("gaussian_mixture", distance=0)
    for first, later in zip(arrays(made.task(0)), arrays(made.task(4)), strict=True):
        assert_array_equal(first, later)
