"""UPGD against its formulas, by hand and by loops; its noise, groups, state and restart."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lop_ray.optimizers import UPGD

WEIGHT = [[1.0, -2.0], [3.0, 0.5]]
BIAS = [0.5, -1.0]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (WEIGHT, BIAS)]


def gradients(step: int) -> list[np.ndarray]:
    generator = np.random.default_rng(step)
    return [generator.normal(size=(2, 2)), generator.normal(size=2)]


def take(optimizer: UPGD, given: list[torch.nn.Parameter], values: list[Any]) -> None:
    for parameter, value in zip(given, values, strict=True):
        parameter.grad = torch.tensor(np.array(value), dtype=parameter.dtype)
    optimizer.step()


def test_one_step_by_hand() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 4.0]))
    p.grad = torch.tensor([-0.5, 0.5, 0.25])
    UPGD([p], lr=0.1, noise=0.0, weight_decay=0.5).step()
    # -g theta = 0.5, 1, -1; bias-corrected the same; over the maximum 1
    gate = [1 - sigmoid(0.5), 1 - sigmoid(1.0), 1 - sigmoid(-1.0)]
    expected = [
        0.95 * 1.0 + 0.2 * gate[0] * 0.5,
        0.95 * -2.0 - 0.2 * gate[1] * 0.5,
        0.95 * 4.0 - 0.2 * gate[2] * 0.25,
    ]
    torch.testing.assert_close(p.detach(), torch.tensor(expected, dtype=torch.float32))


def looped(steps: int, noise: list[list[np.ndarray]], **changes: Any) -> list[np.ndarray]:
    """Algorithm 1 for single numbers, with the options one by one."""
    o = {
        "lr": 0.05, "betas": None, "eps": 1e-5, "weight_decay": 0.0, "decoupled": True, "utility_decay": 0.9,
        "noise": 0.1, "step_scale": 2.0, "utility": "global", "maximum": "corrected", "protect": True, **changes,
    }  # fmt: skip
    theta = [np.array(WEIGHT), np.array(BIAS)]
    u, m, v = ([np.zeros_like(each) for each in theta] for _ in range(3))
    for t in range(1, steps + 1):
        g = gradients(t)
        if not o["decoupled"]:
            g = [g[i] + o["weight_decay"] * theta[i] for i in range(2)]
        u = [o["utility_decay"] * u[i] + (1 - o["utility_decay"]) * -g[i] * theta[i] for i in range(2)]
        corrected = [each / (1 - o["utility_decay"] ** t) for each in u]
        largest = max(each.max() for each in (corrected if o["maximum"] == "corrected" else u))
        for i in range(2):
            if o["utility"] == "global":
                scaled = corrected[i] / largest
            else:
                scaled = corrected[i] / np.sqrt((corrected[i] ** 2).sum(-1, keepdims=True))
            gate, d = 1 - sigmoid(scaled), g[i]
            if o["betas"]:
                first, second = o["betas"]
                m[i] = first * m[i] + (1 - first) * g[i]
                v[i] = second * v[i] + (1 - second) * g[i] ** 2
                d = m[i] / (1 - first**t) / (np.sqrt(v[i] / (1 - second**t)) + o["eps"])
            xi = o["noise"] * noise[t - 1][i]
            change = gate * (d + xi) if o["protect"] else d + gate * xi
            if o["decoupled"]:
                theta[i] = theta[i] * (1 - o["lr"] * o["weight_decay"])
            theta[i] = theta[i] - o["step_scale"] * o["lr"] * change
    return theta


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"betas": (0.9, 0.99)},
        {"utility": "local"},
        {"maximum": "uncorrected", "betas": (0.5, 0.9)},
        {"protect": False},
        {"weight_decay": 0.3},
        {"weight_decay": 0.3, "decoupled": False},
        {"step_scale": 1.0, "utility_decay": 0.0, "eps": 0.1, "betas": (0.9, 0.9)},
    ],
)
def test_several_steps_are_the_algorithms(changes: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(5)
    draws = [torch.randn(6, generator=generator) for _ in range(4)]
    noise = [[draw[:4].view(2, 2).double().numpy(), draw[4:].double().numpy()] for draw in draws]
    given = parameters()
    options = {"utility_decay": 0.9, "noise": 0.1, **changes}
    optimizer = UPGD(given, lr=0.05, generator=torch.Generator().manual_seed(5), **options)
    for step in range(1, 5):
        take(optimizer, given, gradients(step))
    for parameter, value in zip(given, looped(4, noise, **changes), strict=True):
        torch.testing.assert_close(parameter.detach(), torch.from_numpy(value), rtol=1e-6, atol=1e-7)


def test_the_public_codes_maximum_saturates_the_first_gates() -> None:
    changed = []
    for maximum in ("corrected", "uncorrected"):
        p = torch.nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
        p.grad = torch.tensor([-1.0, -0.5], dtype=torch.float64)
        UPGD([p], lr=0.1, noise=0.0, utility_decay=0.9, maximum=maximum).step()
        changed.append((p.detach() - 1) / 0.2 / torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(changed[0], torch.tensor([1 - sigmoid(1.0), 1 - sigmoid(0.5)]))
    torch.testing.assert_close(changed[1], torch.tensor([1 - sigmoid(10.0), 1 - sigmoid(5.0)]))


def test_a_group_with_a_constant_gate_still_takes_part_in_the_maximum() -> None:
    gated, other, still = (torch.nn.Parameter(torch.tensor([value])) for value in (1.0, 4.0, 3.0))
    groups = [{"params": [gated]}, {"params": [other], "gate": 0.5}, {"params": [still], "gate": 0.0}]
    optimizer = UPGD(groups, lr=0.1, noise=0.0, weight_decay=0.5)
    for p in (gated, other, still):
        p.grad = torch.tensor([-1.0])
    optimizer.step()
    assert gated.item() == pytest.approx(0.95 * 1 + 0.2 * (1 - sigmoid(1 / 4)))
    assert other.item() == pytest.approx(0.95 * 4 + 0.2 * 0.5)
    assert still.item() == 3.0


def test_without_any_utility_all_gates_are_one_half() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([1.0, -2.0])
    UPGD([p], lr=0.1, noise=0.0).step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.1, 0.2]))


def test_noise_is_gaussian_gated_and_from_its_own_generator() -> None:
    state = torch.get_rng_state()
    p = torch.nn.Parameter(torch.zeros(20000))
    p.grad = torch.zeros(20000)
    UPGD([p], lr=1.0, noise=0.3, step_scale=1.0, generator=torch.Generator().manual_seed(0)).step()
    assert torch.equal(state, torch.get_rng_state())
    assert abs(p.mean().item()) < 0.005
    assert p.std().item() == pytest.approx(0.15, rel=0.02)


def test_parameters_without_a_gradient_stay_as_they_are() -> None:
    moved, still = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    moved.grad = torch.ones(2)
    optimizer = UPGD([moved, still], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert still.tolist() == [1.0, 1.0]
    assert still not in optimizer.state
    UPGD([still], lr=0.1).step()


@pytest.mark.parametrize("betas", [None, (0.9, 0.99)])
def test_a_restart_goes_on_bit_for_bit(betas: tuple[float, float] | None) -> None:
    def make(given: list[torch.nn.Parameter]) -> UPGD:
        groups = [{"params": given[:1]}, {"params": given[1:], "gate": 0.5}]
        return UPGD(groups, lr=0.05, betas=betas, generator=torch.Generator().manual_seed(1))

    straight = parameters()
    optimizer = make(straight)
    for step in range(3):
        take(optimizer, straight, gradients(step))
    saved, weights = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in straight]
    for step in range(3, 6):
        take(optimizer, straight, gradients(step))

    resumed = [torch.nn.Parameter(value) for value in weights]
    again = make(resumed)
    again.load_state_dict(saved)
    for step in range(3, 6):
        take(again, resumed, gradients(step))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_a_closure_is_called_with_gradients_on() -> None:
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = UPGD([p], lr=0.1, noise=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == pytest.approx(2.0 - 0.2 * (1 - sigmoid(-8.0 / -8.0)) * 4.0)


def test_a_weight_of_no_utility_steps_as_far_as_gradient_descent() -> None:
    assert 2.0 * (1 - 1 / (1 + math.exp(0))) == 1.0
    p, far = torch.nn.Parameter(torch.tensor([0.0])), torch.nn.Parameter(torch.tensor([5.0]))
    p.grad, far.grad = torch.tensor([3.0]), torch.tensor([-1.0])
    UPGD([p, far], lr=0.1, noise=0.0).step()
    assert p.item() == pytest.approx(-0.3)
