"""Prompt -> embeddings: text read by a small transformer, pictures by a vision backbone, image codes by a table."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.errors import UserError
from dreamrl.nn.layers import AttentionPool, Block
from dreamrl.nn.picture_reader import Looked, PictureReader, Pictures
from dreamrl.nn.positional import GridPositions, TextPositions
from dreamrl.nn.text import PAD


class Prompt(NamedTuple):
    """An encoded prompt: ``tokens`` (Q, L, D), ``mask`` (Q, L) True where real, ``summary`` (Q, D)."""

    tokens: Tensor
    mask: Tensor
    summary: Tensor


class Noise(NamedTuple):
    """What pretraining does to prompts: shares of tokens hidden and of channels dropped, drawn from ``generator``."""

    masking: float
    dropout: float
    generator: torch.Generator

    def hide(self, tokens: Tensor, mask: Tensor, instead: Tensor) -> Tensor:
        """``tokens`` (Q, L, D) with some of those in ``mask`` (Q, L) replaced by ``instead`` (D,)."""
        hidden = mask & (self._draw(mask) < self.masking)
        return torch.where(hidden.unsqueeze(-1), instead, tokens)

    def drop(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``tokens`` with some channels of those in ``mask`` set to zero, the others scaled to keep the mean."""
        kept = (self._draw(tokens) >= self.dropout) / (1 - self.dropout)
        return torch.where(mask.unsqueeze(-1), tokens * kept, tokens)

    def _draw(self, like: Tensor) -> Tensor:
        """Uniform numbers in the shape of ``like``, the same on every device that it may be on."""
        return torch.rand(like.shape, generator=self.generator, device=self.generator.device).to(like.device)


class InputTokenizer(nn.Module):
    """Embeds what prompts and dreams are made of: text, pictures and image codes.

    Args:
        config: architecture.
        vocab_size: text tokens.
        architecture: of a saved model's vision backbone, see :class:`dreamrl.nn.vision.VisionBackbone`.
    """

    def __init__(self, config: DreamingConfig, vocab_size: int, architecture: dict[str, Any] | None = None):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.token_masking, self.embedding_dropout = config.token_masking, config.embedding_dropout
        self.text = nn.Embedding(vocab_size, dim)
        self.codes = nn.Embedding(config.num_codes + 1, dim)  # the last row stands for "no patch here"
        self.place = nn.Embedding(config.max_prompt_tokens, dim)
        self.positions = TextPositions(config.positions, dim, heads, config.max_prompt_tokens, config.yarn_factor)
        self.reader = Block(dim, heads, normaliser=config.attention)
        self.pool = AttentionPool(dim, heads)
        if config.vision_backbone != "none":
            self.pictures = PictureReader(config, architecture)
            self.joint = Block(dim, heads, cross=True, normaliser=config.attention)
        if config.use_contrastive_loss:
            self.grid = GridPositions(config.positions, dim, heads, config.yarn_factor)
            self.grid_reader = Block(dim, heads, normaliser=config.attention)
            self.grid_pool = AttentionPool(dim, heads)

    @property
    def architecture(self) -> dict[str, Any] | None:
        """What must be saved beside the weights to build the vision backbone again; None if nothing."""
        return self.pictures.backbone.architecture if hasattr(self, "pictures") else None

    def forward(
        self, text: Tensor, pictures: Pictures | None = None, generator: torch.Generator | None = None
    ) -> Prompt:
        """Read Q prompts of text, pictures or both; equal ones are read once.

        Args:
            text: (Q, L) token ids padded with ``PAD``; all padding where there is no text.
            pictures: what they show; needs a vision backbone.
            generator: decides which tokens are hidden and which channels dropped, where the config says that some
                are; equal prompts are then read apart. None: nothing is random.

        Returns:
            :class:`Prompt` with L tokens of text, followed by all tokens of the pictures.
        """
        noise = None
        if generator is not None and (self.token_masking > 0 or self.embedding_dropout > 0):
            noise = Noise(self.token_masking, self.embedding_dropout, generator)
        looked = None if pictures is None or not pictures.mask.any() else self._look(pictures)
        asked = text if looked is None else torch.cat([text, looked.which], dim=1)
        rows = None
        if noise is None:
            asked, rows = torch.unique(asked, dim=0, return_inverse=True)
        tokens, mask = self._read(asked[:, : text.shape[1]], noise)
        if looked is not None:
            shown, shown_mask = self._show(looked, asked[:, text.shape[1] :], noise)
            # Without this block the summary of a question about one cell knows nothing of that cell: pooling does
            # not depend on what is asked.
            told = self.joint(tokens, mask=readable(mask), memory=shown, memory_mask=readable(shown_mask))
            tokens = torch.where(shown_mask.any(dim=1)[:, None, None], told, tokens)
            tokens, mask = torch.cat([tokens, shown], dim=1), torch.cat([mask, shown_mask], dim=1)
        prompt = Prompt(tokens, mask, self.pool(tokens, mask))
        return prompt if rows is None else Prompt(*(part[rows] for part in prompt))

    def triplet(self, what: Tensor, action_text: Tensor, result: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (R, D) of what is seen, of actions in words and of what they lead to; for the contrastive loss.

        ``what``, ``result`` (R, P) codes, ``action_text`` (R, L) token ids, ``grid`` (R, 2) rows and columns.
        """
        mask = torch.arange(what.shape[1], device=what.device) < grid.prod(dim=1, keepdim=True)  # (R, P)
        added, places = self.grid(grid[:, 1], what.shape[1])

        def read(codes: Tensor) -> Tensor:
            x = self.codes(codes)
            x = x if added is None else x + added
            return self.grid_pool(self.grid_reader(x, mask=mask[:, None, None, :], places=places), mask)

        return read(what), self(action_text).summary, read(result)

    def _read(self, text: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """``text`` (Q, L) -> tokens (Q, L, D) and mask (Q, L)."""
        mask = text != PAD
        positions = torch.arange(text.shape[1], device=text.device)
        added, places = self.positions(positions)
        tokens = self.text(text)
        if noise is not None:
            tokens = noise.hide(tokens, mask, self.hidden)
        tokens = tokens + self.place(positions)
        tokens = tokens if added is None else tokens + added
        if noise is not None:
            tokens = noise.drop(tokens, mask)
        return self.reader(tokens, mask=readable(mask), places=places), mask

    def _look(self, pictures: Pictures) -> Looked:
        if not hasattr(self, "pictures"):
            raise UserError('this model cannot look at pictures: its model.vision_backbone is "none"')
        return self.pictures(pictures)

    def _show(self, looked: Looked, which: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Tokens (Q, K L, D) and mask (Q, K L) of the pictures ``which`` (Q, K) of prompts."""
        tokens, mask = self.pictures.tokens(looked, which)
        if noise is not None:
            tokens = noise.hide(tokens, mask, self.hidden)
        tokens = tokens + self.pictures.marks(looked, which.shape[1])
        return (tokens if noise is None else noise.drop(tokens, mask)), mask

    @property
    def hidden(self) -> Tensor:
        """(D,) what stands in for a hidden token: padding's row of the text table, which nothing else reads."""
        return self.text.weight[PAD]


def readable(mask: Tensor) -> Tensor:
    """``mask`` (Q, L) of keys as attention takes it; where no token is real all are, for no sum of weights is 0/0."""
    return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
