"""The RLlib algorithm of a run: how it is set up, what one iteration does, how its state is read and put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.algorithms.ppo import PPOConfig as RLlibPPOConfig
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)
from ray.tune.registry import register_env
from torch import Tensor

from dreamrl.config import RunConfig
from dreamrl.device import chosen, takes_gpus
from dreamrl.judge import Judge
from dreamrl.rl.env_runner import DreamEnvRunner
from dreamrl.rl.learner import DreamPPOLearner, EpisodesToBatch, trained_model
from dreamrl.rl.module import DreamRLModule
from dreamrl.rollout import reward_parts, shared_out
from dreamrl.saving import load_pretrained, set_training, training_tensors
from envs.reasoning_env import ReasoningEnv

ENV_NAME = "dreamrl-reasoning"


def make_env(env_config: dict[str, Any]) -> ReasoningEnv:
    """The environment that RLlib makes; ``env_config["model_dir"]`` holds the frozen judge."""
    loaded = load_pretrained(Path(env_config["model_dir"]), trusted=True)
    return ReasoningEnv(loaded.run, loaded.world, loaded.text, Judge(loaded.model))


def algorithm_config(run: RunConfig, model_dir: Path, start_iteration: int = 0) -> RLlibPPOConfig:
    """RLlib's settings for ``run``; every process starts from the weights in ``model_dir``."""
    register_env(ENV_NAME, make_env)
    ppo, gpus = run.ppo, learner_gpus(run)
    where = {"model_dir": str(model_dir.resolve()), "start_iteration": start_iteration}
    config = RLlibPPOConfig(algo_class=DreamPPO)
    config.environment(ENV_NAME, env_config=where)
    config.env_runners(
        env_runner_cls=DreamEnvRunner,
        num_env_runners=ppo.num_env_runners,
        num_envs_per_env_runner=1,
        num_gpus_per_env_runner=ppo.gpus_per_env_runner if gpus else 0,
        create_env_on_local_worker=True,  # it plays what lost env runners should have played
        batch_mode="complete_episodes",
        episodes_to_numpy=True,
    )
    config.learners(
        num_learners=ppo.num_learners,
        num_cpus_per_learner=1 if ppo.num_learners else "auto",
        num_gpus_per_learner=gpus,
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


def learner_gpus(run: RunConfig) -> int:
    """GPUs of each learner: 0 or 1."""
    ppo = run.ppo
    if ppo.num_learners == 0:
        return int(chosen(run.device).type == "cuda")
    there = ray.cluster_resources().get("GPU", 0) if ray.is_initialized() else 0
    there -= ppo.num_env_runners * ppo.gpus_per_env_runner
    return int(takes_gpus(run.device, "ppo.num_learners", ppo.num_learners, there))


class DreamPPO(PPO):
    """PPO whose iteration does not depend on who sampled: the same questions are learned from in the same order."""

    def training_step(self) -> None:
        """Sample once on every env runner, learn, and send the new weights to the env runners."""
        runners, learners, config = (
            cast(Any, self.env_runner_group),
            cast(Any, self.learner_group),
            cast(Any, self.config),
        )
        ours = isinstance(runners.local_env_runner, DreamEnvRunner)  # which knows what an iteration asks
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            episodes, results = cast(
                Any,
                synchronous_parallel_sample(
                    worker_set=runners,
                    max_env_steps=None if ours else config.total_train_batch_size,
                    sample_timeout_s=config.sample_timeout_s,
                    _uses_new_env_runners=True,
                    _return_metrics=True,
                ),
            )
            if ours:
                episodes = complete(episodes, results, runners.local_env_runner)
            self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
            finals = [episode.get_infos(-1) for episode in episodes if episode.is_done]
            if finals and "reward_parts" in finals[0]:
                self.metrics.log_dict(reward_parts(finals), key="reward_parts", window=1)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
            results = learners.update(
                episodes=episodes,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps},
                num_epochs=config.num_epochs,
                minibatch_size=config.minibatch_size,
                shuffle_batch_per_epoch=config.shuffle_batch_per_epoch,
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            runners.sync_weights(
                from_worker_or_learner_group=learners,
                policies=set(results[0]) - {ALL_MODULES},
                inference_only=True,
            )


def complete(episodes: list[Any], results: list[Any], here: DreamEnvRunner) -> list[Any]:
    """All episodes of the iteration, by number. What a lost env runner should have played is played ``here``.

    ``results``, the metrics of the env runners, get those of what was played here.
    """
    by_number = {int(episode.get_infos(0)["number"]): episode for episode in episodes}
    missing = [numbers for numbers in shared_out(here.run, here.iteration) if numbers[0] not in by_number]
    if missing:
        by_number |= {int(e.get_infos(0)["number"]): e for e in here.play_batches(missing)}
        results.append(here.get_metrics())
    return [by_number[number] for number in sorted(by_number)]


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
