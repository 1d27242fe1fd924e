"""Several pictures of one small MiniGrid room on one canvas, of which the dream changes one or changes the order.

A picture shows the inside of the room with its upper and its left wall; the corner between them carries the
picture's number. The canvas ends where the right and the lower wall would be. The agent can turn, walk and pick
things up; a thing that was there and is gone is carried.
"""

from __future__ import annotations

import functools
import itertools
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from envs.scene import Outcome, Scene, State
from envs.search import distance_table
from envs.worlds.minigrid_layout import content_of, key_of
from envs.worlds.minigrid_rules import WALL, Actions, RoomState, act, mosaic, tile, tiles

MOVES = (Actions.left, Actions.right, Actions.forward, Actions.pickup)
SWAPS = ((0, 1), (1, 2), (0, 2))
"""Places that the actions behind ``MOVES`` exchange."""
ORDERED = (0, 1, 2)
DIGITS = {1: "010 110 010 010 111", 2: "111 001 111 100 111", 3: "111 001 011 001 111"}
"""3 x 5 pixels each."""


@functools.cache
def corner(number: int | None, patch_size: int) -> np.ndarray:
    """The wall in a picture's upper left corner, with the picture's number on it if it has one."""
    drawn = tile(WALL, None, patch_size).copy()
    if number is not None:
        dots = np.array([[c == "1" for c in row] for row in DIGITS[number].split()])
        big = dots.repeat(patch_size // 8, 0).repeat(patch_size // 8, 1)
        top, left = (patch_size - big.shape[0]) // 2, (patch_size - big.shape[1]) // 2
        drawn[top : top + big.shape[0], left : left + big.shape[1]][big] = 255
    return drawn


def move(state: RoomState, action: int, side: int) -> RoomState:
    """The agent's action in a room that is ``side`` cells wide inside."""
    return act(state, MOVES[action], side + 2)[0] if action < len(MOVES) else state


def possible_orders(pictures: Sequence[RoomState], side: int) -> list[tuple[int, ...]]:
    """All orders of ``pictures`` in which one action leads from each to the next."""
    after = [{move(picture, a, side) for a in range(len(MOVES))} for picture in pictures]
    orders = itertools.permutations(range(len(pictures)))
    return [order for order in orders if all(pictures[b] in after[a] for a, b in itertools.pairwise(order))]


class TemporalScene(Scene):
    """A canvas of numbered pictures."""

    topic: str

    def __init__(self, side: int, first: RoomState, start: State, patch_size: int, shown: str):
        """Args.

        side: cells of the room's inside each way.
        first: the room as it was in the beginning; further questions about it start there.
        start: the state of the dream.
        patch_size: pixels a cell.
        shown: all that is seen, as text.
        """
        self.side, self.first, self.start, self.patch_size = side, first, start, patch_size
        self.key = key_of(f"{self.topic}:{shown}")

    @abstractmethod
    def blocks(self, state: State) -> list[tuple[RoomState | None, int | None]]:
        """(room, number) of each picture, row by row, two a row; None for a block that is empty."""

    def frame(self, state: State) -> np.ndarray:
        """See :meth:`Scene.frame`."""
        drawn = [self._block(room, number) for room, number in self.blocks(state)]
        rows = [np.concatenate(drawn[i : i + 2], 1) for i in range(0, len(drawn), 2)]
        return np.concatenate(rows)

    def _block(self, room: RoomState | None, number: int | None) -> np.ndarray:
        columns = self.side + 1
        if room is None:
            return mosaic([corner(None, self.patch_size)] * columns**2, columns)
        width = self.side + 2
        cells = tiles(room, width, self.patch_size)
        kept = [cells[y * width + x] for y in range(columns) for x in range(columns)]
        return mosaic([corner(number, self.patch_size), *kept[1:]], columns)


class BetweenScene(TemporalScene):
    """Picture 1 is before, picture 2 after some actions. States are picture 1's; success is being like picture 2."""

    topic = "between"
    legal = tuple(range(len(MOVES)))

    def __init__(self, side: int, before: RoomState, after: RoomState, patch_size: int):
        """Args: ``side`` cells of the room's inside, the two pictures, ``patch_size`` pixels a cell."""
        shown = f"{content_of(side, before)}>{content_of(side, after)}"
        super().__init__(side, before, before, patch_size, shown)
        self.after = after
        self.grid = (side + 1, 2 * (side + 1))

    def blocks(self, state):
        """See :meth:`TemporalScene.blocks`."""
        return [(state, 1), (self.after, 2)]

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        moved = move(state, action, self.side)
        return moved, Outcome.SUCCESS if moved == self.after else Outcome.CONTINUE

    @functools.cached_property
    def _distances(self) -> dict[RoomState, int | None]:
        return self._table(self.first)

    def _table(self, start: RoomState) -> dict[RoomState, int | None]:
        return distance_table(start, range(len(MOVES)), lambda s, a: move(s, a, self.side), lambda s: s == self.after)

    def distance(self, state):
        """See :meth:`Scene.distance`."""
        if state not in self._distances:  # behind the end: the table stops there
            self._distances.update(self._table(state))
        return self._distances[state]


class NextScene(TemporalScene):
    """A picture without number, which the dream changes, and three that may come next. It never ends."""

    topic = "next"
    legal: tuple[int, ...] = tuple(range(len(MOVES)))

    def __init__(self, side: int, now: RoomState, candidates: Sequence[RoomState], patch_size: int):
        """Args: ``side`` cells of the room's inside, the pictures, ``patch_size`` pixels a cell."""
        shown = ">".join(content_of(side, room) for room in (now, *candidates))
        super().__init__(side, now, now, patch_size, shown)
        self.candidates = tuple(candidates)
        self.grid = (2 * (side + 1), 2 * (side + 1))

    def blocks(self, state):
        """See :meth:`TemporalScene.blocks`."""
        return [(state, None), *((room, number) for number, room in enumerate(self.candidates, 1))]

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        return move(state, action, self.side), Outcome.CONTINUE

    def distance(self, state):
        """See :meth:`Scene.distance`: there is nothing to reach."""
        return None


class OrderScene(TemporalScene):
    """Three pictures, one action apart, in a wrong order. A state says which picture is in which place."""

    topic = "order"
    legal = tuple(range(len(MOVES), len(MOVES) + len(SWAPS)))

    def __init__(self, side: int, pictures: Sequence[RoomState], start: Sequence[int], patch_size: int):
        """Args: ``side`` cells of the room's inside, ``pictures`` as they happened, ``start`` which is where."""
        shown = ">".join(content_of(side, pictures[index]) for index in start)
        super().__init__(side, pictures[0], tuple(start), patch_size, shown)
        self.pictures = tuple(pictures)
        self.grid = (2 * (side + 1), 2 * (side + 1))

    def blocks(self, state):
        """See :meth:`TemporalScene.blocks`."""
        return [*((self.pictures[index], number) for number, index in enumerate(state, 1)), (None, None)]

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        places = list(state)
        if action >= len(MOVES):
            a, b = SWAPS[action - len(MOVES)]
            places[a], places[b] = places[b], places[a]
        after = tuple(places)
        return after, Outcome.SUCCESS if after == ORDERED else Outcome.CONTINUE

    def distance(self, state):
        """See :meth:`Scene.distance`: two swaps turn three pictures round, one exchanges two."""
        displaced = sum(index != place for place, index in enumerate(state))
        return {0: 0, 2: 1, 3: 2}[displaced]
