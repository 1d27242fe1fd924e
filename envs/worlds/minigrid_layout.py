"""Rooms described in words and numbers, with errors that say what to change; and rooms made at random."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Sequence

import numpy as np

from envs.scene import WorldError
from envs.worlds.minigrid_rules import CODES, COLORS, DIRECTIONS, FLOOR, NAMES, THINGS, RoomState

THING_CODES = tuple(CODES[f"{color} {thing}"] for color in COLORS for thing in THINGS)
"""Everything that can be picked up: balls, boxes and keys of every colour."""
MAX_TRIES = 10_000
"""How many rooms are drawn before a scene of the wanted split is given up."""


def content_of(width: int, state: RoomState) -> str:
    """What a room looks like, as text."""
    return f"{width}:{state.x},{state.y},{state.direction},{state.carrying}:{state.cells.hex()}"


def key_of(content: str) -> str:
    """Content hash, 16 bytes hex."""
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def check_fields(options: object, required: Sequence[str], optional: Sequence[str], example: str) -> dict:
    """``options`` as a dict with known fields only, or a :class:`WorldError`."""
    if not isinstance(options, dict):
        raise WorldError(f"a scene must be an object like {example}, got {options!r}")
    for name in options:
        if name not in (*required, *optional):
            close = difflib.get_close_matches(str(name), (*required, *optional), n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"a scene is {example}"
            raise WorldError(f"unknown option {json.dumps(name)}; {hint}")
    for name in required:
        if name not in options:
            raise WorldError(f'"{name}" is missing; a scene is {example}')
    return options


def read_size(value: object, low: int, high: int) -> int:
    """A side in cells."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise WorldError(f'"size" must be a whole number from {low} to {high}, got {value!r}')
    return value


def read_name(value: object, field: str, allowed: Collection[int]) -> int:
    """The code of a thing that is named such as "red ball"."""
    code = CODES.get(value) if isinstance(value, str) else None
    if code is None or code not in allowed:
        known = [NAMES[c] for c in allowed]
        close = difflib.get_close_matches(str(value), known, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f'it must be something like "{known[0]}"'
        raise WorldError(f'"{field}" names {json.dumps(value)}; {hint}')
    return code


def read_room(options: dict, cells: bytearray, width: int, allowed: Collection[int]) -> RoomState:
    """The agent and the objects of ``options``, put into the empty room ``cells``.

    ``{"agent": [1, 2, "right"], "objects": {"red ball": [3, 1]}}`` with MiniGrid's columns and rows: 0 is the wall.
    """
    objects = options["objects"]
    if not isinstance(objects, dict):
        raise WorldError(f'"objects" must be an object like {{"red ball": [3, 1]}}, got {objects!r}')
    for name, place in objects.items():
        code = read_name(name, "objects", allowed)
        x, y = _read_place(place, f"objects.{name}", cells, width)
        if cells[y * width + x] != FLOOR:
            raise WorldError(
                f'"objects.{name}" is at {list(place)}, where the {NAMES[cells[y * width + x]]} is; move it'
            )
        cells[y * width + x] = code
    agent = options["agent"]
    if not isinstance(agent, list | tuple) or len(agent) != 3 or agent[2] not in DIRECTIONS:
        raise WorldError(f'"agent" must be [column, row, one of {", ".join(DIRECTIONS)}], got {agent!r}')
    x, y = _read_place(agent[:2], "agent", cells, width)
    check_free("agent", x, y, cells, width)
    return RoomState(x, y, DIRECTIONS.index(agent[2]), FLOOR, bytes(cells))


def check_free(field: str, x: int, y: int, cells: bytearray, width: int) -> None:
    """A :class:`WorldError` if something is in the cell already."""
    here = cells[y * width + x]
    if here != FLOOR:
        raise WorldError(f'"{field}" is at {[x, y]}, where the {NAMES[here]} is; move it')


def _read_place(value: object, field: str, cells: bytearray, width: int) -> tuple[int, int]:
    columns, rows = width - 2, len(cells) // width - 2
    numbers = isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int for v in value)
    if not numbers or not (1 <= value[0] <= columns and 1 <= value[1] <= rows):  # type: ignore[index]
        raise WorldError(f'"{field}" must be at [column 1 to {columns}, row 1 to {rows}], got {value!r}')
    return value[0], value[1]  # type: ignore[index]


def scatter(rng: np.random.Generator, cells: bytearray, width: int, codes: Sequence[int]) -> RoomState:
    """``codes`` and the agent on random free cells of ``cells``, the agent looking anywhere."""
    free = [place for place, code in enumerate(cells) if code == FLOOR]
    places = rng.choice(free, len(codes) + 1, replace=False).tolist()
    for place, code in zip(places, codes, strict=False):
        cells[place] = code
    return RoomState(places[-1] % width, places[-1] // width, int(rng.integers(4)), FLOOR, bytes(cells))
