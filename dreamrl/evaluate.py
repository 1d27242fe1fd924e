"""Held-out evaluation: the plan that the answer states, checked strictly by the simulator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.device import for_answers
from dreamrl.imagine import Answers, Imagined, answer, imagine
from dreamrl.judge import Judge
from dreamrl.process import settle
from dreamrl.saving import Loaded, load_pretrained, named_world
from dreamrl.statistics import bootstrap_interval, expected_calibration_error
from dreamrl.terminal import StageProgress
from envs.questions import stream
from envs.world import Question, QuestionKind, Scene, Split, Verdict, World, random_play

CHUNK = 64
"""Questions that are dreamed about together; bounds the memory."""


@dataclass(kw_only=True)
class Result:
    """Verdicts on Q questions, and how true the dreams behind them were."""

    questions: list[Question]
    verdicts: list[Verdict]
    exact_frame: float
    """Share of dreamed frames that equal the simulator's, code by code."""
    seconds: float
    confidence: np.ndarray
    """(Q,) probability that the model gave to its answer."""
    exact_picture: float
    """Share of answers drawn as a picture that show what the simulator shows after the dream's own actions."""

    @property
    def exact(self) -> np.ndarray:
        """(Q,) 1.0 where the answer is exact."""
        return np.array([float(v.exact) for v in self.verdicts])


def held_out(
    world: World, sizes: Sequence[int], num: int, seed: int, split: Split = Split.TEST, length: int = 8
) -> list[Question]:
    """``num`` questions on distinct scenes of ``split``, sizes in turn.

    Small sizes have few scenes: once they are used up, scenes repeat. ``length`` bounds the moves that are asked about.
    """
    questions, seen = [], set()
    for index in range(num):
        rng = stream(seed, 8, index)
        for _ in range(MAX_TRIES):
            scene = world.sample_scene(rng, split, sizes[index % len(sizes)])
            if scene.key not in seen:
                break
        seen.add(scene.key)
        questions.append(_exam_question(world, scene, length, rng))
    return questions


MAX_TRIES = 100


def evaluate(
    loaded: Loaded,
    questions: list[Question],
    dreams: Sequence[int],
    seed: int,
    judge: Judge | None = None,
    progress: Callable[[int], None] = lambda done: None,
    keep: Callable[[Imagined, int], None] = lambda imagined, first: None,
) -> dict[int, Result]:
    """Answer all ``questions`` with each number of ``dreams``; the smaller numbers use the first of the dreams.

    ``keep`` is called with every chunk of finished dreams and the number of its first question.
    """
    judge = judge or Judge(loaded.model)
    counts = sorted(set(dreams))
    verdicts: dict[int, list[Verdict]] = {n: [] for n in counts}
    exact: dict[int, list[bool]] = {n: [] for n in counts}
    sure: dict[int, list[np.ndarray]] = {n: [] for n in counts}
    drawn: dict[int, list[bool]] = {n: [] for n in counts}
    started = time.perf_counter()
    for first in range(0, len(questions), CHUNK):
        chunk = questions[first : first + CHUNK]
        imagined = imagine(loaded, chunk, counts[-1], seed, loaded.run.eval.temperature, judge, first)
        keep(imagined, first)
        for count in counts:
            answers = answer(loaded, imagined, count)
            verdicts[count] += [loaded.world.verify(q, t) for q, t in zip(chunk, answers.texts, strict=True)]
            sure[count].append(answers.confidence)
            drawn[count] += right_pictures(imagined, answers, judge, count)
            exact[count] += [e for scores in imagined.batch.scores for s in scores[:count] for e in s.exact]
        progress(first + len(chunk))
    seconds = time.perf_counter() - started
    return {
        n: Result(
            questions=questions,
            verdicts=verdicts[n],
            exact_frame=float(np.mean(exact[n])),
            seconds=seconds,
            confidence=np.concatenate(sure[n]),
            exact_picture=float(np.mean(drawn[n])),
        )
        for n in counts
    }


def right_pictures(imagined: Imagined, answers: Answers, judge: Judge, dreams: int) -> list[bool]:
    """Whether each answer, drawn, is the simulator's picture after the actions of the dream in focus.

    Without a dream in focus it is the picture that was asked about.
    """
    out = []
    for q, question in enumerate(imagined.batch.questions):
        focus = int(answers.focus[q])
        state = question.scene.start if focus == dreams else imagined.batch.rollout(q, focus).states[-1]
        truth = judge.codes(question.scene, state)
        out.append(bool((answers.pictures[q, : len(truth)] == truth).all()))
    return out


def random_play_exact(world: World, questions: list[Question], length: int, seed: int) -> np.ndarray:
    """(Q,) exactness of answers read off one rollout of uniform random play."""
    out = []
    for index, question in enumerate(questions):
        steps = len(question.script) or length
        rollout = random_play(question.scene, len(world.actions), steps, stream(seed, 9, index))
        plan = question.kind is QuestionKind.PLAN
        text = world.plan_text(rollout.actions) if plan else world.tell(question, rollout)
        out.append(float(world.verify(question, text).exact))
    return np.array(out)


def exam(
    world: World, items: list[dict] | None, num: int, seed: int, sizes: tuple[int, ...] | None, length: int
) -> list[Question]:
    """Questions about the scenes that ``items`` describe, or ``num`` on held-out ones of ``sizes``."""
    if items is None:
        world.check_sizes(sizes or world.sizes)
        return held_out(world, sizes or world.sizes, num, seed, length=length)
    rng = stream(seed, 8)
    return [_exam_question(world, world.scene(item), length, rng) for item in items]


def _exam_question(world: World, scene: Scene, length: int, rng: np.random.Generator) -> Question:
    share = world.about(scene).exam_predict_share
    return world.draw(scene, share > 0 and rng.random() < share, length, rng)


def evaluate_command(
    model_dir: Path,
    world: str,
    items: list[dict] | None,
    num: int,
    seed: int,
    sizes: tuple[int, ...] | None,
    dreams: int,
) -> dict[str, Any]:
    """What ``dreamrl eval`` prints."""
    settle()
    loaded = load_pretrained(model_dir)
    loaded.model.to(for_answers(loaded.run))
    questions = exam(named_world(loaded, world), items, num, seed, sizes, loaded.run.model.dream_length)
    with StageProgress("eval", len(questions)) as bar:
        result = evaluate(loaded, questions, [dreams], seed, progress=lambda done: bar.advance(done - bar.done))[dreams]
    return summarise(result, dreams, loaded.run.eval.bootstrap)


def means(result: Result) -> dict[str, float]:
    """What is measured of every answer, as means over the questions."""
    return {
        "exact_match": float(result.exact.mean()),
        "progress_rate": float(np.mean([v.progress for v in result.verdicts])),
        "valid": float(np.mean([v.valid for v in result.verdicts])),
        "exact_frame": result.exact_frame,
    }


def summarise(result: Result, dreams: int, resamples: int) -> dict[str, Any]:
    """The numbers of one evaluation as plain JSON values."""
    found = means(result)
    sides = np.array([side_name(q.scene) for q in result.questions])
    low, high = bootstrap_interval(result.exact, resamples, seed=0)
    return {
        "items": len(result.verdicts),
        "dreams": dreams,
        "exact_match": found["exact_match"],
        "exact_match_ci": [low, high],
        **found,
        "exact_picture": result.exact_picture,
        "confidence": float(result.confidence.mean()),
        "ece": expected_calibration_error(result.confidence, result.exact),
        **by_group(result),
        "by_size": {str(side): float(result.exact[sides == side].mean()) for side in sorted(set(sides.tolist()))},
        "seconds": round(result.seconds, 3),
        "items_per_second": round(len(result.verdicts) / max(result.seconds, 1e-9), 2),
    }


def by_group(result: Result) -> dict[str, dict[str, float]]:
    """``by_family``, ``by_world`` and ``by_topic``: exact match of each part, where there are several."""
    names = {
        "by_family": [q.scene.family for q in result.questions],
        "by_world": [q.scene.world for q in result.questions],
        "by_topic": [q.topic for q in result.questions],
    }
    return {
        key: {name: float(result.exact[[n == name for n in own]].mean()) for name in sorted(set(own))}
        for key, own in names.items()
        if len(set(own)) > 1
    }


def side_name(scene: Scene) -> str:
    """A square board by its side, as in "3"; others as in "3x4"."""
    rows, columns = scene.grid
    return str(rows) if rows == columns else f"{rows}x{columns}"
