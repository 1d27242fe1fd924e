"""What a run's model can do on held-out questions: the headline, the tiles, exact match by size and dreams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamrl.evaluate import held_out, side_name, summarise
from dreamrl.report.bands import wilson
from dreamrl.report.intervals import Row, interval_chart
from dreamrl.report.markup import Markup, share, tag
from dreamrl.report.questions import Exam
from dreamrl.report.run_data import RunRecord
from dreamrl.summary import EVAL_SEED
from dreamrl.terminal import format_seconds
from envs.world import Question

BASELINES = {"random": "random play", "untrained": "untrained"}
MODELS = {"pretrained": "pretrained", "ppo": "trained"}
"""Name in summary.json -> name in the report."""
COLOURS = {"random": 7, "untrained": 7, "pretrained": 4, "ppo": 0}
CONFIDENCE = (0.0, 0.2, 0.5, 0.8, 0.95, 1.0)
"""Borders of the groups of answers that are compared with their confidence."""
MOST_ROWS = 12
"""With more groups than fit, only the largest number of dreams is shown."""
GROUPS = {"by_size": "size", "by_world": "world", "by_topic": "topic"}


@dataclass(frozen=True, kw_only=True)
class Results:
    """Held-out numbers of one run, by model and dreams."""

    details: dict[str, dict[str, Any]]
    """``ppo_4`` -> what :func:`dreamrl.evaluate.summarise` returns."""
    baselines: dict[str, float]
    """Exact match of random play and of the untrained model, where they were measured."""
    counts: dict[str, Counter[str]]
    """``by_size`` -> number of questions of each size; likewise the other ``GROUPS``."""
    measured_here: bool
    """Whether the run left no summary, so that the report's own questions are what was measured."""

    def of(self, model: str) -> list[tuple[int, dict[str, Any]]]:
        """(dreams, numbers) of a model, fewest dreams first."""
        found = [(int(k.rpartition("_")[2]), v) for k, v in self.details.items() if k.rpartition("_")[0] == model]
        return sorted(found, key=lambda entry: entry[0])

    def final(self, dreams: int) -> tuple[int, dict[str, Any]]:
        """The trained model with ``dreams`` dreams, or the nearest number that was measured."""
        return min(self.of("ppo"), key=lambda entry: (abs(entry[0] - dreams), entry[0]))


def read_results(record: RunRecord, exam: Exam) -> Results:
    """The numbers of summary.json, or those of ``exam`` where there is none."""
    if record.summary is None or not any(key.startswith("ppo_") for key in record.summary["details"]):
        details = {f"ppo_{n}": summarise(result, n, 1) for n, result in exam.results.items()}
        return Results(details=details, baselines={}, counts=_counts(exam.questions), measured_here=True)
    details = record.summary["details"]
    world = exam.loaded.world
    questions = held_out(world, world.sizes, next(iter(details.values()))["items"], EVAL_SEED)
    exact = record.summary.get("exact_match", {})
    baselines = {name: exact[name] for name in BASELINES if name in exact}
    return Results(details=details, baselines=baselines, counts=_counts(questions), measured_here=False)


def headline(results: Results, dreams: int) -> str:
    """The result in one or two sentences."""
    count, numbers = results.final(dreams)
    low, high = wilson(numbers["exact_match"], numbers["items"])
    text = (
        f"With {_dreams(count)} the model answers {share(numbers['exact_match'])} of "
        f"{numbers['items']} held-out questions exactly (95% interval {share(low)} to {share(high)})."
    )
    before = dict(results.of("pretrained")).get(count)
    others = [f"after pretraining alone it was {share(before['exact_match'])}"] if before else []
    others += [f"random play reaches {share(results.baselines['random'])}"] if "random" in results.baselines else []
    return f"{text} {'; '.join(others).capitalize()}." if others else text


def tiles(record: RunRecord, results: Results, dreams: int, parameters: int) -> Markup:
    """The most important numbers, large."""
    count, numbers = results.final(dreams)
    low, high = wilson(numbers["exact_match"], numbers["items"])
    shown = [
        ("exact match", share(numbers["exact_match"]), f"{_dreams(count)}, 95% [{share(low)}, {share(high)}]"),
        ("true pictures", share(numbers["exact_frame"]), "dreamed pictures that the simulator confirms"),
        ("calibration error", share(numbers["ece"]), f"mean confidence {share(numbers['confidence'])}"),
        ("parameters", f"{parameters / 1e6:.2f} M", f"preset {record.config.preset}, seed {record.config.seed}"),
    ]
    seconds = (record.summary or {}).get("seconds")
    if isinstance(seconds, dict):
        parts = ", ".join(f"{name} {format_seconds(value)}" for name, value in seconds.items())
        shown.append(("wall time", format_seconds(sum(seconds.values())), parts))
    return tag(
        "ul", [tag("li", tag("span", k), tag("b", v), tag("span", note)) for k, v, note in shown], class_="tiles"
    )


def charts(results: Results) -> list[Markup]:
    """Exact match of every model and number of dreams, then of the trained one by size and other groups."""
    items = next(iter(results.details.values()))["items"]
    rows = [
        Row(name=BASELINES[name], share=value, count=items, colour=COLOURS[name])
        for name, value in results.baselines.items()
    ]
    for model, name in MODELS.items():
        for dreams, numbers in results.of(model):
            title = f"{name}, {_dreams(dreams)}"
            rows.append(Row(name=title, share=numbers["exact_match"], count=items, colour=COLOURS[model]))
    drawn = [interval_chart("Exact match by number of dreams", rows, f"Share of {items} held-out questions.")]
    return drawn + [chart for group in GROUPS for chart in _by_group(results, group)]


def calibration(exam: Exam) -> Markup:
    """How often the answers are exact that the model is so or so sure of."""
    exact, sure = exam.result.exact, exam.result.confidence
    rows = []
    for low, high in zip(CONFIDENCE, CONFIDENCE[1:], strict=False):
        inside = (sure >= low) & ((sure < high) | (high == CONFIDENCE[-1]))
        if inside.any():
            name = f"{low:g} to {high:g}"
            expected = float(sure[inside].mean())
            count = int(inside.sum())
            rows.append(Row(name=name, share=float(exact[inside].mean()), count=count, colour=2, expected=expected))
    note = (
        f"Share of exact answers by confidence, {len(exact)} questions, {exam.dreams} dreams. Upright: mean confidence."
    )
    return interval_chart("Confidence and truth", rows, note)


def _by_group(results: Results, group: str) -> list[Markup]:
    """One chart for ``group``, unless there is but one size (or world, or topic)."""
    counts, entries = results.counts[group], results.of("ppo")
    measured = [(dreams, numbers[group]) for dreams, numbers in entries if group in numbers]
    if len(measured) * len(counts) > MOST_ROWS:
        measured = measured[-1:]
    if not measured or any(set(shares) != set(counts) for _, shares in measured):
        return []
    rows = []
    for name in sorted(counts, key=lambda n: (len(n), n)):
        for index, (dreams, shares) in enumerate(measured):
            title, label = _group_name(group, name), "" if index else _group_name(group, name)
            row = Row(
                name=f"{title}, {_dreams(dreams)}", share=shares[name], count=counts[name], colour=index, label=label
            )
            rows.append(row)
    if len(counts) < 2:
        return []
    legend = [(_dreams(dreams), index) for index, (dreams, _) in enumerate(measured)]
    least, most = min(counts.values()), max(counts.values())
    many = f"{least}" if least == most else f"{least} to {most}"
    only = f" with {_dreams(measured[0][0])}" if len(measured) == 1 else ""
    note = f"The trained model{only} on {many} questions of each {GROUPS[group]}."
    return [interval_chart(f"Exact match by {GROUPS[group]}", rows, note, legend if len(legend) > 1 else ())]


def _group_name(group: str, name: str) -> str:
    if not name:
        return "(other)"
    return f"{name}x{name}" if group == "by_size" and "x" not in name else name


def _counts(questions: Sequence[Question]) -> dict[str, Counter[str]]:
    return {
        "by_size": Counter(side_name(q.scene) for q in questions),
        "by_world": Counter(q.scene.world for q in questions),
        "by_topic": Counter(q.topic for q in questions),
    }


def _dreams(count: int) -> str:
    return f"{count} dream{'s' if count > 1 else ''}"
