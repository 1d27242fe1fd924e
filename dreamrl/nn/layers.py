"""Transformer pieces shared by every part of the model: attention, block, pooling.

No dropout and no batch statistics anywhere: a policy must give the same probabilities when it samples and
when it learns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from entmax import sparsemax
from torch import Tensor, nn

from dreamrl.dreaming_config import NORMALISERS
from dreamrl.nn.positional import Places, rotate

NOWHERE = Places()
"""Tokens without order."""


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 if autocast has made it narrower: for probabilities, values and whatever else is compared."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


@dataclass
class KeyValues:
    """Keys and values (B, heads, M, D/heads) that attention has already computed; the first ``length`` are filled.

    It is written in place, so it is for writing texts, not for training. Example: room for 24 tokens, of which
    5 have been read: ``KeyValues(zeros(B, heads, 24, 16), zeros(B, heads, 24, 16), length=5)``.
    """

    key: Tensor
    value: Tensor
    length: int

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, heads, L, D/heads) of L more tokens and return all that is filled."""
        end = self.length + key.shape[2]
        assert end <= self.key.shape[2], f"no room for {end} tokens in a cache of {self.key.shape[2]}"
        self.key[:, :, self.length : end] = key
        self.value[:, :, self.length : end] = value
        self.length = end
        return self.filled()

    def filled(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens read so far."""
        return self.key[:, :, : self.length], self.value[:, :, : self.length]


@dataclass
class BlockCache:
    """What one :class:`Block` keeps from token to token: its own past, and the memory that it reads if it does."""

    past: KeyValues
    memory: KeyValues | None


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762), relative if places are given.

    Args:
        dim: channels D; heads must divide it.
        heads: number of heads.
        normaliser: logits -> weights: softmax, or sparsemax (Martins and Astudillo 2016, arXiv:1602.02068), the
            nearest point of the simplex, which gives most tokens a weight of exactly zero.
    """

    def __init__(self, dim: int, heads: int, normaliser: str = "softmax"):
        """See the class."""
        super().__init__()
        assert dim % heads == 0, (dim, heads)
        assert normaliser in NORMALISERS, normaliser
        self.heads = heads
        self.normaliser = normaliser
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | KeyValues | None = None,
        mask: Tensor | None = None,
        places: Places = NOWHERE,
        cache: KeyValues | None = None,
    ) -> Tensor:
        """Attend from ``x`` (B, L, D) to ``memory`` (B, M, D), by default to itself.

        ``mask`` is boolean and broadcasts to (B, heads, L, M): True may be read. ``places`` need ``memory``
        to be ``x``. ``memory`` may also be keys and values made by :meth:`remember`. With ``cache`` the tokens
        ``x`` are added to it, and all that it holds is read.
        """
        query = self._split(self.query(x))  # (B, heads, L, D/heads)
        if isinstance(memory, KeyValues):
            key, value = memory.filled()
        else:
            key, value = self._key_value(x if memory is None else memory)
        if places.angles is not None:
            query, key = rotate(query, places.angles), rotate(key, places.angles)
        if cache is not None:
            key, value = cache.append(key, value)
        if places.sharpness != 1:
            query = query * places.sharpness
        out = self._read(query, key, value, mask, places.bias)
        return self.out(out.transpose(1, 2).flatten(2))

    def remember(self, memory: Tensor) -> KeyValues:
        """Keys and values of ``memory`` (B, M, D), computed once for all tokens that will read it."""
        return KeyValues(*self._key_value(memory), length=memory.shape[1])

    def _read(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
        """Weighted means of ``value`` (B, heads, M, D/heads); zeros for a token that may read nothing."""
        if self.normaliser == "softmax":
            if bias is not None:
                mask = bias.to(query.dtype) if mask is None else bias.to(query.dtype).masked_fill(~mask, -torch.inf)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        logits = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).float()  # (B, heads, L, M)
        logits = logits if bias is None else logits + bias
        if mask is None:
            return sparsemax(logits, -1).to(value.dtype) @ value
        # What lies more than 1 below the largest logit has no weight; minus infinity would leave a row that may
        # read nothing without a solution.
        lowest = logits.detach().amin(-1, keepdim=True) - 2
        return (sparsemax(torch.where(mask, logits, lowest), -1) * mask).to(value.dtype) @ value

    def _key_value(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(memory).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optional cross-attention, GELU feed-forward.

    Args:
        dim: channels D.
        heads: attention heads.
        cross: whether the block also reads a memory.
        expansion: hidden channels of the feed-forward part, in multiples of D.
        normaliser: see :class:`Attention`.
    """

    def __init__(self, dim: int, heads: int, cross: bool = False, expansion: int = 2, normaliser: str = "softmax"):
        """See the class."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, normaliser)
        self.cross_norm = nn.LayerNorm(dim) if cross else None
        self.cross = Attention(dim, heads, normaliser) if cross else None
        self.feed_norm = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        places: Places = NOWHERE,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: BlockCache | None = None,
    ) -> Tensor:
        """``x`` (B, L, D) -> (B, L, D); masks as in :class:`Attention`, ``memory`` (B, M, D).

        With ``cache`` of :meth:`start`, ``x`` follows the tokens of earlier calls and the memory is the cache's.
        """
        x = x + self.attention(self.norm(x), mask=mask, places=places, cache=None if cache is None else cache.past)
        if self.cross is not None and self.cross_norm is not None:
            source = memory if cache is None else cache.memory
            assert source is not None, "this block reads a memory"
            x = x + self.cross(self.cross_norm(x), memory=source, mask=memory_mask)
        return x + self.feed(self.feed_norm(x))

    def start(self, memory: Tensor, length: int) -> BlockCache:
        """An empty cache for ``length`` tokens of each row of ``memory`` (B, M, D)."""
        heads = self.attention.heads
        past = memory.new_empty(2, memory.shape[0], heads, length, memory.shape[2] // heads)
        return BlockCache(KeyValues(past[0], past[1], 0), None if self.cross is None else self.cross.remember(memory))


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
        score = widened(self.score(x))
        score = score.masked_fill(~mask.unsqueeze(-1), torch.finfo(score.dtype).min)
        weight = score.softmax(dim=1) * mask.unsqueeze(-1)  # (B, L, heads)
        value = self.value(x).unflatten(-1, (self.heads, -1))  # (B, L, heads, D/heads)
        return torch.einsum("blh,blhc->bhc", weight, value).flatten(1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers with GELU between."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
