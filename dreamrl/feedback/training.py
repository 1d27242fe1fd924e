"""PPO on the wording of answers, paid by the verifier and by what people like.

The dreams stay as they are. They are imagined and read once; then answers are sampled from them, paid and learned
from. Only the text decoder is trained, without the text table that prompts are read with and the token that
pictures are drawn from, too: what is read, dreamed and drawn does not change.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dreamrl.calibration import BOARDS, calibrate
from dreamrl.data import RandomPlay
from dreamrl.device import Compute
from dreamrl.dreaming_config import in_range, require
from dreamrl.feedback.examples import Preference, Rated
from dreamrl.feedback.questions import (
    Read,
    correctness,
    read_questions,
    training_questions,
    validation_questions,
    words_logp,
    write_answers,
)
from dreamrl.feedback.scoring import Fitted, answered, fit_scorer
from dreamrl.losses import clipped_policy_loss, reading_loss
from dreamrl.nn.feedback_scorer import FeedbackScorer
from dreamrl.saving import Loaded
from envs.questions import stream

SHARED = ("text", "nothing", "codes")
"""Parameters of the decoder that other parts of the model read, too."""
SMALLEST_SPREAD = 0.05
"""Scores that differ by less are one opinion and rounding: they are not pulled apart."""


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings:
    """How answers are learned from feedback."""

    questions: int = 256
    """Training questions; half of them are the examples' own prompts."""
    questions_per_round: int = 32
    """Questions that are answered before the decoder is changed."""
    samples: int = 8
    """Answers of one question in a round; their mean pay is the baseline."""
    updates: int = 2
    """Gradient steps on the answers of a round."""
    lr: float = 2e-4
    """Learning rate of Adam."""
    grad_clip: float = 1.0
    """Largest gradient norm."""
    score_weight: float = 0.4
    """Weight of what people like against what is true; below 0.5 no wrong answer is paid like an exact one."""
    kl_weight: float = 0.05
    """Pay lost per nat by which an answer has become more probable than it was at the start."""
    replay_weight: float = 1.0
    """Weight of the supervised reading loss of random play."""
    replay_scenes: int = 8
    """Scenes of random play per gradient step."""
    use_trust: bool = True
    """Follow the scorer only as far as it predicts held-out examples; else fully, even if it may be guessing."""
    scorer_steps: int = 100
    """Updates of the scorer."""
    boards: int = 96
    """Validation boards of the measurements before and after."""
    calibration_boards: int = BOARDS
    """Validation boards that the confidence is fitted on afterwards."""

    def __post_init__(self):
        """Reject values outside their range."""
        in_range(
            "feedback", self, questions=(1, 1e7), questions_per_round=(1, 1e5), samples=(2, 1e4), updates=(1, 1e4),
            lr=(1e-8, 1), grad_clip=(1e-3, 1e3), score_weight=(0, 100), kl_weight=(0, 100), replay_weight=(0, 100),
            replay_scenes=(1, 1e5), scorer_steps=(1, 1e6), boards=(1, 1e6), calibration_boards=(1, 1e6),
        )  # fmt: skip
        fits = self.questions % self.questions_per_round == 0
        rule = f"be a multiple of questions_per_round ({self.questions_per_round})"
        require(fits, "feedback.questions", self.questions, rule)

    @property
    def rounds(self) -> int:
        """Rounds of one epoch."""
        return self.questions // self.questions_per_round


class Liking(NamedTuple):
    """Scores as pay: standardised by the answers that the model gave at the start, bounded by ``trust``."""

    scorer: FeedbackScorer
    mean: float
    spread: float
    trust: float

    @torch.no_grad()
    def __call__(self, prompt: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (R, L) and answers (R, L') -> (R,) scores, and (R,) what they pay, between -trust and trust."""
        scores = self.scorer(prompt, tokens)
        return scores, self.trust * torch.tanh((scores - self.mean) / self.spread)


class Round(NamedTuple):
    """A sampled answers (A = questions x samples) with what PPO needs; tensors but ``read`` are (A, ...)."""

    read: Read
    tokens: Tensor
    logp: Tensor
    advantages: Tensor
    score: Tensor
    correct: Tensor
    kl: Tensor


def pay(correct: Tensor, liked: Tensor, kl: Tensor, settings: FeedbackSettings) -> Tensor:
    """(A,) what answers are paid: ``correct`` in [0, 1], ``liked`` in [-1, 1], ``kl`` in nats, all (A,).

    Gaming: an answer that pleases the scorer without being what people meant. ``liked`` is bounded, so with
    ``score_weight`` below 0.5 it never makes up for a wrong answer, and the pay for keeping to the wordings that
    the model had before holds it back.
    """
    return correct + settings.score_weight * liked - settings.kl_weight * kl


class AnswerTrainer:
    """PPO on the answers of ``loaded.model`` to the questions in ``read``, in place.

    Args:
        loaded: a trained model.
        read: training questions.
        liking: what people like.
        settings: sizes and weights.
        seed: of the sampled answers, the order of the questions and the replay.
    """

    def __init__(self, loaded: Loaded, read: Read, liking: Liking, settings: FeedbackSettings, seed: int):
        """See the class."""
        self.loaded, self.read, self.liking, self.settings, self.seed = loaded, read, liking, settings, seed
        self.decoder = loaded.model.output_decoder
        self.start = copy.deepcopy(self.decoder, {id(self.decoder.text): self.decoder.text})
        self.trained = trained_parameters(loaded)
        self.optimizer = torch.optim.Adam(self.trained, lr=settings.lr)
        self.replay = RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec)
        self.steps = 0

    def epoch(self, number: int, progress: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """One pass over the questions; means of the rounds' metrics."""
        order = torch.from_numpy(stream(self.seed, 44, number).permutation(self.settings.questions))
        seen = []
        for place, rows in enumerate(order.split(self.settings.questions_per_round)):
            sampled = self.sample(rows, number * self.settings.rounds + place)
            metrics = self.learn(sampled)
            metrics |= {name: float(getattr(sampled, part).mean()) for name, part in MEASURED.items()}
            seen.append(metrics)
            progress(metrics)
        return {name: float(np.mean([metrics[name] for metrics in seen])) for name in seen[0]}

    @torch.no_grad()
    def sample(self, rows: Tensor, number: int) -> Round:
        """Answer the questions ``rows`` (R,), each ``samples`` times; ``number`` of the round decides the dice."""
        settings, count = self.settings, self.settings.samples
        asked = self.read.rows(rows.repeat_interleave(count))
        dice = stream(self.seed, 45, number).random((len(asked.asked), self.loaded.run.model.max_answer_tokens + 1))
        tokens = write_answers(self.loaded.model, asked, dice)
        logp = words_logp(self.decoder, asked, tokens)
        kl = logp - words_logp(self.start, asked, tokens)
        score, liked = self.liking(asked.text, tokens)
        correct = torch.from_numpy(correctness(self.loaded, asked, tokens)).to(tokens.device)
        paid = pay(correct, liked, kl, settings).view(-1, count)
        return Round(asked, tokens, logp, (paid - paid.mean(1, keepdim=True)).flatten(), score, correct, kl)

    def learn(self, sampled: Round) -> dict[str, float]:
        """Gradient steps on one round's answers; metrics of the last."""
        metrics = {}
        for _ in range(self.settings.updates):
            loss, metrics = self.loss(sampled)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained, self.settings.grad_clip)
            self.optimizer.step()
            self.steps += 1
        return {name: float(value.detach()) for name, value in metrics.items()}

    def loss(self, sampled: Round) -> tuple[Tensor, dict[str, Tensor]]:
        """PPO loss of the answers and reading loss of random play."""
        model, clip = self.loaded.model, self.loaded.run.model.ppo_clip_epsilon
        logp = words_logp(self.decoder, sampled.read, sampled.tokens)
        loss, metrics = clipped_policy_loss(logp, sampled.logp, sampled.advantages, clip)
        if self.settings.replay_weight > 0:
            batch = Compute(device=model.device).put(self.replay.batch(self.steps, self.settings.replay_scenes, key=46))
            replay = reading_loss(model, batch, model.ask(batch))[0]["answer"]
            loss, metrics = loss + self.settings.replay_weight * replay, metrics | {"replay_loss": replay}
        return loss, metrics

    @torch.no_grad()
    def measure(self, read: Read) -> dict[str, float]:
        """Mean ``score`` and ``kl`` of one sampled answer to each question, share of exact greedy ones."""
        dice = stream(self.seed, 48).random((len(read.asked), self.loaded.run.model.max_answer_tokens + 1))
        tokens = write_answers(self.loaded.model, read, dice)
        score, _ = self.liking(read.text, tokens)
        kl = words_logp(self.decoder, read, tokens) - words_logp(self.start, read, tokens)
        exact = correctness(self.loaded, read, write_answers(self.loaded.model, read, None)) == 1
        return {"score": float(score.mean()), "kl": float(kl.mean()), "correctness": float(exact.mean())}


MEASURED = {"score": "score", "correctness": "correct", "kl": "kl"}


def trained_parameters(loaded: Loaded) -> list[nn.Parameter]:
    """The weights of the text decoder that no other part of the model reads."""
    named = loaded.model.output_decoder.named_parameters()
    return [parameter for name, parameter in named if name.partition(".")[0] not in SHARED]


@contextlib.contextmanager
def only(trained: Sequence[nn.Parameter], model: nn.Module) -> Iterator[None]:
    """Within, gradients flow to ``trained`` only; afterwards to whatever had them before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
        for parameter in trained:
            parameter.grad = None


def learn(
    loaded: Loaded,
    records: Sequence[Rated | Preference],
    num_epochs: int,
    seed: int,
    settings: FeedbackSettings | None = None,
    progress: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> dict[str, float]:
    """Train a scorer on ``records``, then the answers of ``loaded.model`` with it, in place.

    Args:
        loaded: a trained model.
        records: checked ratings or preferences, all of one kind.
        num_epochs: passes over the training questions.
        seed: of everything random.
        settings: by default those of :class:`FeedbackSettings`.
        progress: called after each of ``num_epochs * settings.rounds`` rounds with its metrics.

    Returns:
        ``examples``, ``held_out`` of them; ``scorer_accuracy`` and ``scorer_error`` on those (left out if there is
        nothing to compare), ``trust``. On validation boards, before as ``score_before`` and after as
        ``score_after``: ``score`` and ``kl`` of sampled answers and ``correctness``, the share of exact greedy ones.
        For each epoch ``epoch_1/score``, ``/correctness``, ``/kl``, ``/clip_fraction`` and so on, of training answers.
    """
    settings = settings or FeedbackSettings()
    records = answered(loaded, records)
    fitted = fit_scorer(loaded, records, settings.scorer_steps, seed)
    fitted.scorer.to(loaded.model.device)
    if not settings.use_trust:
        fitted = fitted._replace(trust=1.0)
    known = read_questions(loaded, training_questions(loaded, records, settings.questions, seed), seed)
    unseen = read_questions(loaded, validation_questions(loaded, settings.boards, seed), seed)
    liking = standardise(loaded, fitted, known, seed)
    metrics = {"examples": len(records), "held_out": fitted.held_out, "trust": fitted.trust}
    found = {"scorer_accuracy": fitted.accuracy, "scorer_error": fitted.error}
    metrics |= {name: value for name, value in found.items() if not math.isnan(value)}
    with only(trained_parameters(loaded), loaded.model):
        trainer = AnswerTrainer(loaded, known, liking, settings, seed)
        metrics |= {f"{name}_before": value for name, value in trainer.measure(unseen).items()}
        for number in range(num_epochs):
            found = trainer.epoch(number, progress)
            metrics |= {f"epoch_{number + 1}/{name}": value for name, value in found.items()}
        metrics |= {f"{name}_after": value for name, value in trainer.measure(unseen).items()}
    calibrate(loaded, boards=settings.calibration_boards)  # other wordings, other evidence of being right
    return metrics


def standardise(loaded: Loaded, fitted: Fitted, read: Read, seed: int) -> Liking:
    """The scorer's pay, standardised by one sampled answer to each of the questions in ``read``."""
    dice = stream(seed, 47).random((len(read.asked), loaded.run.model.max_answer_tokens + 1))
    with torch.no_grad():
        scores = fitted.scorer(read.text, write_answers(loaded.model, read, dice))
    spread = max(float(scores.std(correction=0)), SMALLEST_SPREAD)
    return Liking(fitted.scorer, float(scores.mean()), spread, fitted.trust)
