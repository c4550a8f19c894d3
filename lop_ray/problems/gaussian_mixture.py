"""Problem `gaussian_mixture`: two classes in d dimensions, each a mixture of Gaussians that every task draws anew.

Source: `lop_fixed_regime.py` of ajoudaki/simple-lop (commit 082c941), whose flags are named with the options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray
from pydantic import field_validator

from lop_ray.problems.stream import Loss, Reading, StreamOptions, TaskData, Walk
from lop_ray.seeding import numpy_generator

Floats = NDArray[np.float64]
NonNegative = Annotated[float, Ge(0.0)]
Share = Annotated[float, Ge(0.0), Le(1.0)]

SHIFT_SCALE = 0.6
"""Standard deviation of where the two anchors together lie, in every dimension."""
EXTRA_SCALE = 0.3
"""Standard deviation of each anchor in the dimensions beyond the first two."""


class GaussianMixtureOptions(StreamOptions):
    """The options of `gaussian_mixture`. Defaults are the source's."""

    dimensions: Annotated[int, Ge(2)] = 4
    """d, of an example (`--d`)."""
    examples: Annotated[int, Ge(2)] = 96
    """n, of a task, half of them in each class (`--n`)."""
    steps_per_task: Annotated[int, Ge(1)] = 40
    """Gradient steps a task, each on all its examples (`--steps`). A task lasts so many times n environment steps."""
    components: Annotated[int, Ge(1)] = 4
    """k, Gaussians a class (`--k`)."""
    separation: NonNegative = 2.8
    """delta: the anchors of the classes lie at +-delta u, u of length 1, in the first two dimensions (`--delta`)."""
    spread: NonNegative = 0.7
    """Standard deviation of a component's centre around its class's anchor, in every dimension (`--spread`)."""
    noise: Annotated[float, Gt(0.0)] = 0.22
    """sigma, standard deviation of an example around its component's centre, in every dimension (`--sigma`)."""
    label_noise: Share = 0.0
    """Probability with which an example has the other class's label (`--relabel`)."""
    distance: Share = 1.0
    """How far each task lies from the one before. 1: they are independent (the source). 0: they are equal."""
    test_examples: Annotated[int, Ge(0)] = 0
    """Held-out examples from the same components, half of them in each class (the source has none)."""

    @field_validator("examples", "test_examples")
    @classmethod
    def _in_two_halves(cls, count: int) -> int:
        if count % 2:
            raise ValueError(f"{count} examples cannot be half in each class; choose an even number")
        return count

    @property
    def task_examples(self) -> int:
        """The examples n."""
        return self.examples

    @property
    def task_steps(self) -> int:
        """Examples shown in a task: gradient steps times n."""
        return self.steps_per_task * self.examples


@dataclass(frozen=True)
class _Draws:
    """What a task is made of: standard normal but where it says otherwise. Two classes, n examples of each.

    `angle` in units of a full turn, `component` in 0..k-1, `flip` and `renewal` uniform on [0, 1).
    """

    angle: float
    shift: Floats  # [2]
    extra: Floats  # [2, d - 2]
    centre: Floats  # [2, k, d]
    component: NDArray[np.int64]  # [2, n]
    example: Floats  # [2, n, d]
    flip: Floats  # [2, n]
    renewal: Floats  # [2, n, 2]; whether component and flip take the place of those of the task before


class GaussianMixture:
    """The tasks of one trial.

    With phi ~ U(0, 2 pi), and all other draws normal and independent,

        u       = (cos phi, sin phi, 0, ...)
        anchor  a_c = -+delta u + s + e_c     (- for class 0), s ~ N(0, 0.6^2) in the first two dimensions,
                                              e_c ~ N(0, 0.3^2) in the others
        centre  m_cj ~ N(a_c, spread^2 I),    j = 1..k
        example x = m_cj + N(0, sigma^2 I),   j uniform on 1..k

    so that over tasks the classes' anchors are 2 delta apart in the first two dimensions, and a class's examples have
    the variance spread^2 + sigma^2 around their anchor. There are as many examples of either class.

    With `distance` c < 1 successive tasks are related, and each for itself is distributed as above: a normal draw g
    goes on to cos(c pi/2) g + sin(c pi/2) g', with g' drawn anew; phi turns by c U(-pi, pi); an example's component,
    and the chance by which its label is wrong, are drawn anew with probability c. Examples keep their places.

    Args:
        options: The problem.
        task_seed: The trial's seed.
    """

    loss: Loss = "binary_cross_entropy"
    reading: Reading = "full_batch"
    outputs = 1

    def __init__(self, options: GaussianMixtureOptions, *, task_seed: int = 0):
        self.options = options
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        self.input_shape: tuple[int, ...] = (options.dimensions,)
        self.examples, self.examples_per_task = options.task_examples, options.task_steps
        self._seed = task_seed
        # One order for all tasks: examples keep their places, so that a distance of 0 is no change at all.
        self._order = self._generator("order").permutation(options.examples)
        self._walk = Walk(lambda: self._draw(0), self._advance)

    def which(self, number: int) -> int:
        """The place of a task in the sequence of different ones."""
        return self.options.which(number)

    def task(self, number: int) -> TaskData:
        """The data of a task: inputs [n, d], targets [n] of 0 and 1."""
        options, draws = self.options, self._walk[self.which(number)]
        turn = 2 * np.pi * draws.angle
        direction = np.array([np.cos(turn), np.sin(turn)])
        anchors = np.zeros((2, options.dimensions))
        anchors[:, :2] = SHIFT_SCALE * draws.shift + options.separation * np.array([[-1.0], [1.0]]) * direction
        anchors[:, 2:] = EXTRA_SCALE * draws.extra
        centres = anchors[:, None] + options.spread * draws.centre
        own = np.take_along_axis(centres, draws.component[:, :, None], axis=1)
        inputs = own + options.noise * draws.example
        labels = np.array([[0], [1]]) ^ (draws.flip < options.label_noise)
        half = options.examples // 2
        train, test = (
            (inputs[:, part].reshape(-1, options.dimensions), labels[:, part].reshape(-1).astype(np.int64))
            for part in (slice(half), slice(half, None))
        )
        return TaskData(train[0][self._order], train[1][self._order], *(test if options.test_examples else ()))

    def _draw(self, number: int) -> _Draws:
        options = self.options
        generator = self._generator(number)
        # Held-out examples come from a stream of their own: how many there are changes no training example.
        parts = [
            self._draw_examples(self._generator(number, "train"), options.examples // 2),
            self._draw_examples(self._generator(number, "test"), options.test_examples // 2),
        ]
        component, example, flip, renewal = (np.concatenate(both, axis=1) for both in zip(*parts, strict=True))
        return _Draws(
            angle=generator.random(),
            shift=generator.standard_normal(2),
            extra=generator.standard_normal((2, options.dimensions - 2)),
            centre=generator.standard_normal((2, options.components, options.dimensions)),
            component=component,
            example=example,
            flip=flip,
            renewal=renewal,
        )

    def _draw_examples(
        self, generator: np.random.Generator, count: int
    ) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
        """Component, noise, chance of a wrong label, and of renewal; [2, count, ...]."""
        component = generator.integers(self.options.components, size=(2, count))
        return (
            component,
            generator.standard_normal((2, count, self.options.dimensions)),
            generator.random((2, count)),
            generator.random((2, count, 2)),
        )

    def _advance(self, before: _Draws, number: int) -> _Draws:
        new, distance = self._draw(number), self.options.distance
        if distance == 1:
            return new
        renewed = new.renewal < distance

        def normal(old: Floats, drawn: Floats) -> Floats:
            return np.cos(distance * np.pi / 2) * old + np.sin(distance * np.pi / 2) * drawn

        return _Draws(
            angle=before.angle + distance * (new.angle - 0.5),
            shift=normal(before.shift, new.shift),
            extra=normal(before.extra, new.extra),
            centre=normal(before.centre, new.centre),
            component=np.where(renewed[..., 0], new.component, before.component),
            example=normal(before.example, new.example),
            flip=np.where(renewed[..., 1], new.flip, before.flip),
            renewal=new.renewal,
        )

    def _generator(self, *names: str | int) -> np.random.Generator:
        return numpy_generator(self._seed, "tasks", "gaussian_mixture", *names)
