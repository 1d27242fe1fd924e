"""Sampling: a bare torch loop, our env runner and RLlib's own, with the same module on the same world.

The model is untrained and never ends a dream early: what a step costs does not depend on what was learned. Time is
processor time, of one process with one torch thread, so that other programs do not count in it.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dreamrl import policy
from dreamrl.bench.generate import lasting
from dreamrl.bench.run import at_least_one
from dreamrl.columns import ACTIONS
from dreamrl.config import RunConfig
from dreamrl.judge import Judge
from dreamrl.printing import markdown_table
from dreamrl.process import settle
from dreamrl.rl.algorithm import algorithm_config
from dreamrl.rl.stock import stock_config
from dreamrl.rollout import SAMPLERS
from dreamrl.saving import Loaded, save_pretrained
from dreamrl.settings import load_settings
from envs.reasoning_batch import Phase, ReasoningBatch, training_question


def bench(
    preset: str = "nano",
    overrides: Sequence[str] = (),
    questions: int = 64,
    repeats: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Env steps per second of three ways to sample; they take turns, and medians are compared.

    Args:
        preset: sizes of the networks.
        overrides: settings of the run, such as model.embedding_dim=16.
        questions: stepped together; of RLlib's own env runner the number of vectorised environments.
        repeats: turns.
        seed: of the weights and the questions.

    Returns:
        ``bare`` (the model and the world alone; nothing is kept), ``ours`` (``DreamEnvRunner``, episodes that are
        ready to learn from) and ``stock`` (``SingleAgentEnvRunner``); ``ours_to_bare`` and ``ours_to_stock``;
        ``model_share``, the part of ``bare`` that is the model; ``ceiling``, the ``ours_to_stock`` of an env runner
        that costs nothing but the model; ``parameters``.
    """
    at_least_one(questions=questions, repeats=repeats)
    run = settings(preset, overrides, seed, questions)
    # Our env runner dreams a fourth of an iteration together, whatever the number of env runners.
    whole = settings(preset, overrides, seed, SAMPLERS * questions)
    with quiet(), model_directory(whole) as (loaded, directory):
        runners = env_runners(run, loaded, directory)
        loop = BareLoop(run, loaded, questions)
        steps = questions * (run.model.dream_length + 1)
        turns = {
            "bare": loop,
            "ours": lambda: drawn(runners["ours"], num_episodes=questions),
            "stock": lambda: drawn(runners["stock"], num_timesteps=steps),
        }
        speeds = {name: statistics.median(values) for name, values in alternate(turns, repeats).items()}
        for runner in runners.values():
            runner.stop()
    result: dict[str, Any] = {name: round(speed, 1) for name, speed in speeds.items()}
    for name in ("bare", "stock"):
        result[f"ours_to_{name}"] = round(speeds["ours"] / speeds[name], 3)
    result["model_share"] = round(loop.model_seconds / loop.seconds, 3)
    result["ceiling"] = round(speeds["bare"] / result["model_share"] / speeds["stock"], 3)
    result["parameters"] = sum(p.numel() for p in loaded.model.parameters())
    rows = [[name, f"{speed:.0f}", f"{speeds['ours'] / speed:.2f}"] for name, speed in speeds.items()]
    print("\n".join(markdown_table(["sampling", "env steps/s", "ours is faster by"], rows)))
    return result


def settings(preset: str, overrides: Sequence[str], seed: int, questions: int) -> RunConfig:
    """The run that is measured: everything in this process."""
    here = [f"ppo.questions_per_iteration={questions}", "ppo.num_env_runners=0", "ppo.num_learners=0"]
    return load_settings(preset, overrides=[*here, *overrides], seed=seed)


@contextlib.contextmanager
def model_directory(run: RunConfig) -> Iterator[tuple[Loaded, Path]]:
    """An untrained model whose dreams last as long as they may, and a directory that it is saved in."""
    settle()
    loaded = lasting(run, run.model.dream_length)
    with tempfile.TemporaryDirectory() as name:
        save_pretrained(loaded, Path(name) / "model")
        yield loaded, Path(name) / "model"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without RLlib's remarks on its own settings."""
    logger = logging.getLogger("ray.rllib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(before)


def env_runners(run: RunConfig, loaded: Loaded, directory: Path) -> dict[str, Any]:
    """Our env runner, and RLlib's own, which cuts episodes to throw nothing away."""
    ours, stock = algorithm_config(run, directory), stock_config(run, loaded, directory)
    stock.env_runners(batch_mode="truncate_episodes")
    made: dict[str, Any] = {"ours": ours, "stock": stock}
    for name, config in list(made.items()):
        config.validate()
        made[name] = config.env_runner_cls(config=config, worker_index=0)
    return made


class BareLoop:
    """Asks, acts, steps, and keeps nothing; also tells how much of that is the model."""

    def __init__(self, run: RunConfig, loaded: Loaded, questions: int):
        """Args: the ``run``, the model, and how many ``questions`` to step together."""
        self.run, self.model, self.questions = run, loaded.model, questions
        dreams = run.model.num_dream_sequences
        self.batch = ReasoningBatch(run, loaded.world, loaded.text, Judge(loaded.model), dreams)
        self.generator = torch.Generator().manual_seed(run.seed)
        self.seconds = self.model_seconds = 0.0

    def __call__(self) -> int:
        """Play all questions to their end; returns the env steps."""
        run, batch, started, steps = self.run, self.batch, time.process_time(), 0
        batch.reset([training_question(run, batch.source, i) for i in range(self.questions)])
        dice = (self.questions, batch.dreams, batch.num_patches + 2)
        while not (batch.phase == Phase.OVER).all():
            steps += int((batch.phase != Phase.OVER).sum())
            obs = {k: torch.from_numpy(v) for k, v in batch.observation().items()}
            uniform = torch.rand(dice, generator=self.generator)
            answer_uniform = torch.rand(self.questions, run.model.max_answer_tokens + 1, generator=self.generator)
            before = time.process_time()
            action = policy.act(self.model, obs, uniform, answer_uniform)[ACTIONS]
            self.model_seconds += time.process_time() - before
            batch.step({k: v.numpy() for k, v in action.items()})
        self.seconds += time.process_time() - started
        return steps


def drawn(runner: Any, **amount: int) -> int:
    """Env steps in what ``runner`` returns; its metrics are read, as an algorithm does."""
    steps = sum(len(episode) for episode in runner.sample(**amount))
    runner.get_metrics()
    return steps


def alternate(turns: Mapping[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Units of work per second of processor time, by name, one for each repeat.

    A B C A B C, so that a machine that slows down slows all. The first turn of each fills caches and does not count.
    """
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    for repeat in range(repeats + 1):
        for name, work in turns.items():
            started = time.process_time()
            done = work()
            if repeat:
                speeds[name].append(done / (time.process_time() - started))
    return speeds
