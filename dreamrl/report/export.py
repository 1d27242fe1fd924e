"""What a report shows, as files for other programs: dreams as GIF and PNG, everything else as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreamrl.files import write_atomically
from dreamrl.filmstrip import animate, filmstrip, save_png
from dreamrl.report.questions import REASONS, Shown
from dreamrl.report.results import Results
from dreamrl.report.run_data import RunRecord
from dreamrl.settings import to_dict

DATA = "report.json"


def export_dreams(
    runs: Sequence[RunRecord], measured: Sequence[Results], shown: Sequence[Sequence[Shown]], directory: Path
) -> list[str]:
    """Write ``question-NUMBER.gif``, ``question-NUMBER.png`` and ``report.json``; returns the names.

    Args:
        runs: whose metrics and settings are written.
        measured: held-out numbers of those runs whose model answered.
        shown: the questions that each of these models answered; of several, files carry -a, -b, ...
        directory: made if need be.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names, answered = [], []
    for index, questions in enumerate(shown):
        side = f"-{chr(ord('a') + index)}" if len(shown) > 1 else ""
        for question in questions:
            stem = f"question-{question.number + 1:03}{side}"
            words = (question.question, question.answer, question.verdict_words)
            save_png(filmstrip(question.dreams, *words, patch_size=question.patch), directory / f"{stem}.png")
            animate(question.dreams, *words, directory / f"{stem}.gif", patch_size=question.patch)
            names += [f"{stem}.png", f"{stem}.gif"]
            answered.append({"run": runs[index].name, "files": names[-2:], **question_data(question)})
    data = {
        "runs": [run_data(run) for run in runs],
        "results": [
            {"run": run.name, "details": found.details, "baselines": found.baselines}
            for run, found in zip(runs, measured, strict=False)
        ],
        "questions": answered,
    }
    write_atomically(directory / DATA, json.dumps(data, indent=1) + "\n")
    return [*names, DATA]


def run_data(run: RunRecord) -> dict[str, Any]:
    """A run's settings and every curve, as ``{"metrics": {"ppo/success": {"steps": [...], "values": [...]}}}``."""
    curves = {name: dict(zip(("steps", "values"), run.series(name), strict=True)) for name in run.names()}
    return {"name": run.name, "config": to_dict(run.config), "metrics": curves}


def question_data(shown: Shown) -> dict[str, Any]:
    """One question without its pictures."""
    return {
        "number": shown.number + 1,
        "question": shown.question,
        "size": shown.size,
        "part": shown.part,
        "answer": shown.answer,
        "right_answer": shown.right,
        "confidence": shown.confidence,
        "verdict": asdict(shown.verdict) | {"words": shown.verdict_words},
        "reason": REASONS[shown.reason] if shown.reason else None,
        "focus": None if shown.focus is None else shown.focus + 1,
        "dreams": [
            {
                "value": dream.value,
                "rewards": rewards,
                "steps": [
                    {
                        "action": t.action,
                        "belief": t.belief,
                        "faithful": t.faithful,
                        "differing_patches": [list(place) for place in places],
                        "experts": list(t.experts),
                    }
                    for t, places in zip(dream.triplets, differs, strict=True)
                ],
            }
            for dream, rewards, differs in zip(shown.dreams, shown.rewards, shown.differs, strict=True)
        ],
        "graph": shown.graph,
    }
