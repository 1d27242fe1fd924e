"""The newest dreams of a run as a file, for whoever watches it from another process: pictures and words, no torch.

One NumPy archive: the pictures as arrays, everything else as JSON in it; nothing is pickled. What the graph looked
like is left out, TensorBoard has it.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamrl.files import replacement
from dreamrl.types import Dream, Triplet

NEWEST = Path("dreams") / "newest.npz"
"""Where a run keeps it."""
MOST_BYTES = 2**28
"""Largest record that is read, unpacked; 4 dreams of 32 steps of 8x8 patches of 16 pixels are 13 million."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DreamRecord:
    """What was dreamed about one question at one moment of the training.

    Example:
        >>> ice = np.zeros((32, 32, 3), np.uint8)
        >>> step = Triplet(
        ...     what=ice, action="right", result=ice, belief="success", true_result=ice, faithful=True, experts=(1.0,)
        ... )
        >>> dreams = (Dream(triplets=(step,), value=0.8, focus=True),)
        >>> DreamRecord(
        ...     stage="ppo", step=5, question="Where is the gift?", answer="right", verdict="exact", dreams=dreams
        ... ).dreams[0].actions
        ('right',)
    """

    stage: str
    """pretrain or ppo."""
    step: int
    """Update of that stage after which it was dreamed."""
    question: str
    """What was asked."""
    answer: str
    """What the model said."""
    verdict: str
    """What the simulator says of the answer, in words."""
    dreams: tuple[Dream, ...]
    """At least one, each beside what the simulator shows."""


def write_record(record: DreamRecord, path: Path) -> None:
    """Put ``record`` in place of what is at ``path``, whole or not at all."""
    triplets = [triplet for dream in record.dreams for triplet in dream.triplets]
    words = {
        "stage": record.stage,
        "step": record.step,
        "question": record.question,
        "answer": record.answer,
        "verdict": record.verdict,
        "dreams": [
            {
                "value": dream.value,
                "focus": dream.focus,
                "steps": [[t.action, t.belief, t.faithful, t.experts] for t in dream.triplets],
            }
            for dream in record.dreams
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as file:
        np.savez_compressed(
            file,
            words=np.frombuffer(json.dumps(words).encode(), np.uint8),
            start=np.stack([dream.triplets[0].what for dream in record.dreams]),
            results=np.stack([triplet.result for triplet in triplets]),
            truth=np.stack([t.result if t.true_result is None else t.true_result for t in triplets]),
            known=np.array([triplet.true_result is not None for triplet in triplets]),
        )


def read_record(path: Path) -> DreamRecord | None:
    """What :func:`write_record` wrote; None if there is no such file, or none that can be read."""
    try:
        with zipfile.ZipFile(path) as archive:  # a few bytes can claim any size
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                return None
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("words", "start", "results", "truth", "known")}
        words = json.loads(arrays.pop("words").tobytes())
        return _record(words, arrays)
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile):
        return None  # a file that somebody cut short is no reason to stop watching


def _record(words: dict, arrays: dict[str, np.ndarray]) -> DreamRecord:
    dreams, number = [], 0
    for told, what in zip(words.pop("dreams"), arrays["start"], strict=True):
        triplets = []
        for action, belief, faithful, experts in told["steps"]:
            result, truth = arrays["results"][number], arrays["truth"][number]
            triplets.append(
                Triplet(
                    what=what,
                    action=action,
                    result=result,
                    belief=belief,
                    true_result=truth if arrays["known"][number] else None,
                    faithful=faithful,
                    experts=tuple(experts),
                )
            )
            what, number = result, number + 1
        dreams.append(Dream(triplets=tuple(triplets), value=told["value"], focus=told["focus"]))
    return DreamRecord(**words, dreams=tuple(dreams))
