"""What gradients and curvature are taken of: a loss of the network's outputs, and a batch.

A loss is a function `loss(output, batch) -> scalar` of the network's output on `batch["inputs"]` and of the
other columns of the batch, all [N, ...]. It must be the mean over the N rows of a loss of each row, so that
one row's gradient and the batch's are of the same kind; what couples rows (advantage normalisation,
bootstrap targets) is computed beforehand and stands in the batch. That it takes outputs and not the network
is what splits it for the Gauss-Newton matrix. An algorithm hands its own in, for instance PPO:

    def surrogate(mean, batch):
        logp = Normal(mean, std).log_prob(batch["actions"]).sum(-1)
        ...
    extra = {"losses": {"policy": surrogate}, "batches": {"policy": {"inputs": obs, "actions": ..., ...}}}
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from lop_ray.diagnostics.base import DiagnosticOptions, NonFiniteError, Subject

Batch = Mapping[str, Tensor]
Loss = Callable[[Tensor, Batch], Tensor]


def cross_entropy(output: Float[Tensor, "samples classes"], batch: Batch) -> Float[Tensor, ""]:
    """Mean of -log softmax(output)[label]; column `labels` [N], int64, and output [N, classes]."""
    return nn.functional.cross_entropy(output, batch["labels"])


def squared_error(output: Float[Tensor, "samples ..."], batch: Batch) -> Float[Tensor, ""]:
    """Mean over rows of ||output - target||^2; column `targets`, of the output's shape [N, ...].

    Raises:
        ValueError: Another shape.
    """
    if output.shape != batch["targets"].shape:
        raise ValueError(f"targets {list(batch['targets'].shape)} must have the output's shape {list(output.shape)}")
    return (output - batch["targets"]).square().sum() / len(output)


def td_error(output: Float[Tensor, "samples actions"], batch: Batch) -> Float[Tensor, ""]:
    """Mean of (Q(s, a) - target)^2; columns `actions` [N], int64, and `targets` [N]; output [N, actions]."""
    chosen = output.gather(1, batch["actions"][:, None]).squeeze(1)
    return (chosen - batch["targets"]).square().mean()


@torch.no_grad()
def perturbed_output(
    network: nn.Module, inputs: Shaped[Tensor, "samples ..."], generator: torch.Generator
) -> tuple[Loss, Batch]:
    """Regression toward the network's own output plus noise: [f(x) - sg f(x) + e]^2, e ~ N(0, 1).

    Lyle et al. 2023, Section 4.2: how easily the predictions move in arbitrary directions, whatever the task.

    Args:
        network: In evaluation mode.
        inputs: [N, ...].
        generator: Draws the noise (CPU).

    Returns:
        The loss and its batch.
    """
    output = network(inputs)
    noise = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
    return squared_error, {"inputs": inputs, "targets": output - noise}


class _ComposedNorm(nn.Module):
    """A LayerNorm or GroupNorm made of elementary operations, sharing its parameters.

    torch 2.13's fused layer norm drops mixed second derivatives (of its input and its scale) under torch.func,
    silently: pytorch/pytorch#198017. Eager double backward is right, and so are these operations.
    """

    def __init__(self, norm: nn.LayerNorm | nn.GroupNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None
        self.axes = 0 if isinstance(norm, nn.GroupNorm) else len(norm.normalized_shape)

    def forward(self, values: Tensor) -> Tensor:
        if self.groups is None:
            axes = tuple(range(-self.axes, 0))
            centred = values - values.mean(axes, keepdim=True)
            normal = centred * (centred.square().mean(axes, keepdim=True) + self.eps).rsqrt()
            shape: tuple[int, ...] = tuple(self.weight.shape) if self.weight is not None else ()
        else:
            grouped = values.reshape(len(values), self.groups, -1)
            centred = grouped - grouped.mean(-1, keepdim=True)
            normal = (centred * (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()).view_as(values)
            shape = (-1, *[1] * (values.ndim - 2))
        if self.weight is not None:
            normal = normal * self.weight.view(shape)
        return normal if self.bias is None else normal + self.bias.view(shape)


def _with_composed_norms(network: nn.Module) -> nn.Module:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (nn.LayerNorm, nn.GroupNorm)):
                setattr(module, name, _ComposedNorm(child))
    return network


@dataclass(frozen=True)
class Problem:
    """A network, a loss, and the batch to evaluate it on.

    Attributes:
        network: A copy in evaluation mode, fit for second derivatives: nothing done to it reaches the run.
        loss: Mean over rows of a loss of each row.
        batch: Columns [N, ...], among them `inputs`.
    """

    network: nn.Module
    loss: Loss
    batch: Batch

    @classmethod
    def of(cls, network: nn.Module, loss: Loss, batch: Batch) -> Problem:
        """With a copy of `network`.

        Raises:
            ValueError: No column `inputs`, columns of different lengths, or no rows.
        """
        sizes = {name: len(column) for name, column in batch.items()}
        if "inputs" not in sizes or len(set(sizes.values())) != 1 or not sizes["inputs"]:
            raise ValueError(f"a batch needs a column 'inputs' and columns of one length >= 1, not {sizes}")
        return cls(_with_composed_norms(copy.deepcopy(network).eval().requires_grad_(True)), loss, batch)

    def value(self) -> Tensor:
        """The loss, differentiable in the copy's parameters.

        Raises:
            ValueError: It is not one number.
            NonFiniteError: It is not finite.
        """
        value = self.loss(self.network(self.batch["inputs"]), self.batch)
        if value.ndim or not bool(torch.isfinite(value)):
            kind = ValueError if value.ndim else NonFiniteError
            raise kind(f"the loss must be one finite number, not {value.detach()}")
        return value


class LossOptions(DiagnosticOptions):
    """Options of a diagnostic that takes derivatives of a loss."""

    loss: Literal["training", "perturbed_output"] = "training"
    """The run's own loss on its latest batch, or regression of the outputs toward themselves plus N(0, 1)."""
    samples: Annotated[int, Ge(1)] = 2000
    """Rows of the batch that are used, the latest; fewer if there are fewer."""

    def needs(self) -> frozenset[str]:
        """The run's loss and batch, for `training`."""
        return frozenset({"losses", "batches"}) if self.loss == "training" else frozenset()

    def observations(self) -> int:
        """The latest observations, for `perturbed_output`."""
        return self.samples if self.loss == "perturbed_output" else 0

    def problem(self, subject: Subject, diagnostic: str) -> Problem:
        """The problem that these options choose for `subject`."""
        if self.loss == "training":
            batch = {name: column[-self.samples :] for name, column in subject.of_network("batches").items()}
            return Problem.of(subject.network, subject.of_network("losses"), batch)
        network = copy.deepcopy(subject.network).eval()
        generator = subject.generator(f"{diagnostic}.noise")
        return Problem.of(network, *perturbed_output(network, subject.observations[-self.samples :], generator))
