"""What a model dreams while it is trained: one held-out question, drawn into TensorBoard and kept for a watcher.

The question stays the same for the whole run, so that going through the pictures shows how the dreams become true. Its
scene is a validation scene: pictures of test scenes would invite to choose by them.
"""

from __future__ import annotations

import numpy as np

from dreamrl.dream_record import NEWEST, DreamRecord, write_record
from dreamrl.evaluate import held_out
from dreamrl.filmstrip import filmstrip
from dreamrl.generate import graph_of, to_dreams, verdict_text
from dreamrl.graph_view import draw_graph
from dreamrl.imagine import answer, imagine
from dreamrl.metrics import MetricsWriter
from dreamrl.saving import Loaded
from envs.mixture import Mixture
from envs.questions import stream
from envs.world import Question, Split

EVERY = {"pretrain": 100, "ppo": 5}
"""Updates of a stage between two pictures: rare enough to cost less than a hundredth of the training."""
MOST_DREAMS = 4
"""Dreams that are drawn; the graph of many more would be a tangle."""
CANDIDATES = 8
"""Held-out questions, of which the one with the longest way to its answer is drawn: it shows the most."""


def show_if_due(loaded: Loaded, writer: MetricsWriter, stage: str, step: int, last: bool) -> None:
    """:func:`show_dreams` after every ``EVERY``-th update of ``stage`` and after its ``last``."""
    if last or step % EVERY[stage] == 0:
        show_dreams(loaded, writer, stage, step)


def show_dreams(loaded: Loaded, writer: MetricsWriter, stage: str, step: int) -> None:
    """Let the model as it is now dream about its question, and show the filmstrip and the graph.

    Weights, random numbers and metrics of the training are not touched: a run with pictures is the same run.

    Args:
        loaded: the model in training.
        writer: of the run; ``dreams/newest.npz`` is written beside its files.
        stage: "pretrain" or "ppo".
        step: updates done in the stage.
    """
    place, question = question_at(loaded, step)
    count = min(MOST_DREAMS, loaded.run.model.num_dream_sequences)
    imagined = imagine(loaded, [question], count, loaded.run.seed, loaded.run.eval.temperature)
    answers = answer(loaded, imagined, count)
    dreams = to_dreams(loaded, imagined, 0, answers, checked=True)
    text = answers.texts[0]
    verdict = verdict_text(loaded.world.verify(question, text)) or ""
    strip = filmstrip(dreams, question.text, text, verdict, patch_size=loaded.world.patch_size)
    graph = draw_graph(graph_of(loaded, imagined, answers))
    for name, picture in (("filmstrip", strip), ("graph", graph)):
        writer.image("/".join([stage, "dreams", name, *place]), np.asarray(picture), step)
    record = DreamRecord(
        stage=stage, step=step, question=question.text, answer=text, verdict=verdict, dreams=tuple(dreams)
    )
    write_record(record, writer.directory / NEWEST)


def question_at(loaded: Loaded, step: int) -> tuple[list[str], Question]:
    """The question that is drawn at ``step``; of a mixture one about a world that the step decides, and its name."""
    world, place, run = loaded.world, [], loaded.run
    if isinstance(world, Mixture):
        member = world.members[int(stream(run.seed, 15, step).integers(len(world.members)))]
        world, place = world.only(member.name), [f"{member.family}.{member.name}"]
    length = run.model.dream_length
    candidates = held_out(world, (max(world.sizes),), CANDIDATES, run.seed, Split.VALIDATION, length)
    return place, max(candidates, key=lambda question: _moves(question, length))


def _moves(question: Question, length: int) -> int:
    """Steps of a dream that answers it, as far as the simulator knows; 0 for one that ``length`` is not enough for."""
    needed = len(question.script) or question.scene.distance(question.scene.start) or 0
    return needed if needed <= length else 0
