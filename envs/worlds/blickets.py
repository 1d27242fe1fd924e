"""Blickets: which objects switch a machine on? Reasoning Gym's ACRE puzzles as a world of pictures.

Description: some objects are "blickets". The machine goes on when at least one blicket lies on it. Six rows show
trials: the machine (on or off) and the objects that lay on it. The last row shows objects under test. Do the trials
tell what the machine will do?
Action Space: 1 action, "test": the objects of the last row are put on the machine.
Observation: an RGB frame of 7 x 7 patches, a row for each trial and the last one for the test: the machine in the
first column (lamp yellow: on, black: off, a question mark: not tested), then up to 6 objects. An object is
a square (cube), a disc (sphere) or a bar (cylinder) in one of 8 colours; metal has a white glint, rubber has none.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: none; the question ends after the test.

The puzzles are ``reasoning_gym``'s ``acre`` (after the ACRE data set, https://arxiv.org/abs/2103.14232); those with
more than 6 objects in a row (under 1%) are left out. The machine's answer is not taken from there but inferred from
the trials, by checking every set of objects that could be the blickets; a test holds it equal to the package's
answer. After the test a lamp that is half yellow, half black says that the trials leave it open. Objects are
shuffled within their row, because the package lists the candidates first.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from random import Random

import numpy as np
from reasoning_gym.induction.acre.acre import ACREDataset, ACREDatasetConfig

from envs.world import Outcome, Question, QuestionKind, Scene, World, WorldError, split_of

ACTIONS = ("test",)
ANSWERS = ("on", "off", "undetermined")
NUM_TRIALS, MAX_OBJECTS = 6, 6
MAX_DISTINCT = 14
"""Most different objects in a scene: every set of them is checked. The package's puzzles have at most 8."""
MAX_TRIES = 2000
DATASET_SIZE = 5
"""Smallest size with puzzles of all kinds; a data set of this size holds 12 questions."""
COLORS = {
    "blue": (40, 70, 220),
    "brown": (130, 75, 30),
    "cyan": (40, 210, 220),
    "gray": (135, 135, 135),
    "green": (30, 150, 50),
    "purple": (150, 50, 190),
    "red": (220, 40, 40),
    "yellow": (235, 205, 30),
}
MATERIALS = ("metal", "rubber")
SHAPES = ("cube", "cylinder", "sphere")
UNTESTED = "untested"
BACKGROUND, LAST_ROW, CASE = (250, 250, 250), (220, 228, 245), (90, 95, 105)
LAMPS = {
    "on": ((255, 225, 40), (255, 225, 40)),
    "off": ((15, 15, 15), (15, 15, 15)),
    "undetermined": ((255, 225, 40), (15, 15, 15)),
    UNTESTED: ((255, 255, 255), (255, 255, 255)),
}
"""Colours of the left and the right half of the machine's lamp."""
MARK = ("01110", "10001", "00010", "00100", "00000", "00100")
"""The question mark on the lamp before the test."""
PREDICT_TEXTS = (
    "What does the machine do with the objects in the last row?",
    "Is the machine on, off or undetermined with the last row?",
    "Test the last row. What does the machine show?",
)

Trial = tuple[tuple[str, ...], str]
"""Objects such as "red metal cube", and "on" or "off"."""


def infer(trials: Sequence[Trial], query: Sequence[str]) -> str:
    """Whether the machine goes on with ``query``, by all hypotheses that agree with every trial; "" if none does.

    A hypothesis is a set of objects that are blickets, here a bit mask. An object that no trial shows may be either.
    """
    objects = list(dict.fromkeys(itertools.chain(*(row for row, _ in trials), query)))
    masks = {name: 1 << i for i, name in enumerate(objects)}
    hypotheses = np.arange(1 << len(objects))
    for row, light in trials:
        lit = (hypotheses & sum(masks[name] for name in row)) != 0
        hypotheses = hypotheses[lit == (light == "on")]
    if not len(hypotheses):
        return ""
    lit = (hypotheses & sum(masks[name] for name in query)) != 0
    return "on" if lit.all() else "undetermined" if lit.any() else "off"


@functools.lru_cache(maxsize=256)
def object_patch(name: str, patch_size: int) -> np.ndarray:
    """One object, uint8 (patch, patch, 3)."""
    color, material, shape = name.split()
    place = (np.arange(patch_size) + 0.5) / patch_size * 2 - 1
    y, x = place[:, None], place[None, :]
    cube = np.maximum(abs(x), abs(y)) < 0.7
    sphere = x**2 + y**2 < 0.78**2
    cylinder = (abs(x) < 0.4) & (abs(y) < 0.9)
    inside = {"cube": cube, "sphere": sphere, "cylinder": cylinder}[shape]
    patch = np.full((patch_size, patch_size, 3), BACKGROUND, np.uint8)
    patch[inside] = COLORS[color]
    if material == "metal":
        patch[inside & (abs(x + y + 0.3) < 0.2)] = 255
    return patch


@functools.lru_cache(maxsize=32)
def machine_patch(light: str, patch_size: int) -> np.ndarray:
    """The machine with its lamp, uint8 (patch, patch, 3)."""
    patch = np.full((patch_size, patch_size, 3), CASE, np.uint8)
    edge, middle = max(1, patch_size // 8), patch_size // 2
    patch[edge:-edge, edge:middle], patch[edge:-edge, middle:-edge] = LAMPS[light]
    if light == UNTESTED:
        mark = np.array([[digit == "1" for digit in row] for row in MARK])
        mark = mark.repeat(patch_size // 8, 0).repeat(patch_size // 8, 1)
        top, left = (patch_size - mark.shape[0]) // 2, (patch_size - mark.shape[1]) // 2
        patch[top : top + mark.shape[0], left : left + mark.shape[1]][mark] = 0
    return patch


@functools.lru_cache(maxsize=8)
def empty_patches(patch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """A place without an object, in a trial and in the last row, uint8 (patch, patch, 3)."""
    empty = np.full((patch_size, patch_size, 3), BACKGROUND, np.uint8)
    last = np.full((patch_size, patch_size, 3), LAST_ROW, np.uint8)
    return empty, last


class BlicketScene(Scene):
    """Trials and objects under test. States are what the machine of the last row shows."""

    grid = (NUM_TRIALS + 1, MAX_OBJECTS + 1)
    start = UNTESTED

    def __init__(self, trials: Sequence[Trial], query: Sequence[str], patch_size: int):
        """Args: ``trials`` and ``query``, already validated; ``patch_size`` pixels an object."""
        self.trials, self.query, self.patch_size = tuple(trials), tuple(query), patch_size
        self.key = hashlib.blake2b(content(trials, query).encode(), digest_size=16).hexdigest()
        self.answer = infer(self.trials, self.query)

    def step(self, state, action):
        """See :meth:`Scene.step`. A second test shows the same."""
        return (self.answer if action == 0 else state), Outcome.CONTINUE

    def frame(self, state):
        """See :meth:`Scene.frame`. The last trial stands right above the last row, missing ones at the top."""
        size = self.patch_size
        empty, last = empty_patches(size)
        rows, columns = self.grid
        cells = [[empty] * columns for _ in range(rows - 1)] + [[last] * columns]
        first = NUM_TRIALS - len(self.trials)
        for index, (objects, light) in enumerate((*self.trials, (self.query, state)), first):
            shown = [machine_patch(light, size), *(object_patch(name, size) for name in objects)]
            cells[index][: len(shown)] = shown
        return np.concatenate([np.concatenate(row, axis=1) for row in cells])

    def distance(self, state):
        """There is nothing to reach."""
        return None


class Blickets(World):
    """The package's puzzles, the three answers equally often."""

    name = "blickets"
    family = "causal"
    actions = ACTIONS
    kinds = (QuestionKind.PREDICT,)
    predict_texts = PREDICT_TEXTS

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels an object (at least 8, below which the objects merge)."""
        if patch_size < 8:
            raise WorldError(f"world.patch_size ({patch_size}) must be >= 8: smaller objects cannot be told apart")
        self.patch_size = patch_size

    def grid_at(self, size):
        """See :meth:`World.grid_at`."""
        return BlicketScene.grid

    def scene(self, options):
        """See :meth:`World.scene`.

        Options: ``{"trials": [{"objects": ["red metal cube"], "light": "on"}], "query": ["red metal cube"]}``.
        """
        for name in options:
            if name not in ("trials", "query"):
                raise WorldError(f'unknown option {json.dumps(name)}; blickets takes "trials" and "query"')
        for name in ("trials", "query"):
            if name not in options:
                raise WorldError(f'"{name}" is missing; blickets takes "trials" and "query"')
        trials, query = check_trials(options["trials"]), check_objects(options["query"], '"query"')
        distinct = set(itertools.chain(query, *(row for row, _ in trials)))
        if len(distinct) > MAX_DISTINCT:
            raise WorldError(f"the scene has {len(distinct)} different objects; use at most {MAX_DISTINCT}")
        if not infer(trials, query):
            raise WorldError("the trials contradict each other: no choice of blickets explains all of them")
        return BlicketScene(trials, query, self.patch_size)

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`. The answer is chosen first, which balances the answers."""
        if size != 1:
            raise WorldError(f"size ({size}) must be 1: blickets come in one size")
        wanted = ANSWERS[rng.integers(len(ANSWERS))]
        for _ in range(MAX_TRIES):
            trials, query, answer = draw_puzzle(rng)
            longest = max(len(query), *(len(row) for row, _ in trials))
            if answer == wanted and longest <= MAX_OBJECTS and split_of(content(trials, query)) is split:
                return BlicketScene(trials, query, self.patch_size)
        raise WorldError(f"no puzzle of the {split.value} split was found in {MAX_TRIES} tries")

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`. There is one thing to ask."""
        return self.ask(scene, QuestionKind.PREDICT, rng, (0,))

    def tell(self, question, rollout):
        """See :meth:`World.tell`. What the machine of the last row shows in the end."""
        return rollout.states[-1]

    def interpret(self, text, scene):
        """See :meth:`World.interpret`."""
        if " ".join(text.lower().split()) not in {t.lower() for t in PREDICT_TEXTS}:
            return None
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=(0,))

    def corpus(self):
        """See :meth:`World.corpus`."""
        return [*PREDICT_TEXTS, *ANSWERS]


def content(trials: Sequence[Trial], query: Sequence[str]) -> str:
    """The scene as text, for its key and its split."""
    return "/".join(f"{','.join(row)}:{light}" for row, light in (*trials, (query, UNTESTED)))


def draw_puzzle(rng: np.random.Generator) -> tuple[list[Trial], tuple[str, ...], str]:
    """Trials, objects under test and the package's answer."""
    seed, train = int(rng.integers(2**31)), int(rng.integers(2))
    questions = ACREDataset(ACREDatasetConfig(train=train, size=DATASET_SIZE, seed=seed)).questions
    drawn = questions[rng.integers(len(questions))]
    order = Random(int(rng.integers(2**31)))

    def names(objects: list[list[str]]) -> tuple[str, ...]:
        return tuple(order.sample([" ".join(words) for words in objects], len(objects)))

    trials = [(names(trial["input"]), trial["output"]) for trial in drawn["examples"]]
    return trials, names(drawn["question"]["input"]), drawn["question"]["output"]


def check_trials(given: object) -> list[Trial]:
    """The trials, or a :class:`WorldError` that says what is wrong with them."""
    if not isinstance(given, list) or not 1 <= len(given) <= NUM_TRIALS:
        raise WorldError(f'"trials" must be a list of 1 to {NUM_TRIALS} trials')
    trials = []
    for number, trial in enumerate(given, 1):
        if not isinstance(trial, dict) or set(trial) != {"objects", "light"}:
            raise WorldError(f'trial {number} must be like {{"objects": ["red metal cube"], "light": "on"}}')
        if trial["light"] not in ("on", "off"):
            raise WorldError(f'"light" of trial {number} must be "on" or "off", got {trial["light"]!r}')
        trials.append((check_objects(trial["objects"], f'"objects" of trial {number}'), trial["light"]))
    return trials


def check_objects(given: object, field: str) -> tuple[str, ...]:
    """The names of the objects of one row, or a :class:`WorldError` that says what is wrong with them."""
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_OBJECTS or not all(isinstance(g, str) for g in given):
        raise WorldError(f'{field} must be a list of 1 to {MAX_OBJECTS} names like "red metal cube"')
    for name in given:
        words = name.split(" ")
        if len(words) != 3 or any(w not in known for w, known in zip(words, (COLORS, MATERIALS, SHAPES), strict=True)):
            raise WorldError(
                f"{field} has {json.dumps(name)}; an object is a color ({', '.join(COLORS)}), a material "
                f"({', '.join(MATERIALS)}) and a shape ({', '.join(SHAPES)}), like red metal cube"
            )
        if given.count(name) > 1:
            raise WorldError(f"{field} has {json.dumps(name)} twice; name it once")
    return tuple(given)
