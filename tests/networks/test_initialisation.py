"""Bounds, variances and sources of randomness of every initialisation rule."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lop_ray.networks import Initialiser
from lop_ray.networks.initialisation import InitName

OUT, IN = 300, 200
GAIN = 1.5
BOUND = {
    "lecun_uniform": math.sqrt(3 / IN),
    "kaiming_uniform": GAIN * math.sqrt(3 / IN),
    "xavier_uniform": GAIN * math.sqrt(6 / (IN + OUT)),
    "torch_default": math.sqrt(1 / IN),
}
RULES = get_args(InitName)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _draw(name: InitName, shape: tuple[int, ...] = (OUT, IN)) -> Tensor:
    return Initialiser(name, GAIN).weight(torch.empty(shape), _generator())


@pytest.mark.parametrize("name", BOUND)
def test_uniform_rules_fill_their_interval(name: InitName) -> None:
    weight = _draw(name)
    bound = BOUND[name]
    assert 0.999 * bound < weight.abs().max() <= bound
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.02)
    assert abs(weight.mean().item()) < 4 * bound / math.sqrt(3 * OUT * IN)


@pytest.mark.parametrize(("name", "gain"), [("xavier_normal", GAIN), ("glorot_normal", 1.0)])
def test_xavier_normal_has_its_variance_and_tails(name: InitName, gain: float) -> None:
    weight = _draw(name)
    std = gain * math.sqrt(2 / (IN + OUT))
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert weight.abs().max() > 3.5 * std


@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT), (4, 3, 3, 3)])
def test_orthogonal_rows_or_columns(shape: tuple[int, ...]) -> None:
    matrix = _draw("orthogonal", shape).flatten(1).double()
    small = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(small, GAIN**2 * torch.eye(len(small), dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_kernel_counts_its_receptive_field() -> None:
    weight = _draw("lecun_uniform", (64, 8, 5, 5))
    assert 0.999 * math.sqrt(3 / 200) < weight.abs().max() <= math.sqrt(3 / 200)
    weight = _draw("xavier_uniform", (64, 8, 5, 5))
    bound = GAIN * math.sqrt(6 / (25 * (64 + 8)))
    assert 0.999 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("name", RULES)
def test_rows_are_drawn_like_rows_of_the_whole(name: InitName) -> None:
    like = torch.empty(OUT, IN, dtype=torch.float64)
    rows = Initialiser(name, GAIN).rows(like, 40, _generator())
    assert rows.shape == (40, IN)
    assert rows.dtype == torch.float64
    whole = Initialiser(name, GAIN).weight(like, _generator(1))
    assert rows.std().item() == pytest.approx(whole.std().item(), rel=0.05)
    if name in BOUND:
        assert 0.99 * BOUND[name] < rows.abs().max() <= BOUND[name]


@pytest.mark.parametrize("name", RULES)
def test_draws_come_from_the_generator_alone(name: InitName) -> None:
    state = torch.get_rng_state()
    layer, again, other = (nn.utils.skip_init(nn.Linear, 5, 4) for _ in range(3))
    for target, seed in ((layer, 0), (again, 0), (other, 1)):
        Initialiser(name).apply(target, _generator(seed))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(layer.weight, again.weight)
    assert torch.equal(layer.bias, again.bias)
    assert not torch.equal(layer.weight, other.weight)


@pytest.mark.parametrize("name", RULES)
def test_biases_are_zero_except_by_torchs_default(name: InitName) -> None:
    bias = Initialiser(name, GAIN).bias(torch.empty(3000), 16, _generator())
    if name == "torch_default":
        assert 0.99 * 0.25 < bias.abs().max() <= 0.25
    else:
        assert not bias.any()


def test_apply_reaches_the_trainable_weight_under_a_parametrisation() -> None:
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    plain, doubled = nn.Linear(3, 2), nn.Linear(3, 2)
    parametrize.register_parametrization(doubled, "weight", Double())
    for layer in (plain, doubled):
        Initialiser("lecun_uniform").apply(layer, _generator())
    torch.testing.assert_close(doubled.weight, 2 * plain.weight)
