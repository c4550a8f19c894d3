"""Random-walk training: the length of every step, and its direction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lop_ray.interventions import LossStep, RandomWalk, Training
from lop_ray.networks import MLP, NetworkOptions
from tests.interventions import tiny

STEP = LossStep(tiny.INPUTS, tiny.INPUTS, {}, {})


class _Walk:
    """A walker and a twin that takes the optimiser's steps from the same places."""

    def __init__(self, optimizer: str = "Adam", seed: int = 0, **options: object):
        self.net = MLP(2, 2, NetworkOptions(hidden=(30, 30)), seed=0)
        self.log_std = nn.Parameter(torch.zeros(2))
        self.parameters = [*self.net.parameters(), self.log_std]
        kinds = {"Adam": torch.optim.Adam, "SGD": torch.optim.SGD}
        self.optimizer = kinds[optimizer](self.parameters, lr=0.1, weight_decay=0.1)
        self.walk = RandomWalk(**options)
        generator = torch.Generator().manual_seed(seed)
        self.walk.attach(Training({"net": self.net}, self.optimizer, generator))

    def step(self, count: int = 1) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """By parameter: the optimiser's step, and the one that was taken in its place."""
        self.optimizer.zero_grad()
        ((self.net(tiny.INPUTS) - 3).square().mean() + (self.log_std - 1).square().sum()).backward()
        assert self.walk.loss_term(STEP) is None
        start = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer.step()
        stepped = [p.detach() - s for p, s in zip(self.parameters, start, strict=True)]
        self.walk.after_gradient_step(tiny.step(count))
        return stepped, [p.detach() - s for p, s in zip(self.parameters, start, strict=True)]


def _flat(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in values])


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_the_whole_step_has_the_length_of_the_optimisers(optimizer: str) -> None:
    walk = _Walk(optimizer)
    for count in range(1, 4):
        stepped, walked = map(_flat, walk.step(count))
        assert walked.norm().item() == pytest.approx(stepped.norm().item(), rel=1e-4)
        assert abs(torch.cosine_similarity(stepped, walked, dim=0)) < 4 / len(walked) ** 0.5


def test_the_direction_is_uniform_over_all_parameters() -> None:
    walked = _flat(_Walk().step()[1])
    z = walked / walked.norm() * len(walked) ** 0.5  # about N(0, 1) each
    assert z.abs().mean().item() == pytest.approx((2 / torch.pi) ** 0.5, rel=0.05)
    assert z.pow(4).mean().item() == pytest.approx(3.0, rel=0.2)


def test_tensor_by_tensor() -> None:
    stepped, walked = _Walk(match="tensor").step()
    for a, b in zip(stepped, walked, strict=True):
        assert b.norm().item() == pytest.approx(a.norm().item(), rel=1e-4)
        assert not torch.allclose(a, b)
    stepped, walked = _Walk(match="global").step()
    assert any(abs(a.norm() - b.norm()) > 0.1 * a.norm() for a, b in zip(stepped, walked, strict=True))


def test_the_generator_alone_decides() -> None:
    first, same, other = (_flat(_Walk(seed=seed).step()[1]) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_without_the_start_of_a_step_it_is_refused() -> None:
    walk = _Walk()
    walk.step()
    with pytest.raises(RuntimeError, match="call loss_term before every step"):
        walk.walk.after_gradient_step(tiny.step(2))
