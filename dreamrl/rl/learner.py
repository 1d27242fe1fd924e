"""The learner: PPO per dream, supervised reading of verified dreams, replay of true transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from dreamrl.columns import (
    ACTION_LOGP,
    ADVANTAGES,
    DREAM_VALUE,
    VF_PREDS,
    flat,
    learned_columns,
    nested,
    normalise,
)
from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.device import as_floats, compute_of, exchanged_on
from dreamrl.model import DreamingReasoningLLM
from dreamrl.policy import Scored
from dreamrl.ppo import MOST_MINIBATCHES, rescore
from dreamrl.ppo_loss import learning_rate, ppo_loss
from dreamrl.rl.module import SCORED
from dreamrl.saving import load_pretrained
from envs.questions import stream

PLACE = "place"
"""Column with the learner's place among all, see :func:`place_of_all`."""


class EpisodesToBatch(ConnectorV2):
    """Episodes -> one shuffled train batch with per-dream advantages, where the module is.

    Does the work of RLlib's default pipeline in one pass over arrays.
    The order of the rows depends on the seed and the iteration only. A learner that computes otherwise than the env
    runners do, on a GPU or in bfloat16, asks its own module for the log-probabilities of what they sampled.
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
        count = len(columns[ACTION_LOGP])
        order = np.resize(stream(self.run.seed, 5, self.calls, count).permutation(count), rows_of_all(count))
        self.calls += 1
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value[order])) for name, value in columns.items()}
        tensors[PLACE] = torch.full((len(order),), place_of_all(float(columns[ACTION_LOGP].sum(dtype=np.float64))))
        module = cast(Any, rl_module)[DEFAULT_MODULE_ID].unwrapped()
        tensors = module.compute.put(tensors)
        if not module.compute.like_sampling:
            rescore(tensors, self.run.ppo.minibatch_size, lambda batch: module._forward_train(batch)[SCORED])
        return {DEFAULT_MODULE_ID: nested(tensors)}


def episode_columns(episode: Any, run: RunConfig) -> dict[str, np.ndarray]:
    """All train columns of an episode, or of a piece of one that already carries its ``LEARNED`` columns.

    Episodes of other env runners must be whole: their columns are computed here.
    """
    steps = len(episode)
    obs, actions = episode.get_observations(slice(0, steps)), episode.get_actions()
    extra = {k: np.asarray(episode.get_extra_model_outputs(k)) for k in episode.extra_model_outputs}
    if ADVANTAGES not in extra:
        extra |= learned_columns(obs, episode.get_infos()[1:], extra[DREAM_VALUE], extra[VF_PREDS], run)
    return flat(obs, actions, extra)


def rows_of_all(count: int) -> int:
    """The most rows that any learner has: all must take the same number of minibatches, or they wait forever.

    A learner with fewer repeats some of its rows.
    """
    if not torch.distributed.is_initialized():
        return count
    rows = torch.tensor(count, device=exchanged_on())
    torch.distributed.all_reduce(rows, torch.distributed.ReduceOp.MAX)
    return int(rows)


def place_of_all(fingerprint: float) -> int:
    """This learner's place among all, by the content of its shard.

    Ranks depend on the order in which processes start. A place that depends on the data alone pairs every shard
    with the same share of the replay in each run, so that the same seed gives the same sums.
    """
    if not torch.distributed.is_initialized():
        return 0
    own = torch.tensor(fingerprint, dtype=torch.float64, device=exchanged_on())
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
        loaded = load_pretrained(Path(extra["model_dir"]), trusted=True)
        self.run: RunConfig = loaded.run
        device = torch.device(cast(Any, self._device))
        self.compute = compute_of(self.run, device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.compute.prepare(trained_model(self))
        self.start_iteration = int(extra["start_iteration"])
        self.replay = RandomPlay(self.run, loaded.world, loaded.text, loaded.model.codec)
        self.replayed = 0
        self.loaded, self.stage_number = loaded, -1

    def enter(self, number: int) -> None:
        """Learn as stage ``number`` of the curriculum says, replaying boards of the stages so far."""
        if number == self.stage_number:
            return
        module: Any = self.module[DEFAULT_MODULE_ID].unwrapped()
        module.enter(number)
        self.stage_number, loaded = number, self.loaded
        self.replay = RandomPlay(self.run, module.stages[number].replay, loaded.text, loaded.model.codec)

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Set the learning rate: short warm-up, then linear decay to a tenth over the run."""
        super().before_gradient_based_update(timesteps=timesteps)
        self.replayed = 0
        lr = learning_rate(self.run, self.start_iteration + self._weights_seq_no)
        for optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
            self._set_optimizer_lr(optimizer[1], lr)

    def compute_loss_for_module(self, *, module_id, config, batch, fwd_out) -> Tensor:
        """PPO on dreams and answers + reading loss + replay; see :mod:`dreamrl.ppo_loss`."""
        model = trained_model(self)
        replay = self._replay(int(batch[PLACE][0])) if self.run.ppo.replay_weight > 0 else {}
        with self.compute.learning():
            loss, metrics = ppo_loss(self.run, model, batch, cast(Scored, fwd_out[SCORED]), self.compute.put(replay))
        self.metrics.log_dict(as_floats(metrics), key=module_id, window=METRIC_WINDOW)
        return loss

    def _replay(self, place: int) -> dict[str, Tensor]:
        """This learner's share of the next batch of fresh random play."""
        index = (self.start_iteration + self._weights_seq_no) * MOST_MINIBATCHES + self.replayed
        self.replayed += 1
        workers = max(1, self.config.num_learners or 0)
        return self.replay.batch(index, self.run.ppo.replay_scenes, place, workers, key=4)


def trained_model(learner: Any) -> DreamingReasoningLLM:
    """The model inside a learner, whatever wraps it."""
    return learner.module[DEFAULT_MODULE_ID].unwrapped().model


METRIC_WINDOW = 32
"""Minibatches over which learner metrics are averaged."""
