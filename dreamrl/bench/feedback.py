"""Does feedback change what it is about, and nothing else? The wording of plans on boards that were never seen.

The world takes a plan as "right, down" or as "right then down", and pretraining teaches both about equally. People who
always prefer one of them should be told that one, without more mistakes; preferences that are noise should change
nothing. The people are simulated: they know the true plan of each board and care about its wording only.

Run ``python -m dreamrl.bench.feedback MODEL_DIR`` to print the numbers as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.evaluate import CHUNK, held_out
from dreamrl.feedback.examples import learn_from_feedback
from dreamrl.feedback.training import FeedbackSettings
from dreamrl.imagine import GREEDY, Wording, answer, imagine
from dreamrl.process import settle
from dreamrl.saving import Loaded, load_pretrained
from dreamrl.statistics import bootstrap_interval, expected_calibration_error
from envs.questions import stream
from envs.world import QuestionKind, Split, shortest_plan
from envs.worlds.frozen_lake import parse_plan

KINDS = ("preferences", "ratings", "shuffled", "shuffled-trusted")
"""The last two are controls, preferences decided by a coin; in the last of them the scorer is followed fully."""
WORDINGS = ("commas", "then")
DREAMS = 4


def examples(loaded: Loaded, kind: str, liked: int, count: int, seed: int) -> list[dict[str, Any]]:
    """Feedback on ``count`` training boards by somebody who likes wording ``liked`` of true plans.

    Plans of one move have one wording; such boards are passed over.
    """
    out, index = [], 0
    while len(out) < count:
        rng = stream(seed, 50, index)
        index += 1
        scene: Any = loaded.world.sample_scene(rng, Split.TRAIN, int(rng.choice(loaded.world.sizes)))
        plan = shortest_plan(scene, len(loaded.world.actions), rng)
        wordings = loaded.world.wordings(loaded.world.plan_text(plan))
        if wordings[0] == wordings[1]:
            continue
        about = {"prompt": loaded.world.ask(scene, QuestionKind.PLAN, rng).text, "options": {"desc": list(scene.desc)}}
        shown = int(rng.integers(2))
        if kind == "ratings":
            out.append(about | {"answer": wordings[shown], "reward": 1.0 if shown == liked else -1.0})
        else:
            chosen = liked if kind == "preferences" else shown  # a coin, where it is shuffled
            out.append(about | {"chosen": wordings[chosen], "rejected": wordings[1 - chosen]})
    return out


def wording_of(loaded: Loaded, text: str) -> str | None:
    """How a plan is worded: one of ``WORDINGS``, or "mixed"; None for what has one wording only."""
    plan = parse_plan(text)
    if len(plan) < 2:
        return None
    wordings = loaded.world.wordings(loaded.world.plan_text(plan))
    return WORDINGS[wordings.index(text)] if text in wordings else "mixed"


class Exam:
    """Test boards, dreamed about once: nothing that feedback changes has part in the dreams."""

    def __init__(self, loaded: Loaded, boards: int, seed: int):
        """Args: model, number of test ``boards``, ``seed`` of boards and dreams."""
        self.questions = held_out(loaded.world, loaded.world.sizes, boards, seed, Split.TEST)
        heat = loaded.run.eval.temperature
        self.imagined = [
            imagine(loaded, self.questions[i : i + CHUNK], DREAMS, seed, heat, first=i) for i in range(0, boards, CHUNK)
        ]

    def __call__(self, loaded: Loaded, liked: int) -> dict[str, Any]:
        """Share of plans in wording ``liked``, sampled at temperature 1 and greedy; exact answers; calibration error.

        ``..._styles`` count the plans in each wording, ``..._exact_ci`` is the 95% interval of ``..._exact``.
        """
        out: dict[str, Any] = {}
        for name, wording in (("greedy", GREEDY), ("sampled", Wording(temperature=1.0, seed=1))):
            answers = [answer(loaded, imagined, DREAMS, wording) for imagined in self.imagined]
            texts = [text for part in answers for text in part.texts]
            styles = Counter(style for style in (wording_of(loaded, text) for text in texts) if style)
            exact = np.array([loaded.world.verify(q, t).exact for q, t in zip(self.questions, texts, strict=True)])
            confidence = np.concatenate([part.confidence for part in answers])
            out[f"{name}_liked"] = styles[WORDINGS[liked]] / max(1, sum(styles.values()))
            out[f"{name}_exact"] = float(exact.mean())
            out[f"{name}_exact_ci"] = bootstrap_interval(exact, 1000, seed=0)
            out[f"{name}_ece"] = expected_calibration_error(confidence, exact)
            out[f"{name}_styles"] = dict(styles)
        return out


def bench(
    model_dir: Path,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    liked: Sequence[int] = (1, 0),
    count: int = 400,
    boards: int = 300,
    num_epochs: int = 3,
) -> dict[str, dict[str, Any]]:
    """Learn from each kind of feedback in favour of each wording, every time from the model in ``model_dir``.

    Args:
        model_dir: a trained model; it is not changed.
        seed: of examples, learning and test boards.
        kinds: of ``KINDS``.
        liked: places in ``WORDINGS``; the controls like neither and run for the first only.
        count: examples.
        boards: test boards.
        num_epochs: passes over the training questions.

    Returns:
        {"<kind>/<wording>": {"before", "after" as measured by :class:`Exam`, "metrics" of the learning, "seconds"}}.
    """
    out, exam = {}, Exam(load_pretrained(model_dir), boards, seed)
    for kind in kinds:
        settings = FeedbackSettings(use_trust=kind != "shuffled-trusted")
        for wording in liked[:1] if kind.startswith("shuffled") else liked:
            loaded = load_pretrained(model_dir)
            given = examples(loaded, kind, wording, count, seed)
            before, began = exam(loaded, wording), time.perf_counter()
            metrics = learn_from_feedback(loaded, given, num_epochs, seed=seed, settings=settings)
            seconds = round(time.perf_counter() - began, 1)
            found = {"before": before, "after": exam(loaded, wording), "metrics": metrics, "seconds": seconds}
            out[f"{kind}/{WORDINGS[wording]}"] = found
    return out


if __name__ == "__main__":
    settle()
    print(json.dumps(bench(Path(sys.argv[1])), indent=1))
