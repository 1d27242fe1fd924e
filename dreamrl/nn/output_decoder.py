"""The text decoder: writes the answer from the prompt and the one dream that the reasoner chose to read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.config import DreamingConfig
from dreamrl.nn.graph import Reading
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.layers import Block
from dreamrl.nn.positional import TextPositions
from dreamrl.nn.text import BOS, PAD


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
        self.blocks = nn.ModuleList(Block(dim, heads, cross=True) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(dim)

    def memory(self, reading: Reading, focus: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """What the decoder reads: the dream in ``focus`` (Q,), a "nothing" token, the prompt's summary.

        Returns:
            (Q, T + 2, D) tokens and (Q, T + 2) mask; with focus N ("none") no dream is readable.
        """
        questions, dreams, steps, dim = reading.nodes.shape
        chosen = focus.clamp(max=dreams - 1)
        nodes = reading.nodes[torch.arange(questions, device=focus.device), chosen]  # (Q, T, D)
        readable = reading.mask[torch.arange(questions, device=focus.device), chosen]
        readable = readable & (focus < dreams).unsqueeze(1)
        nothing = self.nothing.expand(questions, 1, dim)
        always = readable.new_ones(questions, 2)
        tokens = torch.cat([nodes, nothing, prompt.summary.unsqueeze(1)], dim=1)
        return tokens, torch.cat([readable, always], dim=1)

    def forward(self, inputs: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """``inputs`` (Q, L) token ids, shifted right -> logits (Q, L, vocab); causal."""
        length = inputs.shape[1]
        positions = torch.arange(length, device=inputs.device)
        causal = positions.unsqueeze(1) >= positions
        x = self.text(inputs) + self.place(positions)
        added, places = self.positions(positions)
        x = x if added is None else x + added
        for block in self.blocks:
            x = block(x, mask=causal, places=places, memory=memory, memory_mask=memory_mask[:, None, None, :])
        logits = F.linear(self.norm(x), self.text.weight)
        # Padding and the begin mark are no text: a sampled answer must not hold them, or its length is ambiguous.
        return logits.index_fill(-1, torch.tensor([PAD, BOS], device=logits.device), NEVER)


NEVER = -1e9
"""Logit of what cannot be written; finite, so that masked losses stay zero."""
