"""The records that flow to people: what a dream showed and what was answered.

They hold pictures and words, not tensors or codes, so that whoever draws, prints or serves a dream needs
neither the model nor torch. What training passes around stays in tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BELIEFS = ("continue", "success", "failure", "stop")
"""What a dreamed step can believe of its result: the names of ``envs.world.Outcome`` in lower case."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Triplet:
    """One imagined step. Compared by identity, because pictures have no single truth value.

    Example:
        >>> ice = np.zeros((32, 32, 3), np.uint8)
        >>> step = Triplet(
        ...     what=ice, action="right", result=ice + 9, belief="continue",
        ...     true_result=ice, faithful=False, experts=(0.7, 0.0, 0.3, 0.0),
        ... )
        >>> step.action, step.faithful
        ('right', False)
    """

    what: np.ndarray
    """Picture before the action, uint8 (H, W, 3)."""
    action: str
    """Name of the action."""
    result: np.ndarray
    """Imagined picture after the action, uint8 (H, W, 3); the next step's ``what``."""
    belief: str
    """One of ``BELIEFS``."""
    true_result: np.ndarray | None
    """The simulator's picture after the same actions, uint8 (H, W, 3); None when there is no simulator."""
    faithful: bool | None
    """Whether ``result`` shows what the simulator shows; None when there is no simulator."""
    experts: tuple[float, ...]
    """Weight of every expert in this step, summing to 1."""

    def __post_init__(self):
        """Reject a belief that nobody could put into words."""
        if self.belief not in BELIEFS:
            raise ValueError(f"belief ({self.belief!r}) must be one of {', '.join(BELIEFS)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Dream:
    """Imagined steps in order, from the picture that was asked about.

    Example:
        >>> ice = np.zeros((32, 32, 3), np.uint8)
        >>> step = Triplet(
        ...     what=ice, action="right", result=ice, belief="success",
        ...     true_result=None, faithful=None, experts=(1.0,),
        ... )
        >>> dream = Dream(triplets=(step,), value=0.8, focus=True)
        >>> dream.actions, dream.belief
        (('right',), 'success')
    """

    triplets: tuple[Triplet, ...]
    """At least one step."""
    value: float
    """Return that the model expected at the start of the dream."""
    focus: bool
    """Whether the answer was read from this dream."""

    def __post_init__(self):
        """Reject a dream in which nothing happens."""
        if not self.triplets:
            raise ValueError("triplets (()) must hold at least one step")

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions, in order."""
        return tuple(triplet.action for triplet in self.triplets)

    @property
    def belief(self) -> str:
        """What the last step believes of its result."""
        return self.triplets[-1].belief


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says.

    Example:
        >>> Answer(text="right, right, down", confidence=0.93).text
        'right, right, down'
    """

    text: str
    """The answer in words."""
    confidence: float
    """Probability that the model gives to its own answer, 0 to 1."""
