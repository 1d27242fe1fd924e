"""What is shown of a search while it runs: a table that refreshes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dreamrl.terminal import format_metric, format_seconds

REDRAW_SECONDS, SUMMARY_SECONDS = 1.0, 30.0
STYLES = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}
ENDED = ("finished", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial as it is shown: ``TrialRow(name="0003", status="running", iteration=4, score=0.31, ...)``."""

    name: str
    """Short name, the same in all tables."""
    status: str
    """waiting, running, paused, finished, stopped (by the scheduler) or failed."""
    iteration: int = 0
    """PPO iterations done at the last measurement."""
    score: float | None = None
    """The metric at the last measurement."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What varies."""
    reason: str = ""
    """Why it failed."""


def show(value: Any) -> str:
    """A setting in a table: 0.00123 as 1.2e-03, others as they are."""
    if value is None:
        return "-"
    return format_metric(value) if isinstance(value, float) else str(value)


def ordered(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The best first, those without a score last."""
    return sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0), -row.iteration, row.name))


def header(keys: Sequence[str], metric: str) -> list[str]:
    """Names of the columns; settings go without their section where that is clear."""
    last = Counter(key.split(".")[-1] for key in keys)
    return [
        "trial",
        "status",
        "iteration",
        metric,
        *(key if last[key.split(".")[-1]] > 1 else key.split(".")[-1] for key in keys),
    ]


def cells(row: TrialRow, keys: Sequence[str]) -> list[str]:
    """The columns of one trial."""
    values = [show(row.settings.get(key)) for key in keys]
    return [row.name, row.status, str(row.iteration), show(row.score), *values]


class LiveTable:
    """Shows trials as they go.

    Args:
        keys: settings that vary.
        metric: name of what is maximised.
        expected: trials in all.
        console: where to draw; stderr when left out.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        keys: Sequence[str],
        metric: str,
        expected: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """See the class."""
        self.keys, self.metric, self.expected = list(keys), metric, expected
        self.console = console or Console(stderr=True)
        self._clock, self._begun_at = clock, clock()
        self._last = -float("inf")
        self._told: set[str] = set()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_interactive else None
        if self._live:
            self._live.start()
        else:
            self._last = self._begun_at

    def update(self, rows: Sequence[TrialRow], last: bool = False) -> None:
        """Show ``rows``, all trials that there are so far; called as often as one likes."""
        now = self._clock()
        if self._live:
            if last or now - self._last >= REDRAW_SECONDS:
                self._last = now
                self._live.update(self.table(rows), refresh=True)
            return
        for row in rows:
            if row.status in ENDED and row.name not in self._told:
                self._told.add(row.name)
                self._line(self.ended(row))
        if last or now - self._last >= SUMMARY_SECONDS:
            self._last = now
            self._line(self.summary(rows))

    def close(self) -> None:
        """Leave the last table standing and give the cursor back."""
        if self._live:
            try:
                self._live.stop()
            finally:
                self.console.show_cursor(True)

    def table(self, rows: Sequence[TrialRow]) -> Table:
        """The rows that fit on the screen, the best first, under a line that sums up."""
        table = Table(box=SIMPLE_HEAD, title=Text(self.summary(rows)), title_justify="left")
        for index, name in enumerate(header(self.keys, self.metric)):
            table.add_column(Text(name), justify="right" if index > 1 else "left", no_wrap=True)
        fitting = max(1, self.console.height - 6)
        active = [row for row in rows if row.status in ("running", "paused")]
        others = [row for row in ordered(rows) if row not in active]
        for row in ordered([*active, *others][:fitting]):
            style = STYLES.get(row.status, "bright_black")
            table.add_row(*(Text(cell, style=style if i == 1 else "") for i, cell in enumerate(cells(row, self.keys))))
        return table

    def summary(self, rows: Sequence[TrialRow]) -> str:
        """``3/8 trials ended, 2 running, best exact_match 0.31 (0002), 1:20``."""
        count = Counter(row.status for row in rows)
        parts = [f"{sum(count[status] for status in ENDED)}/{self.expected} trials ended"]
        parts += [f"{count[status]} {status}" for status in ("running", "failed") if count[status]]
        best = ordered(rows)[0] if rows else None
        if best is not None and best.score is not None:
            parts.append(f"best {self.metric} {show(best.score)} ({best.name})")
        return ", ".join([*parts, format_seconds(self._clock() - self._begun_at)])

    def ended(self, row: TrialRow) -> str:
        """The line that says how a trial ended."""
        settings = " ".join(f"{name}={show(row.settings.get(key))}" for key, name in self._names())
        if row.status == "failed":
            return f"trial {row.name} failed: {row.reason or 'see ray.log'}  {settings}"
        return (
            f"trial {row.name} {row.status} at iteration {row.iteration}: {self.metric} {show(row.score)}  {settings}"
        )

    def _names(self) -> list[tuple[str, str]]:
        return list(zip(self.keys, header(self.keys, self.metric)[4:], strict=True))

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
