"""Dreams about questions of several requests in one model call, each as if it had been asked alone.

Every request keeps its own seed, number of dreams and temperature: its random numbers are those of
:func:`dreamrl.generate.generate`, whoever shares the batch. A request that was given up takes no further step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dreamrl.imagine import (
    GREEDY,
    Answers,
    Imagined,
    Wording,
    answer,
    begin,
    dice_of,
    dream_step,
    edges_of,
    heat_of,
)
from dreamrl.judge import Judge
from dreamrl.losses import prompt_rows
from dreamrl.rewards import creativity
from dreamrl.saving import Loaded
from envs.reasoning_batch import Phase, ReasoningBatch
from envs.world import Question

PADDING = 180
"""Patches that are computed in vain rather than call the model once more: a call costs as much as these do."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be dreamed about and how: one request's share of a batch.

    Example:
        ``Wish(question=question, seed=0, dreams=4, temperature=3.0, wording=Wording())``
    """

    question: Question
    seed: int
    dreams: int
    temperature: float
    """Of the dreams' actions."""
    wording: Wording = GREEDY


@torch.no_grad()
def imagine_together(
    loaded: Loaded,
    wishes: Sequence[Wish],
    judge: Judge,
    on_step: Callable[[Imagined], None] = lambda imagined: None,
    given_up: Callable[[int], bool] = lambda index: False,
) -> Imagined:
    """Dream about all ``wishes`` until the longest dream has ended.

    Args:
        loaded: the model.
        wishes: Q requests; there are as many dreams for each as the largest asks for, those too many stay empty.
        judge: scores the dreams.
        on_step: called after each step with the dreams so far.
        given_up: asked before each step whether the request of that index is not wanted any more.
    """
    dreams = max(wish.dreams for wish in wishes)
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, judge, dreams)
    imagined = begin(loaded, batch, [wish.question for wish in wishes])
    wanted = np.array([wish.dreams for wish in wishes])
    batch.active[:] = np.arange(dreams) < wanted[:, None]
    # Alone, each would be the first question of its seed.
    dice = dice_of(batch, [(wish.seed, 0, wish.dreams) for wish in wishes])
    heat = heat_of(loaded, [wish.temperature for wish in wishes], dreams)
    while True:
        for index in np.flatnonzero(batch.phase == Phase.DREAM).tolist():
            if given_up(index):
                batch.active[index], batch.phase[index] = 0, Phase.OVER
        if not (batch.phase == Phase.DREAM).any():
            break
        dream_step(loaded, imagined, dice, heat, PADDING)
        on_step(imagined)
    for index, wish in enumerate(wishes):
        _rate_creativity(batch, index, wish.dreams)
    return imagined


def _rate_creativity(batch: ReasoningBatch, index: int, dreams: int) -> None:
    """Creativity among the dreams that were asked for; the batch compared them with the empty ones, too."""
    scores = batch.scores[index][:dreams]
    dreamed = [[f.tobytes() for f in batch.frames[index, n, 1 : batch.lengths[index, n] + 1]] for n in range(dreams)]
    values = creativity(dreamed, [s.mean_faithfulness() for s in scores])
    for score, value in zip(scores, values, strict=True):
        score.creativity = float(value)


def pick(imagined: Imagined, indices: Sequence[int], dreams: int) -> Imagined:
    """The questions ``indices`` with their first ``dreams`` dreams, as if they had been imagined by themselves."""
    rows = np.asarray(indices)
    batch = copy.copy(imagined.batch)
    batch.dreams = batch.present = dreams
    batch.questions = [imagined.batch.questions[i] for i in indices]
    batch.horizon = [imagined.batch.horizon[i] for i in indices]
    for name in ("frames", "actions", "beliefs", "lengths"):
        setattr(batch, name, getattr(imagined.batch, name)[rows, :dreams])
    batch.grid = imagined.batch.grid[rows]
    batch.states = [imagined.batch.states[i][:dreams] for i in indices]
    batch.scores = [imagined.batch.scores[i][:dreams] for i in indices]
    return Imagined(
        batch=batch,
        prompt=prompt_rows(imagined.prompt, torch.from_numpy(rows)),
        experts=imagined.experts[rows, :dreams],
        values=imagined.values[rows, :dreams],
    )


def answer_together(loaded: Loaded, imagined: Imagined, wishes: Sequence[Wish]) -> dict[int, tuple[Imagined, Answers]]:
    """For every question whose dreams have ended: its dreams and its answer, both by themselves.

    Greedy answers from equally many dreams are written together; sampled words depend on their own seed.
    """
    finished = np.flatnonzero(imagined.batch.phase == Phase.ANSWER).tolist()
    groups: dict[tuple, list[int]] = {}
    for index in finished:
        wording = wishes[index].wording
        alone = index if wording.temperature > 0 else -1
        groups.setdefault((wishes[index].dreams, wording.max_length, alone), []).append(index)
    out = {}
    for (dreams, _, _), indices in groups.items():
        picked = pick(imagined, indices, dreams)
        answers = answer(loaded, picked, dreams, wishes[indices[0]].wording)
        for place, index in enumerate(indices):
            out[index] = pick(picked, [place], dreams), _answer_of(answers, place)
    return out


def _answer_of(answers: Answers, place: int) -> Answers:
    """The answer of one question of several."""
    one = slice(place, place + 1)
    reading = answers.reading
    parts = {k: None if v is None else v[one] for k, v in reading._asdict().items() if k != "edges"}
    return replace(
        answers,
        texts=answers.texts[one],
        focus=answers.focus[one],
        confidence=answers.confidence[one],
        evidence=answers.evidence[one],
        pictures=answers.pictures[one],
        reading=reading._replace(edges=edges_of(reading, place), **parts),
    )
