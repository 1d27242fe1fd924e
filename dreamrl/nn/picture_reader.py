"""The pictures of a batch of prompts -> tokens: each different picture is looked at once, at its own size."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.errors import UserError
from dreamrl.nn.vision import VisionBackbone
from dreamrl.nn.vision_models import NUM_LEVELS

MAX_PICTURES = 8
"""Most pictures of one prompt."""


class Pictures(NamedTuple):
    """Up to K pictures of each of Q prompts: ``pixels`` (Q, K, H, W, 3) uint8, ``mask`` (Q, K) True where one is.

    ``size`` (Q, K, 2) is height and width of what counts of each, from the top left; None: all of it. Example: a
    prompt with a 48 x 48 picture and one with a 32 x 32 picture and a margin have sizes ``[[[48, 48]], [[32, 32]]]``.
    """

    pixels: Tensor
    mask: Tensor
    size: Tensor | None = None


class Looked(NamedTuple):
    """U different pictures and, last, none: ``tokens`` (U + 1, L, D), ``mask`` (U + 1, L); ``which`` (Q, K) is shown.

    Example: two prompts with the same one picture: U is 1 and ``which`` is ``[[0], [0]]``; without: ``[[1], [1]]``.
    """

    tokens: Tensor
    mask: Tensor
    which: Tensor


class PictureReader(nn.Module):
    """A vision backbone's pyramid as one list of tokens, with learned marks of their level and their picture.

    Args:
        config: architecture; ``vision_backbone`` must not be none.
        architecture: see :class:`VisionBackbone`.
    """

    def __init__(self, config: DreamingConfig, architecture: dict[str, Any] | None = None):
        """See the class."""
        super().__init__()
        self.backbone = VisionBackbone(config, architecture)
        self.level = nn.Embedding(NUM_LEVELS, config.embedding_dim)
        self.index = nn.Embedding(MAX_PICTURES, config.embedding_dim)
        for table in (self.level, self.index):  # small: at first a token is what it shows
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, pictures: Pictures) -> Looked:
        """Look at every different picture that is there, at least one."""
        if pictures.mask.shape[1] > MAX_PICTURES:
            raise UserError(f"{pictures.mask.shape[1]} pictures in one prompt; give at most {MAX_PICTURES}")
        pixels = pictures.pixels[pictures.mask]  # (n, H, W, 3)
        if pictures.size is None:
            size = torch.tensor(pixels.shape[1:3], device=pixels.device).expand(len(pixels), 2)
        else:
            size = pictures.size[pictures.mask]
        shown = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
        found, parts = 0, []
        for height, width in torch.unique(size, dim=0).tolist():
            rows = ((size[:, 0] == height) & (size[:, 1] == width)).nonzero().squeeze(1)
            different, inverse = torch.unique(pixels[rows, :height, :width], dim=0, return_inverse=True)
            parts.append(self.look(different))
            shown[rows] = inverse + found
            found += len(different)
        which = torch.full_like(pictures.mask, found, dtype=torch.long)
        which[pictures.mask] = shown
        return Looked(*self._stack(parts), which)

    def look(self, pixels: Tensor) -> Tensor:
        """``pixels`` (U, H, W, 3) uint8 -> all levels' tokens (U, L, D)."""
        levels = self.backbone(pixels.movedim(-1, 1).float() / 255)
        return torch.cat([level + mark for level, mark in zip(levels, self.level.weight, strict=True)], dim=1)

    def tokens(self, looked: Looked, which: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (R, K L, D) and mask (R, K L) of prompts that show the pictures ``which`` (R, K)."""
        return looked.tokens[which].flatten(1, 2), looked.mask[which].flatten(1, 2)

    def marks(self, looked: Looked, count: int) -> Tensor:
        """(count * L, D): which of its prompt's pictures a token belongs to."""
        return self.index.weight[:count].repeat_interleave(looked.tokens.shape[1], dim=0)

    def _stack(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Pictures with different numbers of tokens, and one with none, padded to the longest."""
        longest = max(part.shape[1] for part in parts)
        rows = sum(len(part) for part in parts) + 1
        tokens = self.level.weight.new_zeros(rows, longest, self.level.embedding_dim)
        mask = torch.zeros(rows, longest, dtype=torch.bool, device=tokens.device)
        start = 0
        for part in parts:
            end, length = start + len(part), part.shape[1]
            tokens[start:end, :length] = part
            mask[start:end, :length] = True
            start = end
        return tokens, mask
