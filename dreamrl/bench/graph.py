"""What reading dreams as a graph costs, by the number of dreams N and of steps T.

Sibling edges number N^2 T, temporal ones 2 N T, candidates of learned edges (N T)^2. Run
``python -m dreamrl.bench.graph`` to print the numbers of the default size, with and without each mechanism, as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.graph_reasoner import GraphReasoner
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt

ACTIONS, PATCHES, VOCABULARY = 4, 16, 300
"""Actions of the world, patches of a picture, text tokens: those of 4x4 boards."""
Given = tuple[Tensor, Tensor, Tensor, Tensor, Prompt]


def bench(
    config: DreamingConfig | None = None,
    dreams: Sequence[int] = (2, 4, 8, 16, 32),
    steps: Sequence[int] = (4, 8, 16, 32),
    questions: int = 4,
    repeats: int = 9,
) -> dict[str, Any]:
    """Processor time of reading ``questions`` questions, forward and backward, all dreams at full length.

    Processor time, because other programs do not count in it; run with OMP_NUM_THREADS=1, or threads that wait
    do. All sizes take turns, and medians are reported.

    Args:
        config: architecture; the default size if None.
        dreams: values of N, measured with T = 8.
        steps: values of T, measured with N = 4.
        questions: Q.
        repeats: turns.

    Returns:
        ``ms_by_dreams`` and ``ms_by_steps``: N or T -> milliseconds; ``dreams_exponent`` and ``steps_exponent``:
        the slope of log time over log N or log T, over all sizes; and ``last_``..., over the two largest alone,
        where the fixed cost of a pass hides less of the growth.
    """
    config = config or DreamingConfig()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reasoner = GraphReasoner(config, ACTIONS, InputTokenizer(config, VOCABULARY))
    sizes = [(n, 8) for n in dreams] + [(4, t) for t in steps]
    given = {size: _inputs(config, questions, *size) for size in sizes}
    for size in given:  # the first call also allocates
        _timed(reasoner, given[size])
    turns = {size: [] for size in given}
    for _ in range(repeats):
        for size in given:
            turns[size].append(_timed(reasoner, given[size]))
    ms = {size: 1000 * statistics.median(turns[size]) for size in given}
    by_dreams, by_steps = {n: ms[n, 8] for n in dreams}, {t: ms[4, t] for t in steps}
    return {
        "ms_by_dreams": by_dreams,
        "ms_by_steps": by_steps,
        "dreams_exponent": exponent(by_dreams),
        "steps_exponent": exponent(by_steps),
        "last_dreams_exponent": exponent(dict(list(by_dreams.items())[-2:])),
        "last_steps_exponent": exponent(dict(list(by_steps.items())[-2:])),
    }


def exponent(times: dict[int, float]) -> float:
    """Least-squares slope of log time over log size: 1 is linear, 2 quadratic."""
    return statistics.linear_regression([math.log(n) for n in times], [math.log(t) for t in times.values()]).slope


def _inputs(config: DreamingConfig, questions: int, dreams: int, steps: int) -> Given:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(config.num_codes, (questions, dreams, steps + 1, PATCHES), generator=generator)
    actions = torch.randint(ACTIONS, (questions, dreams, steps), generator=generator)
    tokens = torch.randn(questions, 1, config.embedding_dim, generator=generator)
    prompt = Prompt(tokens, torch.ones(questions, 1, dtype=torch.bool), tokens[:, 0])
    return frames, actions, torch.zeros_like(actions), torch.full((questions, dreams), steps), prompt


def _timed(reasoner: GraphReasoner, given: Given) -> float:
    """Seconds of one forward and backward pass."""
    start = time.process_time()
    reading = reasoner(*given)
    (reading.focus_logits.sum() + reading.value.sum()).backward()
    return time.process_time() - start


if __name__ == "__main__":
    variants = {
        "default": {},
        "mean": {"graph_reader": "mean"},
        "shuffled": {"graph_reader": "shuffled"},
        "sparsemax": {"attention": "sparsemax"},
        "node memory": {"use_node_memory": True},
        "learned edges": {"use_learned_edges": True},
    }
    results = {name: bench(dataclasses.replace(DreamingConfig(), **fields)) for name, fields in variants.items()}
    print(json.dumps(results, indent=2))
