"""Sampling: play many questions, and all their dreams, with one model call a step.

Question i of a run has its own random numbers, whoever asks it: how questions are shared out among samplers
does not change what is sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamrl.columns import ACTIONS, DREAM_VALUE, VF_PREDS, learned_columns
from dreamrl.config import RunConfig
from dreamrl.policy import STEP_COLUMNS
from envs.mixture import Mixture
from envs.questions import stream
from envs.reasoning_batch import Phase, ReasoningBatch, training_question

Act = Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Any]]
"""(obs, uniform (Q, N, P + 2), uniform (Q, L + 1)) -> what :func:`dreamrl.policy.act` returns."""


def play(run: RunConfig, batch: ReasoningBatch, numbers: list[int], act: Act) -> list[dict[str, Any]]:
    """Play training questions ``numbers`` to their end.

    Returns:
        one dict a step (``obs``, ``action``, ``columns``, ``infos``), then a last one with the final ``obs``.
    """
    batch.reset([training_question(run, batch.source, i, length=batch.longest) for i in numbers])
    streams = [stream(run.seed, 3, i) for i in numbers]
    length, patches = run.model.dream_length, batch.num_patches
    dice = np.stack([s.random((batch.dreams, length, patches + 2)) for s in streams])
    answer_dice = np.stack([s.random(run.model.max_answer_tokens + 1) for s in streams])
    trace = []
    while not (batch.phase == Phase.OVER).all():
        obs = batch.observation()
        step = np.minimum(obs["step"], length - 1)
        out = act(
            {k: torch.from_numpy(v) for k, v in obs.items()},
            torch.from_numpy(dice[np.arange(len(numbers)), :, step]).float(),
            torch.from_numpy(answer_dice).float(),
        )
        action = {k: v.numpy() for k, v in out[ACTIONS].items()}
        dream_rewards, answer_rewards = batch.step(action)
        columns = {k: out[k].numpy() for k in STEP_COLUMNS}
        infos = [batch.step_info(q, dream_rewards, answer_rewards) for q in range(len(numbers))]
        trace.append({"obs": obs, "action": action, "columns": columns, "infos": infos})
    trace.append({"obs": batch.observation()})
    return trace


def own_steps(trace: list[dict], q: int) -> list[dict[str, Any]]:
    """Question ``q``'s part of the steps that it took."""
    return [
        {
            "obs": {k: v[q] for k, v in t["obs"].items()},
            "action": {k: v[q] for k, v in t["action"].items()},
            "columns": {k: v[q] for k, v in t["columns"].items()},
            "info": t["infos"][q],
        }
        for t in trace[:-1]
        if t["obs"]["phase"][q] != Phase.OVER
    ]


def step_columns(run: RunConfig, steps: list[dict[str, Any]], final: dict[str, Any]) -> dict[str, np.ndarray]:
    """(S, ...) columns of one question's S steps, from the policy and learned; ``final`` is its final info."""
    obs = {k: np.stack([s["obs"][k] for s in steps]) for k in steps[0]["obs"]}
    columns = {k: np.stack([s["columns"][k] for s in steps]) for k in STEP_COLUMNS}
    infos = [s["info"] for s in steps]
    infos[-1] = infos[-1] | final
    return columns | learned_columns(obs, infos, columns[DREAM_VALUE], columns[VF_PREDS], run)


def reward_parts(batch: ReasoningBatch) -> dict[str, float]:
    """Mean reward components of the finished questions; of a mixture also each world's exact match."""
    parts = [batch.breakdown(q) for q in range(len(batch.questions))]
    out = {k: float(np.mean([p[k] for p in parts])) for k in parts[0]}
    if isinstance(batch.world, Mixture):
        by_world: dict[str, list[float]] = {}
        for question, part in zip(batch.questions, parts, strict=True):
            by_world.setdefault(f"{question.scene.family}.{question.scene.world}", []).append(part["exact_match"])
        out |= {f"exact_match/{name}": float(np.mean(values)) for name, values in by_world.items()}
    return out
