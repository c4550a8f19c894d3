"""How a task is shown and what is read of it: orders, sizes, targets, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lop_ray.algorithms.supervised.examples import ExampleReader, Examples, Reading
from lop_ray.algorithms.supervised.fresh import baseline_tasks
from lop_ray.algorithms.supervised.objective import Objective
from lop_ray.algorithms.supervised.options import SupervisedOptions


def reading(kind: str, count: int, shown: int, size: int | None, seed: int = 0, task: int = 0) -> Reading:
    return Reading.of(SimpleNamespace(reading=kind, examples_per_task=shown), count, size, seed, task)


def shown_by(read: Reading, begin: int, end: int) -> list[list[int]]:
    numbers = Examples(torch.arange(read.count), torch.zeros(read.count))
    return [batch.inputs.tolist() for batch in read.batches(numbers, begin, end)]


def test_a_full_batch_shows_everything_at_every_step():
    read = reading("full_batch", 4, 12, None)
    assert read.steps == 3
    assert shown_by(read, 0, 3) == [[0, 1, 2, 3]] * 3
    assert [read.shown_after(step) for step in range(4)] == [0, 4, 8, 12]


def test_epochs_show_everything_once_a_pass_in_a_new_order_and_end_with_the_task():
    read = reading("epochs", 10, 25, 4)
    batches = shown_by(read, 0, read.steps)
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2, 4, 1]
    passes = [[*batches[0], *batches[1], *batches[2]], [*batches[3], *batches[4], *batches[5]]]
    assert [sorted(each) for each in passes] == [list(range(10))] * 2
    assert passes[0] != passes[1]
    assert [read.shown_after(step) for step in range(9)] == [0, 4, 8, 10, 14, 18, 20, 24, 25]
    assert shown_by(read, 4, 8) == batches[4:]  # no memory: a resumed task goes on in the same order
    assert shown_by(reading("epochs", 10, 25, 4, task=1), 0, 3) != batches[:3]
    assert shown_by(reading("epochs", 10, 25, 4, seed=1), 0, 3) != batches[:3]


def test_once_shows_everything_in_order():
    read = reading("once", 10, 9, 4)
    assert shown_by(read, 0, read.steps) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


@pytest.mark.parametrize("kind", ["full_batch", "epochs", "once"])
def test_the_ends_are_the_first_and_last_shown(kind):
    read = reading(kind, 10, {"full_batch": 50, "epochs": 47, "once": 10}[kind], None if kind == "full_batch" else 3)
    everything = read.indices(0, read.steps).tolist()
    assert len(everything) == read.shown
    ends = read.ends(0, read.steps, 4).tolist()
    assert ends == everything[:4] + everything[-4:]
    assert read.ends(0, read.steps, 100).tolist() == everything
    assert read.ends(1, 1, 4).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("epochs", 10, 20, 11), r"minibatch_size = 11: is larger than the data, a task has 10 examples"),
        (("once", 10, 20, 5), "a task lasts 20 examples, each shown once, but has only 10"),
        (("full_batch", 10, 20, 5), "minibatch_size = 5: the problem shows all 10 examples of a task at every step"),
        (("full_batch", 10, 25, None), "a task lasts 25 examples, which is no multiple of the 10"),
        (("twice", 10, 20, 5), "reading 'twice' of the problem is unknown"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reading(*arguments)


def test_without_a_size_a_minibatch_has_32_examples_or_all():
    assert reading("epochs", 100, 100, None).size == 32
    assert reading("epochs", 10, 100, None).size == 10


OUTPUTS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def test_losses_are_those_of_their_formulas():
    labels = Objective.of("cross_entropy", 3, torch.float64).prepare(np.array([0, 2]), 2, "task 0")
    objective = Objective.of("cross_entropy", 3, torch.float64)
    by_hand = [np.log(np.exp(2) + 1 + np.exp(-1)) - 2, np.log(2 + np.e) - 0]
    assert objective.losses(OUTPUTS, labels).tolist() == pytest.approx(by_hand)
    assert float(objective.loss(OUTPUTS, labels)) == pytest.approx(np.mean(by_hand))
    assert objective.correct(OUTPUTS, labels).tolist() == [True, False]

    objective = Objective.of("binary_cross_entropy", 1, torch.float64)
    targets = objective.prepare(np.array([1, 1]), 2, "task 0")
    by_hand = [np.log1p(np.exp(-2)), np.log1p(np.exp(0))]
    assert objective.losses(OUTPUTS[:, :1], targets).tolist() == pytest.approx(by_hand)
    assert float(objective.loss(OUTPUTS[:, :1], targets)) == pytest.approx(np.mean(by_hand))
    assert objective.correct(OUTPUTS[:, :1], targets).tolist() == [True, False]

    objective = Objective.of("mean_squared_error", 3, torch.float64)
    targets = objective.prepare(np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 2.0]]), 2, "task 0")
    assert objective.losses(OUTPUTS, targets).tolist() == pytest.approx([1 / 3, 5 / 3])
    assert float(objective.loss(OUTPUTS, targets)) == pytest.approx(1.0)
    assert objective.correct(OUTPUTS, targets) is None


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "message"),
    [
        ("cross_entropy", 3, [0, 3], r"task 5: label 3 is out of range; the problem's classes are 0\.\.2"),
        ("cross_entropy", 3, [-1, 2], "label -1 is out of range"),
        ("binary_cross_entropy", 1, [0, 2], r"label 2 is out of range; the problem's classes are 0\.\.1"),
        ("cross_entropy", 3, [0.0, 1.0], "targets of type float64 should be class numbers"),
        ("cross_entropy", 3, [[0], [1]], r"targets have shape \[2, 1\], but cross_entropy with 2 examples reads \[2\]"),
        ("mean_squared_error", 2, [0.0, 1.0], r"mean_squared_error with 2 examples reads \[2, 2\]"),
        ("mean_squared_error", 1, [[0.0], [np.nan]], "should be finite numbers"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss, outputs, targets, message):
    with pytest.raises(ValueError, match=message):
        Objective.of(loss, outputs, torch.float64).prepare(np.array(targets), 2, "task 5")


@pytest.mark.parametrize(("loss", "outputs"), [("hinge", 3), ("cross_entropy", 1), ("binary_cross_entropy", 2)])
def test_a_loss_that_is_not_known_is_refused(loss, outputs):
    with pytest.raises(ValueError, match=f"loss '{loss}' of the problem with {outputs} outputs is not known"):
        Objective.of(loss, outputs, torch.float32)


def reader(flatten: bool) -> ExampleReader:
    objective = Objective.of("cross_entropy", 2, torch.float32)
    return ExampleReader((2, 2, 1), objective, flatten, torch.float32, torch.device("cpu"))


def test_bytes_are_scaled_once_here_or_in_the_network():
    images = np.full((3, 2, 2, 1), 51, np.uint8)
    flat = reader(flatten=True).read(images, np.array([0, 1, 0]), "task 0").inputs
    assert flat.shape == (3, 4)
    assert flat.unique().tolist() == pytest.approx([0.2])
    kept = reader(flatten=False).read(images, np.array([0, 1, 0]), "task 0").inputs
    assert (kept.shape, kept.dtype) == ((3, 2, 2, 1), torch.uint8)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 2, 2)), r"task 0: inputs have shape \[3, 2, 2\], should be \[N, 2, 2, 1\] with N >= 1"),
        (np.zeros((0, 2, 2, 1)), "with N >= 1"),
        (np.full((3, 2, 2, 1), np.inf), "should be finite floats"),
        (np.zeros((3, 2, 2, 1), np.int64), "inputs of type int64 should be finite floats, or bytes"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        reader(flatten=True).read(inputs, np.zeros(len(inputs), np.int64), "task 0")


def test_baselines_are_the_first_tasks_or_spread_over_the_run():
    def on(**options):
        return sorted(baseline_tasks(SupervisedOptions(**options), total_steps=105, examples_per_task=10))

    assert on() == []
    assert on(fresh_baseline=3, fresh_tasks="first") == [0, 1, 2]
    assert on(fresh_baseline=4) == [0, 3, 6, 9]
    assert on(fresh_baseline=1) == [0]
    assert on(fresh_baseline=99) == list(range(10))
    with pytest.raises(ValueError, match="fresh_steps has no effect with fresh_baseline: 0"):
        SupervisedOptions(fresh_steps=3)
