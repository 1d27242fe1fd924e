"""What clients get to see: dreams, graph, answer and verdict as values that JSON can hold, pictures as data URLs."""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamrl import generate as answering
from dreamrl.imagine import Answers, Imagined
from dreamrl.pictures import data_url
from dreamrl.saving import Loaded
from envs.scene import Outcome, PictureScene, Scene, Verdict
from envs.world import World


def is_checked(imagined: Imagined) -> bool:
    """Whether there is a simulator behind the first question."""
    return not isinstance(imagined.batch.questions[0].scene, PictureScene)


def step_words(loaded: Loaded, imagined: Imagined, index: int, dream: int, step: int) -> dict[str, Any]:
    """One dreamed step: ``dream`` and ``step`` count from 0; ``faithful`` and ``believed`` are the simulator's."""
    batch = imagined.batch
    checked = not isinstance(batch.questions[index].scene, PictureScene)
    scores = batch.scores[index][dream]
    return {
        "dream": dream,
        "step": step,
        "action": loaded.world.actions[batch.actions[index, dream, step]],
        "belief": Outcome(int(batch.beliefs[index, dream, step])).name.lower(),
        "faithful": scores.exact[step] if checked else None,
        "coherence": round(scores.coherent[step], 4) if step < len(scores.coherent) else None,
        "experts": [round(float(w), 3) for w in imagined.experts[index, dream, step]],
    }


def step_pictures(loaded: Loaded, imagined: Imagined, index: int, dream: int, step: int) -> dict[str, np.ndarray]:
    """The dreamed picture after a step and, where there is a simulator, the true one."""
    batch = imagined.batch
    scene = batch.questions[index].scene
    size = scene.grid[0] * scene.grid[1]
    codes = batch.frames[index, dream, step + 1, :size].astype(np.int64)
    pictures = {"picture": loaded.model.codec.decode(codes, scene.grid)}
    if not isinstance(scene, PictureScene):
        pictures["true_picture"] = scene.frame(batch.states[index][dream][step + 1])
    return pictures


def first_picture(loaded: Loaded, imagined: Imagined, index: int) -> np.ndarray:
    """What the dreams of a question start from, as the codec shows it."""
    scene = imagined.batch.questions[index].scene
    size = scene.grid[0] * scene.grid[1]
    return loaded.model.codec.decode(imagined.batch.frames[index, 0, 0, :size].astype(np.int64), scene.grid)


def verdict_values(verdict: Verdict | None) -> dict[str, Any] | None:
    """A verdict with its wording."""
    if verdict is None:
        return None
    values = {name: getattr(verdict, name) for name in ("exact", "success", "valid", "progress")}
    return values | {"words": answering.verdict_text(verdict)}


def result_of(
    loaded: Loaded,
    imagined: Imagined,
    answers: Answers,
    warnings: list[str],
    output: str = "text",
    pictures: bool = False,
    rewarded: bool = True,
) -> dict[str, Any]:
    """The answer to one question, with everything that led to it.

    Args:
        loaded: the model.
        imagined: the finished dreams of this question alone.
        answers: its answer alone.
        warnings: why it is not to be trusted, if so.
        output: "text", or "image" or "both" for the answer as a picture, too.
        pictures: whether dreams come with their pictures.
        rewarded: whether the dreams earned rewards; edited dreams did not.
    """
    batch, question = imagined.batch, imagined.batch.questions[0]
    text, focus, checked = answers.texts[0], int(answers.focus[0]), is_checked(imagined)
    verdict = None
    if checked and loaded.world.interpret(question.text, question.scene) is not None:
        verdict = loaded.world.verify(question, text)
    result = {
        "text": text,
        "question": question.text,
        "confidence": 0.0 if warnings else round(float(answers.confidence[0]), 4),
        "verdict": verdict_values(verdict),
        "focus": focus if focus < batch.dreams else None,
        "warnings": warnings,
        "dreams": _dreams(loaded, imagined, focus, pictures),
        "rewards": answering.rewards_of(imagined) if checked and rewarded else None,
        "graph": answering.graph_of(loaded, imagined, answers),
        "image": data_url(answering.answer_picture(loaded, question, answers)) if output != "text" else None,
    }
    return result | ({"picture": data_url(first_picture(loaded, imagined, 0))} if pictures else {})


def _dreams(loaded: Loaded, imagined: Imagined, focus: int, pictures: bool) -> list[dict[str, Any]]:
    dreams = []
    for n in range(imagined.batch.dreams):
        steps = []
        for t in range(int(imagined.batch.lengths[0, n])):
            step = step_words(loaded, imagined, 0, n, t)
            if pictures:
                step |= {k: data_url(v) for k, v in step_pictures(loaded, imagined, 0, n, t).items()}
            steps.append(step)
        value = round(float(imagined.values[0, n]), 4)
        dreams.append({"steps": steps, "value": value, "focus": n == focus})
    return dreams


def describe(scene: Scene) -> dict[str, Any] | None:
    """The options that make this scene again; None where its world has no short form."""
    inner: Any = getattr(scene, "inner", scene)
    options: dict[str, Any] | None = None
    if hasattr(inner, "desc"):
        options = {"desc": list(inner.desc)}
    elif hasattr(inner, "layout") and hasattr(inner.layout, "pieces"):
        fields = ("kind", "row", "column", "colour", "slope")
        pieces = [{k: getattr(p, k) for k in fields if getattr(p, k) != ""} for p in inner.layout.pieces]
        options = {"size": inner.layout.size, "objects": pieces}
    if options is not None and scene is not inner:
        options = {"world": scene.world} | options
    return options


def editor_of(world: World) -> str | None:
    """How people make scenes of ``world`` by hand: "board" (FrozenLake), "objects" (physics), or only as JSON."""
    return {"frozen_lake": "board", "physics": "objects"}.get(world.name)
