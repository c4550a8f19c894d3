"""Several copies of one network as one batched network.

Parameters are stacked [K, ...], and one optimiser steps all of them. Fully connected networks multiply stacks of
matrices; others go through torch.func.vmap. On a CPU that saves the cost of many small calls. Where one copy's
products already fill the core, a large stack only leaves its caches: then copies train in smaller stacks, or in turn.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from lop_ray.networks.in_place import ACTIVATIONS, activate_, activation_gradient

_ELEMENTWISE = {
    getattr(torch.optim, name) for name in "SGD Adam AdamW RMSprop Adagrad Adadelta Adamax NAdam RAdam".split()
}


def is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every number that it trains moves by its own gradient alone, so that copies can share one optimiser.

    torch's usual ones; others say so by an attribute `elementwise`, or count as not elementwise.
    """
    return type(optimizer) in _ELEMENTWISE or bool(getattr(optimizer, "elementwise", False))


def stacked_optimizer(
    optimizer: torch.optim.Optimizer, sources: Sequence[Tensor], stacked: Sequence[Tensor]
) -> torch.optim.Optimizer:
    """A copy of `optimizer`, with its state, for stacks of its parameters.

    Args:
        optimizer: Elementwise (`is_elementwise`) if there are several copies.
        sources: Parameters that `optimizer` trains; it may train others too.
        stacked: For each of them a leaf [K, *shape], or of its own shape for a single copy.

    Returns:
        An optimiser of the same class and settings; moments are repeated K times, step counts and generators copied.

    Raises:
        ValueError: A source is not trained by `optimizer`, or it cannot train stacks.
    """
    leaf_of = {id(source): leaf for source, leaf in zip(sources, stacked, strict=True)}
    missing = leaf_of.keys() - {id(p) for group in optimizer.param_groups for p in group["params"]}
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(sources)} parameters are not trained by the given optimiser: give the right one"
        )
    if not is_elementwise(optimizer) and any(leaf.shape != p.shape for leaf, p in zip(stacked, sources, strict=True)):
        raise ValueError(
            f"{type(optimizer).__name__} moves numbers by those of others and would mix the copies of a stack: "
            "train them one at a time (at_once=1)"
        )
    groups = [
        {**group, "params": [leaf_of[id(p)] for p in group["params"] if id(p) in leaf_of]}
        for group in optimizer.param_groups
    ]
    groups = [group for group in groups if group["params"]]
    made: torch.optim.Optimizer = type(optimizer)(groups, lr=optimizer.defaults["lr"])  # type: ignore[call-arg]
    for source, leaf in zip(sources, stacked, strict=True):
        if source in optimizer.state:
            made.state[leaf] = {
                key: _stack_state(value, source, leaf) for key, value in optimizer.state[source].items()
            }
    for name, value in vars(optimizer).items():
        if isinstance(value, torch.Generator):
            vars(made)[name].set_state(value.get_state())
    return made


def _stack_state(value: Any, source: Tensor, leaf: Tensor) -> Any:
    if isinstance(value, Tensor) and value.shape == source.shape and value.ndim:  # not a step count
        return value.detach().expand_as(leaf).clone()
    return copy.deepcopy(value)


class _Scratch:
    """Memory that is written anew at every step: fresh memory of this size costs a page fault every 4 KB."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """A tensor whose content is whatever was last written under this name and shape."""
        kept = self._kept.get(name)
        if kept is None or kept.shape != shape:
            kept = self._kept[name] = like.new_empty(shape)
        return kept.detach()  # a tensor of its own for autograd


class _StackedProduct(torch.autograd.Function):
    """K linear layers at once: [B, in] or [K, B, in], weights [K, out, in], biases [K, out] -> [K, B, out].

    torch's own derivative of a product with transposed stacks gives the weights' gradients transposed, and each
    would be copied into place: a fifth of a step's time at width 256. Here gradients of leaves are written where they
    stay, so that `backward()` gives them, `torch.autograd.grad` does not.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, scratch: _Scratch) -> Tensor:
        ctx.save_for_backward(values, weight, bias)
        ctx.scratch = scratch
        stack = values.expand(len(weight), *values.shape[-2:])
        out = scratch.take("out", values, len(weight), values.shape[-2], weight.shape[1])
        if bias is None:
            return torch.bmm(stack, weight.mT, out=out)
        return torch.baddbmm(bias.unsqueeze(1), stack, weight.mT, out=out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, bias = ctx.saved_tensors
        take = ctx.scratch.take
        stack = values.expand(len(weight), *values.shape[-2:])
        of_weight: Tensor | None = torch.bmm(gradient.mT, stack, out=take("weight", weight, *weight.shape))
        of_bias = None if bias is None else torch.sum(gradient, 1, out=take("bias", bias, *bias.shape))
        of_values = None
        if ctx.needs_input_grad[0]:
            of_values = torch.bmm(gradient, weight, out=take("values", values, *stack.shape))
            of_values = of_values if values.ndim == 3 else of_values.sum(0)
        if weight.is_leaf:
            weight.grad, of_weight = of_weight, None
        if bias is not None and bias.is_leaf:
            bias.grad, of_bias = of_bias, None
        return of_values, of_weight, of_bias, None


class _StackedLinear(nn.Module):
    """K linear layers: [B, in] or [K, B, in] -> [K, B, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.stack, self.shift, self._scratch = weight, bias, _Scratch()

    def forward(self, values: Tensor) -> Tensor:
        return _product(values, self.stack, self.shift, self._scratch)


def _product(values: Tensor, weight: Tensor, bias: Tensor | None, scratch: _Scratch) -> Tensor:
    scratch = scratch if torch.is_grad_enabled() else _Scratch()
    found: Tensor = _StackedProduct.apply(values, weight, bias, scratch)
    return found


class _InPlaceActivation(torch.autograd.Function):
    """One of `ACTIVATIONS`, written over the pre-activations."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, activation: nn.Module, scratch: _Scratch) -> Tensor:
        ctx.mark_dirty(activate_(activation, values))
        ctx.save_for_backward(values)
        ctx.activation, ctx.scratch = activation, scratch
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        out = ctx.scratch.take("values", values, *values.shape)
        return activation_gradient(ctx.activation, gradient, values, out), None, None


class _StackedActivation(nn.Module):
    """One of `ACTIVATIONS` of what a stack of layers has just written."""

    def __init__(self, plain: nn.Module):
        super().__init__()
        self._plain, self._scratch = copy.deepcopy(plain), _Scratch()
        if isinstance(self._plain, (nn.ReLU, nn.LeakyReLU)):
            self._plain.inplace = False

    def forward(self, values: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            plain: Tensor = self._plain.forward(values)
            return plain
        found: Tensor = _InPlaceActivation.apply(values, self._plain, self._scratch)
        return found


class _StackedParametrized(nn.Module):
    """K linear layers whose weights are a function of their parameters, such as W / sigma(W)."""

    def __init__(self, linear: nn.Linear, originals: Tensor, bias: Tensor | None):
        super().__init__()
        parametrizations = copy.deepcopy(linear.parametrizations["weight"])  # type: ignore[index]
        self.functions = nn.ModuleList(parametrizations)
        self.originals, self.shift, self._scratch = originals, bias, _Scratch()

    def forward(self, values: Tensor) -> Tensor:
        weight = self.originals
        for function in self.functions:
            weight = torch.func.vmap(function)(weight)
        return _product(values, weight, self.shift, self._scratch)


class _StackedNorm(nn.Module):
    """K LayerNorms or RMSNorms over the last dimension of [K, B, units]."""

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm, weight: Tensor | None, bias: Tensor | None):
        super().__init__()
        self.plain, self.stack, self.shift = copy.deepcopy(norm), weight, bias
        self.plain.register_parameter("weight", None)
        self.plain.register_parameter("bias", None)

    def forward(self, values: Tensor) -> Tensor:
        values = self.plain(values)
        if self.stack is not None:
            values = values * self.stack.unsqueeze(1)
        return values if self.shift is None else values + self.shift.unsqueeze(1)


def _stacked_network(network: nn.Module, stacked: Mapping[str, Tensor]) -> nn.Module | None:
    """`network` with its layers replaced by stacks of them, or None if it holds other layers than these."""
    model = copy.deepcopy(network)
    used = 0
    for path, module in network.named_modules():
        own = {name: stacked[f"{path}.{name}"] for name, _ in module.named_parameters(recurse=_is_parametrized(module))}
        if "parametrizations" in path or not (own or type(module) in ACTIVATIONS):
            continue
        weight, bias = own.get("weight"), own.get("bias")
        if type(module) in ACTIVATIONS:
            made: nn.Module = _StackedActivation(module)
        elif type(module) is nn.Linear and weight is not None:
            made = _StackedLinear(weight, bias)
        elif isinstance(module, nn.Linear) and _is_parametrized(module) and own.keys() <= _OF_PARAMETRIZED:
            made = _StackedParametrized(module, own["parametrizations.weight.original"], bias)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
            made = _StackedNorm(module, weight, bias)
        else:
            return None
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, made)
        used += len(own)
    return model if used == len(stacked) else None


_OF_PARAMETRIZED = {"parametrizations.weight.original", "bias"}


def _is_parametrized(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight")


def _vmapped(network: nn.Module) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    buffers = dict(network.named_buffers())

    def of_copy(parameters: Mapping[str, Tensor], batch: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(network, {**parameters, **buffers}, (batch,))
        return result

    vmapped: Callable[[Mapping[str, Tensor], Tensor], Tensor] = torch.func.vmap(of_copy, in_dims=(0, None))
    return vmapped


def _checked_stack(network: nn.Module, stacked: Mapping[str, Tensor], example: Tensor) -> nn.Module | None:
    """`_stacked_network` if it gives what vmap gives on `example`, and uses each layer once.

    A forward pass may count dimensions, or read what a rectifier has written over; a layer that is used twice would
    write over what it still needs.
    """
    model = _stacked_network(network, stacked) if example.ndim == 2 else None
    if model is None:
        return None
    layers = [module for module in model.modules() if isinstance(module, _STACKED)]
    calls: list[nn.Module] = []
    handles = [layer.register_forward_pre_hook(lambda module, _: calls.append(module)) for layer in layers]
    try:
        with torch.no_grad():
            wanted = _vmapped(network)(stacked, example)
        with torch.enable_grad():
            found = model(example)
    except RuntimeError:
        return None
    finally:
        for handle in handles:
            handle.remove()
    alike = found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    return model if alike and len(calls) == len(set(calls)) else None


_STACKED = (_StackedLinear, _StackedActivation, _StackedParametrized, _StackedNorm)


def batched_forward(
    network: nn.Module, stacked: Mapping[str, Tensor], example: Float[Tensor, "samples ..."]
) -> Callable[[Tensor], Tensor]:
    """The forward pass of K copies of a network at once.

    Args:
        network: In evaluation mode.
        stacked: [K, *shape] for each of its parameters.
        example: [N, ...], a few inputs, on which stacked layers are compared with vmap before they are used.

    Returns:
        From [B, ...] to [K, B, outputs]; a module if the network's layers could be stacked.
    """
    model = _checked_stack(network, stacked, example)
    if model is not None:
        return model
    vmapped = _vmapped(network)
    return lambda batch: vmapped(stacked, batch)


def copies_of(
    network: nn.Module, count: int, example: Float[Tensor, "samples ..."]
) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    """Parameters of `count` copies of a network, ready to be trained, and their forward pass.

    Args:
        network: In evaluation mode; left as it is.
        count: K. One copy is a plain network.
        example: [N, ...], a few inputs.

    Returns:
        Leaves in the order of `network.parameters()`, [K, *shape] (of the parameter's own shape for one copy), and
        the forward pass from [B, ...] to [K, B, outputs].
    """
    if count == 1:
        single = copy.deepcopy(network).requires_grad_(True)
        return list(single.parameters()), lambda batch: single(batch).unsqueeze(0)
    stacked = {
        name: p.detach().expand(count, *p.shape).clone().requires_grad_(True) for name, p in network.named_parameters()
    }
    return list(stacked.values()), batched_forward(network, stacked, example)


STACK_BYTES, VMAP_BYTES = 32e6, 16e6
"""Working set of a stack on a CPU, above which it is split; see `copies_at_once`."""


def copies_at_once(network: nn.Module, count: int, example: Float[Tensor, "samples ..."], batch_size: int) -> int:
    """How many of `count` copies to train as one batched network; the others follow in stacks of about that size.

    On a GPU all. On a CPU as many as keep the working set of a step within `STACK_BYTES` (`VMAP_BYTES` where the
    network goes through vmap, or has parametrised weights), in stacks of nearly one size. A copy's working set are
    weights, gradients and two moments, and on `batch_size` inputs the outputs of all modules with their gradients,
    4 bytes each.

    The bounds are measured, on one core of a Xeon with 2 MB of L2 cache. Networks of 2 x 256 hidden units and batch 128
    (2.6 MB a copy) learn ten at a time at 5.9 to 6.2 times the cost of one; at batch 512 (5.8 MB) two stacks of five
    cost 9.4. Of 2 x 512 hidden units at batch 128 (7.2 MB), three stacks cost 9.1 and one of ten 10.3; of 2 x 1024
    (22 MB), ten in turn cost 9.6 to 10 and one stack 13.

    Args:
        network: In evaluation mode.
        count: K.
        example: [N, ...], a few inputs.
        batch_size: Inputs of a step.

    Returns:
        In 1 .. K.
    """
    if example.device.type != "cpu":
        return count
    numbers = 4 * sum(p.numel() for p in network.parameters()) + 2 * batch_size * _outputs_an_input(network, example)
    two = {name: p.detach().expand(2, *p.shape) for name, p in network.named_parameters()}
    stack = _checked_stack(network, two, example)
    plain = stack is not None and not any(isinstance(module, _StackedParametrized) for module in stack.modules())
    fit = (STACK_BYTES if plain else VMAP_BYTES) // (4 * numbers)
    stacks = math.ceil(count / max(1, fit))
    return math.ceil(count / stacks)


@torch.no_grad()
def _outputs_an_input(network: nn.Module, example: Tensor) -> int:
    """How many numbers the modules that do the work (not those that hold others) put out for one input."""
    sizes: list[int] = []

    def count(_module: nn.Module, _args: Any, output: Any) -> None:
        sizes.append(output.numel() if isinstance(output, Tensor) else 0)

    working = [
        module
        for path, module in network.named_modules()
        if "parametrizations" not in path and (isinstance(module, nn.Linear) or next(module.children(), None) is None)
    ]
    handles = [module.register_forward_hook(count) for module in working]
    try:
        network(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes)
