"""Divergence is a result: the step is not taken and the trial ends, saying where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class DivergedError(RuntimeError):
    """A loss or a gradient stopped being finite.

    Args:
        tensor: What is not finite, such as "gradient of policy.body.linear_0.weight".
        gradient_step: The gradient step, counted from 1, that was not taken.
    """

    def __init__(self, tensor: str, gradient_step: int):
        super().__init__(f"{tensor} is not finite at gradient step {gradient_step}; the step was not taken")
        self.tensor = tensor
        self.gradient_step = gradient_step

    def __reduce__(self) -> tuple[type[DivergedError], tuple[str, int]]:
        return type(self), (self.tensor, self.gradient_step)


def global_norm(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together, a scalar."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_norm(gradients: list[Tensor], norm: float, limit: float | None) -> None:
    """Scales gradients in place so that their norm is at most the limit, as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        gradients: All of them.
        norm: Their `global_norm`.
        limit: Largest norm; None leaves them as they are.
    """
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))


def check_finite(
    loss: float, norm: float, named_gradients: Callable[[], Iterable[tuple[str, Tensor | None]]], gradient_step: int
) -> None:
    """Refuses a step whose loss or gradients are not finite.

    Finite gradients can have a norm that overflows; only when loss or norm is not finite are the
    gradients looked at one by one.

    Args:
        loss: Loss of the minibatch.
        norm: Global norm of the gradients.
        named_gradients: Gives gradients by parameter name; only called when something is not finite.
        gradient_step: Number of the step about to be taken.

    Raises:
        DivergedError: The loss or a gradient holds NaN or an infinity.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    if not math.isfinite(loss):
        raise DivergedError("loss", gradient_step)
    for name, gradient in named_gradients():
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            raise DivergedError(f"gradient of {name}", gradient_step)
