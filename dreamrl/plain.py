"""A whole training in one process, without Ray: for machines that do not have it, and for benchmarks.

The same losses, schedules and files as on Ray; a killed training goes on from its newest checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from dreamrl.album import show_if_due
from dreamrl.calibration import calibrate
from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.config import RunConfig
from dreamrl.device import chosen
from dreamrl.metrics import MetricsWriter
from dreamrl.ppo import PPOTrainer
from dreamrl.pretrain import CHECKPOINTS, pretrain_loop
from dreamrl.saving import Loaded, load_pretrained, save_pretrained

STAGE = "ppo"
Progress = Callable[[str, int, Mapping[str, float]], None]
"""Told how far training is: stage, updates or iterations done, metrics."""


def train_plain(run: RunConfig, out: Path, progress: Progress = lambda stage, step, values: None) -> Loaded:
    """Pretrain and PPO into ``out``; what is there already is not repeated.

    Args:
        run: settings.
        out: the run's directory: ``pretrained/``, ``model/``, ``metrics.jsonl``, ``checkpoints/``.
        progress: called with the stage, its updates or iterations done and their metrics, whenever these are logged.

    Returns:
        the trained model.
    """
    if not (out / "pretrained").exists():
        pretrain_loop(run, out, progress=partial(progress, "pretrain"))
    if not (out / "model").exists():
        ppo_plain(run, out, partial(progress, STAGE))
    return load_pretrained(out / "model", trusted=True)


def ppo_plain(run: RunConfig, out: Path, progress: Callable[[int, Mapping[str, float]], None]) -> None:
    """PPO from ``out/pretrained`` or the newest checkpoint, to ``out/model``."""
    loaded = replace(load_pretrained(out / "pretrained", trusted=True), run=run)
    loaded.model.to(chosen(run.device))
    trainer = PPOTrainer(loaded)
    counts = {"episodes": 0, "env_steps": 0}
    if (found := newest_checkpoint(out / CHECKPOINTS, STAGE)) is not None:
        trainer.restore(found[1], found[2])
        counts = {name: int(found[2][name]) for name in counts}
    writer = MetricsWriter(out, resume=True)
    writer.truncate_after(STAGE, trainer.iteration)
    while trainer.iteration < run.ppo.iterations:
        started = time.perf_counter()
        metrics = trainer.iterate()
        counts["episodes"] += run.ppo.questions_per_iteration
        counts["env_steps"] += trainer.steps
        values = {f"ppo/{name}": value for name, value in metrics.items()}
        values |= {"ppo/episodes": counts["episodes"], "ppo/env_steps": counts["env_steps"]}
        values["ppo/env_steps_per_second"] = trainer.steps / (time.perf_counter() - started)
        done = trainer.iteration
        writer.write(done, STAGE, values)
        show_if_due(loaded, writer, STAGE, done, last=done == run.ppo.iterations)
        if done % run.ppo.checkpoint_every == 0 or done == run.ppo.iterations:
            state = trainer.state() | counts | {"seed": run.seed}
            save_checkpoint(out / CHECKPOINTS, f"{STAGE}-{done:08d}", trainer.tensors(), state)
        progress(done, values)
    writer.close()
    calibrate(loaded)
    save_pretrained(loaded, out / "model")
