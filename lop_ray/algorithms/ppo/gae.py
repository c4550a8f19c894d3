"""Generalised advantage estimation."""

from __future__ import annotations

import numpy as np


def generalised_advantages(
    r_t: np.ndarray, v_t: np.ndarray, v_tp1: np.ndarray, discount_t: np.ndarray, lambda_: float
) -> np.ndarray:
    """Advantages by the backward recursion of GAE, for N trajectories side by side.

    delta_t = r_t + v'_t - v_t, and A_t = delta_t + discount_t lambda A_{t+1} with A_T = 0, where
    v'_t = gamma V(s_{t+1}), already zero (or the bootstrap of a time limit) where an episode ended, and
    discount_t = gamma inside an episode and 0 where it ended.

    Args:
        r_t: Rewards [T, N].
        v_t: Values of the observations acted on [T, N].
        v_tp1: Discounted values of the observations that followed [T, N].
        discount_t: gamma, or 0 where the episode ended after step t [T, N].
        lambda_: Lambda in [0, 1].

    Returns:
        Advantages [T, N]. A_t + v_t is the lambda-return.

    Source: Schulman et al. 2016 (arXiv 1506.02438), eqs. 11-16.
    """
    delta = r_t + v_tp1 - v_t
    decay = discount_t * lambda_
    advantages = np.empty_like(delta)
    running = np.zeros(delta.shape[1:], delta.dtype)
    for t in range(len(delta) - 1, -1, -1):
        running = delta[t] + decay[t] * running
        advantages[t] = running
    return advantages
