"""What supervised training minimises, and how well it does: losses, accuracy, and the targets that they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Objective:
    """The loss of a problem, the mean over N examples.

        cross_entropy:         -log softmax(y)[label],                       y [N, classes]
        binary_cross_entropy:  -log p(label), p(1) = 1 / (1 + exp(-y)),      y [N, 1]
        mean_squared_error:    mean over outputs of (y - target)^2,          y [N, outputs]

    Attributes:
        kind: Which of them.
        outputs: Width of the network's output.
        classes: How many there are; 0 for regression.
        dtype: Of targets that are no class numbers.
    """

    kind: Literal["cross_entropy", "binary_cross_entropy", "mean_squared_error"]
    outputs: int
    classes: int
    dtype: torch.dtype

    @classmethod
    def of(cls, loss: str, outputs: int, dtype: torch.dtype) -> Objective:
        """The objective of a stream with this loss and number of outputs.

        Raises:
            ValueError: There is no such loss, or it is not for so many outputs.
        """
        if loss == "mean_squared_error":
            return cls("mean_squared_error", outputs, 0, dtype)
        if loss == "cross_entropy" and outputs >= 2:
            return cls("cross_entropy", outputs, outputs, dtype)
        if loss == "binary_cross_entropy" and outputs == 1:
            return cls("binary_cross_entropy", 1, 2, dtype)
        raise ValueError(
            f"loss '{loss}' of the problem with {outputs} outputs is not known; known: cross_entropy (2 or more), "
            "binary_cross_entropy (1), mean_squared_error"
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs [N, outputs] and prepared targets -> a scalar."""
        if self.kind == "cross_entropy":
            return functional.cross_entropy(outputs, targets)
        if self.kind == "binary_cross_entropy":
            return functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets)
        return functional.mse_loss(outputs, targets)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example: [..., N, outputs] and targets [..., N] or [..., N, outputs] -> [..., N]."""
        if self.kind == "cross_entropy":
            return -outputs.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        if self.kind == "binary_cross_entropy":
            return functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets, reduction="none")
        return (outputs - targets).square().mean(-1)

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the mean over N of `losses` in the outputs, [..., N, outputs].

        cross_entropy: (softmax(y) - onehot(label)) / N; binary_cross_entropy: (p(1) - label) / N; mean_squared_error:
        2 (y - target) / (N outputs).
        """
        count = outputs.shape[-2]
        if self.kind == "cross_entropy":
            found = outputs.softmax(-1)
            found.scatter_add_(-1, targets.unsqueeze(-1), found.new_full((*targets.shape, 1), -1.0))
            return found.div_(count)
        if self.kind == "binary_cross_entropy":
            return (outputs.sigmoid() - targets.unsqueeze(-1)).div_(count)
        return (outputs - targets).mul_(2 / (count * outputs.shape[-1]))

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Which examples are classified right, [..., N]; None for regression."""
        if self.kind == "cross_entropy":
            return outputs.argmax(-1) == targets
        if self.kind == "binary_cross_entropy":
            return (outputs.squeeze(-1) > 0) == (targets > 0.5)
        return None

    def prepare(self, targets: np.ndarray, examples: int, where: str) -> Tensor:
        """A task's targets as the loss reads them.

        Args:
            targets: [N] class numbers, or [N, outputs].
            examples: N.
            where: What they are, for messages.

        Returns:
            [N] int64, [N] of 0 and 1 in `dtype`, or [N, outputs] in `dtype`.

        Raises:
            ValueError: They do not belong to this loss, or a class number is out of range.
        """
        wanted = (examples, self.outputs) if self.kind == "mean_squared_error" else (examples,)
        if targets.shape != wanted:
            raise ValueError(
                f"{where}: targets have shape {list(targets.shape)}, but {self.kind} with {examples} examples reads "
                f"{list(wanted)}"
            )
        if self.kind == "mean_squared_error":
            if targets.dtype.kind not in "fiu" or not np.isfinite(targets).all():
                raise ValueError(f"{where}: targets of type {targets.dtype} should be finite numbers")
            return torch.from_numpy(np.array(targets)).to(self.dtype)
        if targets.dtype.kind not in "iu":
            raise ValueError(f"{where}: targets of type {targets.dtype} should be class numbers (integers)")
        least, greatest = int(targets.min()), int(targets.max())
        if least < 0 or greatest >= self.classes:
            wrong = least if least < 0 else greatest
            raise ValueError(f"{where}: label {wrong} is out of range; the problem's classes are 0..{self.classes - 1}")
        labels = torch.from_numpy(targets.astype(np.int64))
        return labels.to(self.dtype) if self.kind == "binary_cross_entropy" else labels
