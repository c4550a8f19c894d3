"""Several copies of one network as one batched network.

Parameters are stacked [K, ...], and one optimiser steps all of them. Fully connected networks multiply stacks of
matrices; others go through torch.func.vmap. On a CPU that saves the cost of many small calls; where one copy's
products already fill the core, stacks only leave its caches, and copies had better train in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def stacked_optimizer(
    optimizer: torch.optim.Optimizer, sources: Sequence[Tensor], stacked: Sequence[Tensor]
) -> torch.optim.Optimizer:
    """A copy of `optimizer`, with its state, for stacks of its parameters.

    Args:
        optimizer: Elementwise in each parameter: SGD, Adam, AdamW, RMSprop, Adagrad and their like.
        sources: Parameters that `optimizer` trains.
        stacked: For each of them a leaf [K, *shape].

    Returns:
        An optimiser of the same class and settings; moments are repeated K times, step counts copied.

    Raises:
        ValueError: A source is not trained by `optimizer`.
    """
    settings_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    missing = sum(id(source) not in settings_of for source in sources)
    if missing:
        raise ValueError(
            f"{missing} of {len(sources)} parameters are not trained by the given optimiser: give the right one"
        )
    groups = [
        {**{key: value for key, value in settings_of[id(source)].items() if key != "params"}, "params": [leaf]}
        for source, leaf in zip(sources, stacked, strict=True)
    ]
    made: torch.optim.Optimizer = type(optimizer)(groups, lr=optimizer.defaults["lr"])  # type: ignore[call-arg]
    for source, leaf in zip(sources, stacked, strict=True):
        if source in optimizer.state:
            made.state[leaf] = {
                key: _stack_state(value, source, leaf) for key, value in optimizer.state[source].items()
            }
    return made


def _stack_state(value: Any, source: Tensor, leaf: Tensor) -> Any:
    if isinstance(value, Tensor) and value.shape == source.shape and value.ndim:
        return value.detach().expand_as(leaf).clone()
    return copy.deepcopy(value)


class _StackedLinear(nn.Module):
    """K linear layers: [B, in] or [K, B, in] -> [K, B, out]."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.stack, self.shift = weight, bias

    def forward(self, values: Tensor) -> Tensor:
        values = values.expand(len(self.stack), *values.shape[-2:])
        if self.shift is None:
            return torch.bmm(values, self.stack.mT)
        return torch.baddbmm(self.shift.unsqueeze(1), values, self.stack.mT)


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


def _stacked_network(network: nn.Module, stacked: dict[str, Tensor]) -> nn.Module | None:
    """`network` with its layers replaced by stacks of them, or None if it holds other layers than these."""
    model = copy.deepcopy(network)
    used = 0
    for path, module in network.named_modules():
        own = {name: stacked[f"{path}.{name}"] for name, _ in module.named_parameters(recurse=False) if path}
        if not own:
            continue
        weight, bias = own.get("weight"), own.get("bias")
        if type(module) is nn.Linear and weight is not None:
            made: nn.Module = _StackedLinear(weight, bias)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
            made = _StackedNorm(module, weight, bias)
        else:
            return None
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, made)
        used += len(own)
    return model if used == len(stacked) else None


def batched_forward(network: nn.Module, stacked: dict[str, Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """The forward pass of K copies of a network at once.

    Args:
        network: In evaluation mode.
        stacked: [K, *shape] for each of its parameters.
        example: [N, ...], a few inputs, on which the stacked layers are compared with vmap before they are used.

    Returns:
        From [B, ...] to [K, B, outputs].
    """
    buffers = dict(network.named_buffers())

    def of_copy(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(network, (parameters, buffers), (batch,))
        return result

    if len(next(iter(stacked.values()))) == 1:
        return lambda batch: of_copy({name: p.squeeze(0) for name, p in stacked.items()}, batch).unsqueeze(0)
    vmapped = torch.func.vmap(of_copy, in_dims=(0, None))
    model = _stacked_network(network, stacked) if example.ndim == 2 else None
    if model is not None:
        try:
            with torch.no_grad():
                wanted, found = vmapped(stacked, example), model(example)
            if found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5):
                return model
        except RuntimeError:  # its forward pass counts dimensions
            pass
    return lambda batch: vmapped(stacked, batch)


def copies_at_once(parameters: int, batch_size: int, device: torch.device) -> int | None:
    """How many copies to train as one network: all (None), or one where a step is large work for a CPU core.

    Measured on one core with 2 x width hidden units: stacks win up to about 3e7 products of a parameter and a
    sample a step (width 256 at batch 128 has 1.2e7); beyond, their working set leaves the caches and ten in a
    stack take longer than ten in turn.
    """
    return 1 if device.type == "cpu" and parameters * batch_size > 3e7 else None
