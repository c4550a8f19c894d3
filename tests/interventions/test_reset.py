"""Resets: what starts anew, what is kept, and when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lop_ray.interventions import Reset, SpectralNorm, Training, exact_spectral_norm
from lop_ray.networks import MLP, NetworkOptions
from tests.interventions import tiny

FIRST_LOG_STD = 0.25


def _attached(net: nn.Module, **options: Any) -> tuple[Reset, torch.optim.Adam, nn.Parameter]:
    """A reset after some training: weights and log_std have moved, Adam has taken 7 steps."""
    log_std = nn.Parameter(torch.tensor([FIRST_LOG_STD]))
    holder = nn.ModuleDict({"net": net})
    holder.register_parameter("log_std", log_std)
    optimizer = tiny.adam_with_moments(holder)
    reset = Reset(**options)
    reset.attach(Training({"net": net}, optimizer, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for parameter in holder.parameters():
            parameter.fill_(9.0)
    return reset, optimizer, log_std


def _forgotten(optimizer: torch.optim.Adam, net: nn.Module) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter not in optimizer.state}


def test_defaults_are_the_oracle() -> None:
    assert Reset().options.model_dump() == {
        "when": "task_change",
        "every": 1,
        "weights": "all",
        "optimizer": "changed",
        "others": "reset",
    }


def test_all_draws_every_weight_anew_and_forgets_all_moments() -> None:
    net = MLP(2, 2, NetworkOptions(hidden=(2,), normalisation="layernorm"), seed=0)
    reset, optimizer, log_std = _attached(net)
    reset.at_task_change(1)
    bound = (3 / 2) ** 0.5  # LeCun uniform, fan_in 2
    for weight in (net.body.linear_0.weight, net.head.weight):
        assert weight.abs().max() <= bound
        assert weight.unique().numel() == 4
    assert net.body.linear_0.bias.tolist() == net.head.bias.tolist() == [0.0, 0.0]
    assert net.body.norm_0.weight.tolist() == [1.0, 1.0]
    assert net.body.norm_0.bias.tolist() == [0.0, 0.0]
    assert log_std.item() == FIRST_LOG_STD
    assert not optimizer.state


def test_others_may_be_kept() -> None:
    reset, optimizer, log_std = _attached(tiny.network(), others="keep")
    reset.at_task_change(1)
    assert log_std.item() == 9.0
    assert list(optimizer.state) == [log_std]


def test_last_leaves_the_hidden_layers() -> None:
    net = tiny.network()
    reset, optimizer, log_std = _attached(net, weights="last")
    reset.at_task_change(1)
    assert (net.body.linear_0.weight == 9).all()
    assert (net.body.linear_0.bias == 9).all()
    assert net.head.weight.abs().max() <= (3 / 2) ** 0.5
    assert net.head.bias.tolist() == [0.0, 0.0]
    assert log_std.item() == 9.0
    assert _forgotten(optimizer, net) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("optimizer", "forgotten"),
    [("keep", 0), ("changed", 2), ("all", 4)],
)
def test_whose_moments_are_forgotten(optimizer: str, forgotten: int) -> None:
    net = tiny.network()
    reset, adam, _ = _attached(net, weights="last", optimizer=optimizer)
    reset.at_task_change(1)
    assert len(_forgotten(adam, net)) == forgotten


def test_the_optimiser_alone() -> None:
    net = tiny.network()
    reset, optimizer, _ = _attached(net, weights="none", optimizer="all")
    reset.at_task_change(1)
    assert all((parameter == 9).all() for parameter in net.parameters())
    assert not optimizer.state


def test_a_forgetful_adam_steps_like_a_new_one() -> None:
    old, new = tiny.network(), tiny.network()
    optimizer = torch.optim.Adam(old.parameters(), lr=0.1, betas=(0.9, 0.99))
    reset = Reset(weights="none", optimizer="all")
    tiny.attached(reset, old, optimizer)
    for _ in range(3):
        old(tiny.INPUTS).square().sum().backward()
        optimizer.step()
    reset.at_task_change(1)
    new.load_state_dict(old.state_dict())
    for net, adam in ((old, optimizer), (new, torch.optim.Adam(new.parameters(), lr=0.1, betas=(0.9, 0.99)))):
        for _ in range(2):
            adam.zero_grad()
            net(tiny.INPUTS).square().sum().backward()
            adam.step()
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


def test_every_reset_draws_other_weights() -> None:
    net = tiny.network()
    reset, _, _ = _attached(net)
    seen = []
    for task in (1, 2):
        reset.at_task_change(task)
        seen.append(net.head.weight.detach().clone())
    assert not torch.equal(*seen)


WHEN = [("task_change", 1, "ab"), ("task_change", 2, "b"), ("update", 2, "d")]


@pytest.mark.parametrize(("when", "every", "acts"), WHEN)
def test_when(when: str, every: int, acts: str) -> None:
    net = tiny.network()
    reset, _, _ = _attached(net, when=when, every=every)
    moments = {
        "a": lambda: reset.at_task_change(1),
        "b": lambda: reset.at_task_change(2),
        "c": lambda: reset.after_update(tiny.step()),
        "d": lambda: reset.after_update(tiny.step()),
        "e": lambda: reset.after_gradient_step(tiny.step()),
    }
    happened = ""
    for name, moment in moments.items():
        before = net.head.weight.detach().clone()
        moment()
        happened += name if not torch.equal(before, net.head.weight) else ""
    assert happened == acts


def test_first_values_survive_a_restart_with_other_values() -> None:
    saved, _, _ = _attached(tiny.network())
    log_std = nn.Parameter(torch.tensor([-3.0]))  # as it would be after weights were restored
    net = tiny.network()
    resumed = Reset()
    resumed.attach(Training({"net": net}, torch.optim.Adam([*net.parameters(), log_std]), torch.Generator()))
    resumed.load_state_dict(saved.state_dict())
    resumed.at_task_change(1)
    assert log_std.item() == FIRST_LOG_STD


def test_a_spectral_norm_holds_right_after_a_reset() -> None:
    net = MLP(30, 2, NetworkOptions(hidden=(40, 40)), seed=0)
    norm, reset = SpectralNorm(), Reset()
    norm.build({"net": net}, torch.Generator().manual_seed(0))
    for each in (norm, reset):
        tiny.attached(each, net)
    reset.at_task_change(1)
    for linear in (net.body.linear_0, net.body.linear_1):
        assert exact_spectral_norm(linear.weight).item() == pytest.approx(1.0, abs=0.05)


def test_a_reset_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="weights: none with optimizer: changed resets nothing"):
        Reset(weights="none")
