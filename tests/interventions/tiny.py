"""A network of two inputs, two hidden ReLU units and two outputs, with weights set by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lop_ray.interventions import GradientStep, Intervention, Training
from lop_ray.networks import MLP, NetworkOptions, hidden_layers

INCOMING = [[1.0, 0.0], [0.0, 2.0]]
OUTGOING = [[3.0, -1.0], [1.0, 0.0]]
INPUTS = torch.tensor([[1.0, 1.0], [3.0, -1.0]])
ACTIVATIONS = torch.tensor([[1.0, 2.0], [3.0, 0.0]])  # relu(INPUTS @ INCOMING.T)


def network(**options: Any) -> MLP:
    net = MLP(2, 2, NetworkOptions(hidden=(2,), **options), seed=0)
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor(INCOMING))
        net.head.weight.copy_(torch.tensor(OUTGOING))
    return net


def attached(
    intervention: Intervention, net: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, seed: int = 0
) -> Training:
    optimizer = optimizer or torch.optim.Adam(net.parameters(), lr=0.1)
    training = Training({"net": net}, optimizer, torch.Generator().manual_seed(seed))
    intervention.attach(training)
    return training


def step(count: int = 1, *activations: Tensor, inputs: Tensor = INPUTS) -> GradientStep:
    return GradientStep(count, {"net": list(activations or (ACTIVATIONS,))}, inputs)


def adam_with_moments(net: torch.nn.Module) -> torch.optim.Adam:
    """Adam after 7 steps, all of its first moments 2 and second moments 3."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0)
    sum(p.sum() for p in net.parameters()).backward()
    optimizer.step()
    for state in optimizer.state.values():
        state["exp_avg"].fill_(2.0)
        state["exp_avg_sq"].fill_(3.0)
        state["step"].fill_(7.0)
    return optimizer


def zero_moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor:
    """Where both moments are 0; elsewhere both are as `adam_with_moments` made them."""
    state = optimizer.state[parameter]
    zero = state["exp_avg"] == 0
    assert torch.equal(zero, state["exp_avg_sq"] == 0)
    assert (state["exp_avg"][~zero] == 2).all()
    assert (state["exp_avg_sq"][~zero] == 3).all()
    return zero


def rows_changed(net: torch.nn.Module, before: dict[str, Tensor], layer: int = 0) -> list[int]:
    """Units of a hidden layer with new incoming weights."""
    incoming = hidden_layers(net)[layer].incoming
    name = next(n for n, p in net.named_parameters() if p is incoming.weight)
    return (incoming.weight != before[name]).flatten(1).any(dim=1).nonzero().flatten().tolist()


def snapshot(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


class Watcher(Intervention):
    """Keeps the activations that it is shown after a gradient step."""

    wants_activations = True

    def after_gradient_step(self, step: GradientStep) -> None:
        self.seen = step.activations
