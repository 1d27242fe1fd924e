"""Held-out questions as a report shows them: dreams, graph, rewards, answer, verdict, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamrl.evaluate import Result, evaluate, held_out, side_name
from dreamrl.generate import reward_parts, to_dreams, verdict_text
from dreamrl.graph_view import graph_data
from dreamrl.imagine import Answers, Imagined, answer, edges_of
from dreamrl.judge import Judge
from dreamrl.report.run_data import MODEL, PRETRAINED, RunRecord
from dreamrl.saving import Loaded, load_pretrained
from dreamrl.types import Dream
from envs.reasoning_batch import ReasoningBatch, Scores
from envs.world import Question, QuestionKind, Verdict, World, roll, shortest_plan

ANSWERED_PER_SHOWN = 8
"""Questions that are answered for each one that is shown: failures are rare, and they come first."""
REASONS = {
    "unread": "a dream was right, but the answer was not read from it",
    "misworded": "the dream that was read is right, but the answer does not say what it shows",
    "false": "no dream was right; the one that was read shows what the simulator does not",
    "astray": "no dream was right; the one that was read is true, but leads elsewhere",
    "unsure": "no dream was right, and the model read none of them",
}
"""Why an answer is wrong -> in words."""
Places = tuple[tuple[int, int], ...]
"""(row, column) of patches."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One question with everything that the report shows of it."""

    number: int
    """Its place among the held-out questions, from 0."""
    question: str
    size: str
    """Grid of the picture, as in "3" or "3x4"."""
    part: str
    """Family and world in a mixture, as in "causal.minigrid"; else empty."""
    answer: str
    right: str | None
    """A right answer; None where the simulator cannot tell one."""
    confidence: float
    verdict: Verdict
    dreams: tuple[Dream, ...]
    differs: tuple[tuple[Places, ...], ...]
    """Of each dream, of each step: where the result's code is not that of the simulator's picture."""
    rewards: tuple[dict[str, float], ...]
    """Reward components of each dream."""
    graph: dict[str, Any]
    """See :func:`dreamrl.graph_view.graph_data`."""
    patch: int
    """Side of a patch in pixels."""
    reason: str | None
    """A key of ``REASONS``; None if the answer is exact."""

    @property
    def focus(self) -> int | None:
        """Number of the dream that the answer was read from; None for none."""
        return next((n for n, dream in enumerate(self.dreams) if dream.focus), None)

    @property
    def verdict_words(self) -> str:
        """The simulator's verdict in words."""
        return verdict_text(self.verdict) or ""

    @property
    def false_pictures(self) -> int:
        """Pictures of all dreams that the simulator does not confirm."""
        return sum(bool(places) for steps in self.differs for places in steps)


class Exam:
    """A model's answers to held-out questions, with what is needed to show any of them.

    Args:
        record: the run.
        loaded: its model.
        questions: held-out questions.
        dreams: dreams of each.
        seed: of the dreams.
        progress: called with the number of questions answered.
    """

    def __init__(
        self,
        record: RunRecord,
        loaded: Loaded,
        questions: list[Question],
        dreams: int,
        seed: int,
        progress: Callable[[int], None] = lambda done: None,
    ):
        """See the class."""
        self.loaded, self.questions, self.dreams = loaded, questions, dreams
        self._chunks: list[tuple[int, Imagined]] = []
        self.true_pictures: list[bool] = []
        counts = sorted({n for n in (1, 2, 4, 8, 16) if n < dreams} | {dreams})
        judge = Judge(_frozen(record, loaded))
        self.results: dict[int, Result] = evaluate(
            loaded, questions, counts, seed, judge, progress, lambda imagined, first: self._keep(first, imagined)
        )

    def _keep(self, first: int, imagined: Imagined) -> None:
        self._chunks.append((first, imagined))
        self.true_pictures += [all(all(s.exact) for s in scores) for scores in imagined.batch.scores]

    @property
    def result(self) -> Result:
        """The verdicts with all dreams."""
        return self.results[self.dreams]

    def show(self, numbers: Sequence[int]) -> list[Shown]:
        """The questions ``numbers``, in that order."""
        found = {}
        for first, imagined in self._chunks:
            inside = [n for n in numbers if first <= n < first + len(imagined.batch.questions)]
            if inside:
                answers = answer(self.loaded, imagined, self.dreams)
                found |= {n: self._shown(n, n - first, imagined, answers) for n in inside}
        return [found[n] for n in numbers]

    def _shown(self, number: int, index: int, imagined: Imagined, answers: Answers) -> Shown:
        batch, world = imagined.batch, self.loaded.world
        question, verdict = batch.questions[index], self.result.verdicts[number]
        scores = batch.scores[index][: self.dreams]
        edges = edges_of(answers.reading, index)
        own = (batch.actions[index], batch.beliefs[index], batch.lengths[index])
        focus = int(answers.focus[index])
        scene = question.scene
        return Shown(
            number=number,
            question=question.text,
            size=side_name(scene),
            part=f"{scene.family}.{scene.world}" if scene.world else "",
            answer=answers.texts[index],
            right=right_answer(world, question),
            confidence=float(answers.confidence[index]),
            verdict=verdict,
            dreams=tuple(to_dreams(self.loaded, imagined, index, answers, checked=True)),
            differs=tuple(differences(batch, index, n) for n in range(self.dreams)),
            rewards=tuple(reward_parts(s) for s in scores),
            graph=graph_data(edges, *own, world.actions),
            patch=world.patch_size,
            reason=None if verdict.exact else reason(scores, focus if focus < self.dreams else None),
        )


def load_run(record: RunRecord) -> Loaded:
    """The run's final model."""
    return load_pretrained(record.directory / MODEL)


def _frozen(record: RunRecord, loaded: Loaded):
    """The model as it was after pretraining, by which rewards are judged; the final one if it was not kept."""
    kept = record.directory / PRETRAINED
    return load_pretrained(kept).model if kept.is_dir() else loaded.model


def pool(loaded: Loaded, shown: int, sizes: Sequence[int], seed: int) -> list[Question]:
    """The held-out questions of which ``shown`` are shown; with seed 0 the first ones of a run's own evaluation."""
    return held_out(loaded.world, sizes, shown * ANSWERED_PER_SHOWN, seed)


def failures_first(exam: Exam, shown: int) -> list[int]:
    """Numbers of the ``shown`` questions: wrong answers first, the most confident of them first of all.

    Then exact answers with a false picture in a dream, then the others. Where more are wrong than there is room
    for, a third of the room is kept for the exact ones.
    """
    sure = [round(float(c), 6) for c in exam.result.confidence]
    exact = exam.result.exact.astype(bool).tolist()
    wrong = sorted((n for n, right in enumerate(exact) if not right), key=lambda n: (-sure[n], n))
    others = sorted((n for n, right in enumerate(exact) if right), key=lambda n: (exam.true_pictures[n], n))
    kept = min(len(others), shown // 3)
    return (wrong[: shown - kept] + others)[:shown]


def differences(batch: ReasoningBatch, index: int, dream: int) -> tuple[Places, ...]:
    """Where each result of a dream differs from what the simulator shows, by the codes that rewards compare.

    Pixels would not do: the codec redraws some worlds' patches far less sharply than others'.
    """
    scene, columns = batch.questions[index].scene, batch.questions[index].scene.grid[1]
    out = []
    for step, state in enumerate(batch.states[index][dream][1:], start=1):
        true = batch.judge.codes(scene, state)
        wrong = np.flatnonzero(batch.frames[index, dream, step, : len(true)] != true).tolist()
        out.append(tuple((place // columns, place % columns) for place in wrong))
    return tuple(out)


def reason(scores: Sequence[Scores], focus: int | None) -> str:
    """Which of ``REASONS`` a wrong answer has; a dream is right if it was paid for an exact end."""
    if focus is not None and scores[focus].correctness == 1:
        return "misworded"
    if any(s.correctness == 1 for s in scores):
        return "unread"
    if focus is None:
        return "unsure"
    return "astray" if all(scores[focus].exact) and all(scores[focus].believed) else "false"


def right_answer(world: World, question: Question) -> str | None:
    """What would have been exact; None where chance decides, or nobody knows the way."""
    scene = question.scene
    if scene.stochastic():
        return None
    if question.kind is QuestionKind.PREDICT:
        return world.tell(question, roll(scene, question.script))
    return world.plan_text(shortest_plan(scene, len(world.actions))) or None
