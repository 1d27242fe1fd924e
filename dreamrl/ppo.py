"""PPO in dreams as a plain torch loop, without Ray: the same sampling, columns and loss as on RLlib.

For ablations, for machines where Ray is not installed, and for ``DreamingReasoningLLM.train_step_rl``.
One process; the run's ``num_env_runners`` is ignored, and a gradient step sees as many rows as all learners would.
It computes where the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from dreamrl import policy
from dreamrl.columns import ACTION_LOGP, ACTIONS, DREAM_LOGP, OBS, TRUTH, flat, nested, normalise
from dreamrl.curriculum import Curriculum, Stage
from dreamrl.data import RandomPlay
from dreamrl.device import as_floats, compute_of
from dreamrl.judge import Judge
from dreamrl.policy import Scored
from dreamrl.ppo_loss import learning_rate, ppo_loss
from dreamrl.rollout import episodes, play, reward_parts, shared_out
from dreamrl.saving import Loaded, set_training, training_tensors
from envs.questions import stream
from envs.reasoning_batch import ReasoningBatch

MOST_MINIBATCHES = 100_003
"""More minibatches than an iteration has: keeps the numbers of its replay batches apart from the next one's."""


def rescore(columns: dict[str, torch.Tensor], size: int, score: Callable[[dict[str, Any]], Scored]) -> None:
    """Replace the log-probabilities of sampling by those of whoever is about to learn.

    On a GPU or in bfloat16 the same weights give the same action another probability than when it was sampled on a
    CPU. PPO would take that for a change of the policy: its ratio must be 1 before the first update.

    Args:
        columns: of all rows, flat; changed in place.
        size: rows at a time: those of a minibatch, so that the first one is computed in the same sums.
        score: what the model that learns makes of nested columns. Gradients stay on: it is to run the same kernels.
    """
    dreams, steps = torch.zeros_like(columns[DREAM_LOGP]), torch.zeros_like(columns[ACTION_LOGP])
    for start in range(0, len(steps), size):
        scored = score(nested({name: value[start : start + size] for name, value in columns.items()}))
        if scored.dreams is not None:
            dreams[start + scored.dreams.question, scored.dreams.dream] = scored.dreams.logp.detach()
        if scored.answers is not None:
            steps[start + scored.answers.question] = scored.answers.logp.detach()
    columns |= {DREAM_LOGP: dreams, ACTION_LOGP: steps + dreams.sum(1)}


class PPOTrainer:
    """Trains ``loaded.model`` in place; ``iterate`` is one PPO iteration.

    Args:
        loaded: a pretrained model; codec and inverse dynamics are frozen.
        judge: scores the dreams; by default the model's own codec and inverse dynamics.
        iteration: number of the first iteration.

    With a curriculum, ``curriculum`` holds the stage of the next iteration.
    """

    def __init__(self, loaded: Loaded, judge: Judge | None = None, iteration: int = 0):
        """See the class."""
        self.run, self.model, self.loaded = loaded.run, loaded.model, loaded
        self.compute = compute_of(self.run, self.model.device)
        self.compute.prepare(self.model)
        self.model.codec.requires_grad_(False)
        self.model.inverse_dynamics.requires_grad_(False)
        judge = judge or Judge(self.model)
        dreams = self.run.model.num_dream_sequences
        self.batch = ReasoningBatch(self.run, loaded.world, loaded.text, judge, dreams)
        self.curriculum = Curriculum(self.run, loaded.world) if self.run.curriculum.enabled else None
        self.replay = RandomPlay(self.run, loaded.world, loaded.text, self.model.codec)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=self.run.ppo.lr)
        self.iteration = iteration
        self.learners = max(1, self.run.ppo.num_learners)
        self.steps = 0  # env steps of the last iteration
        self.simulated = 0  # what the simulator was asked in it: steps of every dream, and answers

    def iterate(self, progress: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Sample, learn; ``progress`` is called after every gradient step. Returns metrics by name."""
        if self.curriculum is not None:
            self.enter(self.curriculum.stage)
        columns, parts = self.sample()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.run, self.iteration)
        seen: dict[str, list[float]] = {}
        for number, batch in enumerate(self.minibatches(columns)):
            for name, value in self.learn(batch, number).items():
                seen.setdefault(name, []).append(value)
            progress()
        self.iteration += 1
        if self.curriculum is not None:
            parts = parts | self.curriculum.record(parts["exact_match"])
            self.model.graph_reasoner.limit(None)  # whoever uses the model in between has all of it
        return parts | {name: float(np.mean(values)) for name, values in seen.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer, for a checkpoint."""
        return training_tensors(self.model, self.optimizer)

    def state(self) -> dict[str, Any]:
        """The rest of a checkpoint, as JSON can hold it."""
        return {"iteration": self.iteration, "curriculum": self.curriculum and self.curriculum.state()}

    def restore(self, tensors: dict[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Go on where :meth:`tensors` and :meth:`state` were taken."""
        set_training(self.model, self.optimizer, tensors)
        self.iteration = int(state["iteration"])
        if self.curriculum is not None:
            self.curriculum.restore(state["curriculum"])

    def enter(self, stage: Stage) -> None:
        """Sample and learn as ``stage`` of the curriculum says, until another one is entered."""
        self.batch.enter(stage)
        self.model.graph_reasoner.limit(stage.hops)
        self.replay = RandomPlay(self.run, stage.replay, self.loaded.text, self.model.codec)

    def sample(self) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """Shuffled, normalised columns of one iteration's episodes, and their mean reward components."""
        run = self.run
        rows: dict[str, list[np.ndarray]] = {}
        finals = []
        self.simulated = 0
        for numbers in shared_out(run, self.iteration):
            trace = play(run, self.batch, numbers, self.act)
            for played in episodes(run, self.batch, trace):
                before = {k: v[:-1] for k, v in played.obs.items()}
                for name, value in flat(before, played.action, played.columns).items():
                    rows.setdefault(name, []).append(value)
                finals.append(played.infos[-1])
            self.simulated += int(self.batch.lengths.sum()) + len(numbers)
        columns = {name: np.concatenate(values) for name, values in rows.items()}
        normalise(columns)
        self.steps = count = len(next(iter(columns.values())))
        order = stream(run.seed, 5, self.iteration, count).permutation(count)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value[order])) for name, value in columns.items()}
        tensors = self.compute.put(tensors)
        if not self.compute.like_sampling:
            rescore(tensors, self.rows_together(count), self.score)
        return tensors, reward_parts(finals)

    def act(self, *given: Any) -> dict[str, Any]:
        """See :data:`dreamrl.rollout.Act`."""
        with self.compute.sampling():
            return policy.act(self.model, *map(self.compute.put, given))

    def rows_together(self, count: int) -> int:
        """Rows of a minibatch when there are ``count`` in all."""
        return min(count, self.run.ppo.minibatch_size * self.learners)

    def minibatches(self, columns: dict[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        """``ppo.epochs`` passes over the rows, as RLlib takes them: what an epoch leaves over goes on into the next."""
        count = len(next(iter(columns.values())))
        size = self.rows_together(count)
        number = -(-self.run.ppo.epochs * count // size)
        for rows in (torch.arange(number * size) % count).split(size):
            yield nested({name: value[rows] for name, value in columns.items()})

    def score(self, batch: dict[str, Any]) -> Scored:
        """What the model makes now of the actions that were taken."""
        with self.compute.learning():
            return policy.score(self.model, batch[OBS], batch[ACTIONS], {k: batch[k] for k in TRUTH})

    def learn(self, batch: dict[str, Any], number: int) -> dict[str, float]:
        """One gradient step."""
        ppo = self.run.ppo
        scored = self.score(batch)
        index = (self.iteration + 1) * MOST_MINIBATCHES + number  # iterations count from 1 in replay, as in RLlib
        replay = self.replay.batch(index, ppo.replay_scenes, key=4) if ppo.replay_weight else {}
        with self.compute.learning():
            loss, metrics = ppo_loss(self.run, self.model, batch, scored, self.compute.put(replay))
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, ppo.grad_clip)
        self.optimizer.step()
        return as_floats(metrics | {"grad_norm": norm})
