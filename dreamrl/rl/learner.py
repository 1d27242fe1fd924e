"""The learner: PPO per dream, supervised reading of verified dreams, replay of true transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from torch import Tensor

from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.losses import (
    clipped_policy_loss,
    dream_rows,
    happened,
    prompt_rows,
    reading_loss,
    touch_all,
    world_model_loss,
)
from dreamrl.model import DreamingReasoningLLM
from dreamrl.nn.moe import expert_usage, load_balance_loss
from dreamrl.rl.columns import (
    ADVANTAGES,
    ANSWER_ADVANTAGE,
    ANSWER_TARGET,
    ANSWER_TOKENS,
    DREAM_LOGP,
    DREAMS_SHOWN,
    FOCUS_TARGET,
    TARGETS,
    episode_columns,
    normalise,
)
from dreamrl.saving import load_pretrained
from envs.questions import stream

PLACE = "place"
"""Column with the learner's place among all, see :func:`place_of_all`."""


class EpisodesToBatch(ConnectorV2):
    """Episodes -> one shuffled train batch with per-dream advantages.

    Does the work of RLlib's default pipeline in one pass over arrays.
    The order of the rows depends on the seed and the iteration only.
    """

    def __init__(self, *args, run: RunConfig, start_iteration: int = 0, **kwargs):
        """Args: ``run``, the settings of the run; ``start_iteration`` it resumes at; the rest as in RLlib."""
        super().__init__(*args, **kwargs)
        self.run = run
        self.calls = start_iteration

    def __call__(self, *, rl_module, batch, episodes, explore=None, shared_data=None, metrics=None, **kwargs):
        """See the class."""
        rows: dict[str, list] = {}
        for episode in episodes:
            for name, value in episode_columns(episode, self.run).items():
                rows.setdefault(name, []).append(value)
        columns = {name: np.concatenate(parts) for name, parts in rows.items()}
        normalise(columns)
        count = len(columns[Columns.ACTION_LOGP])
        order = np.resize(stream(self.run.seed, 5, self.calls, count).permutation(count), rows_of_all(count))
        self.calls += 1
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value[order])) for name, value in columns.items()}
        flat: dict[str, Any] = {k: v for k, v in tensors.items() if "/" not in k}
        flat[PLACE] = torch.full((len(order),), place_of_all(float(columns[Columns.ACTION_LOGP].sum(dtype=np.float64))))
        for group in (Columns.OBS, Columns.ACTIONS):
            flat[group] = {k.split("/")[1]: v for k, v in tensors.items() if k.startswith(f"{group}/")}
        return {DEFAULT_MODULE_ID: flat}


def rows_of_all(count: int) -> int:
    """The most rows that any learner has: all must take the same number of minibatches, or they wait forever.

    A learner with fewer repeats some of its rows.
    """
    rows = torch.tensor(count)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(rows, torch.distributed.ReduceOp.MAX)
    return int(rows)


def place_of_all(fingerprint: float) -> int:
    """This learner's place among all, by the content of its shard.

    Ranks depend on the order in which processes start. A place that depends on the data alone pairs every shard
    with the same share of the replay in each run, so that the same seed gives the same sums.
    """
    if not torch.distributed.is_initialized():
        return 0
    own = torch.tensor(fingerprint, dtype=torch.float64)
    all_of_them = [torch.zeros_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(all_of_them, own)
    return sum(bool(other < own) for other in all_of_them)


class DreamPPOLearner(PPOTorchLearner):
    """PPO whose ratio, advantage and value belong to one dream; plus what keeps the world model true.

    ``config.learner_config_dict`` holds ``model_dir`` (its codec codes the replay) and ``start_iteration``.
    """

    def build(self) -> None:
        """Also prepare the replay of random play, coded by the frozen codec."""
        super().build()
        extra = self.config.learner_config_dict
        loaded = load_pretrained(Path(extra["model_dir"]))
        self.run: RunConfig = loaded.run
        self.start_iteration = int(extra["start_iteration"])
        self.replay = RandomPlay(self.run, loaded.world, loaded.text, loaded.model.codec)
        self.replayed = 0

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Set the learning rate: short warm-up, then linear decay to a tenth over the run."""
        super().before_gradient_based_update(timesteps=timesteps)
        self.replayed = 0
        ppo = self.run.ppo
        done = self.start_iteration + self._weights_seq_no
        share = min(1.0, done / max(1, ppo.iterations))
        lr = ppo.lr * (1 - 0.9 * share) * min(1.0, (done + 1) / WARM_UP)
        for optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
            self._set_optimizer_lr(optimizer[1], lr)

    def compute_loss_for_module(self, *, module_id, config, batch, fwd_out) -> Tensor:
        """PPO on dreams and answers + reading loss + replay; see :mod:`dreamrl.losses`."""
        model = trained_model(self)
        ppo = self.run.ppo
        loss, metrics = policy_losses(self.run, batch, fwd_out)
        answers = fwd_out["answers"]
        if answers is not None:
            read = self._reading(model, batch, fwd_out)
            loss = loss + ppo.answer_weight * sum(read.values())
        replay, replay_metrics = self._replay(model, int(batch[PLACE][0]))
        loss = loss + ppo.replay_weight * replay
        metrics |= replay_metrics
        loss = loss + touch_all(model)
        self.metrics.log_dict({k: v.detach().item() for k, v in metrics.items()}, key=module_id, window=METRIC_WINDOW)
        return loss

    def _reading(self, model: DreamingReasoningLLM, batch: dict, fwd_out: dict) -> dict[str, Tensor]:
        question = fwd_out["answers"].question
        obs = batch[Columns.OBS]
        sub = {k: obs[k].long()[question] for k in ("frames", "actions", "beliefs", "lengths")}
        hidden = torch.arange(sub["lengths"].shape[1]) >= batch[DREAMS_SHOWN][question].unsqueeze(1)
        sub["lengths"] = sub["lengths"].masked_fill(hidden, 0)  # a dream without steps has no nodes
        sub |= {"focus_target": batch[FOCUS_TARGET][question], "answer": batch[ANSWER_TOKENS][question]}
        return reading_loss(model, sub, prompt_rows(fwd_out["prompt"], question))[0]

    def _replay(self, model: DreamingReasoningLLM, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        """World-model and reading loss on fresh random play."""
        ppo, workers = self.run.ppo, max(1, self.config.num_learners or 0)
        index = (self.start_iteration + self._weights_seq_no) * MOST_MINIBATCHES + self.replayed
        batch = self.replay.batch(index, ppo.replay_scenes, place, workers, key=4)
        self.replayed += 1
        steps = batch["actions"].shape[-1]
        rows = dream_rows(
            batch["frames"], batch["actions"], batch["beliefs"], batch["grid"], happened(batch["lengths"], steps)
        )
        prompt = model.input_tokenizer(batch["text"])
        losses, _ = world_model_loss(model, rows, prompt_rows(prompt, rows.question))
        read, _ = reading_loss(model, batch, prompt)
        return losses["frame"] + losses["belief"] + ppo.answer_weight * (read["focus"] + read["answer"]), {
            "replay_frame_loss": losses["frame"]
        }


def trained_model(learner: Any) -> DreamingReasoningLLM:
    """The model inside a learner, whatever wraps it."""
    return learner.module[DEFAULT_MODULE_ID].unwrapped().model


WARM_UP = 5
"""Iterations over which the learning rate rises: Adam's first steps are large and blur the world model."""
MOST_MINIBATCHES = 100_003
"""More minibatches than an iteration has: keeps the numbers of its replay batches apart from the next one's."""
METRIC_WINDOW = 32
"""Minibatches over which learner metrics are averaged."""


def policy_losses(run: RunConfig, batch: dict, fwd_out: dict) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO terms of the dreams and the answers in one minibatch, and their metrics."""
    ppo, metrics = run.ppo, {}
    loss = torch.zeros(())
    dreams, answers = fwd_out["dreams"], fwd_out["answers"]
    if dreams is not None:
        at = (dreams.question, dreams.dream)
        policy_loss, ratio = clipped_policy_loss(
            dreams.logp, batch[DREAM_LOGP][at], batch[ADVANTAGES][at], run.model.ppo_clip_epsilon
        )
        targets = batch[TARGETS][at]
        value_loss = F.mse_loss(dreams.value, targets)
        balance = load_balance_loss(dreams.routing)
        entropy = dreams.entropy.mean()
        world = dreams.frame_loss.mean() + dreams.belief_loss.mean()
        loss = (
            ppo.replay_weight * world
            + policy_loss
            + ppo.value_weight * value_loss
            - ppo.entropy_weight * entropy
            + run.model.load_balance_loss_weight * balance
        )
        usage = expert_usage(dreams.routing)
        explained = 1 - (targets - dreams.value).var() / targets.var().clamp(min=1e-6)
        metrics |= {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "balance": balance,
            "world_loss": world,
        }
        metrics |= ratio | {"explained_variance": explained, "max_vio": usage.max() * len(usage) - 1}
        metrics |= {f"expert_usage/{i}": share for i, share in enumerate(usage)}
    if answers is not None:
        q = answers.question
        advantages = batch[ANSWER_ADVANTAGE][q]
        policy_loss, _ = clipped_policy_loss(
            answers.logp, batch[Columns.ACTION_LOGP][q], advantages, run.model.ppo_clip_epsilon
        )
        value_loss = F.mse_loss(answers.value, batch[ANSWER_TARGET][q])
        loss = loss + ANSWER_SHARE * (policy_loss + ppo.value_weight * value_loss)
    return loss, metrics


ANSWER_SHARE = 0.25
"""Weight of an answer's PPO terms against a dream step's: there is one answer to many dream steps."""
