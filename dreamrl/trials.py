"""What came out of edited dreams: single trials, rates with their uncertainty, a table.

Two numbers say what the rate ``predicted`` is worth: ``untrained``, the same rate when the edited dreams are read by
a reader with fresh weights, and ``chance``, that of answers which were given to other edited questions. The controls
predict that nothing changes. That holds for an untrained reader, too: they mean something beside the rest only.
Where many edits predict that no dream supports an answer (the share ``none``), a reader that says so whenever it is
in doubt does well: ``other`` is the rate among the rest, where another answer is predicted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamrl.edits import LEFT_OUT
from dreamrl.statistics import bootstrap_interval
from dreamrl.terminal import result_table


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One edited question: the answers before and after, and those that the edit predicts."""

    before: str
    after: str
    right: frozenset[str]
    untrained: str
    """What the untrained reader answers after the edit."""
    agreed: bool
    """Whether the answer before the edit was what the unedited dreams support."""
    kept: bool
    """Whether the answer is still read from the same place, now the edited dream."""
    none: bool
    """Whether the edit predicts what is said when no dream supports an answer."""


@dataclass(kw_only=True)
class Tally:
    """All trials of one intervention, and how many questions were left out for which reason."""

    trials: list[Trial] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def chance(trials: Sequence[Trial]) -> float:
    """How often an answer that was given to another edited question is right here, too."""
    given = Counter(trial.after for trial in trials)
    others = max(1, len(trials) - 1)
    return float(
        np.mean([(sum(given[t] for t in trial.right) - (trial.after in trial.right)) / others for trial in trials])
    )


def summarise(tally: Tally, resamples: int) -> dict[str, Any]:
    """The rates of one intervention as plain JSON values; None where there was no case."""
    left_out = {reason: tally.left_out[reason] for reason in LEFT_OUT if tally.left_out[reason]}
    rates: dict[str, Any] = {"cases": len(tally.trials), "left_out": left_out}
    flags = {
        "predicted": [t.after in t.right for t in tally.trials],
        "changed": [t.after != t.before for t in tally.trials],
        "kept": [t.kept for t in tally.trials],
        "before": [t.agreed for t in tally.trials],
        "untrained": [t.untrained in t.right for t in tally.trials],
    }
    for name, values in flags.items():
        rates[name] = float(np.mean(values)) if values else None
        if name in ("predicted", "changed"):
            rates[f"{name}_ci"] = list(bootstrap_interval(np.array(values), resamples, seed=0)) if values else None
    rates["chance"] = chance(tally.trials) if tally.trials else None
    other = [t.after in t.right for t in tally.trials if not t.none]
    rates["none"] = 1 - len(other) / len(tally.trials) if tally.trials else None
    rates["other"] = float(np.mean(other)) if other else None
    return rates


def print_trials(result: dict[str, Any]) -> None:
    """The rates as a table, and what was left out."""

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    columns = ("changed", "kept", "before", "untrained", "chance", "none", "other")
    rows = []
    for name, found in result["interventions"].items():
        ci = found["predicted_ci"]
        interval = "-" if ci is None else f"[{ci[0]:.3f}, {ci[1]:.3f}]"
        rest = [rate(found[key]) for key in columns]
        rows.append((name, str(found["cases"]), rate(found["predicted"]), interval, *rest))
    result_table(rows, ("edit", "cases", "predicted", "95%", *columns))
    reasons = [
        (name, LEFT_OUT[why], str(n)) for name, f in result["interventions"].items() for why, n in f["left_out"].items()
    ]
    if reasons:
        print()
        result_table(reasons, ("edit", "left out because", "questions"))
    if result.get("saved"):
        print(f"\n{len(result['saved'])} filmstrips, such as {result['saved'][0]}")
