"""L2 in Adam and decoupled weight decay are different methods: torch's two optimisers by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

LR, DECAY, BETAS, EPS = 0.1, 0.5, (0.5, 0.75), 1.0


def _two_steps(optimizer_class: type[torch.optim.Optimizer]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """A parameter at 2 with gradients 1, then 0."""
    theta = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = optimizer_class([theta], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    seen = []
    for gradient in (1.0, 0.0):
        theta.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        seen.append(theta.item())
    return seen, optimizer.state[theta]


def test_coupled_decay_is_part_of_the_gradient_and_of_the_moments() -> None:
    # g = 1 + 0.5 * 2 = 2: m^ = 2, v^ = 4, theta = 2 - 0.1 * 2 / (2 + 1) = 29/15.
    # g = 0 + 0.5 * 29/15 = 29/30: m = (1 + 29/30) / 2 = 59/60, m^ = m / (3/4) = 59/45;
    # v = 0.75 * 1 + 0.25 * (29/30)^2, v^ = v / (7/16).
    seen, state = _two_steps(torch.optim.Adam)
    m = 0.5 * 1.0 + 0.5 * 29 / 30
    v = 0.75 * 1.0 + 0.25 * (29 / 30) ** 2
    assert state["exp_avg"].item() == pytest.approx(59 / 60, rel=1e-12)
    assert state["exp_avg_sq"].item() == pytest.approx(v, rel=1e-12)
    assert seen == pytest.approx([29 / 15, 29 / 15 - 0.1 * (m / 0.75) / ((v / (7 / 16)) ** 0.5 + 1)], rel=1e-12)


def test_decoupled_decay_shrinks_the_weight_and_leaves_the_moments() -> None:
    # theta <- 2 * (1 - 0.1 * 0.5) = 1.9, then g = 1: m^ = v^ = 1, theta = 1.9 - 0.1 * 1 / (1 + 1) = 1.85.
    # theta <- 1.85 * 0.95, then g = 0: m = 1/4, m^ = 1/3; v = 3/16, v^ = 3/7.
    seen, state = _two_steps(torch.optim.AdamW)
    assert state["exp_avg"].item() == pytest.approx(1 / 4, rel=1e-12)
    assert state["exp_avg_sq"].item() == pytest.approx(3 / 16, rel=1e-12)
    assert seen == pytest.approx([1.85, 1.85 * 0.95 - 0.1 * (1 / 3) / ((3 / 7) ** 0.5 + 1)], rel=1e-12)


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW])
def test_decay_reaches_every_parameter_even_without_a_gradient(optimizer_class: type[torch.optim.Optimizer]) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer_class(network.parameters(), lr=LR, weight_decay=DECAY).step()
    assert all((parameter < 1).all() for parameter in network.parameters())
