"""Random physics layouts, built along the way that the ball falls so that many do something worth asking about."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from envs.world import Split, split_of
from envs.worlds.physics_layout import COLOURS, SLOPES, UNIT, Layout, Piece, make_layout
from envs.worlds.physics_simulation import Fall


class Aim(NamedTuple):
    """Where things are put, so that a wanted answer is not too rare; whether it comes true is up to the simulation."""

    first: float = 0.7
    """Chance that the first thing is put where the ball comes by; else it is anywhere."""
    second: float = 0.7
    """The same of the second thing."""
    undisturbed: float = 0.5
    """Chance that the second thing is put on the way that the ball takes without the first."""
    first_block: float = 0.4
    """Chance that the first thing is a block, not a ball."""
    second_block: float = 0.4
    """The same of the second thing."""
    platform: float = 0.0
    """Chance of a platform where the ball comes by."""


BIN = Aim(first=0.3, second=0.3)
AIMS = {
    "in the left bin": BIN,
    "in the middle bin": BIN,
    "in the right bin": BIN,
    "on the platform": Aim(first=0.4, second=0.4, platform=1),
    "on the block": Aim(first=0.9, second=0.4, first_block=1),
    "it falls to the floor": Aim(first=0, second=0),
    "it lands on the platform": Aim(first=0, second=0, platform=1),
    "it hits the ball": Aim(first=0.9, second=0, first_block=0),
    "it hits the block": Aim(first=0.9, second=0, first_block=1),
    "it hits the ball and the ball": Aim(first=1, second=1, undisturbed=0, first_block=0, second_block=0),
    "it hits the ball and the block": Aim(first=1, second=1, undisturbed=0, first_block=0.3, second_block=0.7),
    "yes": Aim(),
    "no": Aim(first=1, second=0.9, undisturbed=0.9),
    "yes, now yes": Aim(),
    "yes, now no": Aim(first=1, second=1, undisturbed=1, first_block=0.6),
    "no, now yes": Aim(first=1, second=1, undisturbed=0, first_block=0.2),
    "no, now no": Aim(first=0.9, second=0.3),
}
"""By answer, as in ``physics_questions.BUCKETS``."""
LOOK_AHEAD = 5
"""Ticks of a fall in which things are put in its way."""
COARSE = 12
"""Simulation steps a tick where only the rough way of the ball matters."""
SIDES = (-1, 1)
"""Half columns by which a ball is put beside the way: one that is hit right on top would have to be balanced on."""


def propose(rng: np.random.Generator, split: Split, size: int, aim: Aim) -> Layout | None:
    """A random layout of ``split``: one held ball, two other coloured things; None if they do not go together."""
    held, first, second = COLOURS
    column = int(rng.integers(2 * size - 1)) / 2
    pieces = [Piece(kind="ball", row=0, column=column, colour=held), *fixtures(rng, column, size)]
    if make_layout(size, pieces).problem():
        return None
    first_met, platform_met = rng.random() < aim.first, rng.random() < aim.platform
    second_met, undisturbed = rng.random() < aim.second, rng.random() < aim.undisturbed
    alone = way(make_layout(size, pieces)) if first_met or platform_met or second_met and undisturbed else []
    if platform_met:
        x, y = spot(rng, alone, size)
        pieces += strip(rng, min(int(y // UNIT), size - 2), int(x // UNIT), size)
    pieces += thing(rng, first, spot(rng, alone if first_met else [], size), aim.first_block, size)
    with_first = make_layout(size, list(dict.fromkeys(pieces)))  # platforms may share cells
    if with_first.problem():
        return None
    points = [] if not second_met else alone if undisturbed else way(with_first)
    pieces += thing(rng, second, spot(rng, points, size), aim.second_block, size)
    layout = make_layout(size, list(dict.fromkeys(pieces)))
    return None if layout.problem() else disguise(rng, layout, split)


def disguise(rng: np.random.Generator, layout: Layout, split: Split) -> Layout | None:
    """``layout`` with other colours and perhaps mirrored, a random one of those that belong to ``split``."""
    looks = [(mirror, colours) for mirror in (False, True) for colours in itertools.permutations(COLOURS)]
    for index in rng.permutation(len(looks)):
        mirror, colours = looks[index]
        names = dict(zip(COLOURS, colours, strict=True)) | {"": ""}
        pieces = [replace(p, colour=names[p.colour]) for p in layout.pieces]
        if mirror:
            slopes = dict(zip(SLOPES, reversed(SLOPES), strict=True)) | {"": ""}
            pieces = [replace(p, column=layout.size - 1 - p.column, slope=slopes[p.slope]) for p in pieces]
        found = make_layout(layout.size, pieces)
        if split_of(found.content()) is split:
            return found
    return None


def spot(rng: np.random.Generator, points: Sequence[tuple[float, float]], size: int) -> tuple[float, float]:
    """One of ``points``, or any point below the first row if there are none."""
    if points:
        return points[int(rng.integers(len(points)))]
    x, y = rng.random(2) * (size, size - 1) + (0, 1)
    return float(x * UNIT), float(y * UNIT)


def fixtures(rng: np.random.Generator, column: float, size: int) -> list[Piece]:
    """Ramps, the first of them right below ``column``, and perhaps a platform."""
    pieces = []
    for number in range(rng.integers(1, 4)):
        below = int(column) + int(rng.integers(2)) if number == 0 else int(rng.integers(size))
        slope = SLOPES[rng.integers(2)]
        pieces.append(Piece(kind="ramp", row=int(rng.integers(1, size - 1)), column=min(below, size - 1), slope=slope))
    if rng.random() < 0.5:
        pieces += strip(rng, int(rng.integers(1, size - 1)), int(rng.integers(size)), size)
    return pieces


def thing(rng: np.random.Generator, colour: str, point: tuple[float, float], block: float, size: int) -> list[Piece]:
    """A block at ``point``, or a ball beside it on a platform of its own or on the floor."""
    x, y = point
    row = int(y // UNIT)
    if row < size - 1 and rng.random() < block:
        return [Piece(kind="block", row=row, column=int(x // UNIT), colour=colour)]
    half = round(2 * x / UNIT - 1) + int(SIDES[rng.integers(len(SIDES))])
    column = min(max(half, 0), 2 * size - 2) / 2
    ball = Piece(kind="ball", row=row, column=column, colour=colour)
    ground = sorted({int(column), int(column + 0.5)}) if row < size - 1 else []
    return [ball, *(Piece(kind="platform", row=row, column=c) for c in ground)]


def way(layout: Layout) -> list[tuple[float, float]]:
    """Points (x, y) that the held ball passes as it falls, below the row in which it is held."""
    fall = Fall(layout, substeps=COARSE)
    places = [fall.after(tick).balls[layout.held.colour] for tick in range(LOOK_AHEAD + 1)]
    steps = zip(places, places[1:], strict=False)
    between = [(a.x + s * (b.x - a.x), a.y + s * (b.y - a.y)) for a, b in steps for s in (0.25, 0.5, 0.75, 1)]
    cells = {(int(x // UNIT), int(y // UNIT)): (x, y) for x, y in between if y > 2 * UNIT}
    return list(cells.values())


def strip(rng: np.random.Generator, row: int, column: int, size: int) -> list[Piece]:
    """A platform of one or two cells, one of them at ``column``."""
    other = min(max(column + int(rng.integers(-1, 2)), 0), size - 1)
    return [Piece(kind="platform", row=row, column=c) for c in sorted({column, other})]
