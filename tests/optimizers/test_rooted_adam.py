"""Adam with an epsilon under the root: against torch's, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lop_ray.algorithms.optimizer import make_optimizer
from lop_ray.algorithms.spec import OptimizerOptions
from lop_ray.diagnostics.batched import is_elementwise, stacked_optimizer
from lop_ray.interventions.optimizer_state import zero_step
from lop_ray.optimizers import RootedAdam


def gradients(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [False, True])
def test_without_the_root_s_epsilon_it_is_torch_s(weight_decay: float, decoupled: bool) -> None:
    ours, theirs = (nn.Parameter(torch.ones(3, 2, dtype=torch.float64)) for _ in range(2))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    settings = {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": weight_decay}
    pair = [
        (ours, RootedAdam([ours], 0.1, decoupled=decoupled, **settings)),
        (theirs, kind([theirs], lr=0.1, **settings)),
    ]
    for gradient in gradients(12):
        for parameter, optimizer in pair:
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_two_steps_by_hand() -> None:
    lr, beta1, beta2, eps, eps_root = 0.1, 0.9, 0.6, 0.01, 0.5
    theta, m, v = 1.0, 0.0, 0.0
    parameter = nn.Parameter(torch.tensor([theta], dtype=torch.float64))
    optimizer = RootedAdam([parameter], lr, betas=(beta1, beta2), eps=eps, eps_root=eps_root)
    for t, g in enumerate((2.0, -3.0), start=1):
        parameter.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        theta -= lr * m / (1 - beta1**t) / (math.sqrt(v / (1 - beta2**t) + eps_root) + eps)
        assert parameter.item() == pytest.approx(theta, rel=1e-13)


def test_tiny_gradients_make_tiny_steps() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = RootedAdam([parameter], 1e-3, eps=1e-9, eps_root=1e-3)
    parameter.grad = torch.tensor([1e-6])
    optimizer.step()
    assert abs(parameter.item()) == pytest.approx(1e-3 * 1e-6 / math.sqrt(1e-3), rel=1e-4)  # torch's: 1e-3


def test_options_choose_it() -> None:
    def made(**options: object) -> torch.optim.Optimizer:
        return make_optimizer([nn.Parameter(torch.zeros(2))], OptimizerOptions(**options), 0.01)

    assert type(made()) is torch.optim.Adam
    optimizer = made(eps_root=1e-3, betas=(0.9, 0.9))
    assert isinstance(optimizer, RootedAdam)
    assert optimizer.param_groups[0]["eps_root"] == 1e-3
    assert "eps_root" not in OptimizerOptions().model_dump()
    with pytest.raises(ValueError, match="eps_root belongs to name: adam, not to sgd"):
        OptimizerOptions(name="sgd", eps_root=1e-3)


def test_copies_of_a_stack_move_like_single_ones() -> None:
    source = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer = RootedAdam([source], 0.1, eps_root=0.2)
    first, *others = gradients(3)
    source.grad = first
    optimizer.step()
    assert is_elementwise(optimizer)
    leaf = nn.Parameter(source.detach().repeat(2, 1, 1))
    stacked = stacked_optimizer(optimizer, [source], [leaf])
    leaf.grad = torch.stack(others)
    stacked.step()
    for copy, gradient in zip(leaf, others, strict=True):
        single = nn.Parameter(source.detach().clone())
        alone = stacked_optimizer(optimizer, [source], [single])
        single.grad = gradient
        alone.step()
        torch.testing.assert_close(copy, single, rtol=1e-14, atol=0)


def test_counts_of_steps_can_start_anew() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = RootedAdam([parameter], 0.1, betas=(0.0, 0.9), eps_root=0.0, eps=0.0)
    for _ in range(2):
        parameter.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert parameter.item() == pytest.approx(-0.2)
    zero_step(optimizer, parameter)
    optimizer.step()  # v = 0.271 is divided by 0.1 again
    assert parameter.item() == pytest.approx(-0.2 - 0.1 / math.sqrt(2.71))
