"""Sampling: play many questions, and all their dreams, with one model call a step.

Question i of a run has its own random numbers, whoever asks it: how questions are shared out among samplers
does not change what is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamrl.columns import ACTIONS, DREAM_VALUE, VF_PREDS, learned_columns
from dreamrl.config import RunConfig
from dreamrl.policy import STEP_COLUMNS
from envs.questions import stream
from envs.reasoning_batch import Phase, ReasoningBatch, training_question

Act = Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Any]]
"""(obs, uniform (Q, N, P + 2), uniform (Q, L + 1)), on the CPU -> what :func:`dreamrl.policy.act` returns, anywhere."""
OnStep = Callable[[dict[str, Any], dict[str, np.ndarray]], None]
"""Told what a step adds to the trace, and the observation after it."""


class Played(NamedTuple):
    """One question's S steps: what an episode is made of.

    ``obs`` (S + 1, ...), the last one after the answer; ``action`` (S, ...) and ``columns`` (S, ...), from the policy
    and learned; ``infos``, what the environment told after each step, at the end also what is known of the question.
    """

    obs: dict[str, np.ndarray]
    action: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    infos: list[dict[str, Any]]


def play(
    run: RunConfig,
    batch: ReasoningBatch,
    numbers: list[int],
    act: Act,
    on_step: OnStep = lambda step, obs: None,
) -> list[dict[str, Any]]:
    """Play training questions ``numbers`` to their end.

    Args:
        run: settings.
        batch: where they are played.
        numbers: of the questions.
        act: the policy.
        on_step: called after every step.

    Returns:
        one dict a step (``obs``, ``action``, ``columns``, ``infos``), then a last one with the final ``obs``.
    """
    obs = batch.reset([training_question(run, batch.source, i, length=batch.longest) for i in numbers])
    streams = [stream(run.seed, 3, i) for i in numbers]
    length, patches = run.model.dream_length, batch.num_patches
    dice = np.stack([s.random((batch.dreams, length, patches + 2)) for s in streams])
    answer_dice = np.stack([s.random(run.model.max_answer_tokens + 1) for s in streams])
    trace = []
    while not (batch.phase == Phase.OVER).all():
        step = np.minimum(obs["step"], length - 1)
        out = act(
            {k: torch.from_numpy(v) for k, v in obs.items()},
            torch.from_numpy(dice[np.arange(len(numbers)), :, step]).float(),
            torch.from_numpy(answer_dice).float(),
        )
        action = {k: v.cpu().numpy() for k, v in out[ACTIONS].items()}
        dream_rewards, answer_rewards = batch.step(action)
        columns = {k: out[k].cpu().numpy() for k in STEP_COLUMNS}
        infos = [batch.step_info(q, dream_rewards, answer_rewards) for q in range(len(numbers))]
        trace.append({"obs": obs, "action": action, "columns": columns, "infos": infos})
        obs = batch.observation()
        on_step(trace[-1], obs)
    trace.append({"obs": obs})
    return trace


def episodes(run: RunConfig, batch: ReasoningBatch, trace: list[dict[str, Any]]) -> list[Played]:
    """The trace of ``batch``, question by question. All arrays are views of one stack: do not change them."""
    obs = {k: np.stack([t["obs"][k] for t in trace], axis=1) for k in trace[0]["obs"]}  # (Q, S + 1, ...)
    action, columns = (
        {k: np.stack([t[part][k] for t in trace[:-1]], axis=1) for k in trace[0][part]}
        for part in ("action", "columns")
    )
    steps = (obs["phase"] != Phase.OVER).sum(1)  # a question that is over stays over
    out = []
    for q, count in enumerate(steps.tolist()):
        infos = [t["infos"][q] for t in trace[:count]]
        infos[-1] = infos[-1] | batch.final_info(q)
        own = {k: v[q, :count] for k, v in columns.items()}
        before = {k: v[q, :count] for k, v in obs.items()}
        own |= learned_columns(before, infos, own[DREAM_VALUE], own[VF_PREDS], run)
        whole = {k: v[q, : count + 1] for k, v in obs.items()}
        out.append(Played(whole, {k: v[q, :count] for k, v in action.items()}, own, infos))
    return out


TOGETHER = 64
"""Most questions that are dreamed in one model call: enough to keep the processor busy, few enough for its caches."""
SAMPLERS = 4
"""Fewest samplers that the questions of an iteration can be shared out among."""


def together(run: RunConfig) -> int:
    """Questions that are dreamed in one model call.

    The same for any number of samplers up to :data:`SAMPLERS`: sums in a larger call may round differently, and what
    is sampled must not depend on who samples it.
    """
    samplers = max(SAMPLERS, run.ppo.num_env_runners)
    return min(TOGETHER, -(-run.ppo.questions_per_iteration // samplers))


def shared_out(
    run: RunConfig, iteration: int, shard: int = 0, shards: int = 1, count: int | None = None
) -> Iterator[list[int]]:
    """Numbers of the questions that sampler ``shard`` of ``shards`` dreams together, call by call.

    Args:
        run: settings.
        iteration: of PPO.
        shard: of the sampler.
        shards: samplers in all.
        count: questions to sample; None: its share of the iteration's.
    """
    size, questions = together(run), run.ppo.questions_per_iteration
    end = questions if count is None else shard * size + shards * (count + size)
    left = questions if count is None else count
    for start in range(shard * size, end, shards * size):
        take = min(size, left, end - start)
        if take > 0:
            yield [iteration * questions + start + i for i in range(take)]
        left -= take


def reward_parts(finals: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean reward components by what is known of questions at their end; of a mixture also each world's exact match."""
    parts = [final["reward_parts"] for final in finals]
    out = {k: float(np.mean([p[k] for p in parts])) for k in parts[0]} if parts else {}
    by_world: dict[str, list[float]] = {}
    for final in finals:
        if final["world"]:
            by_world.setdefault(final["world"], []).append(final["reward_parts"]["exact_match"])
    return out | {f"exact_match/{name}": float(np.mean(values)) for name, values in sorted(by_world.items())}
