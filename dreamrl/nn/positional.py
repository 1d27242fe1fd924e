"""Where tokens stand: rotary angles, linear biases or learned tables, for text and for the grid of patches.

- rope: rotary positions (Su et al. 2021, arXiv:2104.09864). Attention sees how far apart two tokens are, never
  where they stand, so a larger board or a longer text needs no new parameters.
- rope+yarn: the same, stretched for contexts longer than in training (Peng et al. 2023, arXiv:2309.00071).
- alibi: a penalty on attention that grows with distance (Press et al. 2022, arXiv:2108.12409).
- learned: a table of absolute positions that is added to the tokens.

On the grid rotary positions give half of each head to rows and half to columns, distance is counted along rows
and columns, and alibi adds the learned tables of rows and columns too, because distance has no direction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.dreaming_config import POSITIONS

GRID_BASE = 10.0
"""Wavelength base of rotary positions on the grid; its axes are short."""
MAX_GRID_SIDE = 32
"""Rows, and columns, that learned positions tell apart."""
BETA_FAST, BETA_SLOW = 32.0, 1.0
"""Turns within the training length above which YaRN leaves a channel alone, and below which it stretches it fully."""


class Places(NamedTuple):
    """Where tokens stand, as attention needs it; ``angles`` and ``bias`` may be None.

    ``angles`` (B, L, D/heads/2) rotate queries and keys; ``bias`` broadcasts to (B, heads, L, L) and is added
    to the attention logits; ``sharpness`` multiplies the products of queries and keys.
    """

    angles: Tensor | None = None
    bias: Tensor | None = None
    sharpness: float = 1.0

    def rows(self, index: Tensor) -> Places:
        """The places of some rows of the batch; a part shared by all rows (leading dimension 1) stays."""
        parts = (None if part is None else part[index] if len(part) > 1 else part for part in self[:2])
        return Places(*parts, sharpness=self.sharpness)


class GridPositions(nn.Module):
    """Places of patches packed row by row; see ``DreamingConfig.positions``.

    Args:
        kind: rope, rope+yarn, alibi or learned.
        dim: channels D.
        heads: attention heads.
        yarn_factor: with rope+yarn, how much larger than in training pictures may get.
        max_length: with rope+yarn, rows or columns of the largest picture in training.
    """

    def __init__(self, kind: str, dim: int, heads: int, yarn_factor: float = 1.0, max_length: int = 8):
        """See the class."""
        super().__init__()
        assert kind in POSITIONS, kind
        self.kind, self.heads, self.head_dim = kind, heads, dim // heads
        self.yarn_factor, self.max_length = yarn_factor, max_length
        # Distance alone cannot tell left from right: a mirrored picture would have the mirrored result, always.
        self.has_tables = kind in ("learned", "alibi")
        if self.has_tables:
            self.row, self.column = nn.Embedding(MAX_GRID_SIDE, dim), nn.Embedding(MAX_GRID_SIDE, dim)
            for table in (self.row, self.column):  # small: at first a patch is what its code says
                nn.init.normal_(table.weight, std=0.1)

    def forward(self, columns: Tensor, length: int) -> tuple[Tensor | None, Places]:
        """``columns`` (B,) patches per row, P patches -> what to add to the tokens (B, P, D) or None, and places.

        A row or column past the last learned one is taken for the last.
        """
        row, column = grid_cells(columns, length)
        if self.has_tables:
            last = MAX_GRID_SIDE - 1
            added = self.row(row.clamp(max=last)) + self.column(column.clamp(max=last))
            return added, Places(bias=self._bias(row, column))
        if self.kind == "rope":
            return None, Places(grid_angles(columns, length, self.head_dim))
        frequencies = yarn_frequencies(self.head_dim // 2, GRID_BASE, self.max_length, self.yarn_factor, row.device)
        angles = torch.cat([axis.unsqueeze(-1) * frequencies for axis in (row, column)], dim=-1)
        return None, Places(angles, sharpness=yarn_sharpness(self.yarn_factor))

    def _bias(self, row: Tensor, column: Tensor) -> Tensor | None:
        """With alibi: (B, heads, P, P) penalty on Manhattan distance."""
        if self.kind != "alibi":
            return None
        down, right = (axis.unsqueeze(2) - axis.unsqueeze(1) for axis in (row, column))  # (B, P, P)
        return alibi_bias(down.abs() + right.abs(), self.heads)


class TextPositions(nn.Module):
    """Places of text tokens; see ``DreamingConfig.positions``.

    Args:
        kind: rope, rope+yarn, alibi or learned.
        dim: channels D.
        heads: attention heads.
        max_length: longest text in training, in tokens.
        yarn_factor: with rope+yarn, how many times longer than ``max_length`` texts may get.
        base: wavelength base of rotary positions; 100 tells short texts' tokens apart best, contexts of
            hundreds of tokens need 10000.
    """

    def __init__(self, kind: str, dim: int, heads: int, max_length: int, yarn_factor: float = 1.0, base: float = 100.0):
        """See the class."""
        super().__init__()
        assert kind in POSITIONS, kind
        self.kind, self.heads, self.head_dim = kind, heads, dim // heads
        self.max_length, self.yarn_factor, self.base = max_length, yarn_factor, base
        if kind == "learned":
            self.table = nn.Embedding(max_length, dim)

    def forward(self, positions: Tensor, keys: Tensor | None = None) -> tuple[Tensor | None, Places]:
        """``positions`` (L,) -> what to add to the tokens (1, L, D) or None, and places (leading dimension 1).

        ``keys`` (M,) are the positions of the tokens that may be read, if they are not the same; a bias is then
        (1, heads, L, M). A position past the last learned one is taken for the last.
        """
        if self.kind == "learned":
            return self.table(positions.clamp(max=self.max_length - 1)).unsqueeze(0), Places()
        if self.kind == "alibi":
            keys = positions if keys is None else keys
            distance = (positions.unsqueeze(1) - keys).abs()
            return None, Places(bias=alibi_bias(distance.unsqueeze(0), self.heads))
        if self.kind == "rope":
            return None, Places(rotary_angles(positions, self.head_dim, self.base).unsqueeze(0))
        frequencies = yarn_frequencies(self.head_dim, self.base, self.max_length, self.yarn_factor, positions.device)
        angles = positions.unsqueeze(-1) * frequencies
        return None, Places(angles.unsqueeze(0), sharpness=yarn_sharpness(self.yarn_factor))


def rotary_angles(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """Angles for one axis.

    Args:
        positions: (..., L) integer positions.
        head_dim: channels that this axis rotates; even.
        base: wavelength base; small for short axes.

    Returns:
        (..., L, head_dim / 2) angles in radians.
    """
    return positions.unsqueeze(-1) * rotary_frequencies(head_dim, base, positions.device)


def rotary_frequencies(head_dim: int, base: float, device: torch.device) -> Tensor:
    """(head_dim / 2,) radians per position: a geometric series from 1 down to almost 1 / base."""
    assert head_dim % 2 == 0, head_dim
    return base ** (-torch.arange(0, head_dim, 2, device=device) / head_dim)


def yarn_frequencies(head_dim: int, base: float, max_length: int, factor: float, device: torch.device) -> Tensor:
    """Rotary frequencies stretched to a context ``factor`` times as long (arXiv:2309.00071, eq. 14-16).

    A channel that turns more than ``BETA_FAST`` times within ``max_length`` positions tells neighbours apart and
    keeps its frequency; one that turns less than ``BETA_SLOW`` times would meet angles never seen in training and
    is slowed down by ``factor``; between them the share of slowing grows linearly with the channel.

    Returns:
        (head_dim / 2,) radians per position.
    """

    def channel(turns: float) -> float:
        """Number of the channel that turns so often within ``max_length``."""
        return head_dim * math.log(max_length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(channel(BETA_FAST)), 0)
    high = max(min(math.ceil(channel(BETA_SLOW)), head_dim - 1), low)
    frequencies = rotary_frequencies(head_dim, base, device)
    channels = torch.arange(head_dim // 2, device=device, dtype=torch.float32)
    slowed = ((channels - low) / max(high - low, 1e-3)).clamp(0, 1)
    return frequencies * (1 - slowed) + frequencies / factor * slowed


def yarn_sharpness(factor: float) -> float:
    """What YaRN multiplies attention logits with, 1 / t in arXiv:2309.00071 eq. 17 and 18."""
    return (0.1 * math.log(factor) + 1.0) ** 2


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """(heads,) penalties per unit of distance (arXiv:2108.12409, section 3).

    For n = 2^k heads the series 2^(-8/n), 2^(-16/n), ...; other numbers take the series of the power of two below,
    then every other slope of the power of two above.
    """
    below = 2 ** int(math.log2(heads))
    series = 2.0 ** (-8.0 / below * torch.arange(1, below + 1, device=device))
    between = 2.0 ** (-4.0 / below * torch.arange(1, 1 + 2 * (heads - below), 2, device=device))
    return torch.cat([series, between])


def alibi_bias(distance: Tensor, heads: int) -> Tensor:
    """``distance`` (B, L, M) -> (B, heads, L, M) to add to attention logits."""
    return -alibi_slopes(heads, distance.device)[:, None, None] * distance.unsqueeze(1)


def grid_cells(columns: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Rows and columns, both (B, P), of ``length`` P patches packed row by row, ``columns`` (B,) in each row."""
    index = torch.arange(length, device=columns.device)
    return index // columns.unsqueeze(1), index % columns.unsqueeze(1)


def grid_angles(columns: Tensor, length: int, head_dim: int, base: float = GRID_BASE) -> Tensor:
    """Angles of patches packed row by row.

    Args:
        columns: (B,) patches per row of each picture.
        length: P, patches per picture in the (padded) batch.
        head_dim: channels of one attention head; a multiple of 4.
        base: see :func:`rotary_angles`.

    Returns:
        (B, P, head_dim / 2) angles: rows first, then columns.
    """
    row, column = grid_cells(columns, length)
    half = head_dim // 2
    return torch.cat([rotary_angles(row, half, base), rotary_angles(column, half, base)], dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + D/2) of ``x`` (B, heads, L, D) by ``angles`` (B, L, D/2)."""
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)  # (B, 1, L, D/2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
