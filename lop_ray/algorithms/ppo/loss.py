"""The loss of PPO."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip_param: float) -> tuple[Tensor, Tensor]:
    """Clipped surrogate, to be minimised: -mean(min(rho A, clip(rho, 1 - eps, 1 + eps) A)).

    Args:
        logp: log pi(a|s) under the policy being trained [B].
        old_logp: The same under the policy that acted [B].
        advantages: A [B].
        clip_param: eps.

    Returns:
        The loss, a scalar, and log rho = logp - old_logp [B].

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7.
    """
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_param, 1 + clip_param) * advantages)
    return -surrogate.mean(), log_ratio


def value_loss(values: Tensor, returns: Tensor) -> Tensor:
    """mean((V - R)^2) over [B], neither halved nor clipped, as in `lop/algos/rl/ppo.py`."""
    return (values - returns).square().mean()


def standardised_minibatch(advantages: Tensor) -> Tensor:
    """(A - mean A) / (std A + 1e-8) with the unbiased deviation: `PPOTrainer` of awjuliani/deep-rl-plasticity."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


@torch.no_grad()
def ratio_statistics(log_ratio: Tensor, clip_param: float) -> tuple[Tensor, Tensor]:
    """How far the policy moved on a minibatch: approximate KL and share of clipped ratios.

    KL(old || new) is estimated as mean(rho - 1 - log rho) (Schulman's k3, http://joschu.net/blog/kl-approx.html),
    which is non-negative; clipped means |rho - 1| > eps.
    """
    ratio = log_ratio.exp()
    return (ratio - 1 - log_ratio).mean(), ((ratio - 1).abs() > clip_param).float().mean()
