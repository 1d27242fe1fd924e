"""Rotary positions (RoPE, Su et al. 2021, arXiv:2104.09864) in one and two dimensions.

Both are relative: attention sees how far apart two tokens are, never where they stand, so a larger board or a
longer text needs no new parameters. The 2-D form gives half of each head to rows and half to columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Places(NamedTuple):
    """Where tokens stand, as attention needs it; either part may be None.

    ``angles`` (B, L, D/heads/2) rotate queries and keys; ``bias`` broadcasts to (B, heads, L, L) and is added
    to the attention logits.
    """

    angles: Tensor | None = None
    bias: Tensor | None = None

    def rows(self, index: Tensor) -> Places:
        """The places of some rows of the batch; a part shared by all rows (leading dimension 1) stays."""
        return Places(*(None if part is None else part[index] if len(part) > 1 else part for part in self))


class GridPositions(nn.Module):
    """Places of patches packed row by row; see ``DreamingConfig.positions``.

    Args:
        kind: rope, rope+yarn, alibi or learned.
        dim: channels D.
        heads: attention heads.
        yarn_factor: with rope+yarn, how much larger than in training pictures may get.
    """

    def __init__(self, kind: str, dim: int, heads: int, yarn_factor: float = 1.0):
        """See the class."""
        super().__init__()
        self.kind, self.heads, self.head_dim, self.yarn_factor = kind, heads, dim // heads, yarn_factor

    def forward(self, columns: Tensor, length: int) -> tuple[Tensor | None, Places]:
        """``columns`` (B,) patches per row, P patches -> what to add to the tokens (B, P, D) or None, and places."""
        return None, Places(grid_angles(columns, length, self.head_dim))


class TextPositions(nn.Module):
    """Places of text tokens; see ``DreamingConfig.positions``.

    Args:
        kind: rope, rope+yarn, alibi or learned.
        dim: channels D.
        heads: attention heads.
        max_length: longest text in training, in tokens.
        yarn_factor: with rope+yarn, how many times longer than ``max_length`` texts may get.
    """

    def __init__(self, kind: str, dim: int, heads: int, max_length: int, yarn_factor: float = 1.0):
        """See the class."""
        super().__init__()
        self.kind, self.heads, self.head_dim, self.yarn_factor = kind, heads, dim // heads, yarn_factor

    def forward(self, positions: Tensor) -> tuple[Tensor | None, Places]:
        """``positions`` (L,) -> what to add to the tokens (1, L, D) or None, and places (leading dimension 1)."""
        return None, Places(rotary_angles(positions, self.head_dim, 100.0).unsqueeze(0))


def rotary_angles(positions: Tensor, head_dim: int, base: float) -> Tensor:
    """Angles for one axis.

    Args:
        positions: (..., L) integer positions.
        head_dim: channels that this axis rotates; even.
        base: wavelength base; small for short axes.

    Returns:
        (..., L, head_dim / 2) angles in radians.
    """
    assert head_dim % 2 == 0, head_dim
    frequencies = base ** (-torch.arange(0, head_dim, 2, device=positions.device) / head_dim)
    return positions.unsqueeze(-1) * frequencies


def grid_angles(columns: Tensor, length: int, head_dim: int, base: float = 10.0) -> Tensor:
    """Angles of patches packed row by row.

    Args:
        columns: (B,) patches per row of each picture.
        length: P, patches per picture in the (padded) batch.
        head_dim: channels of one attention head; a multiple of 4.
        base: see :func:`rotary_angles`.

    Returns:
        (B, P, head_dim / 2) angles: rows first, then columns.
    """
    index = torch.arange(length, device=columns.device)
    row = index // columns.unsqueeze(1)  # (B, P)
    column = index % columns.unsqueeze(1)
    half = head_dim // 2
    return torch.cat([rotary_angles(row, half, base), rotary_angles(column, half, base)], dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + D/2) of ``x`` (B, heads, L, D) by ``angles`` (B, L, D/2)."""
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)  # (B, 1, L, D/2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
