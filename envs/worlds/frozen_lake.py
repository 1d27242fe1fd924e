"""FrozenLake: Gymnasium's own rules and sprites as a world of pictures.

Description: an elf walks on a frozen lake from the stool (S) to the gift (G) without falling into a hole (H).
Action Space: 4 actions in Gymnasium's order: left, down, right, up. The ice is not slippery.
Observation: an RGB frame of ``patch_size`` pixels a cell, so the picture grows with the board.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: the elf is on the gift (success) or in a hole (failure).

Rules come from ``FrozenLakeEnv.P`` of each board. Frames are composed from tiles cut out of what
``FrozenLakeEnv.render`` draws, because rendering through pygame is 30x slower; a test holds them equal.
The elf always faces down: Gymnasium draws it in the direction of the last action, which would let
"what" tell about the past and "result" about the action.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Sequence

import numpy as np
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

from envs.world import Outcome, Question, QuestionKind, Rollout, Scene, World, WorldError, random_play, split_of

ACTIONS = ("left", "down", "right", "up")
MIN_SIZE, MAX_SIZE = 2, 8
FROZEN_SHARE = 0.8
"""Share of frozen cells, Gymnasium's own default for random maps."""
LETTERS = "FHSG"
UNREACHABLE = -1
PLAN_TEXTS = (
    "Find the shortest safe path to the gift.",
    "How does the elf get to the gift without falling in?",
    "Give the shortest way to the gift.",
)
PREDICT_TEXTS = (
    "What happens if the elf moves {moves}?",
    "The elf moves {moves}. What happens?",
)
NO_PLAN = "no dream reaches the gift"
BALANCE_TRIES = 32
"""Random walks among which one with the wanted outcome is looked for."""
OUTCOME_TEXT = {
    Outcome.CONTINUE: "the elf is still on the ice",
    Outcome.SUCCESS: "the elf reaches the gift after {n} moves",
    Outcome.FAILURE: "the elf falls into a hole after {n} moves",
}


@functools.lru_cache(maxsize=8)
def tileset(patch_size: int) -> np.ndarray:
    """Every tile that a frame can hold, uint8 (2, 4, patch, patch, 3): [elf here?, letter in ``LETTERS``].

    Cut out of frames that Gymnasium renders, so a change of its sprites is followed.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    tiles = np.zeros((2, len(LETTERS), patch_size, patch_size, 3), np.uint8)
    env = FrozenLakeEnv(render_mode="rgb_array", desc=[LETTERS, "F" * len(LETTERS)], is_slippery=False)
    env.cell_size = (patch_size, patch_size)
    env.window_size = (patch_size * len(LETTERS), patch_size * 2)
    env.reset(seed=0)
    for index in range(len(LETTERS)):
        for elf in (0, 1):
            env.s, env.lastaction = (index if elf else len(LETTERS) + index), None
            frame = env.render()
            assert isinstance(frame, np.ndarray)
            tiles[elf, index] = frame[:patch_size, index * patch_size : (index + 1) * patch_size]
    env.close()
    return tiles


class FrozenLakeScene(Scene):
    """One board. States are Gymnasium's: row * columns + column."""

    def __init__(self, desc: Sequence[str], patch_size: int):
        """Args: ``desc`` rows of S, F, H, G (already validated), ``patch_size`` pixels a cell."""
        self.desc = tuple(desc)
        self.key = hashlib.blake2b("/".join(self.desc).encode(), digest_size=16).hexdigest()
        self.grid = (len(self.desc), len(self.desc[0]))
        self.patch_size = patch_size
        letters = "".join(self.desc)
        self.letters = np.array([LETTERS.index(c) for c in letters])
        self.start = letters.index("S")
        table = FrozenLakeEnv(desc=list(desc), is_slippery=False).P
        self.next = [[table[s][a][0][1] for a in range(len(ACTIONS))] for s in range(len(letters))]
        kinds = {"G": Outcome.SUCCESS, "H": Outcome.FAILURE}
        self.outcomes = [kinds.get(c, Outcome.CONTINUE) for c in letters]
        self.distances = self._distances()

    def _distances(self) -> list[int]:
        """Breadth-first search backwards from the gift; ``UNREACHABLE`` from holes and walled-in ice."""
        before: list[list[int]] = [[] for _ in self.next]
        for state, row in enumerate(self.next):
            if self.outcomes[state] is Outcome.CONTINUE:
                for after in row:
                    before[after].append(state)
        goal = self.outcomes.index(Outcome.SUCCESS)
        distances = [UNREACHABLE] * len(self.next)
        distances[goal] = 0
        queue = deque([goal])
        while queue:
            state = queue.popleft()
            for previous in before[state]:
                if distances[previous] == UNREACHABLE:
                    distances[previous] = distances[state] + 1
                    queue.append(previous)
        return distances

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        after = self.next[state][action]
        return after, self.outcomes[after]

    def frame(self, state):
        """See :meth:`Scene.frame`."""
        elf = np.zeros(len(self.letters), np.int64)
        elf[state] = 1
        tiles = tileset(self.patch_size)[elf, self.letters]  # (cells, patch, patch, 3)
        rows, columns = self.grid
        tiled = tiles.reshape(rows, columns, self.patch_size, self.patch_size, 3)
        return tiled.transpose(0, 2, 1, 3, 4).reshape(rows * self.patch_size, columns * self.patch_size, 3)

    def distance(self, state):
        """See :meth:`Scene.distance`."""
        distance = self.distances[state]
        return None if distance == UNREACHABLE else distance


class FrozenLake(World):
    """Random boards with random start and goal, any rectangle of 2 to 8 cells a side."""

    name = "frozen_lake"
    family = "spatial"
    actions = ACTIONS
    min_size, max_size, default_sizes = MIN_SIZE, MAX_SIZE, (3, 4)
    plan_texts, predict_texts, no_plan = PLAN_TEXTS, PREDICT_TEXTS, NO_PLAN

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels a cell (at least 8, below which the sprites merge)."""
        if patch_size < 8:
            raise WorldError(f"world.patch_size ({patch_size}) must be >= 8: smaller sprites cannot be told apart")
        self.patch_size = patch_size

    def scene(self, options):
        """See :meth:`World.scene`. Options: ``{"desc": ["SFF", "FHF", "FFG"]}``, Gymnasium's own form."""
        unknown = sorted(set(options) - {"desc"})
        if unknown:
            raise WorldError(
                f'unknown option {json.dumps(unknown[0])}; frozen_lake takes {{"desc": ["SFF", "FHF", "FFG"]}}'
            )
        if "desc" not in options:
            raise WorldError('"desc" is missing; give the rows of the board, {"desc": ["SFF", "FHF", "FFG"]}')
        desc = check_desc(options["desc"])
        scene = FrozenLakeScene(desc, self.patch_size)
        if scene.distance(scene.start) is None:
            raise WorldError(f"board {list(desc)} has no path from S to G; remove a hole")
        return scene

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`."""
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise WorldError(f"size ({size}) must be between {MIN_SIZE} and {MAX_SIZE}")
        while True:
            cells = np.where(rng.random(size * size) < FROZEN_SHARE, "F", "H")
            cells[rng.choice(size * size, 2, replace=False)] = ["S", "G"]
            text = "".join(cells)
            desc = [text[i : i + size] for i in range(0, size * size, size)]
            if split_of("/".join(desc)) is not split:
                continue
            scene = FrozenLakeScene(desc, self.patch_size)
            if scene.distance(scene.start) is not None:
                return scene

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`. Each outcome of a PREDICT question is equally likely, where random play finds it.

        Otherwise the elf would still be on the ice in three cases of five.
        """
        if not predict:
            return super().draw(scene, predict, length, rng)
        wanted = list(OUTCOME_TEXT)[rng.integers(len(OUTCOME_TEXT))]
        for _ in range(BALANCE_TRIES):
            played = random_play(scene, len(self.actions), int(rng.integers(1, length + 1)), rng)
            if played.outcome is wanted:
                break
        return self.ask(scene, QuestionKind.PREDICT, rng, played.actions)

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        return outcome_text(rollout)

    def parse_plan(self, answer):
        """See :meth:`World.parse_plan`; spaces separate moves, too."""
        return parse_plan(answer)

    def interpret(self, text, scene):
        """See :meth:`World.interpret`: named moves make it a PREDICT question, "way" or "path" a PLAN."""
        words = re.findall(r"[a-z]+", text.lower())
        moves = tuple(ACTIONS.index(w) for w in words if w in ACTIONS)
        if moves:
            return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=moves)
        if {"path", "way", "route", "get", "reach"} & set(words):
            return Question(kind=QuestionKind.PLAN, text=text, scene=scene)
        return None

    def corpus(self):
        """See :meth:`World.corpus`."""
        return super().corpus() + [t.format(n=n) for t in OUTCOME_TEXT.values() for n in range(1, 65)]


def check_desc(desc: object) -> tuple[str, ...]:
    """The rows of a board, or a :class:`WorldError` that says what is wrong with them."""
    if not isinstance(desc, list | tuple) or not desc or not all(isinstance(row, str) for row in desc):
        raise WorldError(f'"desc" must be a list of strings like ["SFF", "FHF", "FFG"], got {desc!r}')
    rows = [str(row) for row in desc]
    width = len(rows[0])
    ragged = [i for i, row in enumerate(rows) if len(row) != width]
    if ragged:
        i = ragged[0]
        raise WorldError(f"board rows differ in length: row 1 has {width} cells, row {i + 1} has {len(rows[i])}")
    if not (MIN_SIZE <= len(rows) <= MAX_SIZE and MIN_SIZE <= width <= MAX_SIZE):
        raise WorldError(f"board is {len(rows)}x{width}; both sides must be between {MIN_SIZE} and {MAX_SIZE}")
    unknown = sorted(set("".join(rows)) - set(LETTERS))
    if unknown:
        raise WorldError(
            f"board has unknown letter {json.dumps(unknown[0])}; use S (start), F (frozen), H (hole), G (goal)"
        )
    for letter, name in (("S", "start"), ("G", "goal")):
        count = "".join(rows).count(letter)
        if count != 1:
            raise WorldError(f"board has {count} {letter} ({name}); it must have exactly one")
    return tuple(rows)


def parse_plan(answer: str) -> list[int]:
    """The actions that an answer states; empty unless it consists of action names and separators only."""
    words = [w for w in re.split(r"[\s,;.]+|\bthen\b|\band\b", answer.strip().lower()) if w]
    if not words or any(w not in ACTIONS for w in words):
        return []
    return [ACTIONS.index(w) for w in words]


def outcome_text(rollout: Rollout) -> str:
    """The sentence that says how ``rollout`` ended and when."""
    return OUTCOME_TEXT[rollout.outcome].format(n=len(rollout.actions))
