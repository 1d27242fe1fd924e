"""Shares with their intervals: a dot and a line for each, one under the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreamrl.report.bands import wilson
from dreamrl.report.chart import COLOURS, WIDTH, drawing, figure, ticks
from dreamrl.report.markup import Markup, share, tag

ROW, LABEL, VALUE, FOOT = 24, 124, 42, 20
"""Height of a row, widths of the columns with its name and value, height of the axis."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A share over ``count`` questions.

    Example:
        ``Row(name="trained, 4 dreams", share=0.96, count=600)``
    """

    name: str
    share: float
    count: int
    colour: int = 0
    label: str | None = None
    """What stands beside the row; None: its name."""
    expected: float | None = None
    """Another value to mark, such as the confidence behind a share of right answers."""

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval, see :func:`dreamrl.report.bands.wilson`."""
        return wilson(self.share, self.count)

    @property
    def words(self) -> str:
        """The share with its interval and number of questions."""
        low, high = self.interval
        expected = "" if self.expected is None else f", expected {share(self.expected)}"
        return f"{self.name}: {share(self.share)} [{share(low)}, {share(high)}] of {self.count} questions{expected}"


def interval_chart(title: str, rows: Sequence[Row], note: str, legend: Sequence[tuple[str, int]] = ()) -> Markup:
    """Rows from the top; the axis ends at 1, and begins at 0 unless all intervals lie in its upper half."""
    height = len(rows) * ROW + FOOT
    width = WIDTH - LABEL - VALUE
    least = math.floor(10 * min(row.interval[0] for row in rows)) / 10
    begin = least if least >= 0.5 else 0.0
    drawn = []
    for tick in ticks(begin, 1):
        x = LABEL + (tick - begin) / (1 - begin) * width
        drawn.append(tag("line", x1=x, x2=x, y1=0, y2=height - FOOT, class_="grid"))
        drawn.append(tag("text", f"{tick:g}", x=x, y=height - 5, class_="tick mid"))
    for index, row in enumerate(rows):
        drawn.append(_row(row, (index + 0.5) * ROW, width, begin))
    label = f"{title}. " + "; ".join(row.words for row in rows)
    return figure(title, note, legend, drawing(label, drawn, height), "rows")


def _row(row: Row, y: float, width: float, begin: float) -> Markup:
    def place(value: float) -> float:
        return LABEL + (value - begin) / (1 - begin) * width

    low, high = map(place, row.interval)
    colour = row.colour % COLOURS
    expected = None
    if row.expected is not None:
        x = place(max(begin, row.expected))
        expected = tag("g", tag("line", x1=x, x2=x, y1=y - 7, y2=y + 7, class_="expected"))
    return tag(
        "g",
        tag("rect", x=0, y=y - ROW / 2, width=WIDTH, height=ROW),
        tag("text", row.name if row.label is None else row.label, x=LABEL - 10, y=y + 4, class_="label end"),
        tag("g", tag("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker s{colour}")),
        expected,
        tag("circle", cx=place(row.share), cy=y, r=4.5, class_=f"dot f{colour}"),
        tag("text", share(row.share), x=WIDTH - 2, y=y + 4, class_="label end num"),
        tag("title", row.words),
        class_="hit row",
    )
