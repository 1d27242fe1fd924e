"""Is a run that is killed again and again the same run? Weights and curves against those of an undisturbed one.

Every process of a run gets SIGKILL at a random moment of a random update, or while a checkpoint is being written,
and the run is resumed; at the end its weights must have the same hash as those of a run that was left alone.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from dreamrl.bench.processes import Job, metrics, reached, weight_hash
from dreamrl.bench.run import at_least_one
from dreamrl.errors import UserError

TIMED = ("seconds", "per_second", "/time/")
"""In the names of metrics that say how fast it went: these may differ."""
WITHIN_WRITE = 4
"""Every so many kills one waits for a checkpoint that is being written."""
START_SECONDS = 300.0
STAGES = ("pretrain", "ppo")


def bench(
    kills: int = 20,
    seed: int = 0,
    pretrain_steps: int = 120,
    iterations: int = 12,
    questions: int = 32,
    env_runners: int = 0,
    learners: int = 1,
    workers: int = 1,
    out: Path = Path("runs/bench-resume"),
) -> dict[str, Any]:
    """One undisturbed run, and one that is killed ``kills`` times.

    Args:
        kills: of the second run, half of them in pretraining.
        seed: of the runs and of the moments.
        pretrain_steps: updates of pretraining.
        iterations: of PPO.
        questions: of an iteration.
        env_runners: remote env runners.
        learners: remote learners.
        workers: of pretraining.
        out: where the runs are written; a directory from before is replaced.

    Returns:
        {"same_weights": {"pretrained": bool, "model": bool}, "same_curves": bool, "steps_twice_or_missing": int,
        "kills": [{"stage", "step", "writing"}], "hash": that of the undisturbed model}.
    """
    at_least_one(kills=kills)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    settings = [
        "deterministic=true", "world.sizes=[3]", f"pretrain.steps={pretrain_steps}", "pretrain.scenes_per_step=8",
        f"pretrain.num_workers={workers}", "pretrain.checkpoint_every=10", "pretrain.codec_steps=100",
        f"ppo.iterations={iterations}", f"ppo.questions_per_iteration={questions}", "ppo.minibatch_size=20",
        "ppo.replay_scenes=2", "ppo.checkpoint_every=2", f"ppo.num_learners={learners}",
        f"ppo.num_env_runners={env_runners}", "eval.num_items=20", "eval.dreams=[1]",
    ]  # fmt: skip
    whole, parts = out / "whole", out / "killed"
    start = ["train", "--seed", str(seed), *settings]
    if (code := Job([*start, "--out", str(whole)], out / "whole.log").finish(3600)) != 0:
        raise UserError(f"the undisturbed run failed with exit code {code}; see {out / 'whole.log'}")
    dice = random.Random(seed)
    sizes = {"pretrain": pretrain_steps, "ppo": iterations}
    # A kill in the last update of a stage would race with the start of the next one.
    moments = {s: sorted(dice.randrange(1, sizes[s] - 1) for _ in range(-(-kills // 2))) for s in STAGES}
    plan = [(stage, step) for stage in STAGES for step in moments[stage]][:kills]
    done, arguments = [], [*start, "--out", str(parts)]
    for number, (stage, step) in enumerate(plan):
        job = Job(arguments, out / "killed.log")
        writing = number % WITHIN_WRITE == WITHIN_WRITE - 1
        begun = job.wait(lambda stage=stage, step=step: reached(parts, stage) >= step, START_SECONDS)
        if begun and writing:
            begun = job.wait(lambda: any((parts / "checkpoints").glob(".*.partial-*")), START_SECONDS)
        elif begun:
            job.wait(lambda: False, dice.uniform(0, 0.5))
        if not begun or not job.running:
            job.kill()
            raise UserError(f"the run ended before it could be killed in {stage} {step}; see {out / 'killed.log'}")
        done.append({"stage": stage, "step": reached(parts, stage), "writing": writing})
        job.kill()
        print(f"kill {number + 1}/{len(plan)}: {done[-1]}", flush=True)
        arguments = ["train", "--resume", str(parts)]
    if (code := Job(arguments, out / "killed.log").finish(3600)) != 0:
        raise UserError(f"the killed run failed with exit code {code}; see {out / 'killed.log'}")
    same = {name: weight_hash(whole / name) == weight_hash(parts / name) for name in ("pretrained", "model")}
    curves, steps = [curve(run) for run in (whole, parts)], list_of_steps(parts)
    return {
        "same_weights": same,
        "same_curves": curves[0] == curves[1],
        "steps_twice_or_missing": len(steps) - len(set(steps)) + len(set(steps) ^ set(curves[0])),
        "kills": done,
        "hash": weight_hash(whole / "model"),
    }


def curve(out: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Stage and step -> all metrics but those that depend on the clock."""
    return {
        (record["stage"], record["step"]): {
            name: value for name, value in record.items() if not any(part in name for part in TIMED)
        }
        for record in metrics(out)
    }


def list_of_steps(out: Path) -> list[tuple[str, int]]:
    """Stage and step of every line of the metrics, in order."""
    return [(record["stage"], record["step"]) for record in metrics(out)]
