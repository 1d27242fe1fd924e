"""Something is killed every few updates of a whole run: does it finish, as good and nearly as fast?

Env runners, learners, workers of pretraining and the driver itself get SIGKILL in turn. Nobody helps: RLlib replaces
env runners, Ray Train its workers, dreamrl its learners, and ``--restarts`` the driver.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from dreamrl.bench.processes import Job, ray_processes, reached
from dreamrl.errors import UserError
from dreamrl.pretrain import LOG_EVERY

TITLES = {"env runner": "DreamEnvRunner", "learner": "_WrappedExecutable", "train worker": "RayTrainWorker"}
"""What is killed -> how the operating system calls its process."""
IN_TURN = ("env runner", "learner", "driver")
RESTARTS = 1000
WAIT_SECONDS = 600.0


def bench(
    iterations: int = 30,
    every: int = 5,
    questions: int = 128,
    pretrain_steps: int = 160,
    items: int = 400,
    seed: int = 0,
    out: Path = Path("runs/bench-chaos"),
) -> dict[str, Any]:
    """The same run left alone and under fire.

    Args:
        iterations: of PPO.
        every: iterations between two kills.
        questions: of an iteration.
        pretrain_steps: updates of pretraining, in which a worker and the driver are killed.
        items: held-out boards of the evaluation.
        seed: of the runs and of the moments.
        out: where the runs are written; a directory from before is replaced.

    Returns:
        {"calm" and "chaos": {"exact_match", "wall_s"}, "kills": [{"what", "stage", "step", "back_after_s"}],
        "wall_ratio": chaos over calm, apart from the time between a kill and the next new update, "within_noise":
        whether the 95% intervals of the exact match overlap}.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    arguments = [
        "train", "--seed", str(seed), "world.sizes=[3]", f"pretrain.steps={pretrain_steps}",
        "pretrain.num_workers=2", "pretrain.checkpoint_every=20", f"ppo.iterations={iterations}",
        f"ppo.questions_per_iteration={questions}", "ppo.minibatch_size=40", "ppo.replay_scenes=2",
        "ppo.checkpoint_every=1", "ppo.num_learners=2", "ppo.num_env_runners=2", f"eval.num_items={items}",
        "max_failures=5",
    ]  # fmt: skip
    results = {}
    for name in ("calm", "chaos"):
        job = Job([*arguments, "--out", str(out / name), "--restarts", str(RESTARTS)], out / f"{name}.log")
        started = time.perf_counter()
        kills = under_fire(job, out / name, iterations, every, pretrain_steps, seed) if name == "chaos" else []
        if (code := job.finish(WAIT_SECONDS * 6)) != 0:
            raise UserError(f"the {name} run failed with exit code {code}; see {out / f'{name}.log'}")
        summary = json.loads((out / name / "summary.json").read_text())
        results[name] = {
            "exact_match": summary["exact_match"]["ppo_4"],
            "interval": summary["details"]["ppo_4"]["exact_match_ci"],
            "wall_s": round(time.perf_counter() - started, 1),
        }
    calm, chaos = results["calm"], results["chaos"]
    seconds = json.loads((out / "calm" / "seconds.json").read_text())
    usual = {"pretrain": seconds["pretrain"] / pretrain_steps * LOG_EVERY, "ppo": seconds["ppo"] / iterations}
    away = sum(max(0.0, kill["back_after_s"] - usual[kill["stage"]]) for kill in kills)
    low, high = (max(r["interval"][0] for r in (calm, chaos)), min(r["interval"][1] for r in (calm, chaos)))
    return {
        **results,
        "kills": kills,
        "wall_ratio": round((chaos["wall_s"] - away) / calm["wall_s"], 3),
        "longest_back_after_s": max(kill["back_after_s"] for kill in kills),
        "within_noise": low <= high,
    }


def under_fire(
    job: Job, out: Path, iterations: int, every: int, pretrain_steps: int, seed: int
) -> list[dict[str, Any]]:
    """Kill in turn until the last iterations begin; what was killed, when, and how long until the next update."""
    dice = random.Random(seed)
    plan = [("train worker", "pretrain", pretrain_steps // 3), ("driver", "pretrain", 2 * pretrain_steps // 3)]
    steps = range(every, iterations, every)
    plan += [(IN_TURN[i % len(IN_TURN)], "ppo", step) for i, step in enumerate(steps)]
    done = []
    for what, stage, step in plan:
        if not job.wait(lambda stage=stage, step=step: reached(out, stage) >= step, WAIT_SECONDS):
            raise UserError(f"{stage} did not come to {step} within {WAIT_SECONDS:g} s; see {job.log}")
        time.sleep(dice.uniform(0, 0.5))
        at = reached(out, stage)
        kill_one(job, what, dice)
        killed = time.perf_counter()
        if not job.wait(lambda stage=stage, at=at: reached(out, stage) > at or finished(out, stage), WAIT_SECONDS):
            raise UserError(f"no update for {WAIT_SECONDS:g} s after a {what} was killed; see {job.log}")
        back = round(time.perf_counter() - killed, 1)
        done.append({"what": what, "stage": stage, "step": at, "back_after_s": back})
        print(f"killed {done[-1]}", flush=True)
    return done


def kill_one(job: Job, what: str, dice: random.Random) -> None:
    """SIGKILL to one process that is a ``what``."""
    pids = drivers(job) if what == "driver" else ray_processes(job.process.pid, TITLES[what])
    if not pids:
        raise UserError(f"there is no {what} to kill; see {job.log}")
    os.kill(dice.choice(pids), signal.SIGKILL)


def drivers(job: Job) -> list[int]:
    """The process that trains: the child of the one that restarts it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [p.pid for p in psutil.Process(job.process.pid).children() if "dreamrl" in p.cmdline()]
    return []


def finished(out: Path, stage: str) -> bool:
    """Whether ``stage`` is over."""
    return (out / {"pretrain": "pretrained", "ppo": "model"}[stage]).exists()
