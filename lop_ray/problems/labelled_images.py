"""Problem `labelled_images`: the same images over and over, under other labels or with their pixels elsewhere.

| kind | task |
|---|---|
| labels_random | every training image has a label drawn at random, which is to be memorised |
| labels_permuted | the classes have other numbers: a permutation |
| pixels_permuted | the pixels stand in another order, the same for all images |

Sources. labels_random: Lyle et al. (2023), "Understanding plasticity in neural networks", section 4.1 and A.1 (arXiv
2303.01486), with 5000 images of MNIST. labels_permuted: Elsayed & Mahmood (2024), "Addressing loss of plasticity and
catastrophic forgetting in continual learning" (arXiv 2404.00781). pixels_permuted: the permuted MNIST of Goodfellow et
al. (2013, arXiv 1312.6211), online in Dohare et al. (2024), Nature 632.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import model_validator

from lop_ray.problems.image_data import DATA_SETS, DataName, DataSet, load
from lop_ray.problems.stream import Loss, Reading, StreamOptions, TaskData, Walk
from lop_ray.seeding import numpy_generator

Kind = Literal["labels_random", "labels_permuted", "pixels_permuted"]


class LabelledImagesOptions(StreamOptions):
    """The options of `labelled_images`."""

    data: DataName = "digits"
    """digits: scikit-learn's 1797 images of 8 x 8 pixels, always there. mnist, cifar10: from
    `<scikit-learn's data folder>/<data>.npz`, or from OpenML where there is a network."""
    kind: Kind = "labels_random"
    """What changes between tasks."""
    share: Annotated[float, Ge(0.0), Le(1.0)] = 1.0
    """Which share of the labels, classes or pixels takes part in a change. 1: tasks are drawn independently. Below 1,
    round(share * all) of them, chosen at random, are drawn anew (labels_random) or change places in a ring, so that
    every one of them moves (permutations). 0: nothing changes."""
    first_task: Literal["shifted", "plain"] = "shifted"
    """shifted: the first task has been drawn as well. plain: it has its own labels and order of pixels."""
    examples: Annotated[int, Ge(1)] | None = None
    """Training images, the same in all tasks of a seed, chosen at random; null: all."""
    epochs_per_task: Annotated[int, Ge(1)] = 10
    """How often a task shows each of its examples."""
    shape: Literal["flat", "image"] = "flat"
    """flat: [H * W * C], for fully connected networks. image: [H, W, C], for convolutional ones."""

    @model_validator(mode="after")
    def _can_be(self) -> LabelledImagesOptions:
        data = self.data_set
        if self.examples is not None and self.examples > data.train:
            raise ValueError(
                f"examples={self.examples} is more than the {data.train} training images of {self.data}: choose at "
                "most as many, or null"
            )
        if self.kind != "labels_random" and self.moved == 1:
            raise ValueError(
                f"share={self.share} of {self.count} {self.kind.removesuffix('_permuted')} is a single one, which "
                f"cannot change places with another: choose 0, or at least {1.5 / self.count:.3g}"
            )
        return self

    @property
    def data_set(self) -> DataSet:
        """What is known of the data set."""
        return DATA_SETS[self.data]

    @property
    def count(self) -> int:
        """How many labels, classes or pixels there are that can change."""
        data = self.data_set
        pixels = data.shape[0] * data.shape[1]
        return {"labels_random": self.task_examples, "labels_permuted": data.classes, "pixels_permuted": pixels}[
            self.kind
        ]

    @property
    def moved(self) -> int:
        """How many of them take part in a change."""
        return round(self.share * self.count)

    @property
    def task_examples(self) -> int:
        """Training images."""
        return self.data_set.train if self.examples is None else self.examples

    @property
    def task_steps(self) -> int:
        """Examples shown in a task: epochs times images."""
        return self.epochs_per_task * self.task_examples

    def check_tasks(self, count: int) -> None:
        """Raises unless the data set is there.

        Raises:
            ValueError: It is not, or is not what it should be.
        """
        load(self.data)


class LabelledImages:
    """The tasks of one trial; inputs are pixels in [0, 1], float32.

    Held out are the data set's own test images, under the same permutation as the task's. Random labels have no test
    images, as there is nothing to be learned from others.

    Args:
        options: The problem.
        task_seed: The trial's seed.

    Raises:
        ValueError: The data set is not there.
    """

    loss: Loss = "cross_entropy"
    reading: Reading = "epochs"

    def __init__(self, options: LabelledImagesOptions, *, task_seed: int = 0):
        self.options = options
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        data = options.data_set
        self.outputs = data.classes
        self.input_shape: tuple[int, ...] = data.shape if options.shape == "image" else (int(np.prod(data.shape)),)
        self.examples, self.examples_per_task = options.task_examples, options.task_steps
        self._seed = task_seed
        (images, self._labels), (test_images, self._test_labels) = load(options.data)
        if options.examples is not None:
            chosen = self._generator("examples").choice(len(images), options.examples, replace=False)
            images, self._labels = images[chosen], self._labels[chosen]
        self._images, self._test_images = self._pixels(images), self._pixels(test_images)
        self._walk = Walk(lambda: self._drawn(0) if options.first_task == "shifted" else self._plain(), self._changed)

    def which(self, number: int) -> int:
        """The place of a task in the sequence of different ones."""
        return self.options.which(number)

    def task(self, number: int) -> TaskData:
        """The data of a task: inputs [n, *input_shape], targets [n]."""
        state, kind = self._walk[self.which(number)], self.options.kind
        if kind == "labels_random":
            return TaskData(self._shaped(self._images), state)
        if kind == "labels_permuted":
            return TaskData(
                self._shaped(self._images),
                state[self._labels],
                self._shaped(self._test_images),
                state[self._test_labels],
            )
        return TaskData(
            self._shaped(self._images[:, state]),
            self._labels,
            self._shaped(self._test_images[:, state]),
            self._test_labels,
        )

    def _pixels(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """[n, H, W, C] -> [n, H * W, C] in [0, 1]."""
        pixels = images.reshape(len(images), -1, images.shape[-1])
        return pixels.astype(np.float32) / np.float32(self.options.data_set.largest)

    def _shaped(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return pixels.reshape(len(pixels), *self.input_shape)

    def _plain(self) -> NDArray[np.int64]:
        return self._labels if self.options.kind == "labels_random" else np.arange(self.options.count)

    def _drawn(self, number: int) -> NDArray[np.int64]:
        """Labels [n]; or a permutation of the classes, or of the pixels."""
        generator, count = self._generator(self.options.kind, number), self.options.count
        if self.options.kind == "labels_random":
            return generator.integers(self.outputs, size=count)
        return generator.permutation(count)

    def _changed(self, before: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        options = self.options
        drawn = self._drawn(number)
        if options.share == 1:
            return drawn
        chosen = self._generator("chosen", number).choice(options.count, options.moved, replace=False)
        after = before.copy()
        after[chosen] = drawn[chosen] if options.kind == "labels_random" else before[np.roll(chosen, 1)]
        return after

    def _generator(self, *names: str | int) -> np.random.Generator:
        return numpy_generator(self._seed, "tasks", "labelled_images", *names)
