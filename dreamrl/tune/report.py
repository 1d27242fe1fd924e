"""What a search leaves: results.json, a ranked table, how much each setting mattered, and the best run to repeat."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamrl.config import RunConfig
from dreamrl.files import write_atomically
from dreamrl.printing import markdown_table
from dreamrl.settings import write_yaml
from dreamrl.tune.importance import importance, plot
from dreamrl.tune.live import TrialRow, cells, header, ordered
from dreamrl.tune.plan import TunePlan
from dreamrl.tune.space import decode, run_of

RESULTS, TABLE, PLOT, BEST_RUN, BEST_MODEL = "results.json", "results.md", "importance.png", "best.yaml", "best"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial went, as results.json has it."""

    row: TrialRow
    """How it ended."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Its measurements, the oldest first: ``{"iteration": 2, "exact_match": 0.1, ..., "settings": {...}}``."""
    seconds: float = 0.0
    """Wall time."""
    checkpoint: str = ""
    """Directory of its last checkpoint; empty if there is none."""

    @property
    def ranked(self) -> bool:
        """Whether it counts: it has a score and did not fail."""
        return self.row.score is not None and self.row.status != "failed"


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The trial with the highest last measurement; of equals the one that went further."""
    ranked = [outcome for outcome in outcomes if outcome.ranked]
    order = [row.name for row in ordered([outcome.row for outcome in ranked])]
    return next((outcome for outcome in ranked if outcome.row.name == order[0]), None) if order else None


def best_run(plan: TunePlan, best: Outcome) -> RunConfig:
    """The whole settings of the best trial."""
    return run_of(plan.base, best.row.settings, f"trial {best.row.name}")


def observations(plan: TunePlan, outcomes: Sequence[Outcome]) -> tuple[list[dict[str, Any]], list[float]]:
    """Settings and scores whose relation tells how much a setting mattered.

    A trial gives its settings and its last measurement. With pbt settings change in training: every measurement gives
    the settings that led to it and how much it was better than the one before.
    """
    ranked = [outcome for outcome in outcomes if outcome.ranked]
    if plan.scheduler.name != "pbt":
        return [dict(o.row.settings) for o in ranked], [float(o.row.score or 0.0) for o in ranked]
    steps = [pair for o in ranked for pair in zip(o.history, o.history[1:], strict=False)]
    steps = [(old, new) for old, new in steps if new["settings"] == old["settings"]]
    return [new["settings"] for _, new in steps], [new[plan.metric] - old[plan.metric] for old, new in steps]


def write_results(
    plan: TunePlan, outcomes: Sequence[Outcome], out: Path, save: Callable[[RunConfig, Path, Path], None] | None
) -> Outcome | None:
    """Write everything that is known so far into ``out``; ``save`` makes the model of the best trial.

    Args:
        plan: the search.
        outcomes: how each trial went.
        out: the search's directory.
        save: called with the best trial's run, its checkpoint and where the model belongs; None: not yet.

    Returns:
        the best trial, if there is one.
    """
    best = best_of(outcomes)
    samples, scores = observations(plan, outcomes)
    method, shares = importance(plan.space, samples, scores)
    plot(method, shares, len(scores), out / PLOT)
    found = {"method": method, "measurements": len(scores), "shares": {k: round(v, 4) for k, v in shares.items()}}
    record = {
        "metric": plan.metric,
        "best": best.row.name if best else None,
        "importance": found,
        "trials": [_record(outcome) for outcome in outcomes],
    }
    write_atomically(out / RESULTS, json.dumps(record, indent=1) + "\n")
    write_atomically(out / TABLE, table(plan, outcomes, found))
    if best is not None:
        write_yaml(best_run(plan, best), out / BEST_RUN)
        shutil.rmtree(out / BEST_MODEL, ignore_errors=True)
        if best.checkpoint and save is not None:
            save(best_run(plan, best), Path(best.checkpoint), out / BEST_MODEL)
    return best


def _record(outcome: Outcome) -> dict[str, Any]:
    row = asdict(outcome.row)
    row["settings"] = {key: decode(value) for key, value in outcome.row.settings.items()}
    rest = {"seconds": round(outcome.seconds, 1), "checkpoint": outcome.checkpoint, "history": outcome.history}
    return row | rest


def ranked_cells(plan: TunePlan, outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, the best trial first, failed ones last."""
    keys = [domain.key for domain in plan.space]
    good = ordered([o.row for o in outcomes if o.ranked])
    others = [o.row for o in outcomes if not o.ranked]
    return header(keys, plan.metric), [cells(row, keys) for row in [*good, *others]]


def table(plan: TunePlan, outcomes: Sequence[Outcome], found: dict[str, Any]) -> str:
    """results.md."""
    head, rows = ranked_cells(plan, outcomes)
    lines = [
        "# Results of a search",
        "",
        f"{plan.search.algorithm} search, scheduler {plan.scheduler.name}, stages {plan.stages}; {plan.metric} on "
        f"{plan.measure.boards} validation boards with {plan.measure.dreams} dreams, at each trial's last measurement.",
        "The best of many is a little better on these boards than on others: measure it with `dreamrl eval`.",
        "",
        *markdown_table(head, rows),
        "",
    ]
    failed = [outcome.row for outcome in outcomes if outcome.row.status == "failed"]
    if failed:
        lines += ["## Failed", "", *(f"- {row.name}: {row.reason}" for row in failed), ""]
    lines += [
        "## How much each setting mattered",
        "",
        f"By {found['method']}, from {found['measurements']} measurements"
        + (" (settings against the gain since the measurement before)" if plan.scheduler.name == "pbt" else "")
        + ":",
        "",
        *markdown_table(["setting", "share"], [[key, f"{share:.2f}"] for key, share in found["shares"].items()]),
        "",
    ]
    if plan.scheduler.name == "pbt":
        lines += ["best.yaml has the settings that the best trial ended with, not those that it began with.", ""]
    return "\n".join(lines)
