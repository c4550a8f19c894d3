"""The optimiser of a trial, from its options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from lop_ray.algorithms.spec import OptimizerOptions, UPGDOptions
from lop_ray.interventions.layers import output_layers
from lop_ray.optimizers import UPGD, RootedAdam
from lop_ray.seeding import torch_generator


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    options: OptimizerOptions,
    lr: float,
    *,
    networks: Iterable[nn.Module] = (),
    seed: int = 0,
) -> torch.optim.Optimizer:
    """The optimiser that `options` ask for, over all `parameters`.

    Like the reference, weight decay acts on every parameter, biases and log standard deviation included.
    Adam, and SGD without momentum, have the fused kernel: the same formula in one pass.

    Args:
        parameters: What to train.
        options: Name and settings.
        lr: Learning rate.
        networks: Those of the parameters that belong to networks with a view of hidden layers; only for optimisers
            that tell hidden from output layers.
        seed: The trial's, for an optimiser's noise.

    Returns:
        The optimiser.

    Raises:
        ValueError: Layers are to be told apart, and no network is given.
    """
    if options.name == "sgd":
        momentum = options.momentum or 0.0
        # The fused kernel fails where only some parameters have a momentum, as those that an intervention has added.
        fused = momentum == 0
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=options.weight_decay, fused=fused)
    if options.upgd is not None:
        return UPGD(
            _gated_groups(list(parameters), options.upgd, list(networks)),
            lr,
            betas=options.betas if options.name == "ada_upgd" else None,
            eps=options.eps,
            weight_decay=options.weight_decay,
            decoupled=options.decoupled,
            generator=torch_generator(seed, "optimizer", "noise"),
            **options.upgd.model_dump(exclude={"layers", "ungated"}),
        )
    if options.eps_root is not None:
        return RootedAdam(
            parameters,
            lr,
            betas=options.betas,
            eps=options.eps,
            eps_root=options.eps_root,
            weight_decay=options.weight_decay,
            decoupled=options.decoupled,
        )
    kind = torch.optim.AdamW if options.decoupled else torch.optim.Adam
    return kind(parameters, lr=lr, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=True)


def _gated_groups(
    parameters: list[nn.Parameter], options: UPGDOptions, networks: Sequence[nn.Module]
) -> list[dict[str, Any]]:
    if options.layers == "all":
        return [{"params": parameters}]
    if not networks:
        raise ValueError(f"optimizer.upgd.layers: {options.layers} needs the networks to tell their layers apart")
    output = {
        id(parameter) for network in networks for head in output_layers(network) for parameter in head.parameters()
    }
    everything = {id(parameter) for network in networks for parameter in network.parameters()}
    gated = output if options.layers == "output" else everything - output
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if id(p) in gated], "gate": None},
        {"params": [p for p in parameters if id(p) not in gated], "gate": options.ungated},
    ]
    return [group for group in groups if group["params"]]
