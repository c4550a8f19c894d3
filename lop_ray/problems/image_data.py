"""The data sets of `labelled_images`, as arrays.

`digits` comes with scikit-learn. The others are read from a file in scikit-learn's data folder (`$SCIKIT_LEARN_DATA`,
by default `~/scikit_learn_data`). Where there is none, OpenML is asked once and the file written, so that no trial
needs the network afterwards.
"""

from __future__ import annotations

import os
import socket
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lop_ray.seeding import numpy_generator

DataName = Literal["digits", "mnist", "cifar10"]
PATIENCE_S = 20.0
"""How long a network that swallows everything is waited for."""

Arrays = tuple[NDArray[Any], NDArray[np.int64]]


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set without looking at it.

    Attributes:
        name: As in a grid.
        shape: [H, W, C] of an image.
        train: Images of the training set.
        test: Held-out images.
        largest: Value of a white pixel, by which pixels are divided.
        classes: How many there are.
        openml: Name and version at openml.org, and how its rows [H * W * C] are laid out: hwc or chw.
    """

    name: DataName
    shape: tuple[int, int, int]
    train: int
    test: int
    largest: int = 255
    classes: int = 10
    openml: tuple[str, int, Literal["hwc", "chw"]] | None = None

    @property
    def file(self) -> Path:
        """Where its file is, or should be."""
        # Not by `sklearn.datasets.get_data_home`, which makes the folder: a dry run writes nothing.
        folder = os.environ.get("SCIKIT_LEARN_DATA", "~/scikit_learn_data")
        return Path(folder).expanduser() / f"{self.name}.npz"


DATA_SETS: dict[DataName, DataSet] = {
    # 1797 images; a fifth is held out, the same for all seeds.
    "digits": DataSet("digits", (8, 8, 1), 1437, 360, largest=16),
    "mnist": DataSet("mnist", (28, 28, 1), 60_000, 10_000, openml=("mnist_784", 1, "hwc")),
    "cifar10": DataSet("cifar10", (32, 32, 3), 50_000, 10_000, openml=("CIFAR_10", 1, "chw")),
}


def load(name: DataName) -> tuple[Arrays, Arrays]:
    """Training and held-out images, as numbers from 0 to `largest` [n, H, W, C], and their classes [n].

    Args:
        name: Of the data set.

    Returns:
        (images, labels) to train on, and (images, labels) held out. The arrays are shared: leave them as they are.

    Raises:
        ValueError: There is neither file nor network, or the file does not hold what it should. One line that begins
            with the key `data` and says what file to put where.
    """
    data = DATA_SETS[name]
    return _digits(data) if name == "digits" else _from_file(data, *_look(data))


def _look(data: DataSet) -> tuple[str, int]:
    """The file and when it was last changed; fetches it where it is missing."""
    path = data.file
    if not path.is_file():
        _fetch(data, path)
    return str(path), path.stat().st_mtime_ns


@cache
def _digits(data: DataSet) -> tuple[Arrays, Arrays]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = numpy_generator(0, "digits", "split").permutation(len(images))
    images = images.reshape(-1, *data.shape).astype(np.uint8)[order]
    labels = labels.astype(np.int64)[order]
    return (images[: data.train], labels[: data.train]), (images[data.train :], labels[data.train :])


@cache
def _from_file(data: DataSet, path: str, changed_ns: int) -> tuple[Arrays, Arrays]:
    try:
        with np.load(path) as arrays:
            found = {key: arrays[key] for key in _wanted(data) if key in arrays}
    except (OSError, ValueError, BadZipFile) as error:
        raise ValueError(f"data={data.name}: cannot read {path} ({_first_line(error)}); {_cure(data)}") from error
    for key, shape in _wanted(data).items():
        if key not in found:
            raise ValueError(f"data={data.name}: {path} has no array {key}; {_cure(data)}")
        # Grey images may come without the dimension of the one channel, labels with one.
        if found[key].size != np.prod(shape) or len(found[key]) != shape[0]:
            raise ValueError(f"data={data.name}: {key} in {path} is {list(found[key].shape)}; {_cure(data)}")
        found[key] = found[key].reshape(shape)
        if key.startswith("y"):
            check_labels(found[key], data.classes, f"data={data.name}: {key} in {path}")
    return (
        (found["x_train"], found["y_train"].astype(np.int64)),
        (found["x_test"], found["y_test"].astype(np.int64)),
    )


def check_labels(labels: NDArray[Any], classes: int, what: str) -> None:
    """Refuses labels that are no classes.

    Args:
        labels: [n].
        classes: How many there are.
        what: Names the labels in the message.

    Raises:
        ValueError: One is no whole number from 0 to `classes` - 1.
    """
    bad = labels[(labels < 0) | (labels >= classes) | (labels != np.floor(labels))]
    if len(bad):
        raise ValueError(f"{what}: label {bad[0]} is out of range; labels are whole numbers from 0 to {classes - 1}")


def _wanted(data: DataSet) -> dict[str, tuple[int, ...]]:
    return {
        "x_train": (data.train, *data.shape),
        "y_train": (data.train,),
        "x_test": (data.test, *data.shape),
        "y_test": (data.test,),
    }


def _cure(data: DataSet) -> str:
    arrays = ", ".join(f"{key} {list(shape)}" for key, shape in _wanted(data).items())
    return (
        f"put a file {data.file} there with the arrays {arrays} (numpy.savez; pixels 0-{data.largest}, labels "
        f"0-{data.classes - 1}), or choose data: digits"
    )


def _fetch(data: DataSet, path: Path) -> None:
    """Gets the data set from OpenML, whose first `train` rows are the training set, and writes the file.

    Raises:
        ValueError: OpenML cannot be reached.
    """
    from sklearn.datasets import fetch_openml

    assert data.openml is not None
    name, version, layout = data.openml
    how = {"return_X_y": True, "as_frame": False, "parser": "auto", "cache": False, "n_retries": 1, "delay": 0.1}
    patience_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        with warnings.catch_warnings(action="ignore"):  # that it tries again
            images, labels = fetch_openml(name, version=version, **how)
    except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: OpenML refuses
        raise ValueError(
            f"data={data.name}: there is no {path}, and openml.org cannot be reached ({_first_line(error)}); "
            f"{_cure(data)}"
        ) from error
    finally:
        socket.setdefaulttimeout(patience_s)
    height, width, channels = data.shape
    images = np.asarray(images, np.uint8)
    if layout == "chw":
        images = images.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    images, labels = images.reshape(-1, *data.shape), np.asarray(labels).astype(np.int64)
    n = data.train
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under its own name first: several processes may write it, and each has to find it whole.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
    np.savez_compressed(part, x_train=images[:n], y_train=labels[:n], x_test=images[n:], y_test=labels[n:])
    part.replace(path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
