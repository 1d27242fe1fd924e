"""MiniGrid's rules and pictures as pure functions of an immutable state; shared by all worlds made of its rooms.

What an action does depends only on what the agent carries and what is in the cell ahead, so each such combination
is put before ``MiniGridEnv.step`` once and remembered. Frames are composed of tiles that ``Grid.render_tile`` draws.
Left out: MiniGrid's partial view and its step limit. Objects that hold other objects do not occur.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

import numpy as np

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

from minigrid.core.actions import Actions  # noqa: E402
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX  # noqa: E402
from minigrid.core.grid import Grid  # noqa: E402
from minigrid.core.mission import MissionSpace  # noqa: E402
from minigrid.core.world_object import WorldObj  # noqa: E402
from minigrid.minigrid_env import MiniGridEnv  # noqa: E402

from envs.world import WorldError  # noqa: E402

ACTION_NAMES = {
    Actions.left: "turn left",
    Actions.right: "turn right",
    Actions.forward: "forward",
    Actions.pickup: "pick up",
    Actions.toggle: "toggle",
}
DIRECTIONS = ("right", "down", "left", "up")
"""Names of MiniGrid's directions 0 to 3."""
OFFSETS = tuple((int(v[0]), int(v[1])) for v in DIR_TO_VEC)
COLORS = tuple(COLOR_TO_IDX)
THINGS = ("ball", "box", "key")
"""What can be picked up."""

DOOR_STATES = tuple(STATE_TO_IDX)
_DOOR = OBJECT_TO_IDX["door"]
_VOCABULARY: dict[str, tuple[int, int, int]] = {
    "floor": (OBJECT_TO_IDX["empty"], 0, 0),
    "wall": (OBJECT_TO_IDX["wall"], COLOR_TO_IDX["grey"], 0),
    "goal": (OBJECT_TO_IDX["goal"], COLOR_TO_IDX["green"], 0),
    **{f"{c} {t}": (OBJECT_TO_IDX[t], COLOR_TO_IDX[c], 0) for t in THINGS for c in COLORS},
    **{
        f"{s} {c} door": (OBJECT_TO_IDX["door"], COLOR_TO_IDX[c], STATE_TO_IDX[s]) for s in STATE_TO_IDX for c in COLORS
    },
}
NAMES = tuple(_VOCABULARY)
"""What a cell can hold, by code."""
CODES = {name: code for code, name in enumerate(NAMES)}
_TRIPLES = tuple(_VOCABULARY.values())
_CODE_OF = {triple: code for code, triple in enumerate(_TRIPLES)}
FLOOR, WALL, GOAL = CODES["floor"], CODES["wall"], CODES["goal"]


class RoomState(NamedTuple):
    """Where the agent is, where it looks, what it carries (a code, ``FLOOR`` for nothing), and every cell's code."""

    x: int
    y: int
    direction: int
    carrying: int
    cells: bytes


class Effect(NamedTuple):
    """What an action does: quarter turns, whether the agent walks, what is then ahead and carried, whether it ends."""

    turns: int
    walks: bool
    ahead: int
    carrying: int
    ends: bool


class _Probe(MiniGridEnv):
    """A room with one free cell ahead of the agent, in which single actions are tried."""

    def __init__(self):
        super().__init__(MissionSpace(lambda: "none"), width=4, height=3, max_steps=1_000_000)
        self.grid.wall_rect(0, 0, 4, 3)

    def _gen_grid(self, width, height):
        """Nothing to make: :func:`effect` sets every cell that matters."""


@functools.lru_cache(maxsize=1)
def _probe() -> _Probe:
    return _Probe()


@functools.cache
def effect(action: int, ahead: int, carrying: int) -> Effect:
    """What MiniGrid does when ``action`` is taken before ``ahead`` while ``carrying`` (codes)."""
    env = _probe()
    env.step_count, env.agent_pos, env.agent_dir = 0, (1, 1), 0
    env.carrying = thing_of(carrying)  # type: ignore[assignment]
    env.grid.set(2, 1, thing_of(ahead))
    ends = env.step(action)[2]
    return Effect(
        turns=env.agent_dir,
        walks=tuple(env.agent_pos) == (2, 1),
        ahead=_code(env.grid.get(2, 1)),
        carrying=_code(env.carrying),
        ends=bool(ends),
    )


def thing_of(code: int) -> WorldObj | None:
    """A new object of MiniGrid; None for the floor."""
    return WorldObj.decode(*_TRIPLES[code])


def _code(thing: WorldObj | None) -> int:
    return FLOOR if thing is None else _CODE_OF[thing.encode()]


def cell_ahead(state: RoomState, width: int) -> int:
    """Index of the cell that the agent faces."""
    dx, dy = OFFSETS[state.direction]
    return (state.y + dy) * width + state.x + dx


def act(state: RoomState, action: int, width: int) -> tuple[RoomState, bool]:
    """The state after MiniGrid's ``action`` in a room ``width`` cells wide, and whether the episode ended."""
    place = cell_ahead(state, width)
    ahead = state.cells[place]
    turns, walks, after, carrying, ends = effect(action, ahead, state.carrying)
    if not turns and not walks and after == ahead:
        return state, ends
    x, y = (place % width, place // width) if walks else (state.x, state.y)
    cells = state.cells if after == ahead else state.cells[:place] + bytes((after,)) + state.cells[place + 1 :]
    return RoomState(x, y, (state.direction + turns) % 4, carrying, cells), ends


def walled(width: int, height: int) -> bytearray:
    """The cells of an empty room with walls around."""
    inside = [x in (0, width - 1) or y in (0, height - 1) for y in range(height) for x in range(width)]
    return bytearray(WALL if wall else FLOOR for wall in inside)


@functools.cache
def tile(code: int, direction: int | None, patch_size: int) -> np.ndarray:
    """One cell as MiniGrid draws it, with the agent on it unless ``direction`` is None; uint8 (patch, patch, 3)."""
    drawn = Grid.render_tile(thing_of(code), direction, tile_size=patch_size)
    drawn = drawn.astype(np.uint8)
    drawn.flags.writeable = False
    return drawn


def tiles(state: RoomState, width: int, patch_size: int) -> list[np.ndarray]:
    """The cells of a room as tiles, row by row."""
    drawn = [tile(code, None, patch_size) for code in state.cells]
    here = state.y * width + state.x
    drawn[here] = tile(state.cells[here], state.direction, patch_size)
    return drawn


def mosaic(patches: list[np.ndarray], columns: int) -> np.ndarray:
    """Patches, row by row, as one picture."""
    side = patches[0].shape[0]
    rows = len(patches) // columns
    tiled = np.stack(patches).reshape(rows, columns, side, side, 3)
    return tiled.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)


def check_patch_size(patch_size: int) -> int:
    """``patch_size``, or a :class:`WorldError` if things would look alike."""
    if patch_size < 8:
        raise WorldError(f"world.patch_size ({patch_size}) must be >= 8: smaller things cannot be told apart")
    return patch_size
