"""Prompt -> embeddings: text tokens read by a small transformer, image codes by a table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.layers import AttentionPool, Block
from dreamrl.nn.positional import TextPositions
from dreamrl.nn.text import PAD


class Prompt(NamedTuple):
    """An encoded prompt: ``tokens`` (Q, L, D), ``mask`` (Q, L) True where real, ``summary`` (Q, D)."""

    tokens: Tensor
    mask: Tensor
    summary: Tensor


class InputTokenizer(nn.Module):
    """Embeds the two things that a prompt and a dream are made of: text and image codes.

    Args:
        config: architecture.
        vocab_size: text tokens.
    """

    def __init__(self, config: DreamingConfig, vocab_size: int):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.text = nn.Embedding(vocab_size, dim)
        self.codes = nn.Embedding(config.num_codes + 1, dim)  # the last row stands for "no patch here"
        self.place = nn.Embedding(config.max_prompt_tokens, dim)
        self.positions = TextPositions(config.positions, dim, heads, config.max_prompt_tokens, config.yarn_factor)
        self.reader = Block(dim, heads)
        self.pool = AttentionPool(dim, heads)

    def forward(self, text: Tensor) -> Prompt:
        """``text`` (Q, L) token ids padded with ``PAD`` -> :class:`Prompt`. Equal rows are read once."""
        unique, rows = torch.unique(text, dim=0, return_inverse=True)
        mask = unique != PAD
        positions = torch.arange(text.shape[1], device=text.device)
        added, places = self.positions(positions)
        tokens = self.text(unique) + self.place(positions)
        tokens = tokens if added is None else tokens + added
        tokens = self.reader(tokens, mask=mask[:, None, None, :], places=places)
        summary = self.pool(tokens, mask)
        return Prompt(tokens[rows], mask[rows], summary[rows])
