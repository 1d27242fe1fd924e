"""The ``dreamrl feedback`` command: learn from a file of feedback, save the model, say what changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamrl.feedback.examples import Preference, Rated
from dreamrl.feedback.training import FeedbackSettings, learn
from dreamrl.process import settle
from dreamrl.saving import load_pretrained, save_pretrained
from dreamrl.terminal import StageProgress, result_table

SHOWN = {"score": "score", "correctness": "correct", "kl": "kl"}
"""Metrics of a round in the progress bar, by their labels there."""


def feedback_command(
    model_dir: Path, records: Sequence[Rated | Preference], out: Path, num_epochs: int, seed: int
) -> dict[str, Any]:
    """Metrics of :func:`dreamrl.feedback.training.learn`; the new model is saved in ``out``."""
    settle()
    loaded, settings = load_pretrained(model_dir), FeedbackSettings()
    with StageProgress("feedback", num_epochs * settings.rounds) as bar:

        def show(metrics: dict[str, float]) -> None:
            bar.advance(1, **{label: metrics[name] for name, label in SHOWN.items()})

        metrics = learn(loaded, records, num_epochs, seed, settings, show)
    save_pretrained(loaded, out)
    return metrics | {"saved": str(out)}


def print_feedback(result: dict[str, Any]) -> None:
    """What :func:`feedback_command` returned, as a short table and what it rests on."""
    rows = [
        ("score of own answers", *(f"{result[f'score_{when}']:.3f}" for when in WHEN)),
        ("exact answers, validation boards", *(f"{result[f'correctness_{when}']:.1%}" for when in WHEN)),
        ("nats from the starting model", *(f"{result[f'kl_{when}']:.3f}" for when in WHEN)),
    ]
    result_table(rows, ("", *WHEN))
    if "scorer_accuracy" in result:
        share = f"{result['scorer_accuracy']:.1%} of {result['held_out']} held-out examples"
        print(f"the scorer decides as people did on {share}; it was trusted by {result['trust']:.2f} of 1")
    if result["trust"] == 0:
        print("that is too little to follow it: give more examples, or examples that agree with each other")
    print(f"model in {result['saved']}")


WHEN = ("before", "after")
