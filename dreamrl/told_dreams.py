"""Dreams as they are told: true ones from random play, and ones made wrong in a known way, judged by the simulator.

What the simulator says of a told dream is what ``envs.reasoning_batch`` says while it is being dreamed, but for
coherence: here that is not a network's guess, but whether the claimed action really makes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from dreamrl.nn.codec import FrameCodes
from dreamrl.rewards import creativity, faithfulness
from envs.questions import rollout_correctness
from envs.world import Outcome, Question, Rollout, State

TRIES = 16
"""Draws of a corruption that turns out harmless (two actions with one result) before giving up."""


class Corruption(Enum):
    """How a dream is made wrong; each changes one thing and leaves the rest as it happened.

    ``ACTION``: another action is claimed. ``ORDER``: the steps are shuffled. ``PAINT``: a patch of a result is
    repainted. ``RESULT``: a result is that of another action. ``BELIEF``: the dream ends on a false belief.
    """

    ACTION = "action"
    ORDER = "order"
    PAINT = "paint"
    RESULT = "result"
    BELIEF = "belief"


@dataclass(frozen=True, kw_only=True, eq=False)
class ToldDream:
    """A finished dream about a question.

    Example:
        A true dream of one step: ``ToldDream(question=q, frames=codes of two pictures, shown=(0, 1),
        actions=(2,), beliefs=(Outcome.SUCCESS,))``; repainted, its second state is not known: ``shown=(0, None)``.
    """

    question: Question
    frames: np.ndarray
    """(n + 1, P) int64 codes of the picture's own patches."""
    shown: tuple[State | None, ...]
    """The state that each frame shows; None for a picture of no state."""
    actions: tuple[int, ...]
    beliefs: tuple[int, ...]

    @property
    def steps(self) -> int:
        """How many actions it took, at least 1."""
        return len(self.actions)


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What the simulator says of one told dream.

    ``faithfulness`` in [0, 1] and ``correctness`` (0, 1/2 or 1) as in ``envs.reasoning_batch``. ``makers`` (n, A):
    which actions make the result of each step from its picture; ``coherent`` (n,): whether the claimed one does.
    ``true``: every picture and belief is right.
    """

    faithfulness: float
    makers: np.ndarray
    coherent: np.ndarray
    correctness: float
    true: bool


def tell(question: Question, rollout: Rollout, codes: FrameCodes) -> ToldDream:
    """The true dream of ``rollout``."""
    last = len(rollout.actions)
    beliefs = [question.belief(rollout.outcome if t == last else Outcome.CONTINUE, t) for t in range(1, last + 1)]
    return ToldDream(
        question=question,
        frames=np.stack([codes(question.scene, state) for state in rollout.states]),
        shown=rollout.states,
        actions=rollout.actions,
        beliefs=tuple(int(b) for b in beliefs),
    )


def is_true(dream: ToldDream, codes: FrameCodes) -> bool:
    """Whether the simulator, following the claimed actions, shows every picture and confirms every belief."""
    scene, state = dream.question.scene, dream.question.scene.start
    for t, (action, belief) in enumerate(zip(dream.actions, dream.beliefs, strict=True)):
        state, outcome = scene.step(state, action)
        if belief != dream.question.belief(outcome, t + 1) or (codes(scene, state) != dream.frames[t + 1]).any():
            return False
    return True


def verify(dream: ToldDream, codes: FrameCodes, num_actions: int) -> Findings:
    """Follow the claimed actions in the simulator and compare every picture and belief."""
    scene, states, outcome = dream.question.scene, [dream.question.scene.start], Outcome.CONTINUE
    faithful, believed = [], False
    for t, (action, belief) in enumerate(zip(dream.actions, dream.beliefs, strict=True)):
        state, outcome = scene.step(states[-1], action)
        what, result = dream.frames[t], dream.frames[t + 1]
        believed = belief == dream.question.belief(outcome, t + 1)
        faith = faithfulness(codes(scene, states[-1]), codes(scene, state), what, result, believed)
        faithful += [] if faith is None else [faith]
        states.append(state)
    rollout = Rollout(states=tuple(states), actions=dream.actions, outcome=outcome)
    ended = believed and dream.beliefs[-1] != Outcome.CONTINUE
    makers = np.array([_makers(dream, t, codes, num_actions) for t in range(dream.steps)])
    return Findings(
        faithfulness=float(np.mean(faithful)) if faithful else 0.0,
        makers=makers,
        coherent=makers[np.arange(dream.steps), dream.actions],
        correctness=rollout_correctness(dream.question, rollout) * ended,
        true=is_true(dream, codes),
    )


def creativities(dreams: Sequence[ToldDream], findings: Sequence[Findings]) -> np.ndarray:
    """(N,) of the dreams of one question; see :func:`dreamrl.rewards.creativity`."""
    told = [[frame.tobytes() for frame in dream.frames[1:]] for dream in dreams]
    return creativity(told, [f.faithfulness for f in findings])


def _makers(dream: ToldDream, step: int, codes: FrameCodes, num_actions: int) -> list[bool]:
    """For each action whether it leads from the picture of ``step`` to its result."""
    what, result, scene = dream.shown[step], dream.frames[step + 1], dream.question.scene
    if what is None:
        return [False] * num_actions
    return [bool((codes(scene, scene.step(what, a)[0]) == result).all()) for a in range(num_actions)]


def corrupt(
    dream: ToldDream,
    kind: Corruption,
    rng: np.random.Generator,
    codes: FrameCodes,
    num_actions: int,
    num_codes: int,
    horizon: int,
) -> ToldDream | None:
    """``dream`` made wrong; None if ``TRIES`` draws were all harmless (a single step cannot be shuffled).

    Args:
        dream: a true one.
        kind: what is made wrong.
        rng: decides where and how.
        codes: of the world's states.
        num_actions: A.
        num_codes: V.
        horizon: longest dream T; a shorter one cannot end on the belief that it goes on.
    """
    sizes = {"num_actions": num_actions, "num_codes": num_codes, "horizon": horizon}
    for _ in range(TRIES):
        told = _WAYS[kind](dream, rng, codes, **sizes)
        if not is_true(told, codes):
            return told
    return None


def _swap_action(dream: ToldDream, rng, codes, *, num_actions: int, **_) -> ToldDream:
    step = int(rng.integers(dream.steps))
    actions = list(dream.actions)
    actions[step] = int((actions[step] + rng.integers(1, num_actions)) % num_actions)
    return replace(dream, actions=tuple(actions))


def _shuffle(dream: ToldDream, rng, codes, **_) -> ToldDream:
    order = rng.permutation(dream.steps)
    return replace(
        dream,
        frames=np.concatenate([dream.frames[:1], dream.frames[1:][order]]),
        shown=(dream.shown[0], *(dream.shown[1 + i] for i in order)),
        actions=tuple(dream.actions[i] for i in order),
    )


def _repaint(dream: ToldDream, rng, codes, *, num_codes: int, **_) -> ToldDream:
    """Half of the time with a patch of the same picture: an unfamiliar code would give itself away."""
    step, patch = 1 + int(rng.integers(dream.steps)), rng.integers(dream.frames.shape[1])
    frames = dream.frames.copy()
    frames[step, patch] = rng.choice(frames[step]) if rng.random() < 0.5 else rng.integers(num_codes)
    return replace(dream, frames=frames, shown=(*dream.shown[:step], None, *dream.shown[step + 1 :]))


def _swap_result(dream: ToldDream, rng, codes, *, num_actions: int, **_) -> ToldDream:
    scene, step = dream.question.scene, int(rng.integers(dream.steps))
    other = int((dream.actions[step] + rng.integers(1, num_actions)) % num_actions)
    state = scene.step(dream.shown[step], other)[0]
    frames = dream.frames.copy()
    frames[step + 1] = codes(scene, state)
    return replace(dream, frames=frames, shown=(*dream.shown[: step + 1], state, *dream.shown[step + 2 :]))


def _believe_falsely(dream: ToldDream, rng, codes, *, horizon: int, **_) -> ToldDream:
    end = 1 + int(rng.integers(dream.steps))
    believable = [b for b in Outcome if b is not Outcome.CONTINUE or end == horizon]
    belief = int(believable[rng.integers(len(believable))])
    return replace(
        dream,
        frames=dream.frames[: end + 1],
        shown=dream.shown[: end + 1],
        actions=dream.actions[:end],
        beliefs=(*dream.beliefs[: end - 1], belief),
    )


_WAYS: dict[Corruption, Callable[..., ToldDream]] = {
    Corruption.ACTION: _swap_action,
    Corruption.ORDER: _shuffle,
    Corruption.PAINT: _repaint,
    Corruption.RESULT: _swap_result,
    Corruption.BELIEF: _believe_falsely,
}
