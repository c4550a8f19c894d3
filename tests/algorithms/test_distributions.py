import torch
from torch.distributions import Independent, Normal, kl_divergence

from lop_ray.algorithms.ppo.distributions import DiagonalGaussian


def pair(seed=0):
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean, log_std = inputs.chunk(2, -1)
    return DiagonalGaussian.from_logits(inputs), Independent(Normal(mean, log_std.exp()), 1)


def test_density_entropy_and_divergence_equal_torchs():
    (ours, theirs), (other, other_theirs) = pair(0), pair(1)
    actions = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(ours.logp(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(other), kl_divergence(theirs, other_theirs))


def test_actions_are_mean_plus_deviation_times_noise_and_the_mean_without():
    dist = DiagonalGaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]]).log())
    assert dist.act(torch.tensor([[5.0, 0.5]])).tolist() == [[1.0, -1.0]]
    assert dist.act(None).tolist() == [[1.0, -2.0]]


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    assert DiagonalGaussian.draw_noise((2, 3), generator).shape == (2, 3)
    assert torch.equal(before, torch.get_rng_state())
