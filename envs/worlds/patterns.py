"""Patterns: grids of coloured digits that are turned, live, or follow a hidden rule that two examples show.

Description: three kinds of scenes. "rotate": a square grid (``reasoning_gym``'s ``rotate_matrix``). "life": a board of
Conway's game of life whose edges are joined (its ``game_of_life``, by the rule of ``cellpylib``). "rule": two pairs of
grids show a rule (its ``rearc``, see :mod:`envs.worlds.patterns_rules`), a third grid waits for its partner.
Action Space: "turn" turns the grid clockwise by 90 degrees, "step" lets the board live on by one step, "apply" applies
the hidden rule; in a scene of another kind an action does nothing.
Observation: an RGB frame, a patch for each cell: its colour (ARC's own) and its digit. To the right of a grid or
board an arrow points at an empty place, where what became of it appears. A rule's inputs stand in one row, the
outputs below them, up to 3 x 3 cells each, with lines between the pairs.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: none; the question ends with the turns or steps that it names.

The answer is the grid that appears, its rows joined by strokes: "012/340/111". The verifier asks for every
cell; it also takes rows on lines of their own, cells with spaces or commas between them, and JSON, which are the
package's own forms. Boards of life change in each of their first three steps and never die out in them, so no
answer comes often. Boards of 3 x 3 have no life worth asking about, because each cell neighbours all others.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re

import cellpylib
import numpy as np

from envs.world import Outcome, Question, QuestionKind, Scene, World, WorldError, split_of
from envs.worlds.patterns_canvas import CANVAS, draw_one, draw_pairs
from envs.worlds.patterns_rules import MAX_SIDE, Grid, Pair, draw_rule

ACTIONS = ("turn", "step", "apply")
TOPICS = ("rotate", "life", "rule")
"""Kinds of scenes; each has the action of the same place."""
TOPICS_AT = {2: ("rotate",), 3: ("rotate", "rule"), 4: ("rotate", "life", "rule")}
"""Kinds of scenes by size, the side of grid and board."""
DIGITS = {"rotate": "0123456789", "life": "01", "rule": "0123456789"}
SIDES = {"rotate": (2, 4), "life": (3, 4), "rule": (1, MAX_SIDE)}
ASKED_STEPS = 3
"""Most turns or steps that a drawn question asks for; four turns would change nothing."""
UNDERSTOOD_STEPS = 8
LIVE_SHARE = 0.4
MAX_TRIES = 2000
TEXTS = {
    "rotate": (
        "What is the grid after a clockwise turn of {degrees} degrees?",
        "Turn the grid {degrees} degrees clockwise and read it.",
        "Read the grid when it is turned clockwise by {degrees} degrees.",
    ),
    "life": (
        "What does the board show after {steps} of life?",
        "What do {steps} of life make of the board?",
        "Read the board after {steps} of life.",
    ),
    "rule": (
        "What does the hidden rule make of the third grid?",
        "Apply the rule of the two pairs to the third grid.",
        "Which grid belongs below the third one?",
    ),
}


def turned(grid: Grid) -> Grid:
    """``grid`` turned clockwise by 90 degrees."""
    return tuple(zip(*grid[::-1], strict=True))


@functools.lru_cache(maxsize=100_000)
def lived(board: Grid) -> Grid:
    """``board`` one step later; its edges are joined."""
    rows, columns = len(board), len(board[0])

    def cell(row: int, column: int) -> int:
        around = [[board[(row + i) % rows][(column + j) % columns] for j in (-1, 0, 1)] for i in (-1, 0, 1)]
        return int(cellpylib.game_of_life_rule(np.array(around), (row, column), 1) == 1)

    return tuple(tuple(cell(row, column) for column in range(columns)) for row in range(rows))


def grid_text(grid: Grid) -> str:
    """((0, 1), (2, 3)) as "01/23"."""
    return "/".join("".join(map(str, row)) for row in grid)


def parse_grid(answer: str) -> Grid | None:
    """The grid that an answer states; None unless it consists of rows of digits only."""
    rows = re.split(r"/|\n|\]\s*,\s*\[", answer.strip(" \n[]."))
    rows = [row.strip() for row in rows]
    if not all(re.fullmatch(r"[0-9]([ ,]*[0-9])*", row) for row in rows):
        return None
    return tuple(tuple(int(digit) for digit in re.findall("[0-9]", row)) for row in rows)


class PatternScene(Scene):
    """A grid and what becomes of it. States are the grid in the empty place, () at first."""

    start = ()

    def __init__(self, topic: str, pairs: tuple[Pair, ...], grid: Grid, patch_size: int):
        """Args: ``topic``, ``pairs`` of a rule (the last one is the question) or none, ``grid``, ``patch_size``."""
        self.topic, self.pairs, self.given, self.patch_size = topic, pairs, grid, patch_size
        self.key = hashlib.blake2b(content(topic, pairs, grid).encode(), digest_size=16).hexdigest()
        self.grid = CANVAS if pairs else (len(grid), 2 * len(grid[0]) + 1)
        self.action = TOPICS.index(topic)
        self.legal = (self.action,)

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        if action != self.action:
            return state, Outcome.CONTINUE
        if self.topic == "rule":
            return self.pairs[-1][1], Outcome.CONTINUE
        change = turned if self.topic == "rotate" else lived
        return change(state or self.given), Outcome.CONTINUE

    def frame(self, state):
        """See :meth:`Scene.frame`."""
        if self.pairs:
            return draw_pairs(self.pairs, state, self.patch_size)
        return draw_one(self.given, state, self.patch_size)

    def distance(self, state):
        """There is nothing to reach."""
        return None


class Patterns(World):
    """Random grids, boards and re-arc puzzles; all kinds of a size equally often."""

    name = "patterns"
    family = "abstract"
    actions = ACTIONS
    min_size, max_size, default_sizes = min(TOPICS_AT), max(TOPICS_AT), (3, 4)
    kinds = (QuestionKind.PREDICT,)

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels a cell (at least 8, below which the digits merge)."""
        if patch_size < 8:
            raise WorldError(f"world.patch_size ({patch_size}) must be >= 8: smaller digits cannot be read")
        self.patch_size = patch_size

    def grid_at(self, size):
        """See :meth:`World.grid_at`. Of size 2 there are only grids to turn; else puzzles of rules are the largest."""
        return (size, 2 * size + 1) if TOPICS_AT[size] == ("rotate",) else CANVAS

    def scene(self, options):
        """See :meth:`World.scene`. Options: ``{"topic": "rotate", "grid": ["012", "345", "678"]}``.

        A board of life likewise; a rule is ``{"topic": "rule", "pairs": [[["01"], ["10"]], ...]}``, three pairs of
        input and output, the last of which is the question and its answer.
        """
        topic = options.get("topic")
        if topic not in TOPICS:
            raise WorldError(f'"topic" must be one of {", ".join(TOPICS)}, got {topic!r}')
        needed = "pairs" if topic == "rule" else "grid"
        for name in options:
            if name not in ("topic", needed):
                raise WorldError(f'unknown option {json.dumps(name)}; topic "{topic}" takes "{needed}"')
        if needed not in options:
            raise WorldError(f'"{needed}" is missing; topic "{topic}" needs it')
        if topic == "rule":
            pairs = check_pairs(options["pairs"])
            return PatternScene(topic, pairs, pairs[-1][0], self.patch_size)
        grid = check_grid(options["grid"], topic, '"grid"')
        if topic == "rotate" and len(grid) != len(grid[0]):
            raise WorldError(f'"grid" is {len(grid)}x{len(grid[0])}; a grid to turn must be square')
        return PatternScene(topic, (), grid, self.patch_size)

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`."""
        if size not in TOPICS_AT:
            raise WorldError(f"size ({size}) must be between {self.min_size} and {self.max_size}")
        topic = TOPICS_AT[size][rng.integers(len(TOPICS_AT[size]))]
        for _ in range(MAX_TRIES):
            pairs = draw_rule(rng)[0] if topic == "rule" else ()
            grid = pairs[-1][0] if pairs else draw_grid(topic, size, rng)
            if split_of(content(topic, pairs, grid)) is split:
                return PatternScene(topic, pairs, grid, self.patch_size)
        raise WorldError(f"no {topic} scene of the {split.value} split was found in {MAX_TRIES} tries")

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`. One to three turns or steps."""
        assert isinstance(scene, PatternScene), f"{type(scene).__name__} is no scene of this world"
        times = 1 if scene.topic == "rule" else int(rng.integers(1, min(length, ASKED_STEPS) + 1))
        return self.ask(scene, QuestionKind.PREDICT, rng, (scene.action,) * times)

    def ask(self, scene, kind, rng, script=()):
        """See :meth:`World.ask`. ``script`` repeats the scene's own action."""
        assert isinstance(scene, PatternScene), f"{type(scene).__name__} is no scene of this world"
        most = 1 if scene.topic == "rule" else UNDERSTOOD_STEPS
        if set(script) != {scene.action} or len(script) > most:
            raise WorldError(f'a {scene.topic} scene is asked about 1 to {most} times "{ACTIONS[scene.action]}"')
        texts = TEXTS[scene.topic]
        text = fill(texts[rng.integers(len(texts))], len(script))
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=tuple(script), topic=scene.topic)

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        shown = rollout.states[-1]
        return grid_text(shown) if shown else "nothing"

    def verify(self, question, answer):
        """See :meth:`World.verify`. Cell by cell, in any of the forms that :func:`parse_grid` reads."""
        grid = parse_grid(answer)
        return super().verify(question, answer if grid is None else grid_text(grid))

    def interpret(self, text, scene):
        """See :meth:`World.interpret`. A scene of another kind cannot be asked."""
        plain = " ".join(text.lower().split())
        known = understood().get(plain)
        if known is None or isinstance(scene, PatternScene) and scene.topic != known[0]:
            return None
        script = (TOPICS.index(known[0]),) * known[1]
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=script, topic=known[0])

    def corpus(self):
        """See :meth:`World.corpus`. Few digits: pieces learned from grids would be missing for words."""
        return [*understood_texts(), "nothing", *(f"{digit}/{digit}" for digit in "0123456789")]


def fill(text: str, times: int) -> str:
    """A template with the number of turns or steps filled in."""
    return text.format(degrees=90 * times, steps="1 step" if times == 1 else f"{times} steps")


@functools.lru_cache(maxsize=1)
def understood_texts() -> dict[str, tuple[str, int]]:
    """Every question that can be asked: its topic and how often the action is taken."""
    return {
        fill(text, times): (topic, times)
        for topic in TOPICS
        for text in TEXTS[topic]
        for times in range(1, 2 if topic == "rule" else UNDERSTOOD_STEPS + 1)
    }


@functools.lru_cache(maxsize=1)
def understood() -> dict[str, tuple[str, int]]:
    """:func:`understood_texts` in small letters."""
    return {text.lower(): found for text, found in understood_texts().items()}


def content(topic: str, pairs: tuple[Pair, ...], grid: Grid) -> str:
    """The scene as text, for its key and its split."""
    shown = [f"{grid_text(before)}>{grid_text(after)}" for before, after in pairs] or [grid_text(grid)]
    return f"{topic}:{','.join(shown)}"


def draw_grid(topic: str, side: int, rng: np.random.Generator) -> Grid:
    """A random grid to turn, or a board that stays alive and changes for as long as may be asked."""
    while True:
        cells = rng.integers(10, size=(side, side)) if topic == "rotate" else rng.random((side, side)) < LIVE_SHARE
        grid = tuple(tuple(int(cell) for cell in row) for row in cells)
        if topic == "rotate":
            if grid != turned(turned(grid)):
                return grid
            continue
        boards = [grid]
        for _ in range(ASKED_STEPS):
            boards.append(lived(boards[-1]))
        if all(any(map(any, board)) for board in boards) and len(set(boards)) == len(boards):
            return grid


def check_pairs(given: object) -> tuple[Pair, ...]:
    """The pairs of a rule, or a :class:`WorldError` that says what is wrong with them."""
    if not isinstance(given, list) or len(given) != 3:
        raise WorldError('"pairs" must be a list of 3 pairs: two examples and the question with its answer')
    pairs = []
    for number, pair in enumerate(given, 1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise WorldError(f"pair {number} must be a list of 2 grids: the input and the output")
        names = (f"the input of pair {number}", f"the output of pair {number}")
        pairs.append(tuple(check_grid(grid, "rule", name) for grid, name in zip(pair, names, strict=True)))
    return tuple(pairs)


def check_grid(given: object, topic: str, field: str) -> Grid:
    """The grid that rows of digits describe, or a :class:`WorldError` that says what is wrong with it."""
    if not isinstance(given, list) or not given or not all(isinstance(row, str) for row in given):
        raise WorldError(f'{field} must be a list of rows like ["012", "345", "678"], got {given!r}')
    rows, width, (least, most) = [str(row) for row in given], len(str(given[0])), SIDES[topic]
    ragged = [i for i, row in enumerate(rows) if len(row) != width]
    if ragged:
        raise WorldError(f"{field}: row 1 has {width} cells, row {ragged[0] + 1} has {len(rows[ragged[0]])}")
    if not (least <= len(rows) <= most and least <= width <= most):
        raise WorldError(f"{field} is {len(rows)}x{width}; both sides must be between {least} and {most}")
    foreign = sorted(set("".join(rows)) - set(DIGITS[topic]))
    if foreign:
        raise WorldError(f"{field} has {json.dumps(foreign[0])}; the cells of topic {topic} are {DIGITS[topic]}")
    return tuple(tuple(int(cell) for cell in row) for row in rows)
