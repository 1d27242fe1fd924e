"""Pretraining on collected records against random play on the fly: speed and memory."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamrl.collect import wanted_manifest, write_codec_patches, write_records
from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.errors import UserError
from dreamrl.manifest import PATCHES, Manifest, shard_name, write_manifest
from dreamrl.pretrain import PretrainStep, ray_tables, train_codec
from dreamrl.process import settle
from dreamrl.saving import new_model
from dreamrl.settings import load_settings
from dreamrl.shards import plain_tables
from dreamrl.stored import StoredPlay

READERS = {"plain": plain_tables, "ray": ray_tables}


def bench(
    world: str = "frozen_lake",
    preset: str = "nano",
    records: int = 2048,
    shard_size: int = 256,
    updates: int = 16,
    rounds: int = 5,
    epochs: int = 4,
    reader: str = "plain",
    seed: int = 0,
) -> dict[str, Any]:
    """Train one model in turns on records from disk and on the fly, then read on without training.

    Args:
        world: whose scenes.
        preset: sizes of the networks.
        records: that are collected.
        shard_size: records of a file.
        updates: of a turn.
        rounds: turns of either kind; medians are reported.
        epochs: how often all records are read to see what memory does.
        reader: plain (in this process) or ray (by tasks of Ray Data).
        seed: of the weights and the scenes.

    Returns:
        ``samples_per_second`` of either kind by the clock and ``cpu_ms_per_sample`` of this process; ``ratio`` and
        ``cpu_ratio``, from disk over on the fly, where larger is better; ``collected_per_second`` and
        ``bytes_per_record``; ``rss_mb``, resident memory after 1/8, 2/8, ... of what is read.
    """
    if reader not in READERS:
        raise UserError(f'reader ("{reader}") must be one of {", ".join(READERS)}')
    settle()
    run = load_settings(preset, overrides=[f"world.name={world}", "pretrain.num_workers=1"], seed=seed)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as session:
        directory = Path(name) / "data"
        directory.mkdir()
        started = time.process_time()
        manifest = collect_here(run, directory, records, shard_size)
        collected = time.process_time() - started
        if reader == "ray":
            from dreamrl.cluster import ray_session

            session.enter_context(ray_session(run, Path(name), "local"))
        loaded = new_model(run)
        parts = (run, loaded.world, loaded.text, loaded.model.codec)
        stored, played = StoredPlay(*parts, directory, READERS[reader]), RandomPlay(*parts)
        session.callback(stored.close)
        train_codec(loaded, stored)
        step = PretrainStep(loaded.model)
        optimizer = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=1e-4)
        turns: dict[str, list[tuple[float, float]]] = {"from_disk": [], "on_the_fly": []}
        for turn in range(rounds + 1):
            for kind, data in (("from_disk", stored), ("on_the_fly", played)):
                turns[kind].append(_timed(step, optimizer, data, turn * updates, updates, run))
        rss = _reading(stored, run, -(-epochs * records // run.pretrain.scenes_per_step))
    samples = updates * run.pretrain.scenes_per_step
    # The first turn of either kind fills caches.
    wall = {kind: statistics.median(w for w, _ in taken[1:]) / samples for kind, taken in turns.items()}
    cpu = {kind: statistics.median(c for _, c in taken[1:]) / samples for kind, taken in turns.items()}
    return {
        "samples_per_second": {kind: round(1 / seconds, 1) for kind, seconds in wall.items()},
        "cpu_ms_per_sample": {kind: round(1000 * seconds, 3) for kind, seconds in cpu.items()},
        "ratio": round(wall["on_the_fly"] / wall["from_disk"], 3),
        "cpu_ratio": round(cpu["on_the_fly"] / cpu["from_disk"], 3),
        "collected_per_second": round(records / collected, 1),
        "bytes_per_record": round(sum(file.bytes for file in manifest.files.values()) / records),
        "rss_mb": rss,
    }


def collect_here(run: RunConfig, directory: Path, records: int, shard_size: int) -> Manifest:
    """Collect into ``directory`` in this process, without Ray."""
    manifest = wanted_manifest(run, records, shard_size)
    manifest.files[PATCHES] = write_codec_patches(run, directory)
    for index in range(manifest.num_shards):
        manifest.files[shard_name(index)] = write_records(run, directory, shard_size, records, index)
    write_manifest(directory, manifest)
    return manifest


def _timed(
    step: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: RandomPlay | StoredPlay,
    first: int,
    updates: int,
    run: RunConfig,
) -> tuple[float, float]:
    """Seconds by the clock and of this process for ``updates`` updates, making the batches included."""
    clock, cpu = time.perf_counter(), time.process_time()
    for index in range(first, first + updates):
        loss, _ = step(data.batch(index, run.pretrain.scenes_per_step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - clock, time.process_time() - cpu


def _reading(data: StoredPlay, run: RunConfig, updates: int) -> list[float]:
    """Resident memory in MB after each eighth of ``updates`` batches."""
    seen = []
    for index in range(updates):
        data.batch(index, run.pretrain.scenes_per_step)
        if (index + 1) * 8 // updates > index * 8 // updates:
            seen.append(resident_mb())
    return seen


def resident_mb() -> float:
    """Resident memory of this process in MB; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return round(int(kilobytes) / 1024, 1)
