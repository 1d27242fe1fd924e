"""One piece of an ablation, in a process of its own: pretrain unless that is done, PPO, evaluate, leave one file.

Started by :mod:`dreamrl.ablation.runner` with its job as one line of JSON on stdin. Killed at any moment, it goes on
from its newest checkpoint when it is started again, and ends with the same model to the bit.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dreamrl.ablation.report import NUMBERS
from dreamrl.baseline import ImageTokenReasoningLLM, majority
from dreamrl.baseline_training import AnswerPPO, as_loaded, pretrain_baseline, sized
from dreamrl.checkpoint import load_model_files, newest_checkpoint, save_checkpoint
from dreamrl.config import RunConfig
from dreamrl.evaluate import CHUNK, evaluate, held_out
from dreamrl.files import write_atomically
from dreamrl.flops import baseline_flops, dream_flops, trained_parameters
from dreamrl.ppo import PPOTrainer
from dreamrl.pretrain import CHECKPOINTS, pretrain_loop
from dreamrl.process import settle
from dreamrl.saving import Loaded, new_model, save_pretrained, set_training, set_weights, training_tensors
from dreamrl.settings import from_dict
from envs.world import Question, Verdict

BOARDS_SEED = 0
"""Of the held-out boards and of the dreams about them: the same for all."""
STAGE, SECONDS = "ppo", "seconds.json"
CHECKPOINT_EVERY = 2
"""PPO iterations between checkpoints: about as many seconds of work as a kill may cost."""
CURVE = ("exact_match", "exact_frame", "approx_kl", "max_ratio_error")
"""What is kept of every PPO iteration."""


class Job(NamedTuple):
    """What :meth:`dreamrl.ablation.variants.Piece.job` says, read back."""

    out: Path
    name: str
    run: RunConfig
    equal: str
    pretraining: str
    dreams: tuple[int, ...]
    said: dict[str, Any]

    @property
    def pretrained(self) -> Path:
        """Directory of the pretraining, shared by all pieces that start from it."""
        return self.out / "pretrained" / self.pretraining

    @property
    def work(self) -> Path:
        """Directory of what is unfinished."""
        return self.out / "work" / self.name


class Clock:
    """Wall and CPU seconds of work on one thing, kept in a file over restarts."""

    def __init__(self, path: Path):
        """Args: ``path`` of the file."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.before = read_seconds(path) if path.exists() else (0.0, 0.0)
        self.began = (time.perf_counter(), time.process_time())

    def tick(self) -> bool:
        """Note the time; False, so that it can stand where a loop asks whether it should stop."""
        write_atomically(self.path, json.dumps(self.seconds))
        return False

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall and CPU seconds so far."""
        now = (time.perf_counter(), time.process_time())
        wall, cpu = (b + n - a for b, n, a in zip(self.before, now, self.began, strict=True))
        return wall, cpu


def read_seconds(path: Path) -> tuple[float, float]:
    """What a :class:`Clock` has noted."""
    wall, cpu = json.loads(path.read_text())
    return wall, cpu


def do(job: Job) -> dict[str, Any]:
    """Do one piece of work; returns its result, which is also written."""
    loaded = untrained(job)
    size = {"parameters": trained_parameters(loaded.model), "flops": flops(loaded)}
    pretrain(job, loaded)
    curve, ppo_seconds = ppo(job, loaded)
    clock = Clock(job.work / "eval_seconds")
    measured = measure(loaded, job.dreams)
    save(loaded, job.out / "models" / job.name)
    spent = {"pretrain": read_seconds(job.pretrained / SECONDS), "ppo": ppo_seconds, "eval": clock.seconds}
    result: dict[str, Any] = {k: job.said[k] for k in ("variant", "seed", "budget", "settings", "pretraining")} | size
    result |= {name: {k: round(v[i], 1) for k, v in spent.items()} for i, name in enumerate(("seconds", "cpu_seconds"))}
    result |= measured | {"curve": curve}
    write_atomically(job.out / "pieces" / f"{job.name}.json", json.dumps(result, indent=1) + "\n")
    shutil.rmtree(job.work, ignore_errors=True)
    return result


def untrained(job: Job) -> Loaded:
    """The model that the job is about; a baseline in the record of a model that dreams."""
    loaded = new_model(job.run)
    return as_loaded(sized(loaded.model.assets, job.equal)) if job.equal else loaded


def baseline_of(loaded: Loaded) -> ImageTokenReasoningLLM | None:
    """The baseline in ``loaded``, or None if it is a model that dreams."""
    model: Any = loaded.model
    return model if isinstance(model, ImageTokenReasoningLLM) else None


def flops(loaded: Loaded) -> int:
    """Operations of an answer about one board."""
    baseline = baseline_of(loaded)
    return dream_flops(loaded) if baseline is None else baseline_flops(baseline)


def save(loaded: Loaded, directory: Path) -> None:
    """Write the model as a directory."""
    baseline = baseline_of(loaded)
    save_pretrained(loaded, directory) if baseline is None else baseline.save_pretrained(directory)


def pretrain(job: Job, loaded: Loaded) -> None:
    """Give ``loaded`` its pretrained weights; they are made now if no piece has made them before."""
    made = job.pretrained / "pretrained"
    if not made.exists():
        clock, baseline = Clock(job.pretrained / SECONDS), baseline_of(loaded)
        if baseline is None:
            pretrain_loop(job.run, job.pretrained, should_stop=clock.tick)
        else:
            pretrain_baseline(baseline, job.pretrained, clock.tick)
        clock.tick()
    shutil.rmtree(job.pretrained / CHECKPOINTS, ignore_errors=True)
    set_weights(loaded.model, load_model_files(made)[1], str(made))
    loaded.model.codec.trained = True


def ppo(job: Job, loaded: Loaded) -> tuple[list[dict[str, float]], tuple[float, float]]:
    """Train ``loaded`` with PPO, from the newest checkpoint if there is one; its metrics by iteration, and seconds."""
    clock = Clock(job.work / SECONDS)
    found = newest_checkpoint(job.work / CHECKPOINTS, STAGE)
    start, curve = 0, []
    if found is not None:
        start, curve = int(found[2]["iteration"]), found[2]["curve"]
    baseline = baseline_of(loaded)
    trainer = PPOTrainer(loaded, iteration=start) if baseline is None else AnswerPPO(baseline, start)
    if found is not None:
        set_training(loaded.model, trainer.optimizer, found[1])
    for done in range(start + 1, job.run.ppo.iterations + 1):
        metrics = trainer.iterate()
        curve.append({name: round(metrics[name], 6) for name in CURVE if name in metrics})
        clock.tick()
        print(f"ppo {done}/{job.run.ppo.iterations}", json.dumps(curve[-1]), flush=True)
        if done % CHECKPOINT_EVERY == 0:
            tensors = training_tensors(loaded.model, trainer.optimizer)
            state = {"iteration": done, "curve": curve}
            save_checkpoint(job.work / CHECKPOINTS, f"{STAGE}-{done:08d}", tensors, state)
    return curve, clock.seconds


@torch.no_grad()
def measure(loaded: Loaded, dreams: tuple[int, ...]) -> dict[str, dict[str, float | None]]:
    """``NUMBERS`` on the held-out boards, by number of dreams."""
    run = loaded.run
    questions = held_out(loaded.world, loaded.world.sizes, run.eval.num_items, BOARDS_SEED)
    baseline = baseline_of(loaded)
    by_count: dict[int, tuple[list[Verdict], float | None]] = {}
    if baseline is None:
        for count, result in evaluate(loaded, questions, dreams, BOARDS_SEED).items():
            by_count[count] = (result.verdicts, result.exact_frame)
    else:
        by_count = {count: (own, None) for count, own in answers_of(baseline, questions, dreams).items()}
    out: dict[str, dict[str, float | None]] = {name: {} for name in NUMBERS}
    for count, (verdicts, exact_frame) in by_count.items():
        out["exact_match"][str(count)] = float(np.mean([v.exact for v in verdicts]))
        out["progress_rate"][str(count)] = float(np.mean([v.progress for v in verdicts]))
        out["valid"][str(count)] = float(np.mean([v.valid for v in verdicts]))
        out["exact_frame"][str(count)] = exact_frame
    return out


def answers_of(
    model: ImageTokenReasoningLLM, questions: list[Question], counts: tuple[int, ...]
) -> dict[int, list[Verdict]]:
    """Verdicts on the most frequent of each number of answers."""
    verdicts: dict[int, list[Verdict]] = {count: [] for count in counts}
    for first in range(0, len(questions), CHUNK):
        chunk = questions[first : first + CHUNK]
        for question, texts in zip(chunk, model.vote(chunk, max(counts), BOARDS_SEED, first), strict=True):
            for count in counts:
                verdicts[count].append(model.assets.world.verify(question, majority(texts[:count])))
    return verdicts


def read_job(line: str) -> Job:
    """The job that ``line`` describes."""
    said = json.loads(line)
    run = from_dict(said["settings"], "the job")
    paths = (Path(said["out"]), said["name"], run, said["equal"], said["pretraining"])
    return Job(*paths, dreams=tuple(said["dreams"]), said=said)


def end_with_input(end: Callable[[int], None] = os._exit) -> None:
    """End this process as soon as its stdin does: whoever started it is gone, however that came about."""
    # The file descriptor itself: a thread that waits in sys.stdin would hold its lock when the process ends.
    while os.read(0, 1):
        pass
    end(1)


def main() -> None:
    """The program that the runner starts."""
    job = read_job(sys.stdin.buffer.readline().decode())
    threading.Thread(target=end_with_input, daemon=True).start()
    settle()
    do(job)


if __name__ == "__main__":
    main()
