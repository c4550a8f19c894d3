import torch
from torch.distributions import Independent, Normal, kl_divergence

from lop_ray.algorithms.ppo.distributions import Categorical, DiagonalGaussian


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


def categorical(seed=0):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Categorical.from_logits(logits), torch.distributions.Categorical(logits=logits)


def test_discrete_probability_entropy_and_divergence_equal_torchs():
    (ours, theirs), (other, other_theirs) = categorical(0), categorical(1)
    actions = torch.tensor([0, 1, 2, 3, 1])
    torch.testing.assert_close(ours.logp(actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.kl(other), kl_divergence(theirs, other_theirs))


def test_entropy_of_a_certain_action_is_zero_and_has_a_gradient():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    entropy = Categorical(logits).entropy()
    entropy.sum().backward()
    assert entropy.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_discrete_draws_are_the_largest_of_logits_plus_gumbel_noise():
    dist = Categorical(torch.tensor([[1.0, 0.0, 0.5]]))
    assert dist.act(torch.tensor([[0.0, 1.1, 0.0]])).tolist() == [1]
    assert dist.act(None).tolist() == [0]


def test_discrete_draws_come_as_often_as_their_probability():
    logits = torch.tensor([0.0, 1.0, -1.0])
    noise = Categorical.draw_noise((200_000, 3), torch.Generator().manual_seed(0))
    shares = torch.bincount(Categorical(logits).act(noise), minlength=3) / 200_000
    probabilities = logits.softmax(0)
    deviation = (probabilities * (1 - probabilities) / 200_000).sqrt()
    assert ((shares - probabilities).abs() < 4 * deviation).all()


def test_discrete_steps_stack():
    steps = [Categorical(torch.tensor([[0.0, 1.0]])), Categorical(torch.tensor([[2.0, 3.0]]))]
    assert Categorical.stack(steps).logits.tolist() == [[[0.0, 1.0]], [[2.0, 3.0]]]
