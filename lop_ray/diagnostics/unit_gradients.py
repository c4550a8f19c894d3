"""The gradient on every hidden unit, and which way it pushes the unit: toward death or away from it.

With the mean loss L over N samples, unit i's incoming weights w_i and bias b_i, and its pre-activations z_{n,i}:

- gradient: g_i = ||dL / d(w_i, b_i)||, how much the unit is taught;
- push: p_i = sum_n dL / dz_{n,i}, the gradient in a constant added to the unit's pre-activations. A step of gradient
  descent with p_i > 0 lowers them all: toward z < 0 on every sample, where a ReLU is dead and both are 0 for good.

Without a normalisation p_i is the gradient of the bias. A convolution's positions are summed like samples. Adam's
step is not the gradient's: it divides by a running size of it, so compare signs and units of one layer, not sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from lop_ray.diagnostics.base import Diagnostic, Findings, Subject, check_finite
from lop_ray.diagnostics.losses import LossOptions, Problem
from lop_ray.networks import HiddenLayer, by_unit, hidden_layers, trainable_weight


@dataclass(frozen=True)
class UnitGradients:
    """Gradients of one layer's units.

    Attributes:
        norms: [units], g_i.
        pushes: [units], p_i.
    """

    norms: Float[Tensor, " units"]
    pushes: Float[Tensor, " units"]


def unit_gradients(problem: Problem) -> list[UnitGradients]:
    """Gradients of the mean loss on every unit, layer by layer.

    Args:
        problem: Network, loss and batch.

    Returns:
        One entry a hidden layer, in order.
    """
    layers = hidden_layers(problem.network)
    seen: dict[int, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[id(module)] = args[0]

    handles = [layer.activation.register_forward_pre_hook(keep) for layer in layers]
    try:
        loss = problem.value()
    finally:
        for handle in handles:
            handle.remove()
    parameters = [_incoming(layer) for layer in layers]
    wanted = [seen[id(layer.activation)] for layer in layers] + [each for own in parameters for each in own]
    gradients = iter(torch.autograd.grad(loss, wanted, materialize_grads=True))
    pushes = [_push(layer, next(gradients)) for layer in layers]
    found = []
    for push, own in zip(pushes, parameters, strict=True):
        squares = [next(gradients).double().flatten(1 if each.ndim > 1 else 0).square() for each in own]
        norms = torch.stack([each.sum(1) if each.ndim > 1 else each for each in squares]).sum(0).sqrt()
        check_finite(norms + push, "gradients on units")
        found.append(UnitGradients(norms, push))
    return found


def _incoming(layer: HiddenLayer) -> list[Tensor]:
    """The unit's own weights, a row a unit, and its bias."""
    return [each for each in (trainable_weight(layer.incoming), layer.incoming.bias) if isinstance(each, Tensor)]


def _push(layer: HiddenLayer, gradient: Tensor) -> Float[Tensor, " units"]:
    """[N, units], [N, channels, H, W], or either with z and -z of a unit at dimension 2 -> [units]."""
    if layer.outputs > 1 and gradient.ndim in (3, 5):
        gradient = gradient.select(2, 0) - gradient.select(2, 1)
    return by_unit(gradient).double().sum(0)


class UnitGradientOptions(LossOptions):
    """The gradient on every hidden unit; lists in the table `neurons`, beside the margins."""

    every: Annotated[int, Ge(1)] = 10
    """As the `neurons_every` of `margins`, so that both stand in one row."""


def measure_unit_gradients(subject: Subject, options: UnitGradientOptions) -> Findings:
    """Columns gradient and push of table `neurons`."""
    found = Findings()
    for layer, each in enumerate(unit_gradients(options.problem(subject, "unit_gradients"))):
        gradient, push = each.norms.float().tolist(), each.pushes.float().tolist()
        found.neurons.append({"layer": layer, "gradient": gradient, "push": push})
    return found


UNIT_GRADIENTS = Diagnostic("unit_gradients", UnitGradientOptions, measure_unit_gradients)
