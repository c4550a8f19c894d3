"""Adam-Rel: Adam's step sizes with a count that starts anew, and what else it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from lop_ray.interventions import AdamRel
from tests.interventions import tiny


def _run(
    adam_rel: AdamRel | None, gradients: list[list[float]], betas: tuple[float, float] = (0.5, 0.75)
) -> tuple[list[float], torch.optim.Optimizer]:
    """A weight that starts at 0 and sees these gradients, update by update; where it is after each step."""
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, betas=betas, eps=1e-12, fused=True)
    if adam_rel is not None:
        tiny.attached(adam_rel, net, optimizer)
    seen, count = [], 0
    for update in gradients:
        for gradient in update:
            net.weight.grad = torch.tensor([[gradient]])
            optimizer.step()
            count += 1
            seen.append(net.weight.item())
        if adam_rel is not None:
            adam_rel.after_update(tiny.step(count))
    return seen, optimizer


def test_the_count_starts_anew_and_the_moments_stay() -> None:
    seen, optimizer = _run(AdamRel(), [[1.0], [8.0]])
    # First update: m = 0.5, v = 0.25, both corrected to 1: a step of lr.
    assert seen[0] == pytest.approx(-0.1)
    # Second: m = 0.25 + 4, v = 0.1875 + 16, corrected with t = 1 by 1/2 and 1/4.
    m, v = (0.25 + 4) / 0.5, (0.1875 + 16) / 0.25
    assert seen[1] == pytest.approx(-0.1 - 0.1 * m / math.sqrt(v))
    plain = _run(None, [[1.0], [8.0]])[0]  # corrects with t = 2
    assert plain[1] == pytest.approx(-0.1 - 0.1 * ((0.25 + 4) / 0.75) / math.sqrt((0.1875 + 16) / 0.4375))
    state = next(iter(optimizer.state.values()))
    assert state["exp_avg"].item() == pytest.approx(4.25)
    assert state["exp_avg_sq"].item() == pytest.approx(16.1875)


def test_a_jump_of_the_gradient_moves_no_farther_than_the_learning_rate() -> None:
    calm, jump = [0.001, -0.001] * 500, [1000.0]
    adam = _run(None, [calm, jump], betas=(0.5, 0.99))[0]
    rel = _run(AdamRel(), [calm, jump], betas=(0.5, 0.99))[0]
    assert adam[-2] - adam[-1] == pytest.approx(0.1 * 0.5 / math.sqrt(0.01), rel=1e-3)  # 5 times as far
    assert rel[-2] - rel[-1] == pytest.approx(0.1, rel=1e-3)


def test_within_an_update_it_is_adam() -> None:
    gradients = [[1.0, -2.0, 0.5]]
    assert _run(AdamRel(), gradients)[0] == _run(None, gradients)[0]


def test_moments_may_start_anew_too() -> None:
    seen = _run(AdamRel(moments="reset"), [[1.0, 5.0], [8.0, 3.0]])[0]
    first, second = _run(None, [[1.0, 5.0]])[0], _run(None, [[8.0, 3.0]])[0]
    assert seen == pytest.approx([*first, *(first[-1] + each for each in second)], rel=1e-6)


def test_needs_adam() -> None:
    net = tiny.network()
    with pytest.raises(ValueError, match=r"adam_rel needs Adam's count of steps, which SGD does not have; use"):
        tiny.attached(AdamRel(), net, torch.optim.SGD(net.parameters(), lr=0.1))
