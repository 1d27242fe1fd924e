"""Pretraining: the plain torch loop, Ray Train with one worker, and with two; and how long a step waits for its data.

All run :func:`dreamrl.pretrain.pretrain_loop`, with one torch thread in each process, so that one worker keeps to one
core. Start-up, checkpoints and measuring on the probe do not count. By the clock: other programs do count here, which
is why the three take turns.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dreamrl.cluster import ray_session
from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.errors import UserError
from dreamrl.pretrain import LOG_EVERY, PretrainStep, pretrain_loop, pretrain_on_ray, train_codec
from dreamrl.printing import markdown_table
from dreamrl.process import settle
from dreamrl.saving import new_model
from dreamrl.settings import load_settings

CODEC_STEPS = 20
"""Enough to go on; the codec is trained the same way by all."""
METRIC = "pretrain/scenes_per_second"


def bench(
    preset: str = "nano",
    overrides: Sequence[str] = (),
    updates: int = 40,
    repeats: int = 2,
    ray: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Scenes per second of whole, short pretrainings.

    Args:
        preset: sizes of the networks.
        overrides: settings of the run.
        updates: of one training; speed is logged every 10, and the first of these logs does not count.
        repeats: turns of each kind.
        ray: whether Ray Train takes part; false: only the plain loop and its data.
        seed: of weights and scenes.

    Returns:
        ``scenes_per_second`` of ``plain``, ``one`` and ``two`` workers; ``one_to_plain`` and ``two_to_one``, medians
        over the turns of the ratio within a turn; ``data_share``, the part of an update that makes its batch, during
        which nothing is learned.
    """
    if updates < 2 * LOG_EVERY or repeats < 1:
        raise UserError(f"updates ({updates}) must be >= {2 * LOG_EVERY} and repeats ({repeats}) >= 1")
    short = [f"pretrain.steps={updates}", f"pretrain.codec_steps={CODEC_STEPS}", "pretrain.num_workers=1"]
    run = load_settings(preset, overrides=[*short, *overrides], seed=seed)
    settle()
    share = data_share(run, updates)
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        if ray:
            two = replace(run, pretrain=replace(run.pretrain, num_workers=2))
            with ray_session(two, Path(name), "local"):
                kinds = {
                    "plain": lambda out: pretrain_loop(run, out),
                    "one": lambda out: pretrain_on_ray(run, out),
                    "two": lambda out: pretrain_on_ray(two, out),
                }
                turns = [turn(kinds, Path(name) / str(index)) for index in range(repeats)]
        else:
            turns = [turn({"plain": lambda out: pretrain_loop(run, out)}, Path(name) / str(i)) for i in range(repeats)]
    result: dict[str, Any] = {
        "scenes_per_second": {kind: round(statistics.median(t[kind] for t in turns), 2) for kind in turns[0]}
    }
    if ray:
        for first, second in (("one", "plain"), ("two", "one")):
            result[f"{first}_to_{second}"] = round(statistics.median(t[first] / t[second] for t in turns), 3)
    rows = [[kind, f"{speed:.1f}"] for kind, speed in result["scenes_per_second"].items()]
    print("\n".join(markdown_table(["pretraining", "scenes/s"], rows)))
    print(f"an update spends {share:.1%} of its time on making its batch")
    return result | {"data_share": round(share, 4)}


def turn(kinds: dict[str, Callable[[Path], Any]], out: Path) -> dict[str, float]:
    """Scenes per second of each kind of training, one after the other."""
    speeds = {}
    for kind, train in kinds.items():
        (out / kind).mkdir(parents=True)
        train(out / kind)
        speeds[kind] = statistics.median(logged(out / kind)[1:])
    return speeds


def logged(out: Path) -> list[float]:
    """The speeds that a training logged."""
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [record[METRIC] for record in records if METRIC in record]


def data_share(run: RunConfig, updates: int) -> float:
    """The part of an update's processor time that makes its batch, in this process."""
    loaded = new_model(run)
    data = RandomPlay(run, loaded.world, loaded.text, loaded.model.codec)
    train_codec(loaded, data)
    step = PretrainStep(loaded.model)
    optimizer = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=run.pretrain.lr)
    making, whole = [], []
    for index in range(updates // 2):
        started = time.process_time()
        batch = data.batch(index, run.pretrain.scenes_per_step)
        made = time.process_time()
        loss, _ = step(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        making.append(made - started)
        whole.append(time.process_time() - started)
    return statistics.median(making) / statistics.median(whole)
