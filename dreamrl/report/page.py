"""The report of a run: reads it, lets its model answer held-out questions, and writes one HTML file."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreamrl.errors import UserError
from dreamrl.files import write_atomically
from dreamrl.report import curves, results
from dreamrl.report.gallery import part_of, question_card
from dreamrl.report.graph_svg import markers
from dreamrl.report.markup import Markup, joined, share, table, tag
from dreamrl.report.questions import REASONS, Exam, Shown, failures_first, load_run, pool
from dreamrl.report.run_data import RunRecord, read_run
from dreamrl.report.sprites import FULL_COLOURS, Sprites
from dreamrl.settings import to_dict
from dreamrl.terminal import StageProgress

MOST_BYTES = 5_000_000
"""Largest report."""
FEW_COLOURS = 64
"""Colours of a picture where the report would be too large otherwise."""
UNFOLDED = 3
"""Questions that are open at first."""


def write_report(
    run_dir: Path,
    out_file: Path,
    questions: int = 30,
    dreams: int = 4,
    seed: int = 0,
    others: Sequence[Path] = (),
    export: Path | None = None,
) -> dict[str, Any]:
    """Write the report of the run in ``run_dir`` to ``out_file``; the same run gives the same bytes.

    Args:
        run_dir: a run with config.yaml, metrics.jsonl and model/.
        out_file: HTML; replaced if it exists.
        questions: held-out questions that are shown; the model answers more, to find failures.
        dreams: dreams of each.
        seed: of the questions and dreams; 0 takes those of the run's own evaluation.
        others: the same run with other seeds: curves become means with bands over all of them.
        export: directory for the dreams as GIF, PNG and JSON; None writes none.

    Returns:
        what was written, as plain JSON values.
    """
    record = read_run(run_dir)
    runs = [record, *map(read_run, others)]
    _check_alike(runs)
    loaded = load_run(record)
    asked = pool(loaded, questions, loaded.world.sizes, seed)
    with StageProgress("report", len(asked)) as bar:
        exam = Exam(record, loaded, asked, dreams, seed, lambda done: bar.advance(done - bar.done))
    shown = exam.show(failures_first(exam, questions))
    measured = results.read_results(record, exam)
    parameters = sum(p.numel() for p in loaded.model.parameters())

    def build(few: Sequence[Shown], sprites: Sprites) -> str:
        sections = [
            _results_section(runs, measured, exam, dreams),
            *_curve_sections(runs, measured),
            _gallery_section(few, exam, sprites),
            _settings_section(record),
        ]
        head = _head(record, measured, dreams, parameters, loaded.world.name)
        return document(f"dreamrl report: {record.name}", head, sections, sprites)

    facts = {"answered": len(asked), "exact_match": round(float(exam.result.exact.mean()), 4)}
    return write_page("report", out_file, build, shown, facts, export, lambda kept: (runs, [measured], [kept]))


def write_page(
    kind: str,
    out_file: Path,
    build: Callable[[Sequence[Any], Sprites], str],
    shown: list,
    facts: dict[str, Any],
    export: Path | None,
    exported: Callable[[list], tuple[Sequence[RunRecord], Sequence[results.Results], Sequence[Sequence[Shown]]]],
) -> dict[str, Any]:
    """Write a page that is small enough, and what it shows as files of their own.

    Args:
        kind: what the page is called in the values that are returned.
        out_file: HTML; replaced if it exists.
        build: makes the page of some questions.
        shown: the questions, the most important first.
        facts: further values to return.
        export: directory for the dreams; None writes none.
        exported: of the questions that the page has room for, what ``export_dreams`` takes.

    Returns:
        what was written, as plain JSON values.
    """
    text, kept = fitted(build, shown)
    write_atomically(out_file, text)
    size = round(len(text.encode()) / 1e6, 2)
    written: dict[str, Any] = {kind: str(out_file), "megabytes": size, "questions": len(kept), **facts}
    if export is not None:
        from dreamrl.report.export import export_dreams

        written["exported"] = len(export_dreams(*exported(kept), export))
    return written


def fitted(build: Callable[[Sequence[Any], Sprites], str], shown: list) -> tuple[str, list]:
    """The page and what it shows: with fewer colours, then with fewer questions, until it is small enough."""
    text = build(shown, Sprites(FULL_COLOURS))
    if len(text.encode()) > MOST_BYTES:
        text = build(shown, Sprites(FEW_COLOURS))
    while len(text.encode()) > MOST_BYTES and len(shown) > 1:
        shown = shown[: max(1, min(len(shown) - 1, int(0.95 * len(shown) * MOST_BYTES / len(text.encode()))))]
        text = build(shown, Sprites(FEW_COLOURS))
    return text, shown


def document(title: str, head: Markup, sections: Sequence[tuple[str, str, Markup]], sprites: Sprites) -> str:
    """A whole page.

    Args:
        title: of the window.
        head: what stands above the sections.
        sections: (id, name in the menu, content).
        sprites: the pictures that the content refers to.
    """
    style, script = asset("report.css"), asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    menu = [tag("li", tag("a", name, href=f"#{place}")) for place, name, _ in sections]
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("title", title),
            tag("style", Markup(style)),
        ),
        tag(
            "body",
            tag("a", "Skip to the content", href=f"#{sections[0][0]}", class_="skip"),
            sprites.definitions(markers()),
            tag("header", head),
            tag("nav", tag("ul", menu), aria_label="Sections"),
            tag("main", [tag("section", content, id=place) for place, _, content in sections]),
            tag("footer", "Made by dreamrl. Everything is inside this file; nothing is loaded from elsewhere."),
            tag("script", Markup(script)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def asset(name: str) -> str:
    """A file that comes with this package."""
    return (importlib.resources.files("dreamrl.report") / name).read_text("utf-8")


def toolbar(filters: Sequence[tuple[str, str, int]]) -> Markup:
    """Buttons that choose among the questions: (what the script looks for, words, how many)."""
    buttons = [
        tag("button", f"{words} {count}", type="button", data_filter=key, aria_pressed="false" if i else "true")
        for i, (key, words, count) in enumerate(filters)
    ]
    keys = tag("span", tag("kbd", "j"), " ", tag("kbd", "k"), " next, previous", class_="small")
    fold = tag("button", "unfold or fold all", type="button", data_fold=True)
    return tag("div", buttons, tag("output", class_="small"), tag("span", class_="gap"), keys, fold, class_="toolbar")


def expert_legend(count: int) -> Markup:
    """The experts' colours in the bars under the steps."""
    keys = [tag("li", tag("i", class_=f"key f{i % 8}"), f"expert {i} (e{i})") for i in range(count)]
    return tag("ul", tag("li", "Bars under the steps:"), keys, class_="legend small")


def _check_alike(runs: Sequence[RunRecord]) -> None:
    """Seeds of one run differ in nothing else."""
    first = to_dict(runs[0].config) | {"seed": 0}
    for other in runs[1:]:
        theirs = to_dict(other.config) | {"seed": 0}
        if theirs != first:
            section = next(key for key in first if first[key] != theirs.get(key))
            fix = "seeds of one run only; `dreamrl compare` takes two different ones"
            raise UserError(f"{other.directory} differs from {runs[0].directory} in {section}; give {fix}")


def _head(record: RunRecord, measured: results.Results, dreams: int, parameters: int, world: str) -> Markup:
    about = f"world {world}, preset {record.config.preset}, seed {record.config.seed}"
    return joined(
        tag("h1", record.name),
        tag("p", about, class_="muted"),
        tag("p", results.headline(measured, dreams), class_="headline"),
        results.tiles(record, measured, dreams, parameters),
    )


def _results_section(
    runs: Sequence[RunRecord], measured: results.Results, exam: Exam, dreams: int
) -> tuple[str, str, Markup]:
    here = (
        " The run left no summary.json: these are the questions that this report asked."
        if measured.measured_here
        else ""
    )
    note = f"Scenes that were never trained on. Lines are 95% Wilson intervals over the questions.{here}"
    seeds = None
    if len(runs) > 1:
        count = measured.final(dreams)[0]
        key = f"ppo_{count}"
        rows = [(run.name, share(((run.summary or {}).get("exact_match") or {}).get(key))) for run in runs]
        seeds = table(["run", "exact match"], rows, f"Each seed, {count} dreams")
    body = joined(
        tag("h2", "Results"), tag("p", note), curves.grid([*results.charts(measured), results.calibration(exam)]), seeds
    )
    return "results", "Results", body


def _curve_sections(runs: Sequence[RunRecord], measured: results.Results) -> list[tuple[str, str, Markup]]:
    guides = [(measured.baselines["random"], "random play")] if "random" in measured.baselines else []
    note = tag("p", curves.band_note(runs))
    values = curves.numbers(runs[0], [f"ppo/{n}" for n in ("exact_match", "success", *curves.REWARDS)], "update")
    experts = tag("p", "Values of one run; MaxVio is 0 where all experts get the same share.")
    learning = [tag("h2", "Learning"), note, curves.grid(curves.learning(runs, guides)), curves.everything_else(runs)]
    parts = "What PPO paid for, before the weights, as means over the dreams of each update. " + curves.band_note(runs)
    rewards = [tag("h2", "Rewards"), tag("p", parts), curves.grid(curves.rewards(runs)), values]
    return [
        ("learning", "Learning", joined(learning)),
        ("rewards", "Rewards", joined(rewards)),
        ("experts", "Experts", joined(tag("h2", "Experts"), experts, curves.grid(curves.experts(runs[0])))),
    ]


def _gallery_section(shown: Sequence[Shown], exam: Exam, sprites: Sprites) -> tuple[str, str, Markup]:
    wrong = len(exam.questions) - int(exam.result.exact.sum())
    kept = sum(not s.verdict.exact for s in shown)
    note = (
        f"The model answered {len(exam.questions)} held-out questions with {exam.dreams} dreams each; {wrong} answers "
        f"are wrong. Shown are {kept} of them, the most confident first, and {len(shown) - kept} exact ones, those "
        "with a false picture first. Under each dreamed picture stands what the simulator shows after the same "
        "actions; patches whose code is not that of the simulator's picture are outlined in red."
    )
    why = Counter(s.reason for s in shown if s.reason)
    reasons = [tag("li", tag("b", str(count)), f" {REASONS[name]}") for name, count in why.most_common()]
    parts = Counter(part_of(s) for s in shown)
    filters = [("all", "all", len(shown)), ("flag:wrong", "wrong", kept)]
    filters.append(("flag:false", "with false pictures", sum(s.false_pictures > 0 for s in shown)))
    filters += [(f"part:{name}", name, count) for name, count in sorted(parts.items())] if len(parts) > 1 else []
    cards = [question_card(s, f"q{s.number + 1}", sprites, i < UNFOLDED) for i, s in enumerate(shown)]
    experts = exam.loaded.run.model.num_experts
    body = [tag("h2", "Dreams"), tag("p", note), tag("ul", reasons, class_="reasons"), expert_legend(experts)]
    return "dreams", "Dreams", joined(body, toolbar(filters), cards)


def _settings_section(record: RunRecord) -> tuple[str, str, Markup]:
    head = tag("summary", "config.yaml")
    return (
        "settings",
        "Settings",
        joined(tag("h2", "Settings"), tag("details", head, tag("pre", record.config_text), class_="fold")),
    )
