"""Prompt -> embeddings: text tokens read by a small transformer, image codes by a table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.nn.layers import AttentionPool, Block
from dreamrl.nn.positional import rotary_angles
from dreamrl.nn.text import PAD


class Prompt(NamedTuple):
    """An encoded prompt: ``tokens`` (Q, L, D), ``mask`` (Q, L) True where real, ``summary`` (Q, D)."""

    tokens: Tensor
    mask: Tensor
    summary: Tensor


class InputTokenizer(nn.Module):
    """Embeds the two things that a prompt and a dream are made of: text and image codes.

    Args:
        vocab_size: text tokens.
        num_codes: image codes V; the table has one more row, for padding.
        dim: channels D.
        heads: attention heads.
        max_tokens: longest prompt.
    """

    def __init__(self, vocab_size: int, num_codes: int, dim: int, heads: int, max_tokens: int):
        """See the class."""
        super().__init__()
        self.head_dim = dim // heads
        self.text = nn.Embedding(vocab_size, dim)
        self.codes = nn.Embedding(num_codes + 1, dim)
        self.place = nn.Embedding(max_tokens, dim)
        self.reader = Block(dim, heads)
        self.pool = AttentionPool(dim, heads)

    def forward(self, text: Tensor) -> Prompt:
        """``text`` (Q, L) token ids padded with ``PAD`` -> :class:`Prompt`. Equal rows are read once."""
        unique, rows = torch.unique(text, dim=0, return_inverse=True)
        mask = unique != PAD
        positions = torch.arange(text.shape[1], device=text.device).expand_as(unique)
        tokens = self.reader(
            self.text(unique) + self.place(positions),
            mask=mask[:, None, None, :],
            angles=rotary_angles(positions, self.head_dim, 100.0),
        )
        summary = self.pool(tokens, mask)
        return Prompt(tokens[rows], mask[rows], summary[rows])
