"""What a world is: a simulator with frames, named actions and questions that it can verify.

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
"""Hashable and immutable; its type is the scene's own business."""


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

    @abstractmethod
    def step(self, state: State, action: int) -> tuple[State, Outcome]:
        """The simulator's next state and its outcome; ``state`` itself stays as it was."""

    @abstractmethod
    def frame(self, state: State) -> np.ndarray:
        """The picture of ``state``, uint8 (rows * patch, columns * patch, 3)."""

    @abstractmethod
    def distance(self, state: State) -> int | None:
        """Fewest actions from ``state`` to success; None when success is out of reach (a dead end)."""


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
    """The actions that a PREDICT question names; empty for PLAN."""
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


class World(ABC):
    """A family of scenes with named actions, a patch-aligned picture of each state, and questions."""

    name: str
    family: str
    actions: tuple[str, ...]
    max_size: int
    """Largest ``size`` that :meth:`sample_scene` takes."""
    patch_size: int
    """Side of one image patch in pixels; every frame is a whole number of patches each way."""

    @abstractmethod
    def scene(self, options: dict) -> Scene:
        """The scene that ``options`` describe; :class:`WorldError` names what is wrong with them."""

    @abstractmethod
    def sample_scene(self, rng: np.random.Generator, split: Split, size: int) -> Scene:
        """A random scene of ``split``; ``size`` in the world's own unit (cells a side)."""

    @abstractmethod
    def ask(self, scene: Scene, kind: QuestionKind, rng: np.random.Generator, script: Sequence[int] = ()) -> Question:
        """A question of ``kind``; for PREDICT about ``script`` (the actions it names)."""

    @abstractmethod
    def verify(self, question: Question, answer: str) -> Verdict:
        """Check ``answer`` against the simulator, strictly."""

    @abstractmethod
    def true_answer(self, question: Question, rollouts: Sequence[Rollout]) -> tuple[list[int], str]:
        """What someone who saw only ``rollouts`` should answer: indices of the rollouts to read, and the text.

        An empty list means that none of them supports an answer; the text then says so.
        """

    def wordings(self, answer: str) -> list[str]:
        """Ways to word ``answer`` that the verifier takes for the same, ``answer`` first; trained on alike."""
        return [answer]

    @abstractmethod
    def interpret(self, text: str, scene: Scene) -> Question | None:
        """The question that free ``text`` asks about ``scene``; None when it is none that can be verified."""

    @abstractmethod
    def corpus(self) -> list[str]:
        """Sentences that cover the world's questions and answers, to train the text tokenizer on."""


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
    return roll(scene, rng.integers(num_actions, size=length).tolist())
