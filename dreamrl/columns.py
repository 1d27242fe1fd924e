"""What one step of an episode has to teach, as columns: computed once, from the whole episode.

An episode's steps carry their own advantages and targets, so that they may be cut into pieces and shared out
among learners. The first names are RLlib's (``ray.rllib.core.columns.Columns``; a test holds them equal), so
that the same loss runs with and without Ray.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamrl.advantages import per_dream_gae
from dreamrl.config import RunConfig
from envs.reasoning_batch import Phase

OBS, ACTIONS, ACTION_LOGP, VF_PREDS = "obs", "actions", "action_logp", "vf_preds"
DREAM_LOGP, DREAM_VALUE = "dream_logp", "dream_value"
"""(N,) of each dream's own part of the action, and its value; from the policy."""
TRUTH = ("true_result", "true_belief", "sound")
"""What the simulator showed, see ``ReasoningBatch.step_info``."""
ADVANTAGES, TARGETS = "dream_advantages", "dream_targets"
"""(N,) GAE of each dream and what its value should be."""
ANSWER_ADVANTAGE, ANSWER_TARGET = "answer_advantage", "answer_target"
FOCUS_TARGET, ANSWER_TOKENS, DREAMS_SHOWN = "focus_target", "answer_tokens", "dreams_shown"
"""(N + 1,), (L,), (): what the first of the dreams support, see ``ReasoningBatch.reading_target``, and how many."""
LEARNED = (ADVANTAGES, TARGETS, ANSWER_ADVANTAGE, ANSWER_TARGET, FOCUS_TARGET, ANSWER_TOKENS, DREAMS_SHOWN, *TRUTH)
KEPT = (ACTION_LOGP, DREAM_LOGP, *LEARNED)
"""The columns besides observation and action that the loss reads."""


def learned_columns(
    obs: dict[str, np.ndarray], infos: list[dict[str, Any]], dream_value: np.ndarray, value: np.ndarray, run: RunConfig
) -> dict[str, np.ndarray]:
    """The ``LEARNED`` columns of one whole episode of S steps.

    Args:
        obs: observations at the S steps.
        infos: what the environment told after each of the S steps; the last one knows the targets.
        dream_value: (S, N) values of the dreams.
        value: (S,) values of whole steps: that of the answer in the answer phase.
        run: discount and lambda.
    """
    steps = len(infos)
    dream_rewards = np.stack([i["dream_rewards"] for i in infos])
    answer_rewards = np.array([i["answer_reward"] for i in infos], np.float32)
    active = (obs["active"] == 1) & (obs["phase"] == Phase.DREAM)[:, None]
    advantages, targets = per_dream_gae(dream_rewards, dream_value, active, run.ppo.gamma, run.model.ppo_gae_lambda)
    answering = obs["phase"] == Phase.ANSWER
    repeat = np.ones(steps, np.int64)[:, None]
    return {
        ADVANTAGES: advantages.astype(np.float32),
        TARGETS: targets.astype(np.float32),
        ANSWER_ADVANTAGE: ((answer_rewards - value) * answering).astype(np.float32),
        ANSWER_TARGET: (answer_rewards * answering).astype(np.float32),
        FOCUS_TARGET: repeat * infos[-1]["focus_target"].astype(np.int64),
        ANSWER_TOKENS: repeat * infos[-1]["answer_tokens"],
        DREAMS_SHOWN: np.full(steps, infos[-1]["dreams_shown"], np.int64),
        **{k: np.stack([i[k] for i in infos]) for k in TRUTH},
    }


def flat(obs: dict[str, Any], actions: dict[str, Any], extra: dict[str, Any]) -> dict[str, np.ndarray]:
    """Observation, action and ``KEPT`` columns of an episode as one flat dict with keys such as ``obs/text``."""
    return {
        **{f"{OBS}/{k}": np.asarray(v) for k, v in obs.items()},
        **{f"{ACTIONS}/{k}": np.asarray(v) for k, v in actions.items()},
        **{k: extra[k] for k in KEPT},
    }


def nested(columns: dict[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`flat`: observation and action as dicts of their own."""
    out: dict[str, Any] = {k: v for k, v in columns.items() if "/" not in k}
    for group in (OBS, ACTIONS):
        out[group] = {k.split("/")[1]: v for k, v in columns.items() if k.startswith(f"{group}/")}
    return out


def normalise(columns: dict[str, np.ndarray]) -> None:
    """Scale advantages of the active dream steps to mean 0 and variance 1, of the answers to variance 1."""
    phase = columns[f"{OBS}/phase"]
    active = (columns[f"{OBS}/active"] == 1) & (phase == Phase.DREAM)[:, None]
    own = columns[ADVANTAGES][active]
    if own.size:
        scaled = (columns[ADVANTAGES] - own.mean()) / (own.std() + 1e-6)
        columns[ADVANTAGES] = np.where(active, scaled, 0).astype(np.float32)
    answers = columns[ANSWER_ADVANTAGE][phase == Phase.ANSWER]
    if answers.size:
        columns[ANSWER_ADVANTAGE] = columns[ANSWER_ADVANTAGE] / np.float32(answers.std() + 1e-2)
