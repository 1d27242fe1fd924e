"""The causal test of dreams: edit the dream that an answer was read from, answer again, compare.

The question is whether answers come from the dreams. A model that answers from the first picture, or from habit,
keeps its answer when the dream is edited; one that reads its dreams changes it as the edited dream predicts. Only
the dreams are touched: prompt and weights stay. :mod:`dreamrl.edits` has the edits and predictions,
:mod:`dreamrl.trials` counts what came out.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamrl.edits import INTERVENTIONS, Case, attempt, right_answers, supports
from dreamrl.evaluate import CHUNK, exam
from dreamrl.imagine import Imagined, answer, imagine
from dreamrl.judge import Judge
from dreamrl.model import DreamingReasoningLLM
from dreamrl.process import settle
from dreamrl.saving import Loaded, load_pretrained, named_world, set_weights, weights
from dreamrl.terminal import StageProgress
from dreamrl.told_dreams import ToldDream
from dreamrl.trials import Tally, Trial, summarise
from envs.questions import draw_question, stream
from envs.reasoning_batch import ReasoningBatch, Scores
from envs.world import Question, QuestionKind, World

READER = ("graph_reasoner.", "output_decoder.")
"""Weights that read dreams and write answers, and do nothing else."""
STRIPS = 3
"""Filmstrips, before and after, of each intervention."""


class Read(NamedTuple):
    """Answers to Q questions, and the dream (Q,) that each was read from; N for none."""

    texts: list[str]
    focus: np.ndarray


Reader = Callable[[Imagined], Read]
"""Reads the dreams of all its questions."""


class Pair(NamedTuple):
    """One edited question for people to look at: its dreams before and after."""

    name: str
    index: int
    right: frozenset[str]
    before: tuple[Imagined, Read]
    after: tuple[Imagined, Read]


def model_reader(loaded: Loaded) -> Reader:
    """The model itself, greedy."""

    def read(imagined: Imagined) -> Read:
        answers = answer(loaded, imagined, imagined.batch.dreams)
        return Read(answers.texts, answers.focus)

    return read


def untrained_reader(loaded: Loaded) -> Loaded:
    """``loaded`` with fresh weights in the parts that read dreams and write answers."""
    assets = loaded.model.assets
    fresh = DreamingReasoningLLM(assets=assets._replace(run=replace(assets.run, seed=assets.run.seed + 1)))
    own = {name: weight for name, weight in weights(fresh).items() if name.startswith(READER)}
    set_weights(fresh, weights(loaded.model) | own, "the trained model")
    fresh.codec.trained = True
    return replace(loaded, model=fresh.to(loaded.model.device))


def told_dreams(batch: ReasoningBatch, index: int) -> list[ToldDream]:
    """The dreams of question ``index``; ``shown`` are the simulator's states, whatever the pictures show."""
    question = batch.questions[index]
    size = question.scene.grid[0] * question.scene.grid[1]
    dreams = []
    for n, steps in enumerate(batch.lengths[index].tolist()):
        dreams.append(
            ToldDream(
                question=question,
                frames=batch.frames[index, n, : steps + 1, :size].astype(np.int64),
                shown=tuple(batch.states[index][n][: steps + 1]),
                actions=tuple(batch.actions[index, n, :steps].tolist()),
                beliefs=tuple(batch.beliefs[index, n, :steps].tolist()),
            )
        )
    return dreams


def make_cases(imagined: Imagined, read: Read, world: World) -> list[Case]:
    """What there is to edit in every question of a chunk."""
    batch = imagined.batch
    cases = [
        Case(
            world=world,
            question=question,
            codes=batch.judge.codes,
            horizon=batch.horizon[index],
            dreams=told_dreams(batch, index),
            confirmed=[all(scores.exact) and all(scores.believed) for scores in batch.scores[index]],
            focus=int(read.focus[index]),
            answer=read.texts[index],
            foreign=[],
        )
        for index, question in enumerate(batch.questions)
    ]
    plans = [
        (index, case.told)
        for index, case in enumerate(cases)
        if case.question.kind is QuestionKind.PLAN
        and case.focus < batch.dreams
        and case.confirmed[case.focus]
        and supports(world, case.question, case.told)
    ]
    grids = [case.question.scene.grid for case in cases]
    return [
        replace(case, foreign=[told for i, told in plans if i != index and grids[i] == grids[index]])
        for index, case in enumerate(cases)
    ]


def rewrite(imagined: Imagined, dreams: dict[int, list[ToldDream]]) -> Imagined:
    """A copy in which the questions that are keys of ``dreams`` have these dreams, checked by the simulator."""
    batch = copy.copy(imagined.batch)
    for name in ("frames", "actions", "beliefs", "lengths"):
        setattr(batch, name, getattr(batch, name).copy())
    batch.states, batch.scores = list(batch.states), list(batch.scores)
    for index, told in dreams.items():
        scene = batch.questions[index].scene
        batch.frames[index] = batch.config.model.num_codes
        batch.actions[index] = batch.beliefs[index] = 0
        batch.states[index], batch.scores[index] = [], []
        for n, dream in enumerate(told):
            steps, size = dream.steps, dream.frames.shape[1]
            # A dream of another question brings its own first picture.
            batch.frames[index, n, : steps + 1, :size] = dream.frames
            batch.actions[index, n, :steps], batch.beliefs[index, n, :steps] = dream.actions, dream.beliefs
            batch.lengths[index, n] = steps
            states = [scene.start]
            for action in dream.actions:
                states.append(scene.step(states[-1], action)[0])
            exact = [bool((batch.judge.codes(scene, s) == f).all()) for s, f in zip(states, dream.frames, strict=True)]
            batch.states[index].append(states)
            batch.scores[index].append(Scores(exact=exact[1:]))
    return replace(imagined, batch=batch)


def intervene(
    imagined: Imagined,
    world: World,
    read: Reader,
    untrained: Reader,
    seed: int,
    first: int,
    tallies: dict[str, Tally],
    show: Callable[[Pair], None] = lambda pair: None,
) -> None:
    """Make every intervention on one chunk of questions and add the trials to ``tallies``.

    Args:
        imagined: finished dreams.
        world: of the questions.
        read: the reader under test.
        untrained: the reader to compare with.
        seed: of the edits.
        first: number of the first question, for the random streams.
        tallies: by name of the intervention.
        show: called with every edited question.
    """
    before = read(imagined)
    cases = make_cases(imagined, before, world)
    for number, (name, intervention) in enumerate(INTERVENTIONS.items()):
        edits = {}
        for index, case in enumerate(cases):
            if intervention.kind in (None, case.question.kind):
                edit = attempt(intervention, case, stream(seed, 13, number, first + index))
                if isinstance(edit, str):
                    tallies[name].left_out[edit] += 1
                else:
                    edits[index] = edit
        if not edits:
            continue
        edited = rewrite(imagined, {index: edit.dreams for index, edit in edits.items()})
        after, fresh = read(edited), untrained(edited)
        for index, edit in edits.items():
            case = cases[index]
            trial = Trial(
                before=case.answer,
                after=after.texts[index],
                right=edit.right,
                untrained=fresh.texts[index],
                agreed=case.answer in right_answers(world, case.question, case.dreams),
                kept=int(after.focus[index]) in edit.home,
                none=not intervention.control and edit.right == right_answers(world, case.question, []),
            )
            tallies[name].trials.append(trial)
            show(Pair(name, index, edit.right, (imagined, before), (edited, after)))


def save_pair(loaded: Loaded, pair: Pair, number: int, directory: Path) -> list[str]:
    """Write the dreams before and after as filmstrips; returns the paths."""
    from dreamrl.filmstrip import filmstrip, save_png
    from dreamrl.generate import to_dreams

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for when, (imagined, read) in (("before", pair.before), ("after", pair.after)):
        dreams = to_dreams(loaded, imagined, pair.index, None, checked=True)
        dreams = [replace(dream, focus=n == int(read.focus[pair.index])) for n, dream in enumerate(dreams)]
        said = read.texts[pair.index]
        verdict = None
        if when == "after":
            wanted = " or ".join(f'"{text}"' for text in sorted(pair.right))
            verdict = f"the edit predicts {wanted}: {'confirmed' if said in pair.right else 'not confirmed'}"
        question = imagined.batch.questions[pair.index].text
        strip = filmstrip(dreams, question, said, verdict, patch_size=loaded.world.patch_size)
        path = directory / f"{pair.name}-{number}-{when}.png"
        save_png(strip, path)
        paths.append(str(path))
    return paths


def questions_on(world: World, plans: Sequence[Question], length: int, seed: int) -> list[Question]:
    """``plans``, and for each a PREDICT question about random moves on the same scene."""
    scripts = [draw_question(world, q.scene, True, length, stream(seed, 14, i)) for i, q in enumerate(plans)]
    return [*plans, *scripts]


def intervene_command(
    model_dir: Path,
    world: str,
    items: list[dict] | None,
    num: int,
    seed: int,
    sizes: tuple[int, ...] | None,
    dreams: int,
    save: Path | None,
) -> dict[str, Any]:
    """What ``dreamrl eval --intervene`` prints."""
    settle()
    loaded = load_pretrained(model_dir)
    scenes_of = named_world(loaded, world)
    plans = exam(scenes_of, items, num, seed, sizes, loaded.run.model.dream_length)
    questions = questions_on(scenes_of, plans, loaded.run.model.dream_length, seed)
    saved: list[str] = []
    shown: Counter[str] = Counter()

    def show(pair: Pair) -> None:
        if save is not None and shown[pair.name] < STRIPS:
            shown[pair.name] += 1
            saved.extend(save_pair(loaded, pair, shown[pair.name], save))

    started = time.perf_counter()
    with StageProgress("intervene", len(questions)) as bar:
        tallies = measure(loaded, questions, dreams, seed, show, bar.advance)
    result: dict[str, Any] = {
        "items": len(plans),
        "questions": len(questions),
        "dreams": dreams,
        "interventions": {name: summarise(tally, loaded.run.eval.bootstrap) for name, tally in tallies.items()},
        "seconds": round(time.perf_counter() - started, 3),
    }
    return result if save is None else result | {"saved": saved}


def measure(
    loaded: Loaded,
    questions: Sequence[Question],
    dreams: int,
    seed: int,
    show: Callable[[Pair], None] = lambda pair: None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Tally]:
    """Dream about ``questions``, answer them and make every intervention; ``progress`` counts the questions done."""
    read, untrained, judge = model_reader(loaded), model_reader(untrained_reader(loaded)), Judge(loaded.model)
    tallies = {name: Tally() for name in INTERVENTIONS}
    for first in range(0, len(questions), CHUNK):
        chunk = questions[first : first + CHUNK]
        imagined = imagine(loaded, chunk, dreams, seed, loaded.run.eval.temperature, judge, first)
        intervene(imagined, loaded.world, read, untrained, seed, first, tallies, show)
        progress(len(chunk))
    return tallies
