"""What stands where in a physics scene: pieces on a lattice of patches, and the JSON that describes them.

Lengths are in units of 1/16 patch with y downwards, whatever the size of a drawn patch. Balls may stand on half
columns; everything else fills whole cells. Row 0 holds nothing but the ball that is to be dropped, and the last row
is a floor with two posts that part it into three bins.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from envs.world import WorldError

COLOURS = ("red", "green", "blue")
KINDS = ("ball", "block", "platform", "ramp")
SLOPES = ("left", "right")
"""Where a ramp leads down to."""
MIN_SIZE, MAX_SIZE = 6, 8
UNIT = 16
"""Units of length in a patch."""
RADIUS = 7
THICKNESS = 2
"""Of the floor and of platforms, which are strips at the bottom of their cells."""
FIELDS = {
    "ball": {"colour", "row", "column"},
    "block": {"colour", "row", "column"},
    "platform": {"row", "column"},
    "ramp": {"row", "column", "slope"},
}
EXAMPLE = '{"kind": "ball", "colour": "red", "row": 0, "column": 2.5}'


@dataclass(frozen=True, order=True, kw_only=True)
class Piece:
    """One thing of a scene.

    Example:
        ``Piece(kind="ball", row=0, column=2.5, colour="red")``
    """

    kind: str
    row: int
    column: float
    colour: str = ""
    slope: str = ""

    @property
    def halves(self) -> set[tuple[int, int]]:
        """The quarters of cells that it covers, as (half rows, half columns)."""
        top, left = 2 * self.row, round(2 * self.column)
        return {(top + i, left + j) for i in (0, 1) for j in (0, 1)}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A canvas of ``size`` x ``size`` patches with ``pieces`` in sorted order; the ball in row 0 is held."""

    size: int
    pieces: tuple[Piece, ...]

    @cached_property
    def held(self) -> Piece:
        """The ball that is to be dropped."""
        return next(p for p in self.pieces if p.kind == "ball" and p.row == 0)

    @cached_property
    def coloured(self) -> dict[str, Piece]:
        """Balls and blocks by colour."""
        return {p.colour: p for p in self.pieces if p.colour}

    @cached_property
    def strips(self) -> frozenset[tuple[int, float]]:
        """(row, column) of every platform."""
        return frozenset((p.row, p.column) for p in self.pieces if p.kind == "platform")

    @property
    def posts(self) -> tuple[int, int]:
        """Columns at whose left edges the two posts stand."""
        side = {6: 2, 7: 2, 8: 3}[self.size]
        return side, self.size - side

    def content(self) -> str:
        """Everything there is, in one canonical text; what the split is decided by."""
        rows = [[p.kind, p.row, float(p.column), p.colour, p.slope] for p in self.pieces]
        return json.dumps([self.size, rows])

    def problem(self) -> str | None:
        """What is wrong with the pieces, in one line; None for a layout that can be built."""
        taken: dict[tuple[int, int], Piece] = {}
        for piece in self.pieces:
            last = self.size - 1 if piece.kind == "ball" else self.size - 2
            first = 0 if piece.kind == "ball" else 1
            if not (first <= piece.row <= last and 0 <= piece.column <= self.size - 1):
                return (
                    f"{tell(piece)} is outside: row must be {first} to {last} and column 0 to {self.size - 1} "
                    f"on a canvas of size {self.size}"
                )
            for half in piece.halves:
                other = taken.setdefault(half, piece)
                if other is not piece and {other.kind, piece.kind} != {"ball", "platform"}:
                    return f"{tell(piece)} overlaps {tell(other)}; move one of them"
        colours = [p.colour for p in self.pieces if p.colour]
        if len(set(colours)) < len(colours):
            return "two balls or blocks have the same colour; every one needs its own"
        held = sum(p.kind == "ball" and p.row == 0 for p in self.pieces)
        if held != 1:
            return f"{held} balls are in row 0; exactly one must be there, the one that is dropped"
        return next((fault for p in self.pieces if p.kind == "ball" and (fault := self._hangs(p))), None)

    def _hangs(self, ball: Piece) -> str | None:
        """What is wrong with where ``ball`` stands before anything moves."""
        if ball.row == 0:
            return None
        if ball.row == self.size - 1:
            on_post = any(ball.column < post < ball.column + 1 for post in self.posts)
            return f"{tell(ball)} overlaps a post between two bins; move it by half a column" if on_post else None
        cells = {int(ball.column), int(ball.column + 0.5)}
        blocks = {p.column for p in self.pieces if p.kind == "block" and p.row == ball.row + 1}
        if cells <= {c for row, c in self.strips if row == ball.row} or cells <= blocks:
            return None
        return f"{tell(ball)} hangs in the air; put a platform in its cell, a block below, or the ball in the last row"


def tell(piece: Piece) -> str:
    """``piece`` in words, for messages."""
    return f"{piece.colour} {piece.kind}".strip() + f" at row {piece.row}, column {piece.column:g}"


def make_layout(size: int, pieces: list[Piece]) -> Layout:
    """The layout of ``pieces`` in any order; it may still have a problem."""
    return Layout(size=size, pieces=tuple(sorted(pieces)))


def parse_layout(options: dict) -> Layout:
    """The layout that JSON ``options`` describe, or a :class:`WorldError` that says what is wrong with them."""
    unknown = sorted(set(options) - {"size", "objects"})
    if unknown:
        raise WorldError(f'unknown option {json.dumps(unknown[0])}; physics takes "size" and "objects"')
    if "objects" not in options:
        raise WorldError(f'"objects" is missing; give a list such as [{EXAMPLE}]')
    size, objects = options.get("size", MIN_SIZE), options["objects"]
    if type(size) is not int or not MIN_SIZE <= size <= MAX_SIZE:
        raise WorldError(f'"size" must be a whole number from {MIN_SIZE} to {MAX_SIZE}, got {json.dumps(size)}')
    if not isinstance(objects, list) or not objects:
        raise WorldError(f'"objects" must be a list such as [{EXAMPLE}], got {json.dumps(objects)}')
    layout = make_layout(size, [parse_piece(number + 1, value) for number, value in enumerate(objects)])
    problem = layout.problem()
    if problem:
        raise WorldError(problem)
    return layout


def parse_piece(number: int, value: object) -> Piece:
    """Object ``number`` of the list."""
    if not isinstance(value, dict):
        raise WorldError(f"object {number} must look like {EXAMPLE}, got {json.dumps(value)}")
    kind = choice(number, value, "kind", KINDS)
    needed = FIELDS[kind] | {"kind"}
    unknown, missing = sorted(set(value) - needed), sorted(needed - set(value))
    if unknown or missing:
        what = f"unknown field {json.dumps(unknown[0])}" if unknown else f'no "{missing[0]}"'
        raise WorldError(f"object {number} has {what}; a {kind} has {', '.join(sorted(needed))}")
    row, column = value["row"], value["column"]
    if type(row) is not int:
        raise WorldError(f'object {number}: "row" must be a whole number, 0 at the top, got {json.dumps(row)}')
    step, steps = (0.5, "a multiple of 0.5") if kind == "ball" else (1, "a whole number")
    if type(column) not in (int, float) or column % step:
        raise WorldError(f'object {number}: "column" must be {steps}, 0 at the left, got {json.dumps(column)}')
    return Piece(
        kind=kind,
        row=row,
        column=column,
        colour=choice(number, value, "colour", COLOURS) if "colour" in needed else "",
        slope=choice(number, value, "slope", SLOPES) if "slope" in needed else "",
    )


def choice(number: int, value: dict, field: str, known: tuple[str, ...]) -> str:
    """The word that ``field`` of object ``number`` holds, one of those ``known``."""
    if field not in value:
        raise WorldError(f'object {number} has no "{field}"; give one of {", ".join(known)}')
    if value[field] not in known:
        raise WorldError(
            f'object {number}: unknown "{field}" {json.dumps(value[field])}; it must be one of {", ".join(known)}'
        )
    return value[field]
