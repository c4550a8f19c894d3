"""Labels and pixels that change, on real digits; data sets from files, with and without a network."""

import itertools
import math
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import sklearn.datasets
from numpy.testing import assert_array_equal
from pydantic import ValidationError
from scipy.stats import chisquare

from lop_ray.config.tasks import check_tasks
from lop_ray.errors import UserError
from lop_ray.problems import image_data
from lop_ray.problems.image_data import DATA_SETS, load
from lop_ray.problems.labelled_images import LabelledImages, LabelledImagesOptions

FETCH_OPENML = sklearn.datasets.fetch_openml
IMAGES, LABELS = sklearn.datasets.load_digits(return_X_y=True)


def stream(seed=0, **options):
    return LabelledImages(LabelledImagesOptions(**options), task_seed=seed)


def test_digits_are_scikit_learns_with_a_fifth_held_out():
    data = stream(kind="labels_permuted", first_task="plain").task(0)
    assert len(data) == 1437
    assert len(data.test_inputs) == 360
    rows = np.concatenate([data.inputs, data.test_inputs]) * 16
    labels = np.concatenate([data.targets, data.test_targets])
    expected = {(*row, label) for row, label in zip(IMAGES.tolist(), LABELS.tolist(), strict=True)}
    assert {(*row, label) for row, label in zip(rows.tolist(), labels.tolist(), strict=True)} == expected
    assert data.inputs.dtype == np.float32
    assert data.inputs.max() == 1.0
    assert len(np.unique(data.test_targets)) == 10


def test_split_is_the_same_for_all_seeds():
    a, b = (stream(seed, kind="labels_permuted", first_task="plain").task(0) for seed in (0, 1))
    assert_array_equal(a.test_inputs, b.test_inputs)


def test_some_of_the_examples_stay_the_same_throughout_a_trial():
    made = stream(examples=100)
    first, later = made.task(0), made.task(5)
    assert_array_equal(first.inputs, later.inputs)
    assert len(np.unique(first.inputs, axis=0)) == 100
    assert not np.array_equal(first.inputs, stream(1, examples=100).task(0).inputs)


class TestRandomLabels:
    def test_are_uniform_and_independent_between_tasks(self):
        made = stream()
        first, second = made.task(0), made.task(1)
        for data in (first, second):
            assert chisquare(np.bincount(data.targets, minlength=10)).pvalue > 0.01
        agree = (first.targets == second.targets).mean()
        assert abs(agree - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 1437)

    def test_have_nothing_to_do_with_the_true_ones_and_nothing_held_out(self):
        data = stream().task(0)
        true = stream(kind="labels_permuted", first_task="plain").task(0).targets
        assert abs((data.targets == true).mean() - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 1437)
        assert data.test_inputs is None
        assert data.test_targets is None

    def test_a_share_of_them_is_drawn_anew(self):
        made = stream(examples=1000, share=0.3)
        labels = [made.task(number).targets for number in range(6)]
        changed = [(a != b).sum() for a, b in itertools.pairwise(labels)]
        assert max(changed) <= 300
        # Nine of ten of those that are drawn anew are other ones.
        assert abs(np.mean(changed) / 300 - 0.9) < 4 * math.sqrt(0.9 * 0.1 / (5 * 300))

    def test_may_begin_with_the_true_ones(self):
        made = stream(first_task="plain")
        assert_array_equal(made.task(0).targets, stream(kind="labels_permuted", first_task="plain").task(0).targets)
        assert_array_equal(made.task(1).targets, stream().task(1).targets)


class TestPermutedLabels:
    def test_are_the_true_ones_under_a_permutation_held_out_ones_too(self):
        made, plain = stream(kind="labels_permuted"), stream(kind="labels_permuted", first_task="plain").task(0)
        seen = set()
        for number in range(5):
            data = made.task(number)
            pairs = set(zip(plain.targets.tolist(), data.targets.tolist(), strict=True))
            assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 10
            assert set(zip(plain.test_targets.tolist(), data.test_targets.tolist(), strict=True)) == pairs
            assert_array_equal(data.inputs, plain.inputs)
            seen.add(tuple(sorted(pairs)))
        assert len(seen) == 5

    @pytest.mark.parametrize(("share", "moved"), [(0.2, 2), (0.5, 5), (0.9, 9)])
    def test_exactly_a_share_of_the_classes_moves(self, share, moved):
        made = stream(kind="labels_permuted", share=share)
        for number in range(4):
            before, after = made.task(number).targets, made.task(number + 1).targets
            assert len(np.unique(before[before != after])) == moved
            assert len(np.unique(after)) == 10


class TestPermutedPixels:
    def test_are_the_images_in_another_order_held_out_ones_too(self):
        made, plain = stream(kind="pixels_permuted"), stream(kind="pixels_permuted", first_task="plain").task(0)
        data = made.task(2)
        assert_array_equal(data.targets, plain.targets)
        assert_array_equal(data.test_targets, plain.test_targets)
        everything = np.concatenate([plain.inputs, plain.test_inputs])
        permuted = np.concatenate([data.inputs, data.test_inputs])
        assert not np.array_equal(everything, permuted)
        columns = sorted(map(tuple, everything.T.tolist()))
        assert sorted(map(tuple, permuted.T.tolist())) == columns

    def test_exactly_a_share_of_the_pixels_moves(self, monkeypatch):
        small_images(monkeypatch, np.arange(2 * 8 * 8 * 1).reshape(2, 8, 8, 1) % 251)  # all pixels differ
        made = stream(kind="pixels_permuted", share=0.25)
        for number in range(3):
            before, after = made.task(number).inputs, made.task(number + 1).inputs
            assert (before != after).any(axis=0).sum() == 16

    def test_colours_of_a_pixel_stay_together(self, monkeypatch):
        images = np.random.default_rng(0).integers(256, size=(4, 3, 5, 3))
        small_images(monkeypatch, images)
        data = stream(kind="pixels_permuted", shape="image").task(0)
        assert data.inputs.shape == (4, 3, 5, 3)
        for permuted, image in zip(data.inputs * 255, images, strict=True):
            pixels = np.rint(permuted).astype(int).reshape(-1, 3).tolist()
            assert sorted(pixels) == sorted(image.reshape(-1, 3).tolist())
            assert pixels != image.reshape(-1, 3).tolist()

    def test_flat_and_image_are_the_same_numbers(self):
        flat, image = (stream(kind="pixels_permuted", shape=shape).task(1) for shape in ("flat", "image"))
        assert image.inputs.shape == (1437, 8, 8, 1)
        assert_array_equal(image.inputs.reshape(1437, 64), flat.inputs)


def small_images(monkeypatch, images):
    """Puts a few images in the place of MNIST's, or of the digits."""
    n = len(images)
    data = replace(DATA_SETS["digits"], shape=images.shape[1:], train=n, test=n, largest=255)
    monkeypatch.setitem(DATA_SETS, "digits", data)
    labels = np.arange(n) % 10
    monkeypatch.setattr(image_data, "_digits", lambda _: ((images.astype(np.uint8), labels),) * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": 1438}, "examples=1438 is more than the 1437 training images of digits"),
        ({"kind": "labels_permuted", "share": 0.1}, "share=0.1 of 10 labels is a single one, .* at least 0.15"),
        ({"data": "imagenet"}, "'digits', 'mnist' or 'cifar10'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValidationError, match=message):
        LabelledImagesOptions(**options)


@pytest.fixture
def small_mnist(monkeypatch, tmp_path):
    """MNIST with 6 training and 4 test images, in an empty data folder, without a network."""
    folder = tmp_path / "data"
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(folder))
    monkeypatch.setitem(DATA_SETS, "mnist", replace(DATA_SETS["mnist"], train=6, test=4))
    without_network(monkeypatch)
    return folder / "mnist.npz"


def without_network(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("sklearn.datasets._openml.urlopen", fail)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", FETCH_OPENML)


def save(path, **arrays):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)


def mnist_arrays(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(256, size=(6, 28, 28)).astype(np.uint8),
        "y_train": np.arange(6, dtype=np.uint8),
        "x_test": rng.integers(256, size=(4, 28, 28)).astype(np.uint8),
        "y_test": np.arange(4, dtype=np.uint8),
    }
    return {key: value for key, value in (arrays | changes).items() if value is not None}


class TestFiles:
    def test_without_file_and_network_one_line_says_what_to_put_where(self, small_mnist):
        options = LabelledImagesOptions(data="mnist")
        with pytest.raises(UserError) as caught:
            check_tasks("labelled_images", options, 1000, lambda path: "my.yaml:3")
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(
            f"labelled_images.data=mnist: there is no {small_mnist}, and openml.org cannot be reached (<urlopen error"
        )
        assert f"put a file {small_mnist} there with the arrays x_train [6, 28, 28, 1], y_train [6]" in message
        assert "or choose data: digits [my.yaml:3]" in message
        assert not small_mnist.parent.exists()

    def test_file_is_read(self, small_mnist):
        arrays = mnist_arrays()
        save(small_mnist, **arrays)
        check_tasks("labelled_images", LabelledImagesOptions(data="mnist"), 1000, str)
        data = stream(data="mnist", kind="labels_permuted", first_task="plain").task(0)
        assert_array_equal(data.inputs, arrays["x_train"].reshape(6, 784).astype(np.float32) / np.float32(255))
        assert_array_equal(data.targets, arrays["y_train"])
        assert_array_equal(data.test_targets, arrays["y_test"])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y_test": None}, r"mnist.npz has no array y_test; put a file"),
            ({"x_train": np.zeros((5, 28, 28))}, r"x_train in .*mnist.npz is \[5, 28, 28\]; put a file"),
            ({"y_train": np.array([0, 1, 2, 3, 4, 10])}, r"y_train in .*: label 10 is out of range; .* from 0 to 9"),
            ({"y_train": np.array([0, 1, 2, 3, 4, -1])}, r"label -1 is out of range"),
            ({"y_train": np.array([0, 1, 2, 3, 4, 0.5])}, r"label 0.5 is out of range"),
        ],
    )
    def test_file_that_holds_something_else(self, small_mnist, changes, message):
        save(small_mnist, **mnist_arrays(**changes))
        with pytest.raises(ValueError, match=message) as caught:
            load("mnist")
        assert "\n" not in str(caught.value)

    def test_file_that_is_none(self, small_mnist):
        save(small_mnist)
        small_mnist.write_text("oops")
        with pytest.raises(ValueError, match=r"data=mnist: cannot read .*mnist.npz \(.*\); put a file"):
            load("mnist")

    def test_file_is_read_anew_once_it_is_mended(self, small_mnist):
        save(small_mnist)
        small_mnist.write_text("oops")
        with pytest.raises(ValueError, match="cannot read"):
            load("mnist")
        save(small_mnist, **mnist_arrays())
        assert len(load("mnist")[0][0]) == 6

    def test_network_is_asked_once(self, small_mnist, monkeypatch):
        arrays, calls = mnist_arrays(), []

        def fetch_openml(name, **options):
            calls.append(name)
            images = np.concatenate([arrays["x_train"], arrays["x_test"]]).reshape(10, 784).astype(np.float64)
            return images, np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(str)

        monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
        (images, labels), (_, test_labels) = load("mnist")
        assert calls == ["mnist_784"]
        assert_array_equal(images[..., 0], arrays["x_train"])
        assert_array_equal(labels, arrays["y_train"])
        assert_array_equal(test_labels, arrays["y_test"])
        assert [path.name for path in small_mnist.parent.iterdir()] == ["mnist.npz"]
        without_network(monkeypatch)
        load("mnist")

    def test_colours_of_openml_come_last_here(self, small_mnist, monkeypatch):
        monkeypatch.setitem(DATA_SETS, "cifar10", replace(DATA_SETS["cifar10"], train=1, test=1))
        channels_first = np.random.default_rng(0).integers(256, size=(2, 3, 32, 32))

        def fetch_openml(name, **options):
            return channels_first.reshape(2, -1).astype(float), np.array(["3", "9"])

        monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
        (images, _), (test_images, test_labels) = load("cifar10")
        assert images.shape == (1, 32, 32, 3)
        assert_array_equal(images[0, :, :, 1], channels_first[0, 1])
        assert_array_equal(test_images[0, :, :, 2], channels_first[1, 2])
        assert test_labels == [9]
