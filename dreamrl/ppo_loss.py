"""The loss of one PPO minibatch: policy and value per dream and answer, reading of verified dreams, replay.

Used alike by the RLlib learner and by the plain trainer of ``dreamrl.ppo``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamrl.columns import (
    ACTION_LOGP,
    ADVANTAGES,
    ANSWER_ADVANTAGE,
    ANSWER_TARGET,
    ANSWER_TOKENS,
    DREAM_LOGP,
    DREAMS_SHOWN,
    FOCUS_TARGET,
    OBS,
    TARGETS,
)
from dreamrl.config import RunConfig
from dreamrl.losses import (
    clipped_policy_loss,
    dream_rows,
    happened,
    prompt_rows,
    reading_loss,
    routing_loss,
    touch_all,
    world_model_loss,
)
from dreamrl.nn.dreaming_model import DreamingModel
from dreamrl.nn.moe import routing_metrics
from dreamrl.policy import AnswerRows, DreamRows, Scored

ANSWER_SHARE = 0.25
"""Weight of an answer's PPO terms against a dream step's: there is one answer to many dream steps."""
WARM_UP = 2
"""Iterations over which the learning rate rises: Adam's first steps are large and blur the world model."""


def learning_rate(run: RunConfig, iteration: int) -> float:
    """Short warm-up, then linear decay to a tenth over the run; ``iteration`` counts from 0."""
    share = min(1.0, iteration / max(1, run.ppo.iterations))
    return run.ppo.lr * (1 - 0.9 * share) * min(1.0, (iteration + 1) / WARM_UP)


def ppo_loss(
    run: RunConfig, model: DreamingModel, batch: dict[str, Any], scored: Scored, replay: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Everything that one gradient step minimises.

    Args:
        run: weights of the parts.
        model: the model in training.
        batch: columns of K env steps, see :mod:`dreamrl.columns`, nested.
        scored: what the model makes of them now.
        replay: a batch of :class:`dreamrl.data.RandomPlay`; read only if ``ppo.replay_weight`` > 0.

    Returns:
        the loss, and metrics by name.
    """
    loss, metrics = model.calibration.new_zeros(()), {}
    if scored.dreams is not None:
        part, own = dream_loss(run, batch, scored.dreams)
        loss, metrics = loss + part, metrics | own
    if scored.answers is not None:
        loss = loss + ANSWER_SHARE * answer_loss(run, batch, scored.answers)
        read = _reading(model, batch, scored)
        loss = loss + run.ppo.answer_weight * sum(read.values())
    if run.ppo.replay_weight > 0:
        part, own = replay_loss(run, model, replay)
        loss, metrics = loss + run.ppo.replay_weight * part, metrics | own
    return loss + touch_all(model), metrics


def dream_loss(run: RunConfig, batch: dict[str, Any], dreams: DreamRows) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO, value, entropy and routing of the dream steps; and the simulator's truth where the dream was sound."""
    ppo = run.ppo
    at = (dreams.question, dreams.dream)
    advantages, targets = batch[ADVANTAGES][at], batch[TARGETS][at]
    policy_loss, ratio = clipped_policy_loss(dreams.logp, batch[DREAM_LOGP][at], advantages, run.model.ppo_clip_epsilon)
    value_loss = F.mse_loss(dreams.value, targets)
    routing, balance = routing_loss(run.model, dreams.routing)
    entropy = dreams.entropy.mean()
    world = dreams.frame_loss.mean() + dreams.belief_loss.mean()
    loss = policy_loss + ppo.value_weight * value_loss - ppo.entropy_weight * entropy
    loss = loss + ppo.replay_weight * world + routing
    explained = 1 - (targets - dreams.value).var() / targets.var().clamp(min=1e-6)
    metrics = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "balance": balance,
        "world_loss": world,
        "explained_variance": explained,
    }
    return loss, metrics | ratio | routing_metrics(dreams.routing)


def answer_loss(run: RunConfig, batch: dict[str, Any], answers: AnswerRows) -> Tensor:
    """PPO and value of the answers."""
    q = answers.question
    policy_loss, _ = clipped_policy_loss(
        answers.logp, batch[ACTION_LOGP][q], batch[ANSWER_ADVANTAGE][q], run.model.ppo_clip_epsilon
    )
    return policy_loss + run.ppo.value_weight * F.mse_loss(answers.value, batch[ANSWER_TARGET][q])


def _reading(model: DreamingModel, batch: dict[str, Any], scored: Scored) -> dict[str, Tensor]:
    """Reading loss on the sampled dreams: what those that the simulator confirms support."""
    assert scored.answers is not None
    question, obs = scored.answers.question, batch[OBS]
    sub = {k: obs[k].long()[question] for k in ("frames", "actions", "beliefs", "lengths", "grid")}
    dreams = torch.arange(sub["lengths"].shape[1], device=question.device)
    hidden = dreams >= batch[DREAMS_SHOWN][question].unsqueeze(1)
    sub["lengths"] = sub["lengths"].masked_fill(hidden, 0)  # a dream without steps has no nodes
    sub |= {"focus_target": batch[FOCUS_TARGET][question], "answer": batch[ANSWER_TOKENS][question]}
    return reading_loss(model, sub, prompt_rows(scored.prompt, question))[0]


def replay_loss(run: RunConfig, model: DreamingModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """World-model and reading loss on fresh random play."""
    steps = batch["actions"].shape[-1]
    rows = dream_rows(batch, happened(batch["lengths"], steps), model.config.use_dream_memory)
    prompt = model.ask(batch)
    losses, _ = world_model_loss(model, rows, prompt_rows(prompt, rows.question))
    read, _ = reading_loss(model, batch, prompt, draw=True)
    loss = losses["frame"] + losses["belief"] + run.ppo.answer_weight * sum(read.values())
    return loss, {"replay_frame_loss": losses["frame"]}
