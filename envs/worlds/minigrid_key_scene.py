"""A room with a door in its dividing wall, keys and a goal: reading it from options, and making it at random."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from envs.scene import Outcome, Scene, State, WorldError
from envs.search import distance_table, shortest_script
from envs.worlds.minigrid_layout import check_fields, content_of, key_of, read_name, read_room, read_size, scatter
from envs.worlds.minigrid_rules import (
    CODES,
    COLORS,
    DOOR_STATES,
    FLOOR,
    GOAL,
    WALL,
    Actions,
    RoomState,
    act,
    mosaic,
    tile,
    tiles,
    walled,
)

MIN_SIZE, MAX_SIZE = 5, 7
MOVES = (Actions.left, Actions.right, Actions.forward, Actions.pickup, Actions.toggle)
REMOVE_KEYS = len(MOVES)
"""Number of the action that is no action of the agent's: all keys are gone, carried or not."""
KEYS = tuple(CODES[f"{color} key"] for color in COLORS)
DOORS = tuple(CODES[f"{state} {color} door"] for state in DOOR_STATES for color in COLORS)
OPEN_DOORS = frozenset(CODES[f"open {color} door"] for color in COLORS)
NOTHING = FLOOR
VIVID = tuple(color for color in COLORS if color != "grey")
"""A grey door is hard to tell from the wall, so none is drawn."""
EXAMPLE = (
    '{"size": 5, "agent": [1, 1, "down"], "objects": {"locked red door": [2, 2], "goal": [3, 3], '
    '"red key": [1, 3]}, "carrying": "blue key"}'
)
_NO_KEYS = bytes(FLOOR if code in KEYS else code for code in range(256))


class KeyScene(Scene):
    """One room with a door. States are :class:`RoomState`; the row below the room shows what is carried."""

    def __init__(self, size: int, start: RoomState, patch_size: int):
        """Args: ``size`` cells a side, ``start``, ``patch_size`` pixels a cell."""
        self.size, self.start, self.patch_size = size, start, patch_size
        self.key = key_of(content_of(size, start))
        self.grid = (size + 1, size)
        self.door = next(place for place, code in enumerate(start.cells) if code in DOORS)
        self._distances: dict[RoomState, int | None] = {}

    def move(self, state: RoomState, action: int) -> RoomState:
        """The next state."""
        if action == REMOVE_KEYS:
            left = NOTHING if state.carrying in KEYS else state.carrying
            return state._replace(carrying=left, cells=state.cells.translate(_NO_KEYS))
        return act(state, MOVES[action], self.size)[0]

    def at_goal(self, state: RoomState) -> bool:
        """Whether the agent is on the green cell, where MiniGrid ends the episode."""
        return state.cells[state.y * self.size + state.x] == GOAL

    def is_open(self, state: RoomState) -> bool:
        """Whether the door is."""
        return state.cells[self.door] in OPEN_DOORS

    def step(self, state: State, action: int) -> tuple[State, Outcome]:
        """See :meth:`Scene.step`."""
        after = self.move(state, action)
        return after, Outcome.SUCCESS if self.at_goal(after) else Outcome.CONTINUE

    def frame(self, state: State) -> np.ndarray:
        """See :meth:`Scene.frame`."""
        bare = _bare(self.patch_size)
        carried = bare if state.carrying == NOTHING else tile(state.carrying, None, self.patch_size)
        return mosaic([*tiles(state, self.size, self.patch_size), carried] + [bare] * (self.size - 1), self.size)

    def distance(self, state: State) -> int | None:
        """See :meth:`Scene.distance`. Removing keys never helps, so it is left out of the search."""
        if state not in self._distances:
            self._distances |= distance_table(state, range(len(MOVES)), self.move, self.at_goal)
        return self._distances[state]

    def script_to(
        self, wanted: Callable[[RoomState], bool], longest: int, rng: np.random.Generator | None = None
    ) -> list[int] | None:
        """Fewest actions of the agent from the start to a state as ``wanted``; None if more than ``longest``."""
        return shortest_script(self.start, range(len(MOVES)), self.move, wanted, longest, rng)


@functools.cache
def _bare(patch_size: int) -> np.ndarray:
    return np.zeros((patch_size, patch_size, 3), np.uint8)


def divided(size: int, column: int) -> bytearray:
    """An empty room with a wall through ``column``."""
    cells = walled(size, size)
    for row in range(size):
        cells[row * size + column] = WALL
    return cells


def random_start(rng: np.random.Generator, size: int, locked: bool, carries: bool) -> RoomState:
    """MiniGrid's DoorKey with a colour of its own, and sometimes a second key that does not fit.

    The key that fits is with the agent or on the floor; both occur before doors that are not locked, too.
    """
    column = int(rng.integers(2, size - 2))
    color, other = rng.choice(VIVID, 2, replace=False).tolist()
    cells = divided(size, column)
    cells[int(rng.integers(1, size - 1)) * size + column] = CODES[f"{'locked' if locked else 'closed'} {color} door"]
    cells[int(rng.integers(1, size - 1)) * size + int(rng.integers(column + 1, size - 1))] = GOAL
    lying = [] if carries else [CODES[f"{color} key"]]
    if rng.random() < 0.4 and column * (size - 2) > 3:
        lying.append(CODES[f"{other} key"])
    right = [p for p, code in enumerate(cells) if code == FLOOR and p % size > column]
    for place in right:
        cells[place] = WALL  # nothing but the goal lies behind the door
    start = scatter(rng, cells, size, lying)
    opened = bytearray(start.cells)
    for place in right:
        opened[place] = FLOOR
    return start._replace(carrying=CODES[f"{color} key"] if carries else NOTHING, cells=bytes(opened))


def read_scene(options: dict, patch_size: int) -> KeyScene:
    """The scene that ``options`` describe; see ``EXAMPLE``. The wall stands in the door's column."""
    options = check_fields(options, ("size", "agent", "objects"), ("carrying",), EXAMPLE)
    size = read_size(options["size"], MIN_SIZE, MAX_SIZE)
    start = read_room(options, walled(size, size), size, (*KEYS, *DOORS, GOAL))
    doors = [place for place, code in enumerate(start.cells) if code in DOORS]
    for what, found in (("door", len(doors)), ("goal", start.cells.count(GOAL))):
        if found != 1:
            raise WorldError(f'"objects" has {found} of "{what}"; it must have exactly one')
    column = doors[0] % size
    if not 2 <= column <= size - 3:
        raise WorldError(f"the door is in column {column}; put it in 2 to {size - 3}, with room on both sides")
    cells = bytearray(start.cells)
    wall = [place for place in range(column, size * size, size) if place != doors[0]]
    if any(cells[place] not in (FLOOR, WALL) for place in wall) or start.x == column:
        raise WorldError(f"column {column} is the door's wall; move what else is in it")
    for place in wall:
        cells[place] = WALL
    carrying = read_name(options["carrying"], "carrying", KEYS) if "carrying" in options else NOTHING
    return KeyScene(size, start._replace(carrying=carrying, cells=bytes(cells)), patch_size)
