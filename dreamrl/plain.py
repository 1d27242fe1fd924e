"""A whole training in one process, without Ray: for machines that do not have it, and for benchmarks.

The same losses, schedules and files as on Ray; a killed training goes on from its newest checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dreamrl.calibration import calibrate
from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.config import RunConfig
from dreamrl.metrics import GLOSSARY, MetricsWriter
from dreamrl.ppo import PPOTrainer
from dreamrl.pretrain import CHECKPOINTS, pretrain_loop
from dreamrl.saving import (
    Loaded,
    load_pretrained,
    optimizer_tensors,
    save_pretrained,
    set_optimizer,
    set_weights,
    weights,
)

STAGE = "ppo"


def train_plain(run: RunConfig, out: Path, progress: Callable[..., None] = lambda **_: None) -> Loaded:
    """Pretrain and PPO into ``out``; what is there already is not repeated.

    Args:
        run: settings.
        out: the run's directory: ``pretrained/``, ``model/``, ``metrics.jsonl``, ``checkpoints/``.
        progress: called after every PPO iteration with the metrics to show.

    Returns:
        the trained model.
    """
    if not (out / "pretrained").exists():
        pretrain_loop(run, out)
    if not (out / "model").exists():
        ppo_plain(run, out, progress)
    return load_pretrained(out / "model", trusted=True)


def ppo_plain(run: RunConfig, out: Path, progress: Callable[..., None] = lambda **_: None) -> None:
    """PPO from ``out/pretrained`` or the newest checkpoint, to ``out/model``."""
    loaded = replace(load_pretrained(out / "pretrained", trusted=True), run=run)
    found = newest_checkpoint(out / CHECKPOINTS, STAGE)
    counts = {"iteration": 0, "episodes": 0, "env_steps": 0}
    if found is not None:
        counts = {name: int(found[2][name]) for name in counts}
        own = {name: tensor for name, tensor in found[1].items() if not name.startswith("optimizer/")}
    # The judge is frozen as it was after pretraining, so the trainer is made before newer weights are put in.
    trainer = PPOTrainer(loaded, iteration=counts["iteration"])
    if found is not None:
        set_weights(loaded.model, own, "checkpoint")
        set_optimizer(trainer.optimizer, found[1])
    writer = MetricsWriter(out, resume=True)
    writer.truncate_after(STAGE, counts["iteration"])
    while counts["iteration"] < run.ppo.iterations:
        started = time.perf_counter()
        metrics = trainer.iterate()
        counts["iteration"] += 1
        counts["episodes"] += run.ppo.questions_per_iteration
        counts["env_steps"] += trainer.steps
        values = {f"ppo/{name}": value for name, value in metrics.items() if f"ppo/{name}" in GLOSSARY}
        values |= {"ppo/episodes": counts["episodes"], "ppo/env_steps": counts["env_steps"]}
        values["ppo/env_steps_per_second"] = trainer.steps / (time.perf_counter() - started)
        done = counts["iteration"]
        writer.write(done, STAGE, values)
        if done % run.ppo.checkpoint_every == 0 or done == run.ppo.iterations:
            tensors = weights(loaded.model) | optimizer_tensors(trainer.optimizer)
            save_checkpoint(out / CHECKPOINTS, f"{STAGE}-{done:08d}", tensors, counts | {"seed": run.seed})
        progress(step=done, **values)
    writer.close()
    calibrate(loaded)
    save_pretrained(loaded, out / "model")
