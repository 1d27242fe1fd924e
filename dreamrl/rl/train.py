"""PPO in dreams, end to end: build the algorithm, iterate, log, checkpoint, resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig as RLlibPPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env
from torch import Tensor

from dreamrl.calibration import calibrate
from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.cluster import LOG_FILE, stderr_to
from dreamrl.config import RunConfig
from dreamrl.curriculum import Curriculum
from dreamrl.judge import Judge
from dreamrl.metrics import MetricsWriter
from dreamrl.probe import Probe
from dreamrl.rl.env_runner import DreamEnvRunner
from dreamrl.rl.learner import DreamPPOLearner, EpisodesToBatch, trained_model
from dreamrl.rl.module import DreamRLModule
from dreamrl.saving import (
    Loaded,
    load_pretrained,
    model_tensors,
    save_pretrained,
    set_training,
    set_weights,
    training_tensors,
)
from dreamrl.stop import StopRequest
from envs.reasoning_env import ReasoningEnv

STAGE = "ppo"
ENV_NAME = "dreamrl-reasoning"
PROBE_EVERY = 5


def make_env(env_config: dict[str, Any]) -> ReasoningEnv:
    """The environment that RLlib makes; ``env_config["model_dir"]`` holds the frozen judge."""
    loaded = load_pretrained(Path(env_config["model_dir"]), trusted=True)
    return ReasoningEnv(loaded.run, loaded.world, loaded.text, Judge(loaded.model))


def algorithm_config(run: RunConfig, model_dir: Path, start_iteration: int = 0) -> RLlibPPOConfig:
    """RLlib's settings for ``run``; every process starts from the weights in ``model_dir``."""
    register_env(ENV_NAME, make_env)
    ppo = run.ppo
    where = {"model_dir": str(model_dir.resolve()), "start_iteration": start_iteration}
    config = RLlibPPOConfig()
    config.environment(ENV_NAME, env_config=where)
    config.env_runners(
        env_runner_cls=DreamEnvRunner,
        num_env_runners=ppo.num_env_runners,
        num_envs_per_env_runner=1,
        batch_mode="complete_episodes",
        episodes_to_numpy=True,
    )
    config.learners(
        num_learners=ppo.num_learners,
        num_cpus_per_learner=1 if ppo.num_learners else "auto",
        learner_class=DreamPPOLearner,
        learner_connector=lambda *_: EpisodesToBatch(run=run, start_iteration=start_iteration),
        learner_config_dict=where,
        add_default_connectors_to_learner_pipeline=False,
    )
    # The buffers are constants and the stage of the curriculum, which is sent to every learner: nothing to broadcast.
    config.framework("torch", torch_ddp_kwargs={"broadcast_buffers": False})
    config.training(
        # Reached by one round of sampling, whose episodes have at least two steps each: never a second round.
        train_batch_size_per_learner=ppo.smallest_shard,
        minibatch_size=ppo.minibatch_size,
        num_epochs=ppo.epochs,
        shuffle_batch_per_epoch=False,
        lr=ppo.lr,
        gamma=ppo.gamma,
        lambda_=run.model.ppo_gae_lambda,
        clip_param=run.model.ppo_clip_epsilon,
        grad_clip=ppo.grad_clip,
        grad_clip_by="global_norm",
        use_kl_loss=False,
    )
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=DreamRLModule, model_config={**where, "seed": run.seed}))
    config.fault_tolerance(restart_failed_env_runners=True, delay_between_env_runner_restarts_s=1)
    config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
    config.debugging(seed=run.seed, log_level="ERROR")
    return config


def _learner_state(learner: Any, _: Any = None) -> dict[str, Tensor]:
    optimizer = learner.get_optimizers_for_module(DEFAULT_MODULE_ID)[0][1]
    state = training_tensors(trained_model(learner), optimizer)
    return {name: tensor.cpu().clone() for name, tensor in state.items()}


def learner_tensors(algorithm: Algorithm) -> dict[str, Tensor]:
    """Weights and optimizer state of the first learner (all hold the same)."""
    assert algorithm.learner_group is not None
    first: Any = next(iter(algorithm.learner_group.foreach_learner(_learner_state))).get()
    if isinstance(first, Exception):
        raise first
    return first


def restore_learners(algorithm: Algorithm, tensors: dict[str, Tensor]) -> None:
    """Put a checkpoint into every learner, and its weights into every env runner."""

    def restore(learner: Any, _: Any = None) -> None:
        optimizer = learner.get_optimizers_for_module(DEFAULT_MODULE_ID)[0][1]
        set_training(trained_model(learner), optimizer, tensors)

    assert algorithm.learner_group is not None and algorithm.env_runner_group is not None
    for result in algorithm.learner_group.foreach_learner(restore):
        result.get()
    algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=algorithm.learner_group, inference_only=True)


def enter_stage(algorithm: Algorithm, number: int) -> None:
    """Let every env runner and learner go on with stage ``number`` of the curriculum.

    Called before every iteration, not only when the stage changes: a process may have been started anew. One that
    is down just now gets the stage with its weights, from the env runner in this process.
    """

    def runner_enters(runner: Any) -> None:
        runner.module.enter(number)

    def learner_enters(learner: Any, _: Any = None) -> None:
        learner.enter(number)

    assert algorithm.learner_group is not None and algorithm.env_runner_group is not None
    algorithm.env_runner_group.foreach_env_runner(runner_enters)
    for result in algorithm.learner_group.foreach_learner(learner_enters):
        if isinstance(error := result.get(), Exception):
            raise error


def ppo_on_ray(
    run: RunConfig,
    out: Path,
    model_dir: Path,
    progress: Callable[..., None] = lambda **_: None,
    stop: StopRequest | None = None,
) -> Loaded | None:
    """Train ``run.ppo.iterations`` from the model in ``model_dir`` or the newest checkpoint under ``out``.

    Args:
        run: settings.
        out: the run's directory.
        model_dir: the pretrained model, also the frozen judge.
        progress: called after every iteration with the metrics to show.
        stop: asked after every iteration; when it says so, a checkpoint is written and None returned.

    Returns:
        the trained model, saved as ``out/model``.
    """
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
        algorithm.stop()
    return loaded


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
    values = {f"ppo/{k}": float(v) for k, v in runners["reward_parts"].items()}
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
