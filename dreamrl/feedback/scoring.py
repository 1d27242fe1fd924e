"""Learning what people like from their ratings or preferences, and how far to trust what was learned.

Some of the examples are held out. The scorer is followed only as far as it says what people said of those: ratings
that are noise, or that depend on what the scorer cannot see, change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dreamrl.feedback.examples import Preference, Rated
from dreamrl.generate import generate
from dreamrl.nn.feedback_scorer import FeedbackScorer, preference_loss, rating_loss
from dreamrl.nn.text import TextTokenizer
from dreamrl.saving import Loaded
from envs.questions import stream

HELD_OUT_SHARE = 0.2
EXAMPLES_PER_STEP = 64
LR = 2e-3
WEIGHT_DECAY = 0.01
GRAD_CLIP = 1.0
ONE_SIDED_95 = 1.645
"""Standard errors below the mean that the truth lies above in 95% of all cases."""


class Fitted(NamedTuple):
    """A trained scorer, and how well it predicts the ``held_out`` examples that it did not see.

    ``accuracy`` is the share of held-out preferences, or of pairs of held-out ratings, that the scores order as
    people did. ``error`` is their loss: -log of a preference's probability, or the squared error of a rating. Both
    are not a number if there is nothing to compare. ``trust`` in [0, 1] is :func:`trust` in the accuracy.
    """

    scorer: FeedbackScorer
    held_out: int
    accuracy: float
    error: float
    trust: float


def answered(loaded: Loaded, records: Sequence[Rated | Preference]) -> list[Rated | Preference]:
    """``records`` with the model's own present answer in every rating that names none.

    It is what ``generate`` answers: of the example's scene, or without one of the board that ``generate`` takes.
    """
    known: dict[str, str] = {}
    out = []
    for record in records:
        if isinstance(record, Rated) and record.answer is None:
            asked = f"{record.prompt}\n{record.scene}"
            if asked not in known:
                scene = None if record.scene is None else loaded.world.scene(record.scene)
                known[asked] = generate(loaded, record.prompt, scene=scene)["text"]
            record = replace(record, answer=known[asked])
        out.append(record)
    return out


def tokens_of(
    records: Sequence[Rated | Preference], text: TextTokenizer, prompt: int, answer: int
) -> dict[str, Tensor]:
    """Records of one kind as token ids: ``prompt`` (n, L); ``chosen`` and ``rejected``, or ``answer`` (n, L').

    Ratings also have ``reward`` (n,).
    """

    def words(value: str | None) -> np.ndarray:
        # People's answers fit, that was checked. The model's own may be cut off: those are read as far as they go.
        value = value or ""
        return text.encode(value, max(answer, len(value.encode()) + 1), end=True)[:answer]

    arrays = {"prompt": [text.encode(record.prompt, prompt) for record in records]}
    preferences = [record for record in records if isinstance(record, Preference)]
    if preferences:
        arrays["chosen"] = [words(record.chosen) for record in preferences]
        arrays["rejected"] = [words(record.rejected) for record in preferences]
    else:
        rated = [record for record in records if isinstance(record, Rated)]
        arrays["answer"] = [words(record.answer) for record in rated]
        arrays["reward"] = [np.asarray(record.reward, np.float32) for record in rated]
    return {name: torch.from_numpy(np.stack(values)) for name, values in arrays.items()}


def fit_scorer(loaded: Loaded, records: Sequence[Rated | Preference], steps: int, seed: int) -> Fitted:
    """Train a scorer on ``records`` of one kind, none of them without an answer; the same seed gives the same scorer.

    Args:
        loaded: has the tokenizer and the longest texts.
        records: what people said.
        steps: updates.
        seed: of the weights, of what is held out and of the order.
    """
    config = loaded.run.model
    data = tokens_of(records, loaded.text, config.max_prompt_tokens, config.max_answer_tokens)
    hidden = held_out_rows(records, seed)
    seen = np.flatnonzero(~hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = FeedbackScorer(loaded.text.vocab_size, config.max_prompt_tokens, config.max_answer_tokens)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        rows = stream(seed, 41, step).choice(seen, min(EXAMPLES_PER_STEP, len(seen)), replace=False)
        loss = scorer_loss(scorer, {name: value[rows] for name, value in data.items()})
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(scorer.parameters(), GRAD_CLIP)
        optimizer.step()
    scorer.eval().requires_grad_(False)
    count, accuracy, error = int(hidden.sum()), math.nan, math.nan
    if count:
        new = {name: value[torch.from_numpy(hidden)] for name, value in data.items()}
        accuracy, error = accuracy_of(scorer, new), float(scorer_loss(scorer, new))
    return Fitted(scorer, count, accuracy, error, trust(accuracy, count))


def scorer_loss(scorer: FeedbackScorer, data: dict[str, Tensor]) -> Tensor:
    """Bradley-Terry loss of preferences or squared error of ratings, as made by :func:`tokens_of`."""
    if "reward" in data:
        return rating_loss(scorer(data["prompt"], data["answer"]), data["reward"])
    return preference_loss(scorer(data["prompt"], data["chosen"]), scorer(data["prompt"], data["rejected"]))


@torch.no_grad()
def accuracy_of(scorer: FeedbackScorer, data: dict[str, Tensor]) -> float:
    """Share of comparisons that the scores decide as people did, ties half; not a number if there is none.

    A preference is a comparison; so are any two ratings that differ.
    """
    if "reward" in data:
        scores, rewards = scorer(data["prompt"], data["answer"]), data["reward"]
        better, worse = (rewards.unsqueeze(1) > rewards).nonzero(as_tuple=True)
        gap = scores[better] - scores[worse]
    else:
        gap = scorer(data["prompt"], data["chosen"]) - scorer(data["prompt"], data["rejected"])
    return float((gap.sign() + 1).mean() / 2) if len(gap) else math.nan


def held_out_rows(records: Sequence[Rated | Preference], seed: int) -> np.ndarray:
    """(n,) True for the records that are held out; those about the same words all are or all are not."""
    words = [
        (r.prompt, *(sorted((r.chosen, r.rejected)) if isinstance(r, Preference) else (str(r.answer),)))
        for r in records
    ]
    distinct = sorted(set(words))
    order = stream(seed, 40).permutation(len(distinct))
    hidden = {distinct[i] for i in order[: round(HELD_OUT_SHARE * len(distinct))]}
    return np.array([key in hidden for key in words])


def trust(accuracy: float, count: int) -> float:
    """How far to follow a scorer that decided ``accuracy`` of ``count`` held-out cases rightly, from 0 to 1.

    0 where it may be guessing, 1 where it is surely always right: 2 p - 1 for the lower end p of Wilson's one-sided
    95% interval (Wilson 1927).
    """
    if count == 0 or math.isnan(accuracy):
        return 0.0
    spread = ONE_SIDED_95**2 / count
    middle = accuracy + spread / 2
    half = math.sqrt(accuracy * (1 - accuracy) * spread + spread**2 / 4)
    return max(0.0, 2 * (middle - half) / (1 + spread) - 1)
