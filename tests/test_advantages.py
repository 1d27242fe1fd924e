"""Per-dream GAE against the double sum of its definition."""

import numpy as np
import pytest

from dreamrl.advantages import per_dream_gae


def random_episode(seed, steps=6, dreams=4):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, dreams)
    active = np.arange(steps)[:, None] < lengths
    return rng.normal(size=(steps, dreams)), rng.normal(size=(steps, dreams)), active, lengths


def slow_gae(rewards, values, length, gamma, lam):
    """One dream: A_t = sum_k (gamma lambda)^k delta_{t+k}; pay after its end counts in its last step."""
    paid = [float(r) for r in rewards[:length]]
    paid[-1] += float(sum(rewards[length:]))
    value = [*values[:length], 0.0]
    delta = [paid[t] + gamma * value[t + 1] - value[t] for t in range(length)]
    return [sum((gamma * lam) ** k * delta[t + k] for k in range(length - t)) for t in range(length)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("gamma, lam", [(0.95, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5), (1.0, 0.3)])
def test_equals_the_double_sum(seed, gamma, lam):
    rewards, values, active, lengths = random_episode(seed)
    advantages, targets = per_dream_gae(rewards, values, active, gamma, lam)
    for n, length in enumerate(lengths):
        expected = slow_gae(rewards[:, n], values[:, n], length, gamma, lam)
        assert advantages[:length, n] == pytest.approx(expected, abs=1e-12)
        assert targets[:length, n] == pytest.approx(np.array(expected) + values[:length, n], abs=1e-12)
        assert (advantages[length:, n] == 0).all() and (targets[length:, n] == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_dream_is_not_paid_for_its_siblings(seed):
    rewards, values, active, lengths = random_episode(seed)
    before = per_dream_gae(rewards, values, active, 0.95, 0.95)
    rng = np.random.default_rng(seed + 1)
    for changed in range(4):
        other_rewards, other_values, other_active = rewards.copy(), values.copy(), active.copy()
        other_rewards[:, changed] = rng.normal(size=6) * 100
        other_values[:, changed] = rng.normal(size=6) * 100
        other_active[:, changed] = np.arange(6) < rng.integers(1, 7)
        after = per_dream_gae(other_rewards, other_values, other_active, 0.95, 0.95)
        same = np.arange(4) != changed
        for old, new in zip(before, after, strict=True):
            assert (old[:, same] == new[:, same]).all()
            assert (old[: lengths[changed], changed] != new[: lengths[changed], changed]).any()


def test_late_pay_counts_in_the_last_own_step():
    rewards = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
    active = np.array([[True, True], [True, True], [False, True], [False, True]])
    advantages, _ = per_dream_gae(rewards, np.zeros((4, 2)), active, 0.5, 1.0)
    assert advantages[:, 0].tolist() == [1.0, 2.0, 0.0, 0.0]
    assert advantages[:, 1].tolist() == [0.25, 0.5, 1.0, 2.0]


def test_without_lambda_it_is_the_one_step_error():
    rewards, values, active, lengths = random_episode(3)
    rewards = np.where(active, rewards, 0)
    advantages, _ = per_dream_gae(rewards, values, active, 0.9, 0.0)
    following = np.where(active[1:], values[1:], 0)
    expected = rewards + 0.9 * np.vstack([following, np.zeros(4)]) - values
    assert advantages[active] == pytest.approx(expected[active])


def test_with_lambda_1_targets_are_discounted_returns():
    rewards, values, active, lengths = random_episode(4)
    rewards = np.where(active, rewards, 0)
    _, targets = per_dream_gae(rewards, values, active, 0.9, 1.0)
    for n, length in enumerate(lengths):
        for t in range(length):
            assert targets[t, n] == pytest.approx(sum(0.9**k * rewards[t + k, n] for k in range(length - t)))


def test_arguments_stay_as_they_were():
    rewards, values, active, _ = random_episode(5)
    kept = rewards.copy(), values.copy(), active.copy()
    per_dream_gae(rewards, values, active, 0.95, 0.95)
    assert all((a == b).all() for a, b in zip(kept, (rewards, values, active), strict=True))
