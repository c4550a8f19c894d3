"""The loss of PPO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PPOLoss:
    """The parts of the loss of one minibatch, each a scalar tensor.

    Attributes:
        policy: Clipped surrogate, to be minimised.
        value: Mean squared value error.
        log_ratio: log pi(a|s) - log pi_old(a|s), [B].
    """

    policy: Tensor
    value: Tensor
    log_ratio: Tensor


def ppo_loss(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, values: Tensor, returns: Tensor, clip_param: float
) -> PPOLoss:
    """Clipped surrogate and value loss.

    policy = -mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A)) with rho = exp(logp - old_logp);
    value = mean((V - R)^2), neither halved nor clipped.

    Args:
        logp: log pi(a|s) under the policy being trained [B].
        old_logp: The same under the policy that acted [B].
        advantages: [B].
        values: V(s) [B].
        returns: Lambda-returns [B].
        clip_param: eps.

    Returns:
        The parts.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7; value loss as in `lop/algos/rl/ppo.py`.
    """
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_param, 1 + clip_param) * advantages)
    return PPOLoss(-surrogate.mean(), (values - returns).square().mean(), log_ratio)


@torch.no_grad()
def ratio_statistics(log_ratio: Tensor, clip_param: float) -> tuple[Tensor, Tensor]:
    """How far the policy moved on a minibatch: approximate KL and share of clipped ratios.

    KL(old || new) is estimated as mean(rho - 1 - log rho) (Schulman's k3, http://joschu.net/blog/kl-approx.html),
    which is non-negative; clipped means |rho - 1| > eps.
    """
    ratio = log_ratio.exp()
    return (ratio - 1 - log_ratio).mean(), ((ratio - 1).abs() > clip_param).float().mean()
