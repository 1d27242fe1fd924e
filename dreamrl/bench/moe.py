"""What sparse routing saves: the mixture of experts with k of E experts against all E of them.

Run ``python -m dreamrl.bench.moe`` to print the numbers of the base size as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time

import torch
from torch import Tensor

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.experts import Context
from dreamrl.nn.moe import MixtureOfExperts

BASE = DreamingConfig(
    embedding_dim=256, num_heads=8, num_experts=4, moe_top_k=2, expert_num_layers=2, expert_num_heads=8
)
"""The base size: 4 experts of 2 layers, 256 channels."""
ROWS, SIDE, PROMPT_TOKENS = 64, 4, 16
"""Pictures in a batch, patches along a side of each, tokens of each prompt."""


def bench(preset_config: DreamingConfig = BASE, repeats: int = 15) -> dict[str, float]:
    """Wall time of forward and backward with ``moe_top_k`` and with all experts.

    The two take turns, so that a machine that slows down slows both; the medians are compared.

    Returns:
        ``sparse_ms``, ``dense_ms``; ``ratio`` of the two; ``ideal_ratio``, that of the experts' work alone.
    """
    given = _inputs(preset_config.embedding_dim)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sparse = MixtureOfExperts(preset_config)
        dense = MixtureOfExperts(dataclasses.replace(preset_config, moe_top_k=preset_config.num_experts))
    dense.load_state_dict(sparse.state_dict())
    for moe in (sparse, dense):  # the first call also allocates
        _timed(moe, given)
    turns = [(_timed(sparse, given), _timed(dense, given)) for _ in range(repeats)]
    sparse_ms, dense_ms = (1000 * statistics.median(column) for column in zip(*turns, strict=True))
    return {
        "sparse_ms": sparse_ms,
        "dense_ms": dense_ms,
        "ratio": sparse_ms / dense_ms,
        "ideal_ratio": preset_config.moe_top_k / preset_config.num_experts,
    }


def _inputs(dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Context]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, SIDE * SIDE, dim, generator=generator, requires_grad=True)
    summary = torch.randn(ROWS, dim, generator=generator, requires_grad=True)
    prompt = torch.randn(ROWS, PROMPT_TOKENS, dim, generator=generator)
    mask = torch.ones(ROWS, 1, 1, SIDE * SIDE, dtype=torch.bool)
    context = Context(prompt, torch.ones(ROWS, PROMPT_TOKENS, dtype=torch.bool))
    return x, mask, torch.full((ROWS,), SIDE), summary, context


def _timed(moe: MixtureOfExperts, given: tuple[Tensor, Tensor, Tensor, Tensor, Context]) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    moe(*given)[0].sum().backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(bench(), indent=2))
