import math

import pytest
import torch

from lop_ray.algorithms.ppo.batch import explained_variance, standardised
from lop_ray.algorithms.ppo.loss import policy_loss, ratio_statistics, value_loss

LOG = [math.log(1.5), math.log(0.5), math.log(1.1), 0.0]


def test_hand_computed_clipping():
    # ratio 1.5, A=1: min(1.5, 1.2) = 1.2; ratio .5, A=-1: min(-.5, -.8) = -.8
    # ratio 1.1, A=2: 2.2; ratio 1, A=-3: -3. Mean = -.4/4 = -.1, so the loss is .1
    advantages = torch.tensor([1.0, -1.0, 2.0, -3.0])
    loss, log_ratio = policy_loss(torch.tensor(LOG), torch.zeros(4), advantages, 0.2)
    assert float(loss) == pytest.approx(0.1, abs=1e-6)
    assert log_ratio.tolist() == pytest.approx(LOG)
    assert float(value_loss(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4))) == pytest.approx((1 + 4 + 9 + 16) / 4)


def test_a_clipped_ratio_has_no_gradient_and_an_unclipped_one_has():
    logp = torch.tensor(LOG, requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 2.0, -3.0])
    policy_loss(logp, torch.zeros(4), advantages, 0.2)[0].backward()
    # d(-mean(ratio A))/d logp = -ratio A / 4 where it is not clipped
    assert logp.grad.tolist() == pytest.approx([0.0, 0.0, -1.1 * 2 / 4, 3 / 4])


def test_ratio_statistics_by_hand():
    kl, clipped = ratio_statistics(torch.tensor(LOG), 0.2)
    expected = [(r - 1) - math.log(r) for r in (1.5, 0.5, 1.1, 1.0)]
    assert float(kl) == pytest.approx(sum(expected) / 4, abs=1e-6)
    assert float(clipped) == 0.5


def test_standardised_uses_the_unbiased_deviation_and_survives_constants():
    assert standardised(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert standardised(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]
    assert standardised(torch.tensor([2.0])).tolist() == [0.0]


def test_explained_variance_by_hand():
    returns = torch.tensor([0.0, 2.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(returns, torch.zeros(2)) == 0.0
    assert explained_variance(returns, torch.tensor([0.0, 1.0])) == 0.75
    assert math.isnan(explained_variance(torch.ones(2), torch.zeros(2)))
