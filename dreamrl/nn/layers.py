"""Transformer pieces shared by every part of the model: attention, block, pooling.

No dropout and no batch statistics anywhere: a policy must give the same probabilities when it samples and
when it learns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.nn.positional import Places, rotate

NOWHERE = Places()
"""Tokens without order."""


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762), relative if places are given.

    Args:
        dim: channels D; heads must divide it.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int):
        """See the class."""
        super().__init__()
        assert dim % heads == 0, (dim, heads)
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, places: Places = NOWHERE
    ) -> Tensor:
        """Attend from ``x`` (B, L, D) to ``memory`` (B, M, D), by default to itself.

        ``mask`` is boolean and broadcasts to (B, heads, L, M): True may be read. ``places`` need ``memory``
        to be ``x``.
        """
        memory = x if memory is None else memory
        query = self._split(self.query(x))  # (B, heads, L, D/heads)
        key, value = (self._split(part) for part in self.key_value(memory).chunk(2, dim=-1))
        if places.angles is not None:
            query, key = rotate(query, places.angles), rotate(key, places.angles)
        if places.bias is not None:
            mask = places.bias if mask is None else places.bias.masked_fill(~mask, float("-inf"))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optional cross-attention, GELU feed-forward.

    Args:
        dim: channels D.
        heads: attention heads.
        cross: whether the block also reads a memory.
        expansion: hidden channels of the feed-forward part, in multiples of D.
    """

    def __init__(self, dim: int, heads: int, cross: bool = False, expansion: int = 2):
        """See the class."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim) if cross else None
        self.cross = Attention(dim, heads) if cross else None
        self.feed_norm = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        places: Places = NOWHERE,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """``x`` (B, L, D) -> (B, L, D); masks as in :class:`Attention`, ``memory`` (B, M, D)."""
        x = x + self.attention(self.norm(x), mask=mask, places=places)
        if self.cross is not None and self.cross_norm is not None:
            assert memory is not None, "this block reads a memory"
            x = x + self.cross(self.cross_norm(x), memory=memory, mask=memory_mask)
        return x + self.feed(self.feed_norm(x))


class AttentionPool(nn.Module):
    """Weighted mean of tokens, weights from a learned score per head; order does not matter.

    Args:
        dim: channels D.
        heads: independent weightings; each pools D / heads channels.
    """

    def __init__(self, dim: int, heads: int):
        """See the class."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.score = nn.Linear(dim, heads)
        self.value = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` (B, L, D), ``mask`` (B, L) True where a token is real -> (B, D); zeros where none is."""
        x = self.norm(x)
        score = self.score(x).masked_fill(~mask.unsqueeze(-1), torch.finfo(x.dtype).min)
        weight = score.softmax(dim=1) * mask.unsqueeze(-1)  # (B, L, heads)
        value = self.value(x).unflatten(-1, (self.heads, -1))  # (B, L, heads, D/heads)
        return torch.einsum("blh,blhc->bhc", weight, value).flatten(1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers with GELU between."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
