"""Which curves a report shows of its runs, and how their bands come about."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dreamrl import metrics
from dreamrl.report.bands import over_runs, runs_note, wilson
from dreamrl.report.chart import Line, line_chart, share_chart
from dreamrl.report.markup import Markup, joined, table, tag
from dreamrl.report.run_data import RunRecord

SHARES = {"exact_match", "success", "faithfulness", "coherence", "correctness", "creativity", "exact_frame"}
"""Metrics of PPO that are means over the update's questions of something between 0 and 1."""
REWARDS = ("faithfulness", "coherence", "correctness", "creativity", "progress")
LEARNED = ("exact_frame", "script_accuracy", "focus_accuracy", "answer_accuracy", "inverse_accuracy")
"""What pretraining measures on held-out random play."""
UNITS = {"pretrain": "step", "ppo": "update"}
STAGES = {"pretrain": "Pretraining", "ppo": "PPO"}
ONE_RUN = (
    "Bands are 95% Wilson intervals over the questions of each update; for means of values between 0 and 1 they are "
    "at most too wide. Curves without a band have no spread in the log."
)


def band_note(runs: Sequence[RunRecord]) -> str:
    """What the bands of the curves are, in words."""
    return ONE_RUN if len(runs) == 1 else runs_note(len(runs))


def lines(runs: Sequence[RunRecord], metric: str, name: str = "", colour: int = 0) -> list[Line]:
    """One metric as a curve: of one run with its band over questions, of several their mean with a band over runs.

    Empty where no run logged it. Steps that not every run reached are left out.
    """
    found = [run.series(metric) for run in runs]
    if not all(steps for steps, _ in found):
        return []
    name = name or metric.rpartition("/")[2].replace("_", " ")
    bounded = metric.startswith("ppo/") and metric.split("/")[1] in SHARES
    if len(runs) == 1:
        steps, values = found[0]
        counts = runs[0].questions_at() if bounded and "/" not in metric.removeprefix("ppo/") else {}
        if not steps or any(step not in counts for step in steps) or not all(0 <= v <= 1 for v in values):
            return [Line(name=name, x=tuple(steps), y=tuple(values), colour=colour)]
        bands = [wilson(value, counts[step]) for step, value in zip(steps, values, strict=True)]
        low, high = zip(*bands, strict=True)
        return [Line(name=name, x=tuple(steps), y=tuple(values), low=low, high=high, colour=colour)]
    by_step = [dict(zip(*series, strict=True)) for series in found]
    steps = [step for step in found[0][0] if all(step in values for values in by_step)]
    if not steps:
        return []
    own = [
        Line(name=run.name, x=tuple(values), y=tuple(values.values()), colour=colour, faint=True)
        for run, values in zip(runs, by_step, strict=True)
    ]
    mean, low, high = zip(*(over_runs([v[step] for v in by_step], bounded) for step in steps), strict=True)
    return [*own, Line(name=name, x=tuple(steps), y=mean, low=low, high=high, colour=colour)]


def explained(metric: str, runs: Sequence[RunRecord], title: str = "", **choices) -> Markup | None:
    """A chart of one metric with the glossary's line under its title; None where it was not logged."""
    drawn = lines(runs, metric)
    if not drawn:
        return None
    title = title or metric.partition("/")[2].replace("/", " ").replace("_", " ")
    return line_chart(title, drawn, note=glossary(metric), unit=UNITS[metric.partition("/")[0]], **choices)


def learning(runs: Sequence[RunRecord], guides: Sequence[tuple[float, str]]) -> list[Markup | None]:
    """Exact match and true pictures during PPO, and what pretraining learned.

    Args:
        runs: one, or several seeds.
        guides: (share, label) of held-out exact match to compare with.
    """
    outcome = lines(runs, "ppo/exact_match", colour=0) + lines(runs, "ppo/success", colour=1)
    charts: list[Markup | None] = []
    if outcome:
        note = "Share of questions answered exactly, and of those that reach the goal at all, in each update."
        charts.append(line_chart("Answers during PPO", outcome, note=note, y=(0, 1), guides=guides))
    charts.append(explained("ppo/exact_frame", runs, "True pictures during PPO", y=(0, 1)))
    parts = sorted({name for run in runs for name in run.names() if name.startswith("ppo/exact_match/")})
    by_part = [line for i, name in enumerate(parts) for line in lines(runs, name, name.rpartition("/")[2], i)]
    if by_part:
        charts.append(
            line_chart("Answers in each world", by_part, note="Share of sampled answers that are exact.", y=(0, 1))
        )
    known = [
        line
        for i, name in enumerate(LEARNED)
        for line in lines(runs, f"pretrain/{name}", name.removesuffix("_accuracy").replace("_", " "), i)
    ]
    if known:
        note = "Shares right on held-out random play: next pictures, named moves, dream to read, answer, action."
        charts.append(line_chart("Learned before PPO", known, note=note, unit="step", y=(0, 1)))
    charts.append(explained("pretrain/loss/total", runs, "Loss of pretraining", allow_log=True))
    charts.append(explained("ppo/dream_length", runs, "Length of a dream"))
    return charts


def rewards(runs: Sequence[RunRecord]) -> list[Markup | None]:
    """Each component of the reward during PPO, titled with its weight."""
    weights, active = runs[0].config.reward, runs[0].config.model.reward_components
    charts = []
    for name in REWARDS:
        weight = getattr(weights, name) if name in active or name == "progress" else 0.0
        y = (0.0, 1.0) if name in SHARES and name != "creativity" else None
        charts.append(explained(f"ppo/{name}", runs, f"{name.capitalize()}, weight {weight:g}", y=y))
    return [*charts, explained("ppo/dream_return", runs, "Return of a dream")]


def experts(run: RunRecord) -> list[Markup]:
    """Shares of the routing choices, MaxVio and the router's entropy in both stages of one run."""
    charts: list[Markup] = []
    for stage, title in STAGES.items():
        names = [name for name in run.names() if name.startswith(f"{stage}/expert_usage/")]
        names.sort(key=lambda name: int(name.rpartition("/")[2]))
        series = [dict(zip(*run.series(name), strict=True)) for name in names]
        steps = [step for step in series[0] if all(step in values for values in series)] if series else []
        if not steps:
            continue
        shown = [f"expert {name.rpartition('/')[2]}" for name in names]
        shares = [[values[step] for values in series] for step in steps]
        note = "Share of the routing choices that each expert got; even where the borders lie on the dashed lines."
        charts.append(share_chart(f"{title}: experts in use", shown, steps, shares, note=note, unit=UNITS[stage]))
        for name, label in (("max_vio", "MaxVio"), ("router_entropy", "router's entropy")):
            guide = [(0.0, "balanced")] if name == "max_vio" else [(math.log(len(names)), "undecided")]
            chart = explained(f"{stage}/{name}", [run], f"{title}: {label}", guides=guide)
            charts += [chart] if chart else []
    return charts


def everything_else(runs: Sequence[RunRecord]) -> Markup:
    """A chart for each metric that was logged and has none so far: folded away, for those who look for a cause."""
    shown = {"ppo/exact_match", "ppo/success", "ppo/exact_frame", "ppo/dream_length", "ppo/dream_return"}
    shown |= {"pretrain/loss/total"} | {f"ppo/{name}" for name in REWARDS} | {f"pretrain/{name}" for name in LEARNED}
    shown |= {f"{stage}/{name}" for stage in STAGES for name in ("max_vio", "router_entropy")}
    families = ("ppo/exact_match/", "ppo/expert_usage/", "pretrain/expert_usage/", "eval/")
    names = [n for n in runs[0].names() if n not in shown and not n.startswith(families)]
    names = [n for n in names if n.partition("/")[0] in STAGES]
    titles = [f"{STAGES[n.partition('/')[0]]}: {n.partition('/')[2].replace('_', ' ')}" for n in names]
    charts = [explained(n, runs, title, allow_log=True) for n, title in zip(names, titles, strict=True)]
    drawn = [chart for chart in charts if chart]
    if not drawn:
        return Markup()
    head = tag("summary", f"All other metrics ({len(drawn)})")
    return tag("details", head, tag("div", drawn, class_="charts"), class_="fold")


def numbers(run: RunRecord, names: Sequence[str], unit: str) -> Markup:
    """The values behind curves as a table, folded away."""
    series = {name: dict(zip(*run.series(name), strict=True)) for name in names}
    known = {name: values for name, values in series.items() if values}
    steps = sorted({step for values in known.values() for step in values})
    if not steps:
        return Markup()
    rows = [
        [str(step), *(f"{values[step]:.4g}" if step in values else "–" for values in known.values())] for step in steps
    ]
    header = [unit, *(name.partition("/")[2].replace("_", " ") for name in known)]
    return tag("details", tag("summary", "Numbers as a table"), table(header, rows), class_="fold")


def grid(charts: Sequence[Markup | None]) -> Markup:
    """Charts beside each other, as many as fit."""
    drawn = [chart for chart in charts if chart]
    return tag("div", drawn, class_="charts") if drawn else joined(tag("p", "Nothing was logged.", class_="empty"))


def glossary(metric: str) -> str:
    """The glossary's line as a sentence; empty for a name that a newer or older version logged."""
    try:
        text = metrics.explain(metric)
    except KeyError:
        return ""
    return text[0].upper() + text[1:] + "."
