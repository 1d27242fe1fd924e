"""Pictures of the patterns world: cells with a colour and a digit, arrows, empty places, lines between pairs."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from envs.worlds.patterns_rules import MAX_SIDE, Grid, Pair

NUM_PAIRS = 3
CANVAS = (2 * MAX_SIDE + 1, NUM_PAIRS * MAX_SIDE)
"""Patches of a rule's picture: inputs, a row of arrows, outputs."""
PALETTE = (
    (0, 0, 0),
    (0, 116, 217),
    (255, 65, 54),
    (46, 204, 64),
    (255, 220, 0),
    (170, 170, 170),
    (240, 18, 190),
    (255, 133, 27),
    (127, 219, 255),
    (135, 12, 37),
)
"""Colours of the cells 0 to 9, as ARC is usually shown."""
BRIGHT = (3, 4, 5, 7, 8)
"""Cells whose digit is black."""
FONT = (
    ("111", "101", "101", "101", "111"),
    ("010", "110", "010", "010", "111"),
    ("111", "001", "111", "100", "111"),
    ("111", "001", "111", "001", "111"),
    ("101", "101", "111", "001", "001"),
    ("111", "100", "111", "001", "111"),
    ("111", "100", "111", "101", "111"),
    ("111", "001", "010", "010", "010"),
    ("111", "101", "111", "101", "111"),
    ("111", "101", "111", "001", "111"),
)
ARROWS = {
    "right": ("00100", "00010", "11111", "00010", "00100"),
    "down": ("00100", "00100", "10101", "01110", "00100"),
}
GROUND, EMPTY, LINE = (245, 245, 245), (205, 215, 235), (60, 60, 60)


@functools.lru_cache(maxsize=256)
def patch(kind: int | str, patch_size: int, line: bool = False) -> np.ndarray:
    """One patch, uint8 (patch, patch, 3).

    Args:
        kind: a cell 0 to 9, "right" or "down" for an arrow, "empty" where something will appear, "ground" elsewhere.
        patch_size: side in pixels.
        line: whether the line between two pairs runs along its left edge.
    """
    cell = isinstance(kind, int)
    picture = np.full((patch_size, patch_size, 3), PALETTE[kind] if cell else GROUND, np.uint8)
    if cell or kind == "empty":
        if kind == "empty":
            picture[:] = EMPTY
        picture[-1], picture[:, -1] = GROUND, GROUND
    glyph = FONT[kind] if cell else ARROWS.get(kind)
    if glyph is not None:
        ink = np.array([[dot == "1" for dot in row] for row in glyph])
        ink = ink.repeat(patch_size // 8, 0).repeat(patch_size // 8, 1)
        top, left = (patch_size - ink.shape[0]) // 2, (patch_size - ink.shape[1]) // 2
        shade = 0 if not cell or kind in BRIGHT else 255
        picture[top : top + ink.shape[0], left : left + ink.shape[1]][ink] = shade
    if line:
        picture[:, : max(1, patch_size // 8)] = LINE
    return picture


def draw_one(before: Grid, after: Grid, patch_size: int) -> np.ndarray:
    """A grid, an arrow, and what became of it, uint8 (H, W, 3)."""
    rows, columns = len(before), len(before[0])
    cells: list[list[int | str]] = [[*row, "ground", *["empty"] * columns] for row in before]
    cells[(rows - 1) // 2][columns] = "right"
    for index, row in enumerate(after):
        cells[index][columns + 1 :] = row
    return np.concatenate([np.concatenate([patch(kind, patch_size) for kind in row], axis=1) for row in cells])


def draw_pairs(pairs: Sequence[Pair], answer: Grid, patch_size: int) -> np.ndarray:
    """Pairs side by side, the input above the output; ``answer`` stands below the last input, () if unknown."""
    height, width = CANVAS
    cells: list[list[int | str]] = [["ground"] * width for _ in range(height)]
    for index, (before, after) in enumerate(pairs):
        left = index * MAX_SIDE
        cells[MAX_SIDE][left + MAX_SIDE // 2] = "down"
        shown = after if index < NUM_PAIRS - 1 else answer or (("empty",) * MAX_SIDE,) * MAX_SIDE
        for top, grid in ((0, before), (MAX_SIDE + 1, shown)):
            for number, row in enumerate(grid):
                cells[top + number][left : left + len(row)] = row
    between = range(MAX_SIDE, width, MAX_SIDE)
    lines = [[patch(kind, patch_size, c in between) for c, kind in enumerate(row)] for row in cells]
    return np.concatenate([np.concatenate(row, axis=1) for row in lines])
