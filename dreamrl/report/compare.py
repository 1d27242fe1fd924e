"""Two runs side by side: curves on one plot, numbers with differences, the same questions answered by both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.errors import UserError
from dreamrl.report import comparison, results
from dreamrl.report.gallery import answer_block, part_of, size_words
from dreamrl.report.markup import Markup, joined, tag
from dreamrl.report.page import document, expert_legend, toolbar, write_page
from dreamrl.report.questions import Exam, Shown, load_run, pool
from dreamrl.report.run_data import RunRecord, read_run
from dreamrl.report.sprites import Sprites
from dreamrl.saving import Loaded
from dreamrl.terminal import StageProgress
from envs.mixture import Mixture

UNFOLDED = 2
"""Questions that are open at first."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One question as both models answered it."""

    a: Shown
    b: Shown

    @property
    def kind(self) -> str:
        """Who is exact: "both", "a", "b" or "neither"."""
        return {(True, True): "both", (True, False): "a", (False, True): "b"}.get(
            (self.a.verdict.exact, self.b.verdict.exact), "neither"
        )


def write_comparison(
    run_a: Path,
    run_b: Path,
    out_file: Path,
    questions: int = 30,
    dreams: int = 4,
    seed: int = 0,
    export: Path | None = None,
) -> dict[str, Any]:
    """Write a comparison of two runs of one world to ``out_file``; arguments as in ``write_report``.

    Returns:
        what was written, as plain JSON values.
    """
    records = _named(read_run(run_a), read_run(run_b))
    loaded = [load_run(record) for record in records]
    _check_alike(records, loaded)
    asked = pool(loaded[0], questions, _sizes(loaded), seed)
    exams = []
    with StageProgress("compare", 2 * len(asked)) as bar:
        for index, (record, model) in enumerate(zip(records, loaded, strict=True)):
            before = index * len(asked)
            exams.append(
                Exam(record, model, asked, dreams, seed, lambda done, n=before: bar.advance(n + done - bar.done))
            )
    exact_a, exact_b = (exam.result.exact.astype(bool) for exam in exams)
    numbers = disagreements_first(exact_a, exact_b, questions)
    pairs = [Pair(a=a, b=b) for a, b in zip(*(exam.show(numbers) for exam in exams), strict=True)]
    measured = [results.read_results(record, exam) for record, exam in zip(records, exams, strict=True)]

    def build(few: Sequence[Pair], sprites: Sprites) -> str:
        sections = [
            comparison.results_section(records, exams, measured, dreams),
            *comparison.curve_sections(records),
            _gallery_section(few, exams, [record.name for record in records], sprites),
            comparison.settings_section(records),
        ]
        a, b = records
        return document(f"dreamrl compare: {a.name}, {b.name}", comparison.head(records, exams), sections, sprites)

    exact = {r.name: round(float(e.result.exact.mean()), 4) for r, e in zip(records, exams, strict=True)}
    facts = {"answered": len(asked), "exact_match": exact}

    def exported(kept: Sequence[Pair]) -> tuple[list[RunRecord], list[results.Results], list[list[Shown]]]:
        return records, measured, [[pair.a for pair in kept], [pair.b for pair in kept]]

    return write_page("comparison", out_file, build, pairs, facts, export, exported)


def disagreements_first(a: np.ndarray, b: np.ndarray, shown: int) -> list[int]:
    """Numbers of the ``shown`` questions: exact by one of the two, in turns; then by neither; then by both.

    Args:
        a: (Q,) bool, whether the first model's answer is exact.
        b: (Q,) bool, likewise.
        shown: how many.
    """
    only_a, only_b = np.flatnonzero(a & ~b).tolist(), np.flatnonzero(b & ~a).tolist()
    turns = [
        n
        for place in range(max(len(only_a), len(only_b)))
        for n in (only_a[place : place + 1] + only_b[place : place + 1])
    ]
    return (turns + np.flatnonzero(~a & ~b).tolist() + np.flatnonzero(a & b).tolist())[:shown]


def _named(a: RunRecord, b: RunRecord) -> list[RunRecord]:
    """Two runs with two names: those of their directories, or as much of their paths as tells them apart."""
    if a.directory.resolve() == b.directory.resolve():
        raise UserError(f"{a.directory} and {b.directory} are the same run; give two")
    names = [list(reversed(run.directory.resolve().parts)) for run in (a, b)]
    depth = next(d for d in range(1, max(map(len, names)) + 1) if names[0][:d] != names[1][:d])
    return [replace(r, name="/".join(reversed(n[:depth]))) for r, n in zip((a, b), names, strict=True)]


def _check_alike(records: Sequence[RunRecord], loaded: Sequence[Loaded]) -> None:
    """Both models can be asked the same questions."""
    a, b = (model.world for model in loaded)
    if a.name != b.name:
        names = f'{records[0].directory} is about "{a.name}", {records[1].directory} about "{b.name}"'
        raise UserError(f"{names}; compare two runs of the same world")
    if (a.patch_size, a.actions) != (b.patch_size, b.actions):
        what = "model.patch_size" if a.patch_size != b.patch_size else "the world's actions"
        raise UserError(f"{records[0].directory} and {records[1].directory} differ in {what}; compare runs alike in it")


def _sizes(loaded: Sequence[Loaded]) -> tuple[int, ...]:
    """Sizes that either model was trained on; a mixture draws its own."""
    a, b = (model.world for model in loaded)
    return tuple(a.sizes) if isinstance(a, Mixture) else tuple(sorted({*a.sizes, *b.sizes}))


def _gallery_section(
    pairs: Sequence[Pair], exams: Sequence[Exam], names: Sequence[str], sprites: Sprites
) -> tuple[str, str, Markup]:
    note = (
        f"Both models answered the same {len(exams[0].questions)} held-out questions. First come those that only one "
        "of them answers exactly, then those that neither does, then the others."
    )
    kinds = Counter(pair.kind for pair in pairs)
    words = {"a": f"only {names[0]}", "b": f"only {names[1]}", "neither": "neither", "both": "both"}
    filters = [("all", "all", len(pairs))]
    filters += [(f"flag:{kind}", f"exact: {text}", kinds[kind]) for kind, text in words.items() if kinds[kind]]
    cards = [_card(pair, names, sprites, index < UNFOLDED) for index, pair in enumerate(pairs)]
    experts = max(exam.loaded.run.model.num_experts for exam in exams)
    body = joined(tag("h2", "Dreams"), tag("p", note), expert_legend(experts), toolbar(filters), cards)
    return "dreams", "Dreams", body


def _card(pair: Pair, names: Sequence[str], sprites: Sprites, unfolded: bool) -> Markup:
    """A question with both answers beside each other."""
    place = f"q{pair.a.number + 1}"
    sides, said = [], []
    for letter, name, shown in (("a", names[0], pair.a), ("b", names[1], pair.b)):
        mark = tag("span", "✓" if shown.verdict.exact else "✗", class_="mark" if shown.verdict.exact else "mark no")
        block = answer_block(shown, f"{place}{letter}", sprites)
        sure = tag("span", f"confidence {shown.confidence:.2f}", class_="small")
        sides.append(tag("section", tag("h3", mark, name, sure), block, class_=f"run-{letter}"))
        said.append(tag("span", mark, " ", tag("b", name, class_=f"run-{letter}"), f" {shown.answer or '(nothing)'}"))
    style = {"both": "", "neither": " wrong"}.get(pair.kind, " mixed")
    chips = [tag("span", text, class_="chip") for text in (size_words(pair.a), f"no. {pair.a.number + 1}")]
    head = tag(
        "summary",
        sprites.show(pair.a.dreams[0].triplets[0].what, "", style="thumb", hidden=True),
        tag("span", tag("strong", pair.a.question), tag("span", said, class_="said pairs"), class_="asked"),
        tag("span", chips, class_="facts"),
    )
    return tag(
        "details",
        head,
        tag("div", sides, class_="pair"),
        id=place,
        open=unfolded,
        class_=f"question{style}",
        data_flags=pair.kind,
        data_part=part_of(pair.a),
    )
