"""PPO in dreams, end to end: iterate, log, checkpoint, resume, and go on when a process of Ray dies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ray.exceptions import RayError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID

from dreamrl.album import show_if_due
from dreamrl.calibration import calibrate
from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.cluster import LOG_FILE, stderr_to
from dreamrl.config import RunConfig
from dreamrl.curriculum import Curriculum
from dreamrl.errors import UserError
from dreamrl.metrics import MetricsWriter
from dreamrl.probe import Probe
from dreamrl.restarts import Restarts, origin
from dreamrl.rl.algorithm import algorithm_config, enter_stage, learner_tensors, restore_learners
from dreamrl.saving import Loaded, load_pretrained, model_tensors, save_pretrained, set_weights
from dreamrl.stop import StopRequest

STAGE = "ppo"
PROBE_EVERY = 5


def ppo_on_ray(
    run: RunConfig,
    out: Path,
    model_dir: Path,
    progress: Callable[..., None] = lambda **_: None,
    stop: StopRequest | None = None,
) -> Loaded | None:
    """Train ``run.ppo.iterations`` from the model in ``model_dir`` or the newest checkpoint under ``out``.

    An env runner that dies is replaced by RLlib. RLlib does not survive the death of a learner, after which its
    algorithm cannot be used: a new one is built from the newest checkpoint.

    Args:
        run: settings.
        out: the run's directory.
        model_dir: the pretrained model, also the frozen judge.
        progress: called after every iteration with the metrics to show.
        stop: asked after every iteration; when it says so, a checkpoint is written and None returned.

    Returns:
        the trained model, saved as ``out/model``.

    Raises:
        RayError: processes died more than ``run.max_failures`` times without a new checkpoint in between.
    """
    restarts = Restarts(STAGE, run.max_failures, out / "checkpoints")
    while True:
        try:
            return _learn(run, out, model_dir, progress, stop)
        except RayError as error:
            if isinstance(cause := origin(error), UserError):  # what only a learner can know of its machine
                raise cause from error
            restarts.count(error)


def _learn(
    run: RunConfig, out: Path, model_dir: Path, progress: Callable[..., None], stop: StopRequest | None
) -> Loaded | None:
    """:func:`ppo_on_ray` until it ends or a process dies."""
    found = newest_checkpoint(out / "checkpoints", STAGE)
    counts = {"iteration": 0, "episodes": 0, "env_steps": 0}
    if found is not None:
        counts = {name: int(found[2][name]) for name in counts}
    loaded = load_pretrained(model_dir, trusted=True)
    curriculum = Curriculum(run, loaded.world) if run.curriculum.enabled else None
    with stderr_to(out / LOG_FILE):  # RLlib warns of itself while it starts
        algorithm = algorithm_config(run, model_dir, counts["iteration"]).build_algo()
    probe = Probe(loaded)
    writer = MetricsWriter(out, resume=True)
    try:
        if found is not None:
            restore_learners(algorithm, found[1])
            if curriculum is not None:
                curriculum.restore(found[2]["curriculum"])
        writer.truncate_after(STAGE, counts["iteration"])
        while counts["iteration"] < run.ppo.iterations:
            started = time.perf_counter()
            if curriculum is not None:
                enter_stage(algorithm, curriculum.number)
            result = algorithm.train()
            counts["iteration"] += 1
            done = counts["iteration"]
            values = iteration_metrics(result, time.perf_counter() - started)
            counts["episodes"] += run.ppo.questions_per_iteration
            counts["env_steps"] += int(values.pop("steps"))
            values |= {"ppo/episodes": counts["episodes"], "ppo/env_steps": counts["env_steps"]}
            state = counts | {"seed": run.seed} | take_in(curriculum, values)
            stopping = stop is not None and stop.asked
            save = stopping or done == run.ppo.iterations or done % run.ppo.checkpoint_every == 0
            if save or done % PROBE_EVERY == 0:
                tensors = learner_tensors(algorithm)
                set_weights(loaded.model, model_tensors(tensors), "learner")
                values["ppo/replay_exact_frame"] = probe()["exact_frame"]
            # Before the checkpoint: a kill in between would leave one without its metrics, and nobody repeats it.
            writer.write(done, STAGE, values)
            show_if_due(loaded, writer, STAGE, done, last=done == run.ppo.iterations)  # its weights are the newest
            if save:
                save_checkpoint(out / "checkpoints", f"{STAGE}-{done:08d}", tensors, state)
            progress(step=done, **values)
            if stopping:
                return None
        set_weights(loaded.model, model_tensors(learner_tensors(algorithm)), "learner")
        calibrate(loaded)
        save_pretrained(loaded, out / "model")
    finally:
        writer.close()
        _end(algorithm, out)
    return loaded


def _end(algorithm: Algorithm, out: Path) -> None:
    """Stop what is left of ``algorithm``; one whose processes died complains, which must not hide why."""
    with stderr_to(out / LOG_FILE), contextlib.suppress(Exception):
        algorithm.stop()


def take_in(curriculum: Curriculum | None, values: dict[str, float]) -> dict[str, Any]:
    """Let ``curriculum`` decide on the next stage by ``values``, to which it adds its own metrics.

    Returns:
        what a checkpoint must hold of it.
    """
    if curriculum is None:
        return {}
    values |= {f"ppo/{name}": value for name, value in curriculum.record(values["ppo/exact_match"]).items()}
    if curriculum.news:
        print(curriculum.news, flush=True)
    return {"curriculum": curriculum.state()}


def iteration_metrics(result: dict[str, Any], seconds: float) -> dict[str, float]:
    """Our names for what RLlib reports of one iteration; ``steps`` is the number of env steps in it."""
    runners, learner = result["env_runners"], result["learners"][DEFAULT_MODULE_ID]
    values = {f"ppo/{k}": float(v) for k, v in result["reward_parts"].items()}
    names = set(LEARNER_METRICS) | {k for k in learner if k.startswith("expert_usage/")}
    values |= {f"ppo/{k}": float(learner[k]) for k in names if k in learner and np.isscalar(learner[k])}
    values["ppo/dream_return"] = float(runners["episode_return_mean"])
    values["ppo/grad_norm"] = float(learner.get("gradients_default_optimizer_global_norm", np.nan))
    values["ppo/lr"] = float(learner.get("default_optimizer_learning_rate", np.nan))
    steps = float(runners["num_env_steps_sampled"])
    timers = result["timers"]
    values["ppo/time/sample"] = float(timers["env_runner_sampling_timer"])
    values["ppo/time/learn"] = float(timers["learner_update_timer"])
    values["ppo/env_steps_per_second"] = steps / seconds
    return values | {"steps": steps}


LEARNER_METRICS = (
    "policy_loss",
    "value_loss",
    "entropy",
    "approx_kl",
    "clip_fraction",
    "max_ratio_error",
    "explained_variance",
    "balance",
    "max_vio",
    "router_entropy",
    "dead_experts",
    "replay_frame_loss",
    "world_loss",
)
