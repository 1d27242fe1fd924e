"""How much faster answers are written when keys and values are kept from word to word."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from dreamrl.dreaming_config import POSITIONS, DreamingConfig
from dreamrl.nn.input_tokenizer import InputTokenizer
from dreamrl.nn.output_decoder import OutputDecoder

MEMORY_TOKENS = 10
"""Tokens of a dream of 8 steps, as ``OutputDecoder.memory`` makes them."""


def bench(
    kinds: tuple[str, ...] = POSITIONS,
    length: int = 256,
    batch: int = 4,
    dim: int = 256,
    layers: int = 4,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Write ``length`` given tokens with and without a cache.

    Args:
        kinds: of positions.
        length: tokens to write.
        batch: answers written at the same time.
        dim: channels of the decoder.
        layers: its blocks.
        seed: of weights, memory and tokens.

    Returns:
        {kind: {"cached_s", "uncached_s", "speedup", "largest_error" of a logit}}.
    """
    return {kind: _measure(kind, length, batch, dim, layers, seed) for kind in kinds}


@torch.no_grad()
def _measure(kind: str, length: int, batch: int, dim: int, layers: int, seed: int) -> dict[str, float]:
    config = DreamingConfig(
        embedding_dim=dim, num_heads=4, decoder_layers=layers, max_answer_tokens=length, positions=kind, yarn_factor=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = OutputDecoder(config, InputTokenizer(config, config.vocab_size))
        memory = torch.randn(batch, MEMORY_TOKENS, dim)
        tokens = torch.randint(3, config.vocab_size, (batch, length))
    mask = torch.ones(batch, MEMORY_TOKENS, dtype=torch.bool)
    cache = decoder.start(memory, mask)
    cached, cached_s = _timed(lambda place: decoder.step(tokens[:, place : place + 1], cache), length)
    plain, uncached_s = _timed(lambda place: decoder(tokens[:, : place + 1], memory, mask)[:, -1], length)
    return {
        "cached_s": cached_s,
        "uncached_s": uncached_s,
        "speedup": uncached_s / cached_s,
        "largest_error": (cached - plain).abs().amax().item(),
    }


def _timed(logits_at: Callable[[int], Tensor], length: int) -> tuple[Tensor, float]:
    """Logits of every place (length, Q, vocab) and the seconds that they took."""
    start = time.perf_counter()
    logits = [logits_at(place) for place in range(length)]
    return torch.stack(logits), time.perf_counter() - start
