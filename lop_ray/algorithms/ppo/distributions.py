"""Action distributions whose draws are a function of noise drawn beforehand.

Drawing the noise of a whole rollout at once, from the runner's own generator, costs one call
instead of one a step and leaves the global random generators alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical, TorchDiagGaussian
from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class DiagonalGaussian(TorchDiagGaussian):
    """Independent normal actions, N(mean, exp(log_std)^2): RLlib's distribution with fewer operations.

    The action is neither squashed nor clipped.

    Args:
        mean: [..., A].
        log_std: [A], one for all states, or [..., A].
    """

    def __init__(self, mean: Tensor, log_std: Tensor):
        self.loc, self.log_std = mean, log_std

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: object) -> DiagonalGaussian:
        """From [..., 2 A]: means, then log standard deviations."""
        return cls(*logits.chunk(2, dim=-1))

    @classmethod
    def stack(cls, steps: Sequence[DiagonalGaussian]) -> DiagonalGaussian:
        """The distributions of several steps with one `log_std` [A] as a single one, with a leading dimension."""
        return cls(torch.stack([step.loc for step in steps]), steps[0].log_std)

    def to_logits(self) -> Tensor:
        """[..., 2 A], what `from_logits` reads."""
        return torch.cat([self.loc, self.log_std.expand_as(self.loc)], -1)

    @staticmethod
    def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise of `shape` [..., A]."""
        return torch.randn(shape, generator=generator, device=generator.device)

    def act(self, noise: Tensor | None) -> Tensor:
        """Mean + std noise, [..., A]; the mean without noise."""
        return self.loc if noise is None else torch.addcmul(self.loc, self.log_std.exp(), noise)

    def logp(self, value: Tensor, **kwargs: object) -> Tensor:
        """Log density of actions [..., A], summed over A."""
        z = (value - self.loc) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std).sum(-1) - _HALF_LOG_TWO_PI * value.shape[-1]

    def entropy(self, **kwargs: object) -> Tensor:
        """Differential entropy in nats, [...]."""
        return (self.log_std + (0.5 + _HALF_LOG_TWO_PI)).sum(-1)

    def sample(self, *, sample_shape: tuple[int, ...] | None = None) -> Tensor:
        """A draw with the global generator (RLlib's own callers); ours use `act`."""
        shape = (*(sample_shape or ()), *self.loc.shape)
        with torch.no_grad():
            return torch.normal(self.loc.expand(shape), self.log_std.exp().expand(shape))

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) in nats, [...]."""
        variance_ratio = torch.exp(2 * (self.log_std - other.log_std))
        shift = ((self.loc - other.loc) * torch.exp(-other.log_std)).square()
        return 0.5 * (variance_ratio + shift - 1 - variance_ratio.log()).sum(-1)


class Categorical(TorchCategorical):
    """One of A actions, P(a) = exp(l_a) / sum_b exp(l_b): RLlib's distribution with fewer operations.

    A draw is argmax_a(l_a + g_a) with independent standard Gumbel noise g (Gumbel 1954; Maddison et al. 2014,
    arXiv 1411.0030, section 2).

    Args:
        logits: l [..., A], up to a constant.
    """

    def __init__(self, logits: Tensor):
        self.logits = logits

    @cached_property
    def log_probabilities(self) -> Tensor:
        """Log P, [..., A]."""
        return self.logits.log_softmax(-1)

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: object) -> Categorical:
        """From [..., A]."""
        return cls(logits)

    @classmethod
    def stack(cls, steps: Sequence[Categorical]) -> Categorical:
        """The distributions of several steps as a single one, with a leading dimension."""
        return cls(torch.stack([step.logits for step in steps]))

    def to_logits(self) -> Tensor:
        """[..., A], what `from_logits` reads."""
        return self.logits

    @staticmethod
    def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise of `shape` [..., A]: -log E with E exponential of mean 1."""
        return torch.empty(shape, device=generator.device).exponential_(generator=generator).log_().neg_()

    def act(self, noise: Tensor | None) -> Tensor:
        """Argmax of logits + noise, [...] int64; without noise the most likely action, the first of several."""
        return (self.logits if noise is None else self.logits + noise).argmax(-1)

    def logp(self, value: Tensor, **kwargs: object) -> Tensor:
        """Log P of actions [...]."""
        return self.log_probabilities.gather(-1, value.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self, **kwargs: object) -> Tensor:
        """-sum P log P in nats, [...]; finite, as is its gradient, where some P is 0 in floating point."""
        return -(self.log_probabilities.exp() * self.log_probabilities).sum(-1)

    def sample(self, *, sample_shape: tuple[int, ...] | None = None) -> Tensor:
        """A draw with the global generator (RLlib's own callers); ours use `act`."""
        return torch.distributions.Categorical(logits=self.logits).sample(sample_shape or ())

    def kl(self, other: Categorical) -> Tensor:
        """KL(self || other) in nats, [...]."""
        log_ratio = self.log_probabilities - other.log_probabilities
        return (self.log_probabilities.exp() * log_ratio).sum(-1)
