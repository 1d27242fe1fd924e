"""Inference: dreams per second, and how time grows with steps, dreams, board size and length of the text.

The model is untrained and never ends a dream early. Time is processor time, of one process with one torch thread, so
that other programs do not count in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from dreamrl.bench import decode
from dreamrl.bench.graph import exponent
from dreamrl.bench.run import at_least_one
from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.imagine import answer, imagine
from dreamrl.printing import markdown_table
from dreamrl.process import settle
from dreamrl.saving import Loaded, new_model
from dreamrl.settings import load_settings
from envs.questions import stream
from envs.world import Outcome, Question, Split

SURE = 100.0
"""Added to the logit of "the dream goes on"."""


def bench(
    preset: str = "nano",
    overrides: Sequence[str] = (),
    questions: int = 8,
    steps: tuple[int, ...] = (4, 8, 16, 32),
    dreams: tuple[int, ...] = (4, 8, 16, 32),
    sizes: tuple[int, ...] = (3, 4, 6, 8),
    lengths: tuple[int, ...] = (64, 128, 256),
    repeats: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Time of imagining and answering, one thing changed at a time; all take turns, and medians are reported.

    Args:
        preset: sizes of the networks.
        overrides: settings of the run.
        questions: answered together.
        steps: dream lengths T.
        dreams: numbers of dreams N.
        sizes: boards of this many rows and columns; patches grow with the square.
        lengths: words of an answer that are written with and without keeping keys and values.
        repeats: turns.
        seed: of the weights, the boards and the dreams.

    Returns:
        ``dreams_per_second`` and ``answers_per_second`` at the preset's own T and N on its largest boards;
        ``ms_by_steps``, ``ms_by_dreams``, ``ms_by_patches``: milliseconds for one question; ``decode``: seconds to
        write a text of each length, cached and uncached, and the ``speedup``; ``exponents``: slopes of log time over
        log size by least squares, 1 is linear.
    """
    at_least_one(questions=questions, repeats=repeats, steps=min(steps), dreams=min(dreams))
    for name, values in (("steps", steps), ("dreams", dreams), ("sizes", sizes), ("lengths", lengths)):
        if len(set(values)) < 2:
            raise UserError(f"{name} ({', '.join(map(str, values))}) must hold at least two different numbers")
    settle()
    run = load_settings(preset, overrides=list(overrides), seed=seed)
    models = {length: lasting(run, length) for length in {run.model.dream_length, *steps}}
    own, many, side = (
        run.model.dream_length,
        run.model.num_dream_sequences,
        max(models[run.model.dream_length].world.sizes),
    )
    grid = {("steps", t): (t, many, side) for t in steps} | {("dreams", n): (own, n, side) for n in dreams}
    grid |= {("patches", s * s): (own, many, s) for s in sizes} | {("own", 1): (own, many, side)}
    asked = {s: boards(models[own], s, questions, seed) for s in {s for _, _, s in grid.values()}}
    seconds = {
        place: value / questions
        for place, value in medians(
            {place: lambda at=at: work(models[at[0]], asked[at[2]], at[1], seed) for place, at in grid.items()}, repeats
        ).items()
    }
    by = {kind: {size: seconds[k, size] for k, size in seconds if k == kind} for kind in ("steps", "dreams", "patches")}
    written = writing(run, lengths, repeats, seed)
    exponents = {kind: exponent(values) for kind, values in by.items()}
    exponents |= {f"text_{kind}": exponent({n: w[kind] for n, w in written.items()}) for kind in ("cached", "uncached")}
    result = {
        "dreams_per_second": round(many / seconds["own", 1], 2),
        "answers_per_second": round(1 / seconds["own", 1], 2),
        **{f"ms_by_{kind}": {n: round(1000 * v, 2) for n, v in values.items()} for kind, values in by.items()},
        "decode": {n: {k: round(v, 4) for k, v in values.items()} for n, values in written.items()},
        "exponents": {kind: round(value, 3) for kind, value in exponents.items()},
    }
    rows = [
        [
            kind,
            ", ".join(map(str, values)),
            ", ".join(f"{1000 * v:.1f}" for v in values.values()),
            f"{exponents[kind]:.2f}",
        ]
        for kind, values in by.items()
    ]
    for kind in ("cached", "uncached"):
        milliseconds = ", ".join(f"{1000 * values[kind]:.0f}" for values in written.values())
        rows.append([f"text, {kind}", ", ".join(map(str, written)), milliseconds, f"{exponents[f'text_{kind}']:.2f}"])
    print("\n".join(markdown_table(["growing with", "sizes", "ms", "exponent"], rows)))
    return result


def lasting(run: RunConfig, length: int) -> Loaded:
    """An untrained model whose dreams all have ``length`` steps, with room for prompts and answers of as many moves."""
    prompt, answered = (
        max(run.model.max_prompt_tokens, 2 * length + 12),
        max(run.model.max_answer_tokens, 2 * length + 1),
    )
    model = replace(run.model, dream_length=length, max_prompt_tokens=prompt, max_answer_tokens=answered)
    loaded = new_model(replace(run, model=model))
    with torch.no_grad():
        loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += SURE
    return loaded


def boards(loaded: Loaded, size: int, count: int, seed: int) -> list[Question]:
    """``count`` questions about test boards of one size."""
    made, world = [], loaded.world
    for index in range(count):
        rng = stream(seed, 14, size, index)
        made.append(world.draw(world.sample_scene(rng, Split.TEST, size), False, loaded.run.model.dream_length, rng))
    return made


def work(loaded: Loaded, asked: list[Question], dreams: int, seed: int) -> None:
    """Imagine and answer."""
    imagined = imagine(loaded, asked, dreams, seed, loaded.run.eval.temperature)
    answer(loaded, imagined, dreams)


def medians(turns: dict[Any, Callable[[], None]], repeats: int) -> dict[Any, float]:
    """Median seconds of each; A B C A B C, and the first turn, which fills caches, does not count."""
    taken: dict[Any, list[float]] = {name: [] for name in turns}
    for repeat in range(repeats + 1):
        for name, turn in turns.items():
            started = time.process_time()
            turn()
            if repeat:
                taken[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def writing(run: RunConfig, lengths: Sequence[int], repeats: int, seed: int) -> dict[int, dict[str, float]]:
    """Seconds to write texts of the ``lengths`` with the model's own decoder, see :mod:`dreamrl.bench.decode`."""
    model, written = run.model, {}
    for length in lengths:
        turns = [
            decode.bench((model.positions,), length, 1, model.embedding_dim, model.decoder_layers, seed)
            for _ in range(repeats)
        ]
        cached, uncached = (
            statistics.median(turn[model.positions][f"{kind}_s"] for turn in turns) for kind in ("cached", "uncached")
        )
        written[length] = {"cached": cached, "uncached": uncached, "speedup": uncached / cached}
    return written
