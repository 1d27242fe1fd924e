"""The reward components, as pure functions of a dream and of what the simulator says of it.

Every component is bounded by 1. Each docstring says how it could be gamed and what stops that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def faithfulness(
    true_what: np.ndarray, true_result: np.ndarray, what: np.ndarray, result: np.ndarray, belief_true: bool
) -> float | None:
    """Share of the changed patches that the dream gets right, (P,) codes each; None if nothing changed.

    Changed is what the simulator changed, and what the dream claims to have changed. A wrong belief about the
    outcome makes it 0.

    A patch that was wrong before and is right now by standing still does not count: a dream that copies its
    first picture stays at 0 while the simulator walks on.

    Gaming: copying "what" scores 0 whenever something happens. Dreaming only of moves that change nothing
    (into a wall) scores nothing at all, neither good nor bad. Repainting everything adds wrong changed patches.
    """
    changed = (true_what != true_result) | (what != result)
    if not belief_true:
        return 0.0
    if not changed.any():
        return None
    right = (true_result == result) & ((what == true_what) | (what != result))
    return float(right[changed].mean())


def coherence(action_probs: np.ndarray, action: int) -> float:
    """How well the claimed action explains (what, result): p(claimed) / p(most likely), from inverse dynamics.

    ``action_probs`` (A + 1,): the last class is "no single action does this", which a teleport gets.

    Gaming: the inverse dynamics is a frozen copy from pretraining, so a policy cannot teach it to agree; a
    dream that copies its picture is coherent with moves into walls, which earn neither progress nor faith.
    """
    return float(action_probs[action] / action_probs.max())


def potential(distance: int | None, length: int) -> float:
    """Phi in [0, 1]: 1 minus the distance to success over the dream length; 0 in a dead end.

    Not negative: with a discount, lingering at a negative potential would pay (gamma - 1) * Phi > 0 a step.
    """
    return 0.0 if distance is None else 1 - min(distance, length) / length


def progress(before: float, after: float, gamma: float) -> float:
    """Potential-based shaping, gamma * Phi(s') - Phi(s) (Ng, Harada and Russell 1999).

    Gaming: with Phi >= 0 and gamma <= 1 it telescopes to at most 0 around any closed walk, so walking back and
    forth earns nothing. A dead end is a state like any other (Phi = 0): dying pays back what was gained.
    """
    return gamma * after - before


def naive_progress(before: float, after: float) -> float:
    """+1 for a step closer to success, -0.2 for a step away: not used by default, kept to show what it does.

    Gaming: walking back and forth earns 0.8 a lap, more than arriving; nothing stops that.
    """
    return 1.0 if after > before else -0.2 if after < before else 0.0


def answer_correctness(exact: bool, success: bool) -> float:
    """1 for an exact answer, 1/2 for one that works but is not the best, else 0.

    Gaming: the verifier runs the stated plan in the simulator; nothing that the model believes counts.
    """
    return 1.0 if exact else 0.5 if success else 0.0


def creativity(dreams: Sequence[Sequence[bytes]], faithful: Sequence[float]) -> np.ndarray:
    """(N,) how much each dream differs from the others, weighted by how faithful both are.

    ``dreams[i]`` lists what identifies each dreamed result; two dreams differ in a step where these differ or
    where only one of them is still going on.

    Gaming: random pictures differ from everything, but are not faithful and so count for nothing.
    """
    count = len(dreams)
    out = np.zeros(count)
    for i in range(count):
        for j in range(count):
            longest = max(len(dreams[i]), len(dreams[j]))
            if i == j or longest == 0:
                continue
            same = sum(a == b for a, b in zip(dreams[i], dreams[j], strict=False))
            out[i] += (1 - same / longest) * faithful[i] * faithful[j]
    return out / max(1, count - 1)
