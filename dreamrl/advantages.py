"""Generalized advantage estimation per dream: a dream is paid for what it did, not for its siblings."""

from __future__ import annotations

import numpy as np


def per_dream_gae(
    rewards: np.ndarray, values: np.ndarray, active: np.ndarray, gamma: float, gae_lambda: float
) -> tuple[np.ndarray, np.ndarray]:
    """GAE (Schulman et al. 2016, arXiv:1506.02438, eq. 16) along the steps of each dream.

    Args:
        rewards: (S, N) what each dream earned at each step of one episode. Pay that arrives after a dream's
            end (creativity waits for the last sibling) counts for its last own step, undiscounted.
        values: (S, N) predicted values.
        active: (S, N) True where the dream took the step; each dream's active steps come first.
        gamma: discount.
        gae_lambda: lambda.

    Returns:
        advantages and value targets, (S, N) each, zero where not active. A finished dream has value 0.
    """
    steps = len(rewards)
    active = active.astype(bool)
    paid = np.where(active, rewards, 0.0)
    late = np.where(active, 0.0, rewards).sum(0)
    last = active.sum(0) - 1
    paid[last, np.arange(paid.shape[1])] += late
    advantages = np.zeros_like(paid)
    running, next_value = np.zeros(paid.shape[1]), np.zeros(paid.shape[1])
    for t in reversed(range(steps)):
        delta = paid[t] + gamma * next_value - values[t]
        running = np.where(active[t], delta + gamma * gae_lambda * running, 0.0)
        next_value = np.where(active[t], values[t], 0.0)
        advantages[t] = running
    return advantages, np.where(active, advantages + values, 0.0)
