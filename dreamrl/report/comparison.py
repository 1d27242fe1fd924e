"""Numbers and curves of two runs beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dreamrl.evaluate import side_name
from dreamrl.report import curves
from dreamrl.report.chart import line_chart
from dreamrl.report.intervals import Row, interval_chart
from dreamrl.report.markup import Markup, joined, share, table, tag
from dreamrl.report.questions import Exam
from dreamrl.report.results import Results
from dreamrl.report.run_data import RunRecord
from dreamrl.settings import to_dict
from dreamrl.statistics import bootstrap_interval

RESAMPLES = 2000
CURVES = {
    "Learning": ("exact_match", "success", "exact_frame", "dream_length"),
    "Rewards": (*curves.REWARDS, "dream_return"),
    "Experts": ("max_vio", "router_entropy", "dead_experts"),
    "Optimisation": ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance"),
}
"""Section -> metrics of PPO that are drawn in it, both runs on one plot."""
PRETRAINING = ("loss/total", *curves.LEARNED)
LOWER_IS_BETTER = {"calibration error", "MaxVio at the end"}
NO_DIRECTION = {"parameters", "steps of a dream", "creativity at the end", "mean confidence", "episodes"}


def head(records: Sequence[RunRecord], exams: Sequence[Exam]) -> Markup:
    """Names, and who answers more of the same questions."""
    a, b = records
    low, high, gap = paired_difference(*exams)
    shares = [share(float(exam.result.exact.mean())) for exam in exams]
    clear = low > 0 or high < 0
    verdict = "a clear difference" if clear else "no clear difference"
    text = (
        f"Of the same {len(exams[0].questions)} held-out questions {a.name} answers {shares[0]} exactly and {b.name} "
        f"{shares[1]}: {verdict} ({gap:+.3f}, 95% interval {low:+.3f} to {high:+.3f})."
    )
    title = tag("h1", tag("span", a.name, class_="run-a"), " and ", tag("span", b.name, class_="run-b"))
    return joined(
        title, tag("p", f"{exams[0].dreams} dreams a question", class_="muted"), tag("p", text, class_="headline")
    )


def paired_difference(a: Exam, b: Exam) -> tuple[float, float, float]:
    """95% bootstrap interval over the questions of (exact of b) - (exact of a), and its mean."""
    difference = b.result.exact - a.result.exact
    low, high = bootstrap_interval(difference, RESAMPLES, seed=0)
    return low, high, float(difference.mean())


def results_section(
    records: Sequence[RunRecord], exams: Sequence[Exam], measured: Sequence[Results], dreams: int
) -> tuple[str, str, Markup]:
    """The table of numbers with differences, exact match by size, and who answers what."""
    names = [record.name for record in records]
    rows = [_numbers_row(*entry) for entry in summary_rows(records, exams, measured, dreams)]
    note = "Lines are 95% Wilson intervals over the questions; the interval of the difference is a paired bootstrap."
    charts = [_by_size(exams, names)]
    body = joined(
        tag("h2", "Results"),
        tag("p", note),
        tag(
            "div",
            tag("div", table(["", *names, "difference"], rows), class_="chart wide"),
            tag("div", charts, tag("div", _both(exams, names), class_="chart"), class_="stack"),
            class_="charts",
        ),
    )
    return "results", "Results", body


def summary_rows(
    records: Sequence[RunRecord], exams: Sequence[Exam], measured: Sequence[Results], dreams: int
) -> list[tuple[Any, ...]]:
    """(what, value of the first run, value of the second); None where a run did not measure it."""
    rows: list[tuple[Any, ...]] = []
    pairs = [{n: float(r.exact.mean()) for n, r in exam.results.items()} for exam in exams]
    for count in pairs[0]:
        rows.append((f"exact match, same questions, {_dreams(count)}", pairs[0][count], pairs[1][count]))
    own = [dict(found.of("ppo")) for found in measured]
    for count in sorted(own[0].keys() & own[1].keys()):
        if not all(found.measured_here for found in measured):
            rows.append((f"exact match, own evaluation, {_dreams(count)}", *(o[count]["exact_match"] for o in own)))
    finals = [found.final(dreams)[1] for found in measured]
    labels = {"exact_frame": "true pictures", "ece": "calibration error", "confidence": "mean confidence"}
    rows += [(label, *(final[key] for final in finals)) for key, label in labels.items()]
    ends = {name: f"{name} at the end" for name in curves.REWARDS}
    ends |= {"max_vio": "MaxVio at the end", "dream_length": "steps of a dream", "episodes": "episodes"}
    for name, label in ends.items():
        series = [record.series(f"ppo/{name}")[1] for record in records]
        if any(series):
            rows.append((label, *(values[-1] if values else None for values in series)))
    sizes = [float(sum(p.numel() for p in exam.loaded.model.parameters())) for exam in exams]
    return [*rows, ("parameters", *sizes)]


def curve_sections(records: Sequence[RunRecord]) -> list[tuple[str, str, Markup]]:
    """Curves of both runs on one plot, section by section."""
    out = []
    for title, names in CURVES.items():
        charts = [both(records, f"ppo/{name}") for name in names]
        if title == "Learning":
            charts += [both(records, f"pretrain/{name}") for name in PRETRAINING]
        note = tag("p", curves.ONE_RUN) if title in ("Learning", "Rewards") else None
        usage = tag("div", [_usage(record) for record in records]) if title == "Experts" else None
        out.append((title.lower(), title, joined(tag("h2", title), note, curves.grid(charts), usage)))
    return out


def both(records: Sequence[RunRecord], metric: str) -> Markup | None:
    """One metric of both runs on one plot; None where neither logged it."""
    drawn = [line for i, record in enumerate(records) for line in curves.lines([record], metric, record.name, i)]
    if not drawn:
        return None
    stage, _, name = metric.partition("/")
    bounded = stage == "ppo" and name in curves.SHARES - {"creativity"} or name in curves.LEARNED
    title = f"{curves.STAGES[stage]}: {name.replace('/', ' ').replace('_', ' ')}"
    note = curves.glossary(metric)
    axis = (0.0, 1.0) if bounded else None
    return line_chart(title, drawn, note=note, unit=curves.UNITS[stage], y=axis, allow_log=name.startswith("loss"))


def settings_section(records: Sequence[RunRecord]) -> tuple[str, str, Markup]:
    """Settings in which the runs differ."""
    a, b = (flat(to_dict(record.config)) for record in records)
    rows = [[key, str(a[key]), str(b[key])] for key in a if a[key] != b[key]]
    found = table(["setting", *(record.name for record in records)], rows) if rows else tag("p", "They do not differ.")
    return "settings", "Settings", joined(tag("h2", "Settings that differ"), tag("div", found, class_="plain"))


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"ppo": {"lr": 1}}`` as ``{"ppo.lr": 1}``."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def _numbers_row(label: str, a: float | None, b: float | None) -> list[Markup | str]:
    whole = label in ("parameters", "episodes")
    cells: list[Markup | str] = [label, *("–" if v is None else f"{v:,.0f}" if whole else f"{v:.3f}" for v in (a, b))]
    if a is None or b is None:
        return [*cells, "–"]
    gap = b - a
    if whole:
        return [*cells, f"{gap:+,.0f}" if gap else "0"]
    better = (gap < 0) if label in LOWER_IS_BETTER else (gap > 0)
    style = None if label in NO_DIRECTION or abs(gap) < 5e-4 else "better" if better else "worse"
    return [*cells, tag("span", f"{gap:+.3f}", class_=style)]


def _by_size(exams: Sequence[Exam], names: Sequence[str]) -> Markup:
    """Exact match of both on the same questions, all and by size."""
    sides = np.array([side_name(q.scene) for q in exams[0].questions])
    counts = Counter(sides.tolist())
    groups = {"all": np.ones(len(sides), bool)}
    groups |= {size: sides == size for size in sorted(counts, key=lambda s: (len(s), s))} if len(counts) > 1 else {}
    rows = []
    for label, inside in groups.items():
        for index, (exam, name) in enumerate(zip(exams, names, strict=True)):
            value, shown = (
                float(exam.result.exact[inside].mean()),
                label if "x" in label or label == "all" else f"{label}x{label}",
            )
            row = Row(
                name=f"{shown}, {name}",
                share=value,
                count=int(inside.sum()),
                colour=index,
                label="" if index else shown,
            )
            rows.append(row)
    return interval_chart("Exact match by size", rows, "On the same questions.", [(n, i) for i, n in enumerate(names)])


def _both(exams: Sequence[Exam], names: Sequence[str]) -> Markup:
    """How many questions both, one or neither answers exactly."""
    a, b = (exam.result.exact.astype(bool) for exam in exams)
    rows = [
        ["both", str(int((a & b).sum()))],
        [f"only {names[0]}", str(int((a & ~b).sum()))],
        [f"only {names[1]}", str(int((b & ~a).sum()))],
        ["neither", str(int((~a & ~b).sum()))],
    ]
    return joined(tag("h3", "Who answers exactly"), table(["", "questions"], rows))


def _usage(record: RunRecord) -> Markup:
    charts = [chart for chart in curves.experts(record) if "experts in use" in chart]
    return joined(tag("h3", record.name, class_="run-name"), curves.grid(charts))


def _dreams(count: int) -> str:
    return f"{count} dream{'s' if count > 1 else ''}"
