"""Weight projection: weights keep their initial norms."""

from __future__ import annotations

import pytest
import torch

from lop_ray.interventions import WeightProjection
from tests.cases import SmallConvNet
from tests.interventions import tiny


def test_a_weight_is_scaled_back_as_a_whole() -> None:
    net = tiny.network()  # |W| = sqrt(1 + 4)
    projection = WeightProjection()
    tiny.attached(projection, net)
    with torch.no_grad():
        net.body.linear_0.weight.copy_(torch.tensor([[4.0, 0.0], [-3.0, 0.0]]))  # of norm 5
        net.body.linear_0.bias.fill_(7.0)
    projection.after_gradient_step(tiny.step())
    expected = torch.tensor([[4.0, 0.0], [-3.0, 0.0]]) * 5**0.5 / 5
    torch.testing.assert_close(net.body.linear_0.weight.detach(), expected)
    torch.testing.assert_close(net.head.weight.detach(), torch.tensor(tiny.OUTGOING))
    assert net.body.linear_0.bias.tolist() == [7.0, 7.0]


@pytest.mark.parametrize(("heads", "norm"), [(True, 11**0.5), (False, 2 * 11**0.5)])
def test_heads(heads: bool, norm: float) -> None:
    net = tiny.network()
    projection = WeightProjection(heads=heads)
    tiny.attached(projection, net)
    with torch.no_grad():
        net.head.weight.mul_(2.0)
    projection.after_gradient_step(tiny.step())
    assert net.head.weight.norm().item() == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize(("affine", "factor"), [("keep", 1.0), ("joint", 2**0.5 / 5)])
def test_scale_and_shift(affine: str, factor: float) -> None:
    net = tiny.network(normalisation="layernorm")  # scale (1, 1), shift 0: joint norm sqrt(2)
    projection = WeightProjection(affine=affine)
    tiny.attached(projection, net)
    scale, shift = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])  # of joint norm 5
    with torch.no_grad():
        net.body.norm_0.weight.copy_(scale)
        net.body.norm_0.bias.copy_(shift)
    projection.after_gradient_step(tiny.step())
    torch.testing.assert_close(net.body.norm_0.weight.detach(), factor * scale)
    torch.testing.assert_close(net.body.norm_0.bias.detach(), factor * shift)


def test_acts_only_at_multiples_of_the_period() -> None:
    net = tiny.network()
    projection = WeightProjection(period=3)
    tiny.attached(projection, net)
    acted = []
    for count in range(1, 8):
        with torch.no_grad():
            net.head.weight.copy_(2 * torch.tensor(tiny.OUTGOING))
        projection.after_gradient_step(tiny.step(count))
        acted.append(net.head.weight[0, 0].item() != 6.0)
    assert acted == [False, False, True, False, False, True, False]


def test_a_weight_of_zeros_stays_and_stays_finite() -> None:
    net = SmallConvNet(0)
    projection = WeightProjection()
    tiny.attached(projection, net)
    with torch.no_grad():
        net.conv_0.weight.zero_()
    projection.after_gradient_step(tiny.step())
    assert (net.conv_0.weight == 0).all()


def test_initial_norms_survive_a_restart_with_grown_weights() -> None:
    net = tiny.network()
    first, resumed = WeightProjection(), WeightProjection()
    tiny.attached(first, net)
    with torch.no_grad():
        net.head.weight.mul_(10.0)
    tiny.attached(resumed, net)
    resumed.load_state_dict(first.state_dict())
    resumed.after_gradient_step(tiny.step())
    assert net.head.weight.norm().item() == pytest.approx(11**0.5, rel=1e-6)
