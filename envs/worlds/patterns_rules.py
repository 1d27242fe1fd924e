"""Hidden rules of the patterns world: generators of the re-arc data set whose grids are small.

re-arc (https://arxiv.org/abs/2404.07353, as packed in ``reasoning_gym``) rewrites the training tasks of ARC as
programs: a generator that draws pairs of grids, and a verifier that turns an input into its output. ``RULES`` lists
those generators that draw varied pairs of at most 3 x 3 cells when asked for easy ones and whose rule a person can
tell from two such pairs; most of the 400 need larger grids. A puzzle is kept only if every rule of the list that
agrees with its two pairs gives the same answer. ``reasoning_gym``'s ``arc_agi`` is not used: it holds the public
evaluation tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
from reasoning_gym.arc.rearc_utils import generators, verifiers

Grid = tuple[tuple[int, ...], ...]
"""Rows of cells from 0 to 9."""
Pair = tuple[Grid, Grid]
"""Input and output of a rule."""

MAX_SIDE = 3
DIFFICULTIES = (0.03, 0.06, 0.15)
"""Upper bounds of re-arc's difficulty, in [0, 1]; it decides mostly about the size, differently for each rule."""
MAX_DRAWS = 400
RULES = {
    "05269061": "diagonals of three colours go on",
    "1e0a9b12": "every cell falls to the bottom",
    "23581191": "lines run through two cells",
    "25d8a9c8": "rows of one colour become gray, others black",
    "25ff71a9": "everything moves down by one",
    "2dee498d": "the first third is kept",
    "3bd67248": "from a line two others start",
    "3c9b0459": "half a turn",
    "3eda0437": "the largest empty rectangle is filled",
    "4258a5f9": "cells get a blue ring",
    "5582e5ca": "the most frequent colour fills the grid",
    "67a3c6ac": "left and right are swapped",
    "68b16354": "top and bottom are swapped",
    "746b3537": "repeated lines are dropped",
    "90c28cc7": "one cell for each block",
    "9565186b": "all but the most frequent colour become gray",
    "99fa7670": "cells draw a line to the right, then down",
    "9dfd6313": "rows and columns are swapped",
    "9f236235": "blocks between lines, left and right swapped",
    "a740d043": "the object is cut out, its ground black",
    "a79310a0": "everything moves down by one and becomes red",
    "ba26e723": "the cells of every third column become magenta",
    "d037b0a7": "colours run down",
    "d10ecb37": "the upper left corner is kept",
    "d23f8c26": "the middle column is kept",
    "d406998b": "the cells of every second column become green",
    "ea786f4a": "a cell becomes a cross",
    "ed36ccf7": "a quarter turn",
}
"""Task of ARC and what its rule does, in short."""


def solve(task: str, grid: Grid) -> Grid | None:
    """What the rule of ``task`` makes of ``grid`` by re-arc's verifier; None where it does not apply."""
    try:
        return getattr(verifiers, f"verify_{task}")(grid)
    except Exception:  # on grids of other tasks a verifier may fail in any way
        return None


def fits(pair: Pair) -> bool:
    """Whether ``pair`` has a place on the canvas and shows a change."""
    before, after = pair
    sides = (len(before), len(before[0]), len(after), len(after[0]))
    return max(sides) <= MAX_SIDE and min(sides[:2]) > 1 and before != after


def is_clear(task: str, demos: Sequence[Pair], last: Pair) -> bool:
    """Whether the rules that agree with ``demos`` all give ``last``, and it is no copy of anything seen."""
    seen = {grid for demo in demos for grid in demo}
    if last[0] in seen or last[1] in seen or demos[0][0] == demos[1][0]:
        return False
    others = (rule for rule in RULES if rule != task)
    rivals = (rule for rule in others if all(solve(rule, before) == after for before, after in demos))
    return all(solve(rule, last[0]) == last[1] for rule in rivals)


def draw_pair(task: str, random: Random) -> Pair | None:
    """A small pair of ``task``; None if none came up."""
    generate = getattr(generators, f"generate_{task}")
    for _ in range(MAX_DRAWS):
        drawn = generate(random, 0, random.choice(DIFFICULTIES))
        pair = drawn["input"], drawn["output"]
        if fits(pair):
            return pair
    return None


def draw_rule(rng: np.random.Generator) -> tuple[tuple[Pair, ...], str]:
    """Two demonstrations and a last pair that follows from them, and the task that they belong to."""
    random = Random(int(rng.integers(2**63)))
    while True:
        task = random.choice(list(RULES))
        pairs = [pair for pair in (draw_pair(task, random) for _ in range(3)) if pair is not None]
        if len(pairs) == 3 and is_clear(task, pairs[:2], pairs[2]):
            return tuple(pairs), task
