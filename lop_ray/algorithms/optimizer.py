"""The optimiser of a trial, from its options."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lop_ray.algorithms.spec import OptimizerOptions


def make_optimizer(parameters: Iterable[nn.Parameter], options: OptimizerOptions, lr: float) -> torch.optim.Optimizer:
    """Adam with coupled, or AdamW with decoupled weight decay, over all `parameters`.

    Like the reference, weight decay acts on every parameter, biases and log standard deviation included.
    The fused kernel is used: the same formula in one pass.
    """
    kind = torch.optim.AdamW if options.decoupled else torch.optim.Adam
    return kind(parameters, lr=lr, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=True)
