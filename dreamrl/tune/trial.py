"""What one trial of a search does, without Ray: pretrain unless that is done, PPO, and measure on the way.

Whoever runs it is told every measurement and handed a checkpoint, and may start it again from any of them: it then
goes on where that was taken, and ends with the same weights to the bit.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from dreamrl.calibration import calibrate
from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.config import RunConfig
from dreamrl.device import chosen
from dreamrl.errors import UserError
from dreamrl.evaluate import evaluate, held_out, means
from dreamrl.ppo import PPOTrainer
from dreamrl.pretrain import CHECKPOINTS, pretrain_loop
from dreamrl.process import settle
from dreamrl.saving import Loaded, load_pretrained, model_tensors, new_model, save_pretrained, set_weights
from dreamrl.tune.plan import Measure
from envs.world import Question, Split

STAGE, PRETRAINED = "ppo", "pretrained"
BOARDS_SEED = 0
"""Of the held-out boards and of the dreams about them: the same for all trials."""
SAMPLED = ("faithfulness", "coherence", "correctness", "creativity", "progress", "entropy", "approx_kl")
"""What is kept of an iteration's own numbers, beside ``sampled_exact_match``."""

Report = Callable[[dict[str, float], Path], None]
"""Takes a measurement and a directory with its checkpoint, which is gone when it returns."""


class TrialFailed(Exception):
    """A trial cannot go on; the message says why, in one line."""


def run_trial(
    run: RunConfig,
    measure: Measure,
    work: Path,
    report: Report,
    pretrained: Path | None = None,
    checkpoint: Path | None = None,
    gpus: float | None = None,
) -> None:
    """Train ``run`` to its last PPO iteration.

    Args:
        run: the settings.
        measure: how often, and on what, it is measured.
        work: where pretraining is kept; what is there is gone on with.
        report: called with every measurement.
        pretrained: directory of the model to start PPO from; None: pretrain.
        checkpoint: directory that ``report`` was handed: go on from there.
        gpus: what is reserved for the trial: without any it leaves those of its machine alone. None: whatever is there.
    """
    settle()
    device = trial_device(run, gpus)
    loaded = _start(run, work, pretrained, checkpoint, device)
    loaded.model.to(device)
    trainer = PPOTrainer(loaded)
    if checkpoint is not None:
        trainer.restore(*_read(checkpoint))
    questions = boards(trainer.loaded, measure)
    while trainer.iteration < run.ppo.iterations:
        metrics = trainer.iterate()
        done = trainer.iteration
        finite(metrics, f"PPO iteration {done}")
        if done % measure.every and done < run.ppo.iterations:
            continue
        numbers = means(evaluate(trainer.loaded, questions, [measure.dreams], BOARDS_SEED)[measure.dreams])
        numbers |= {name: float(metrics[name]) for name in SAMPLED if name in metrics}
        numbers |= {"sampled_exact_match": float(metrics["exact_match"]), "iteration": done}
        with tempfile.TemporaryDirectory(prefix="dreamrl-") as folder:
            save_checkpoint(Path(folder), f"{STAGE}-{done:08d}", trainer.tensors(), trainer.state())
            report(numbers, Path(folder))


def trial_device(run: RunConfig, gpus: float | None) -> torch.device:
    """Where a trial computes that has reserved ``gpus``."""
    if gpus != 0:
        return chosen(run.device)
    if run.device == "cuda":
        raise UserError("device (cuda) needs trial.gpus above 0; set it to 1, or to the share of a GPU that is enough")
    return torch.device("cpu")


def _start(
    run: RunConfig, work: Path, pretrained: Path | None, checkpoint: Path | None, device: torch.device
) -> Loaded:
    """The model that PPO starts from; with a ``checkpoint`` its weights are still to be set."""
    if checkpoint is not None:
        loaded = new_model(run)
        loaded.model.codec.trained = True
        return loaded
    made = pretrained or work / PRETRAINED
    if pretrained is None and not made.exists():

        def check(done: int, values: Mapping[str, float]) -> None:
            finite({k: v for k, v in values.items() if "loss" in k}, f"pretraining update {done}")

        pretrain_loop(run, work, progress=check, device=device)
        shutil.rmtree(work / CHECKPOINTS, ignore_errors=True)
    return replace(load_pretrained(made, trusted=True), run=run)


def _read(checkpoint: Path):
    found = newest_checkpoint(checkpoint, STAGE)
    if found is None:
        raise TrialFailed(f"no undamaged checkpoint in {checkpoint}")
    return found[1:]


def finite(values: Mapping[str, float], where: str) -> None:
    """Raise :class:`TrialFailed` if a number has become infinite or none at all."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrialFailed(f"diverged: {name} is {value} in {where}")


def boards(loaded: Loaded, measure: Measure) -> list[Question]:
    """The validation boards that all trials are measured on."""
    length = loaded.run.model.dream_length
    return held_out(loaded.world, loaded.world.sizes, measure.boards, BOARDS_SEED, Split.VALIDATION, length)


def save_best(run: RunConfig, checkpoint: Path, directory: Path) -> None:
    """Write the model in ``checkpoint`` as a model directory, its confidence calibrated."""
    settle()
    found = newest_checkpoint(checkpoint, STAGE)
    if found is None:
        raise UserError(f"the best trial's checkpoint in {checkpoint} is damaged; call `dreamrl tune --resume` again")
    loaded = new_model(run)
    set_weights(loaded.model, model_tensors(found[1]), str(found[0]))
    loaded.model.codec.trained = True
    calibrate(loaded)
    save_pretrained(loaded, directory)
