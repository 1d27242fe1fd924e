"""Experts of the mixture: small transformers over the patches of one picture, each with something else to read.

Which expert thinks a dream step through, and with what weight, is decided in :mod:`dreamrl.nn.moe`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.layers import Attention, AttentionPool, Block
from dreamrl.nn.positional import Places


class Context(NamedTuple):
    """What R rows may read besides their own patches; a mask is True where a token may be read.

    ``prompt`` (R, L, D) with ``prompt_mask`` (R, L); ``memory`` (R, M, D) with ``memory_mask`` (R, M), the earlier
    steps of the row's dream. Without ``memory`` there are no earlier steps.
    """

    prompt: Tensor
    prompt_mask: Tensor
    memory: Tensor | None = None
    memory_mask: Tensor | None = None

    def source(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Tokens and mask of the field ``name``, of some ``rows``; None if there is no such field here."""
        tokens, mask = getattr(self, name, None), getattr(self, f"{name}_mask", None)
        if tokens is None or mask is None:
            return None
        return tokens.index_select(0, rows), mask.index_select(0, rows)


class Reads(NamedTuple):
    """What a type of expert reads: ``places`` of the patches, and a ``source``, a field of :class:`Context`."""

    places: bool = True
    source: str = ""


READS = {
    "spatial": Reads(),
    "temporal": Reads(source="memory"),
    "causal": Reads(source="prompt"),
    "abstract": Reads(places=False),
    "general": Reads(),
}
"""Type of expert -> what it reads; one line here is a new type (and its name in ``dreaming_config.EXPERT_TYPES``)."""


class Expert(nn.Module):
    """Pre-norm transformer over the patches of one picture, with cross-attention to its source if it has one.

    Beside its source stands a learned "nothing" token that can always be read: a row without earlier steps, or
    with an empty prompt, reads that, and attention over no token at all never happens.

    Args:
        config: architecture.
        kind: one of ``READS``.
    """

    def __init__(self, config: DreamingConfig, kind: str):
        """See the class."""
        super().__init__()
        self.reads = READS[kind]
        dim, cross = config.embedding_dim, self.reads.source != ""
        self.blocks = nn.ModuleList(
            Block(dim, config.expert_num_heads, cross=cross, normaliser=config.attention)
            for _ in range(config.expert_num_layers)
        )
        self.nothing = nn.Parameter(torch.randn(dim) * 0.1) if cross else None

    def forward(self, x: Tensor, mask: Tensor, places: Places, source: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Think R pictures through.

        Args:
            x: (R, P, D) patches.
            mask: (R, 1, 1, P) True where a patch is real.
            places: where the patches stand.
            source: tokens (R, M, D) and mask (R, M) of what else there is to read, or None.

        Returns:
            (R, P, D).
        """
        memory = memory_mask = None
        if self.nothing is not None:
            memory = self.nothing.expand(len(x), 1, -1)
            memory_mask = mask.new_ones(len(x), 1)
            if source is not None:
                memory = torch.cat([memory, source[0]], dim=1)  # (R, 1 + M, D)
                memory_mask = torch.cat([memory_mask, source[1]], dim=1)
            memory_mask = memory_mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask=mask, places=places, memory=memory, memory_mask=memory_mask)
        return x


class CrossExpertAttention(nn.Module):
    """The experts chosen for a row tell each other what they found, before their outputs are mixed.

    Each output is pooled to one token, marked with the expert's index; the k tokens of a row attend to each other,
    and what an expert hears is added to all tokens of its output. At first nothing is added: the last projection
    starts at zero.

    Args:
        config: architecture.
    """

    def __init__(self, config: DreamingConfig):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.expert_num_heads
        self.pool = AttentionPool(dim, heads)
        self.index = nn.Embedding(config.num_experts, dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, config.attention)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, thoughts: Tensor, real: Tensor, experts: Tensor, order: Tensor) -> Tensor:
        """Add to each expert's output what it hears from the others of its row.

        Args:
            thoughts: (R k, P, D) outputs, one for each choice.
            real: (R k, P) True where a patch is real.
            experts: (R, k) chosen experts.
            order: (R k,) which choice, counted row by row, each output belongs to.

        Returns:
            (R k, P, D).
        """
        summaries = self.pool(thoughts, real)[order.argsort()].view(*experts.shape, -1)  # (R, k, D)
        heard = self.attention(self.norm(summaries + self.index(experts)))
        return thoughts + heard.flatten(0, 1)[order].unsqueeze(1)
