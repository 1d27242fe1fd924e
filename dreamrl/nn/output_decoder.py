"""The text decoder: writes the answer from the prompt and the one dream that the reasoner chose to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.graph import Reading
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.layers import Block, BlockCache, widened
from dreamrl.nn.positional import GridPositions, Places, TextPositions
from dreamrl.nn.text import BOS, PAD


@dataclass
class DecoderCache:
    """What is known while Q answers are written word by word.

    ``blocks`` hold keys and values of the words so far and of the memory, ``memory_mask`` is (Q, 1, 1, M),
    ``length`` words have been read.
    """

    blocks: list[BlockCache]
    memory_mask: Tensor
    length: int = 0


class OutputDecoder(nn.Module):
    """Autoregressive transformer over answer tokens with cross-attention to the dream in focus.

    Args:
        config: architecture.
        tokenizer: shared text table; also the output matrix (Press and Wolf 2017).
    """

    def __init__(self, config: DreamingConfig, tokenizer: InputTokenizer):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.text = tokenizer.text
        self.nothing = nn.Parameter(torch.randn(dim) * 0.1)
        self.place = nn.Embedding(config.max_answer_tokens, dim)
        self.positions = TextPositions(config.positions, dim, heads, config.max_answer_tokens, config.yarn_factor)
        self.blocks = nn.ModuleList(
            Block(dim, heads, cross=True, normaliser=config.attention) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.codes = tokenizer.codes
        self.places = GridPositions("learned", dim, heads) if config.use_picture_reading else None

    def memory(self, reading: Reading, focus: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """What the decoder reads: the dream in ``focus`` (Q,), a "nothing" token, the prompt's summary.

        With ``use_picture_reading`` also the P patches of that dream's last picture.

        Returns:
            (Q, M, D) tokens and (Q, M) mask, M = T + 2 or T + 2 + P; with focus N ("none") no dream is readable.
        """
        questions, dreams, steps, dim = reading.nodes.shape
        rows, chosen = torch.arange(questions, device=focus.device), focus.clamp(max=dreams - 1)
        some = (focus < dreams).unsqueeze(1)
        nothing = self.nothing.expand(questions, 1, dim)
        tokens = [reading.nodes[rows, chosen], nothing, prompt.summary.unsqueeze(1)]
        masks = [reading.mask[rows, chosen] & some, some.new_ones(questions, 2)]
        if self.places is not None:
            assert reading.last is not None and reading.columns is not None
            picture = reading.last[rows, chosen]  # (Q, P)
            added, _ = self.places(reading.columns, picture.shape[1])
            assert added is not None
            tokens.append(self.codes(picture) + added)
            masks.append((picture < self.codes.num_embeddings - 1) & some)
        return torch.cat(tokens, dim=1), torch.cat(masks, dim=1)

    def forward(self, inputs: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """``inputs`` (Q, L) token ids, shifted right -> logits (Q, L, vocab); causal."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        causal = positions.unsqueeze(1) >= positions
        x, places = self._embed(inputs, positions, positions)
        for block in self.blocks:
            x = block(x, mask=causal, places=places, memory=memory, memory_mask=memory_mask[:, None, None, :])
        return self._logits(x)

    @torch.no_grad()
    def start(self, memory: Tensor, memory_mask: Tensor, length: int | None = None) -> DecoderCache:
        """A cache to write answers of up to ``length`` tokens, by default ``max_answer_tokens``, with :meth:`step`.

        Args:
            memory: (Q, M, D) tokens of :meth:`memory`.
            memory_mask: (Q, M).
            length: tokens that there is room for; may be more than in training.
        """
        room = self.place.num_embeddings if length is None else length
        blocks = [block.start(memory, room) for block in cast("Iterable[Block]", self.blocks)]
        return DecoderCache(blocks, memory_mask[:, None, None, :])

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """The next ``tokens`` (Q, 1), first the begin mark -> logits (Q, vocab) of what follows them.

        The same as the last place of :meth:`forward` on all tokens so far, at the cost of one token. Without
        gradients.
        """
        keys = torch.arange(cache.length + 1, device=tokens.device)
        x, places = self._embed(tokens, keys[-1:], keys)
        for block, known in zip(self.blocks, cache.blocks, strict=True):
            x = block(x, places=places, memory_mask=cache.memory_mask, cache=known)
        cache.length += 1
        return self._logits(x)[:, 0]

    def _embed(self, inputs: Tensor, positions: Tensor, keys: Tensor) -> tuple[Tensor, Places]:
        """``inputs`` (Q, L) at ``positions`` (L,), reading tokens at ``keys`` (M,) -> (Q, L, D) and their places."""
        # Past the longest answer in training, tokens share the last learned place; attention still tells them apart.
        x = self.text(inputs) + self.place(positions.clamp(max=self.place.num_embeddings - 1))
        added, places = self.positions(positions, keys)
        return x if added is None else x + added, places

    def _logits(self, x: Tensor) -> Tensor:
        """(Q, L, D) -> (Q, L, vocab)."""
        logits = widened(F.linear(self.norm(x), self.text.weight))
        # Padding and the begin mark are no text: a sampled answer must not hold them, or its length is ambiguous.
        return logits.index_fill(-1, torch.tensor([PAD, BOS], device=logits.device), NEVER)


NEVER = -1e9
"""Logit of what cannot be written; finite, so that masked losses stay zero."""
