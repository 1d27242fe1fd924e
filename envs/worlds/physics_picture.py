"""Pictures of physics scenes: pieces drawn on the lattice of half patches, so that few patches ever look new."""

from __future__ import annotations

import functools
import math

import numpy as np

from envs.worlds.physics_layout import THICKNESS, UNIT, Layout, Piece
from envs.worlds.physics_simulation import Ball

SKY = (240, 240, 235)
FIXTURE = (95, 95, 105)
CLAMP = TRAIL = (30, 30, 30)
MARK = (255, 255, 255)
PAINT = {"red": (215, 40, 40), "green": (30, 150, 60), "blue": (45, 85, 225)}


def cell(ball: Ball, size: int) -> tuple[int, int]:
    """Top left corner of the picture of ``ball``, (half row, half column)."""
    last = 2 * size - 2
    row, column = (math.floor(2 * v / UNIT - 0.5) for v in (ball.y, ball.x))
    return min(max(row, 0), last), min(max(column, 0), last)


@functools.lru_cache(maxsize=64)
def ball_sprite(patch_size: int, colour: str, touched: bool, held: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (patch, patch, 3) of a ball and which of them are its own (patch, patch)."""
    rows, columns, radius = polar(patch_size)
    pixels = np.empty((patch_size, patch_size, 3), np.uint8)
    pixels[:] = PAINT[colour]
    own = radius < 0.44
    if touched:
        pixels[radius < 0.17] = MARK
    if held:
        jaws = ~own & (rows < 0) & (abs(columns) > 0.15)
        pixels[jaws] = CLAMP
        own = own | jaws
    return pixels, own


def polar(patch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and distance of each pixel from the middle of a patch, in patches."""
    rows, columns = (np.indices((patch_size, patch_size)) + 0.5) / patch_size - 0.5
    return rows, columns, np.hypot(rows, columns)


@functools.lru_cache(maxsize=64)
def block_sprite(patch_size: int, colour: str, touched: bool) -> np.ndarray:
    """Pixels (patch, patch, 3) of a block."""
    rows, columns, radius = polar(patch_size)
    pixels = np.empty((patch_size, patch_size, 3), np.uint8)
    pixels[:] = PAINT[colour]
    pixels[np.maximum(abs(rows), abs(columns)) > 0.5 - 1.5 / 16] = FIXTURE
    if touched:
        pixels[radius < 0.17] = MARK
    return pixels


@functools.lru_cache(maxsize=8)
def ramp_mask(patch_size: int, slope: str) -> np.ndarray:
    """Which pixels (patch, patch) of its cell a ramp fills."""
    rows, columns = np.indices((patch_size, patch_size))
    return columns <= rows if slope == "right" else columns >= patch_size - 1 - rows


def draw_fixtures(layout: Layout, patch_size: int) -> np.ndarray:
    """The picture of everything that has no colour, uint8 (size * patch, size * patch, 3)."""
    side, thin, post = layout.size * patch_size, patch_size * THICKNESS // UNIT, patch_size // UNIT or 1
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = SKY
    picture[side - thin :] = FIXTURE
    for column in layout.posts:
        x = column * patch_size
        picture[side - patch_size :, x - post : x + post] = FIXTURE
    for piece in layout.pieces:
        patch = at(picture, piece, patch_size)
        if piece.kind == "platform":
            patch[patch_size - thin :] = FIXTURE
        elif piece.kind == "ramp":
            patch[ramp_mask(patch_size, piece.slope)] = FIXTURE
    return picture


def at(picture: np.ndarray, piece: Piece, patch_size: int) -> np.ndarray:
    """The part of ``picture`` that shows ``piece``, to be drawn into."""
    y, x = piece.row * patch_size, round(piece.column * patch_size)
    return picture[y : y + patch_size, x : x + patch_size]


def draw_ball(picture: np.ndarray, place: tuple[int, int], sprite: tuple[np.ndarray, np.ndarray]) -> None:
    """Draw ``sprite`` into ``picture`` with its top left corner at ``place``, (half row, half column)."""
    pixels, own = sprite
    patch_size = len(own)
    y, x = (v * patch_size // 2 for v in place)
    picture[y : y + patch_size, x : x + patch_size][own] = pixels[own]


def draw_trail(picture: np.ndarray, place: tuple[int, int], patch_size: int) -> None:
    """Draw a dot into ``picture`` at the middle of a ball whose top left corner was at ``place`` a tick ago."""
    y, x = ((v + 1) * patch_size // 2 for v in place)
    reach = patch_size // 8
    picture[y - reach : y + reach, x - reach : x + reach] = TRAIL
