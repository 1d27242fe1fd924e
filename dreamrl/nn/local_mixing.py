"""Neighbouring patches look at each other: a depthwise convolution over the grid, whatever its size.

Attention with relative positions meets distances in a larger picture that it was never trained on; what happens
between neighbours is the same everywhere. (Conditional positional encodings, Chu et al. 2021, arXiv:2102.10882; block
of depthwise and pointwise convolution, Liu et al. 2022, arXiv:2201.03545.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LocalMixing(nn.Module):
    """x + pointwise(gelu(pointwise(depthwise 3x3(norm(x))))), with zeros beyond the picture's edge.

    Args:
        dim: channels D.
    """

    def __init__(self, dim: int):
        """See the class."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.pointwise = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """``x`` (R, P, D), patches packed row by row; ``grid`` (R, 2) rows and columns; the rest of P stays."""
        normed, mixed = self.norm(x), torch.zeros_like(x)
        sizes, which = torch.unique(grid, dim=0, return_inverse=True)
        for index, (rows, columns) in enumerate(sizes.tolist()):
            own, used = which == index, rows * columns
            picture = normed[own, :used].transpose(1, 2).unflatten(2, (rows, columns))  # (n, D, rows, columns)
            # Under autocast the convolution is narrower than what it is added to.
            mixed[own, :used] = self.depthwise(picture).flatten(2).transpose(1, 2).to(x.dtype)
        return x + self.pointwise(mixed)
