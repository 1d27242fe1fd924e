"""What worlds are made of: scenes that a simulator steps through, questions about them, rollouts, verdicts.

The interface is functional. A :class:`Scene` is one concrete situation (one board, one room, one pile of
blocks); ``scene.step(state, action)`` returns the next state and changes nothing, so that many dreams can be
checked from the same state and a counterfactual is just another call. A stateful simulator fits by making
``state`` its saved snapshot. Frames are pixels only: nothing else about a state reaches the model.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

import numpy as np

State = Any
"""Hashable, immutable and sortable; its type is the scene's own business."""


class WorldError(ValueError):
    """A world, board or item that the user gave is wrong; the message says what to change."""


class Outcome(IntEnum):
    """What a state means for the question; also the belief that each dreamed step carries.

    ``STOP`` is a belief only: nothing ended, but the moves that the question names are used up.
    """

    CONTINUE = 0
    SUCCESS = 1
    FAILURE = 2
    STOP = 3


class QuestionKind(Enum):
    """``PLAN``: find actions that reach the goal. ``PREDICT``: say what given actions lead to."""

    PLAN = "plan"
    PREDICT = "predict"


class Split(Enum):
    """Scenes are assigned to exactly one split by the hash of their content."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Scene(ABC):
    """One situation of a world, as a pure function of (state, action)."""

    key: str
    """Content hash, the same on every machine and in every run."""
    grid: tuple[int, int]
    """Frame size in patches, (rows, columns)."""
    start: State
    """The state in which every question begins."""
    world: str = ""
    """Name of the world that it belongs to, set where worlds are mixed."""
    family: str = ""
    """Family of that world, set likewise."""
    legal: tuple[int, ...] | None = None
    """Actions that mean something here, if not all do; random play takes no others."""

    @property
    def label(self) -> str:
        """Family and world, where worlds are mixed; otherwise empty."""
        return f"{self.family}.{self.world}" if self.world else ""

    @abstractmethod
    def step(self, state: State, action: int) -> tuple[State, Outcome]:
        """The simulator's next state and its outcome; ``state`` itself stays as it was."""

    @abstractmethod
    def frame(self, state: State) -> np.ndarray:
        """The picture of ``state``, uint8 (rows * patch, columns * patch, 3)."""

    @abstractmethod
    def distance(self, state: State) -> int | None:
        """Fewest actions from ``state`` to success; None when success is out of reach (a dead end) or unknown."""

    def stochastic(self) -> bool:
        """Whether chance decides what an action leads to, as far as the simulator can tell: a dream could not know."""
        return False

    def expert(self, state: State) -> int | None:
        """What a program that knows the rules would do in ``state``, for comparison only; None if there is none."""
        return None


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one scene.

    Example:
        ``Question(kind=QuestionKind.PREDICT, text="What happens if the elf moves right, down?",
        scene=board, script=(2, 1))``
    """

    kind: QuestionKind
    text: str
    scene: Scene
    script: tuple[int, ...] = ()
    """The actions that a PREDICT question is about; empty for PLAN."""
    topic: str = ""
    """What is asked, where a world asks several things; for :meth:`World.tell` and the logs."""
    pictures: tuple[np.ndarray, ...] = ()
    """Further pictures of the prompt besides the scene's, uint8 (H, W, 3); read by vision backbones only."""

    def belief(self, outcome: Outcome, steps: int) -> Outcome:
        """The true belief after ``steps`` actions that led to ``outcome``."""
        used_up = self.script and steps >= len(self.script)
        return Outcome.STOP if outcome is Outcome.CONTINUE and used_up else outcome


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the simulator says of an answer.

    ``exact`` is the strict criterion; ``progress`` in [0, 1] is the share of correct leading steps;
    ``valid`` says that the answer parses and breaks no rule; ``success`` that it reaches the goal.
    """

    exact: bool
    progress: float
    valid: bool
    success: bool


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """True consequences of a list of actions: ``states`` has one entry more than ``actions``."""

    states: tuple[State, ...]
    actions: tuple[int, ...]
    outcome: Outcome

    @property
    def moves_always(self) -> bool:
        """Whether every action changed the state; one that does not (into a wall) is no legal move of a plan."""
        return all(a != b for a, b in zip(self.states, self.states[1:], strict=False))


class PictureScene(Scene):
    """A picture with no simulator behind it: it can be dreamed about, but nothing can be checked."""

    def __init__(self, picture: np.ndarray, patch_size: int):
        """Args: ``picture`` uint8 (H, W, 3), a whole number of patches each way."""
        height, width = picture.shape[:2]
        if height % patch_size or width % patch_size:
            raise WorldError(
                f"picture is {width}x{height} pixels; both sides must be multiples of {patch_size}, one patch a cell"
            )
        self.key = hashlib.blake2b(picture.tobytes(), digest_size=16).hexdigest()
        self.grid = (height // patch_size, width // patch_size)
        self.start = 0
        self.picture = picture

    def step(self, state, action):
        """Nothing is known: the picture stays."""
        return state, Outcome.CONTINUE

    def frame(self, state):
        """The picture."""
        return self.picture

    def distance(self, state):
        """Unknown."""
        return None


def roll(scene: Scene, actions: Sequence[int]) -> Rollout:
    """Run ``actions`` from the start until they end or the scene does."""
    states, taken, outcome = [scene.start], [], Outcome.CONTINUE
    for action in actions:
        state, outcome = scene.step(states[-1], action)
        states.append(state)
        taken.append(int(action))
        if outcome is not Outcome.CONTINUE:
            break
    return Rollout(states=tuple(states), actions=tuple(taken), outcome=outcome)


def random_play(scene: Scene, num_actions: int, length: int, rng: np.random.Generator) -> Rollout:
    """Uniform random actions: the only source of experience before PPO."""
    return roll(scene, random_actions(scene, num_actions, length, rng))


def random_actions(scene: Scene, num_actions: int, length: int, rng: np.random.Generator) -> list[int]:
    """``length`` uniform random actions that mean something in ``scene``."""
    if scene.legal is None:
        return rng.integers(num_actions, size=length).tolist()
    return [scene.legal[i] for i in rng.integers(len(scene.legal), size=length)]


def split_of(content: str) -> Split:
    """80% train, 10% validation, 10% test, by the hash of the content alone."""
    bucket = int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") % 10
    return {0: Split.TEST, 1: Split.VALIDATION}.get(bucket, Split.TRAIN)
