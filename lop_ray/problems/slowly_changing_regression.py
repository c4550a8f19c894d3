"""Problem `slowly_changing_regression`: bits in, one number out, and now and then one of the slow bits flips.

Source: Dohare et al. (2021, 2023), "Continual Backprop" (arXiv 2108.06325) and "Maintaining plasticity in deep
continual learning" (arXiv 2306.13812); Dohare et al. (2024), Nature 632, Extended Data Fig. 2; code in
`lop/slowly_changing_regression` and `lop/nets/fix_ltu_net.py` of shibhansh/loss-of-plasticity.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import model_validator

from lop_ray.problems.stream import Loss, Reading, StreamOptions, TaskData, Walk
from lop_ray.seeding import numpy_generator

Floats = NDArray[np.float32]


class SlowlyChangingRegressionOptions(StreamOptions):
    """The options of `slowly_changing_regression`. Defaults are the paper's: 21 inputs, of which 15 change slowly."""

    inputs: Annotated[int, Ge(1)] = 20
    """m, bits that vary (`num_inputs`)."""
    flipping_bits: Annotated[int, Ge(0)] = 15
    """f, those of them that stay the same during a task (`num_flipping_bits`); they come first."""
    flip_every: Annotated[int, Ge(1)] = 10_000
    """T, examples between two changes (`flip_after`): a task."""
    flips: Annotated[int, Ge(0)] | None = 1
    """Of the f bits, how many flip at a change: 1 in the paper (`flip_one`). The more, the larger the change. Null:
    each is drawn anew, which flips half of them on average (the code without `flip_one`)."""
    constant_input: bool = True
    """Show the network the bit that is always 1 as well (the paper). False: only the m others, as in the code, where
    the network's own biases are to do."""
    target_units: Annotated[int, Ge(1)] = 100
    """n, hidden units of the target network (`num_target_features`)."""
    beta: Annotated[float, Ge(0.0), Le(1.0)] = 0.7
    """Share of its inputs that have to agree with a target unit's weights to make it active (`beta`)."""
    threshold: Literal["paper", "code"] = "paper"
    """theta_i of a target unit with input weights w_i and bias weight b_i. paper: (m + 1) beta - S_i, where S_i is how
    many of the m + 1 weights are -1, the bias weight being that of the constant input. code: the same with
    S_i = (m - sum_j w_ij + b_i) / 2, where b_i has the other sign."""

    @model_validator(mode="after")
    def _agree(self) -> SlowlyChangingRegressionOptions:
        if self.flipping_bits > self.inputs:
            raise ValueError(
                f"flipping_bits={self.flipping_bits} is more than inputs={self.inputs}: they are a part of them"
            )
        if self.flips is not None and self.flips > self.flipping_bits:
            raise ValueError(
                f"flips={self.flips} is more than flipping_bits={self.flipping_bits}: choose at most as many, or null"
            )
        return self

    @property
    def task_examples(self) -> int:
        """The examples T."""
        return self.flip_every

    @property
    def task_steps(self) -> int:
        """The examples T: each is shown once."""
        return self.flip_every


class TargetNetwork:
    """What is to be learned: linear threshold units under a linear output, all weights -1 or 1.

        h_i(x) = [w_i x + b_i > theta_i],   y(x) = v h(x) + c

    It stays the same throughout a trial.

    Args:
        options: The problem.
        generator: Draws the weights.

    Attributes:
        weights: w [n, m].
        biases: b [n], the weights of the constant input.
        thresholds: theta [n].
        output: v [n].
        output_bias: c.
    """

    def __init__(self, options: SlowlyChangingRegressionOptions, generator: np.random.Generator):
        def signs(*shape: int) -> NDArray[np.float64]:
            return 2.0 * generator.integers(2, size=shape) - 1

        m, n = options.inputs, options.target_units
        self.weights, self.biases, self.output = signs(n, m), signs(n), signs(n)
        self.output_bias = float(signs(1)[0])
        if options.threshold == "paper":
            negative = (self.weights < 0).sum(axis=1) + (self.biases < 0)
        else:
            negative = (m - self.weights.sum(axis=1) + self.biases) / 2
        self.thresholds = options.beta * (m + 1) - negative

    def __call__(self, bits: NDArray[Any]) -> NDArray[np.float64]:
        """Bits [N, m] -> targets [N]."""
        active = bits @ self.weights.T + self.biases > self.thresholds
        return active @ self.output + self.output_bias


class SlowlyChangingRegression:
    """The tasks of one trial, each the stretch between two changes.

    The first f of m input bits stay the same during a task and change a little between two. The others are drawn anew,
    0 or 1 with probability 1/2, for every example. A constant 1 comes last.

    Args:
        options: The problem.
        task_seed: The trial's seed.
    """

    loss: Loss = "mean_squared_error"
    reading: Reading = "once"
    outputs = 1

    def __init__(self, options: SlowlyChangingRegressionOptions, *, task_seed: int = 0):
        self.options = options
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self.input_shape: tuple[int, ...] = (options.inputs + options.constant_input,)
        self.examples, self.examples_per_task = options.task_examples, options.task_steps
        self._seed = task_seed
        self.target = TargetNetwork(options, self._generator("target"))
        self._slow_bits = Walk(lambda: self._drawn(0), self._flipped)

    def which(self, number: int) -> int:
        """The place of a task in the sequence of different ones."""
        return self.options.which(number)

    def task(self, number: int) -> TaskData:
        """The data of a task: inputs [T, m + 1] of 0 and 1, targets [T, 1]."""
        options, which = self.options, self.which(number)
        inputs = np.ones((options.flip_every, options.inputs + 1), np.float32)
        inputs[:, : options.flipping_bits] = self._slow_bits[which]
        others = options.inputs - options.flipping_bits
        inputs[:, options.flipping_bits : -1] = self._generator("bits", which).integers(
            2, size=(options.flip_every, others)
        )
        targets = self.target(inputs[:, :-1])[:, None].astype(np.float32)
        return TaskData(inputs if options.constant_input else inputs[:, :-1].copy(), targets)

    def _drawn(self, number: int) -> NDArray[np.int64]:
        return self._generator("slow_bits", number).integers(2, size=self.options.flipping_bits)

    def _flipped(self, before: NDArray[np.int64], number: int) -> NDArray[np.int64]:
        if self.options.flips is None:
            return self._drawn(number)
        bits = before.copy()
        flips = self._generator("flips", number).choice(len(bits), self.options.flips, replace=False)
        bits[flips] ^= 1
        return bits

    def _generator(self, *names: str | int) -> np.random.Generator:
        return numpy_generator(self._seed, "tasks", "slowly_changing_regression", *names)
