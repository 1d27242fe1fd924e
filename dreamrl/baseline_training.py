"""How the baseline without dreams is trained: the same random play, then PPO on its answers.

Batches, schedules, rewards and the number of questions are those of the model that dreams. Each question is
answered N times, as that model dreams N dreams; what an answer earns is compared with the value of its question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.baseline import ImageTokenReasoningLLM
from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.data import RandomPlay
from dreamrl.device import Compute
from dreamrl.flops import baseline_flops, dream_flops, trained_parameters
from dreamrl.losses import clipped_policy_loss
from dreamrl.model import Assets
from dreamrl.nn.text import PAD
from dreamrl.ppo import MOST_MINIBATCHES
from dreamrl.ppo_loss import learning_rate as ppo_learning_rate
from dreamrl.pretrain import CHECKPOINTS, LOG_EVERY, STAGE, learning_rate, train_codec
from dreamrl.rewards import answer_correctness
from dreamrl.saving import Loaded, new_model, set_training, training_tensors
from envs.questions import stream
from envs.reasoning_batch import training_question

SIZES = ("parameters", "flops")
"""What a baseline may have in common with the model that dreams."""


def sized(assets: Assets, equal: str) -> ImageTokenReasoningLLM:
    """An untrained baseline of the size of the dreaming model of ``assets``.

    "parameters": as many trained parameters, as nearly as whole blocks allow, each used once (two loops learned more
    slowly). "flops": these parameters, and the trunk applied as often as makes an answer cost what an answer from
    all the dreams costs.
    """
    assert equal in SIZES, equal
    dreaming = Loaded(run=assets.run, world=assets.world, text=assets.text, model=new_model(assets.run).model)
    smallest = ImageTokenReasoningLLM(assets, 1, 1)
    block = sum(p.numel() for p in smallest.trunk.parameters())
    missing = trained_parameters(dreaming.model) - trained_parameters(smallest)
    model = ImageTokenReasoningLLM(assets, max(1, 1 + round(missing / block)), 1)
    if equal == "flops":
        once = baseline_flops(model)
        model.loops = 2
        more = baseline_flops(model) - once
        model.loops = max(1, 1 + round((dream_flops(dreaming) - once) / more))
    return model


def as_loaded(model: ImageTokenReasoningLLM) -> Loaded:
    """The record that training of the image codec takes; it uses nothing that only one kind of model has."""
    run, world, text, _ = model.assets
    return Loaded(run=run, world=world, text=text, model=cast(Any, model))


def pretrain_baseline(model: ImageTokenReasoningLLM, out: Path, tick: Callable[[], object] = lambda: None) -> None:
    """Supervised training as in :func:`dreamrl.pretrain.pretrain_loop`, from the newest checkpoint under ``out``.

    ``model`` is trained in place and saved as ``out/pretrained``; ``tick`` is called every ``LOG_EVERY`` updates.
    """
    run, settings = model.assets.run, model.assets.run.pretrain
    data = RandomPlay(run, model.assets.world, model.assets.text, model.codec)
    found = newest_checkpoint(out / CHECKPOINTS, STAGE)
    if found is None:
        train_codec(as_loaded(model), data)
    else:
        model.codec.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    start = 0
    if found is not None:
        start = int(found[2]["step"])
        set_training(cast(Any, model), optimizer, found[1])
    compute = Compute(device=model.device)
    for step in range(start, settings.steps):
        loss, _ = model.compute_loss(compute.put(data.batch(step, settings.scenes_per_step)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, step)
        optimizer.step()
        done = step + 1
        if done % LOG_EVERY == 0:
            tick()
        if done % settings.checkpoint_every == 0:
            tensors = training_tensors(cast(Any, model), optimizer)
            save_checkpoint(out / CHECKPOINTS, f"{STAGE}-{done:08d}", tensors, {"step": done})
    model.codec.trained = True
    model.save_pretrained(out / "pretrained")


class AnswerPPO:
    """PPO on answers: ``iterate`` is one iteration, as of :class:`dreamrl.ppo.PPOTrainer`.

    Args:
        model: pretrained; trained in place, its codec frozen.
        iteration: number of the first iteration.
    """

    def __init__(self, model: ImageTokenReasoningLLM, iteration: int = 0):
        """See the class."""
        self.model, self.run, self.iteration = model, model.assets.run, iteration
        self.compute = Compute(device=model.device)
        self.answers = self.run.model.num_dream_sequences
        model.codec.requires_grad_(False)
        self.replay = RandomPlay(self.run, model.assets.world, model.assets.text, model.codec)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=self.run.ppo.lr)

    def iterate(self) -> dict[str, float]:
        """Sample, learn; returns metrics by name."""
        asked, columns, parts = self.sample()
        for group in self.optimizer.param_groups:
            group["lr"] = ppo_learning_rate(self.run, self.iteration)
        seen: dict[str, list[float]] = {}
        for number, rows in enumerate(self.minibatches(len(columns["logp"]))):
            rows_of = [{name: value[rows] for name, value in part.items()} for part in (asked, columns)]
            for name, value in self.learn(rows_of[0], rows_of[1], number).items():
                seen.setdefault(name, []).append(value)
        self.iteration += 1
        return parts | {name: float(np.mean(values)) for name, values in seen.items()}

    @torch.no_grad()
    def sample(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
        """Answer the iteration's questions.

        Returns:
            what was asked (Q, ...); ``tokens`` (Q, N, L), ``logp``, ``advantages`` and ``reward`` (Q, N); and how
            often the answers were right.
        """
        model, count = self.model, self.run.ppo.questions_per_iteration
        numbers = range(self.iteration * count, (self.iteration + 1) * count)
        questions = [training_question(self.run, model.assets.world, i) for i in numbers]
        asked = model.ask(questions)
        view = model.look(asked)
        shape = (self.answers, model.config.max_answer_tokens)
        dice = np.concatenate([stream(self.run.seed, 32, i).random(shape) for i in numbers])
        written = model.write(view.repeat(self.answers), self.compute.put(torch.from_numpy(dice).float()))
        texts = [model.assets.text.decode(row) for row in written.tokens.tolist()]
        repeated = [q for q in questions for _ in range(self.answers)]
        verdicts = [model.assets.world.verify(q, text) for q, text in zip(repeated, texts, strict=True)]
        weight = self.run.reward_weight("correctness")
        pay = [weight * answer_correctness(v.exact, v.success) for v in verdicts]
        reward = torch.tensor(pay, device=model.device).view(count, -1)
        advantages = reward - view.value.unsqueeze(1)
        columns = {
            "tokens": written.tokens.view(count, *shape),
            "logp": written.logp.view(count, *shape),
            "advantages": (advantages - advantages.mean()) / (advantages.std() + 1e-6),
            "reward": reward,
        }
        right = {name: float(np.mean([getattr(v, name) for v in verdicts])) for name in ("exact", "success")}
        return asked, columns, {"exact_match": right["exact"], "success": right["success"]}

    def minibatches(self, questions: int) -> Iterator[Tensor]:
        """``ppo.epochs`` passes over the questions: rows of ``ppo.minibatch_size`` answers each."""
        ppo = self.run.ppo
        order = torch.from_numpy(stream(self.run.seed, 5, self.iteration, questions).permutation(questions))
        size = min(questions, max(1, ppo.minibatch_size // self.answers))
        for _ in range(ppo.epochs):
            for start in range(0, questions - size + 1, size):
                yield order[start : start + size]

    def learn(self, asked: dict[str, Tensor], columns: dict[str, Tensor], number: int) -> dict[str, float]:
        """One gradient step."""
        ppo = self.run.ppo
        loss, metrics = self.policy_loss(asked, columns)
        if ppo.replay_weight > 0:
            index = (self.iteration + 1) * MOST_MINIBATCHES + number  # as in the trainer of dreams
            replay = self.compute.put(self.replay.batch(index, ppo.replay_scenes, key=4))
            replayed, _ = self.model.compute_loss(replay)
            loss = loss + ppo.replay_weight * ppo.answer_weight * replayed
            metrics["replay_loss"] = replayed
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, ppo.grad_clip)
        self.optimizer.step()
        return {k: float(v.detach()) for k, v in metrics.items()} | {"grad_norm": float(norm)}

    def policy_loss(self, asked: dict[str, Tensor], columns: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO, value and entropy of the answers; and metrics."""
        view = self.model.look(asked)
        tokens = columns["tokens"].flatten(0, 1)
        real = tokens != PAD
        written = self.model.score(view.repeat(self.answers), tokens)
        advantages = columns["advantages"].flatten().unsqueeze(1).expand_as(written.logp)
        loss, metrics = clipped_policy_loss(
            written.logp[real],
            columns["logp"].flatten(0, 1)[real],
            advantages[real],
            self.run.model.ppo_clip_epsilon,
        )
        value_loss = F.mse_loss(view.value.unsqueeze(1).expand_as(columns["reward"]), columns["reward"])
        entropy = written.entropy[real].mean()
        metrics |= {"policy_loss": loss, "value_loss": value_loss, "entropy": entropy}
        return loss + self.run.ppo.value_weight * value_loss - self.run.ppo.entropy_weight * entropy, metrics
