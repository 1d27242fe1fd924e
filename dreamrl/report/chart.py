"""Curves as inline SVG: lines with bands and guides, stacked shares, intervals. Colours are classes of report.css.

All charts have one shape, so that their letters keep one size; a grid of them follows the width of the page. Under
the pointer each step tells its values, without a script in the browser's own way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from dreamrl.report.markup import Markup, joined, number, tag

T = TypeVar("T")
WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34
"""Free space around the plot, in units of the viewBox."""
COLOURS = 8
"""Line and area colours of report.css; further series use them again."""
MOST_POINTS, MOST_HITS = 800, 60
"""Points of a line, and steps of a chart that tell their values; of longer runs every second, third, ... is kept."""
LOG_SPAN = 10
"""A positive series that spans more than this factor gets a logarithmic axis, where one is allowed."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve.

    Example:
        ``Line(name="exact match", x=(1, 2), y=(0.4, 0.6), low=(0.3, 0.5), high=(0.5, 0.7))``
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Lower end of the band; empty for none."""
    high: tuple[float, ...] = ()
    colour: int = 0
    """Number of a colour of report.css."""
    faint: bool = False
    """Drawn thin and left out of the legend: one of several runs behind their mean."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """From values to places in the viewBox."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def place_x(self, value: float) -> float:
        """Horizontal place."""
        low, high = self.x
        return LEFT + (WIDTH - LEFT - RIGHT) * ((value - low) / (high - low) if high > low else 0.5)

    def place_y(self, value: float) -> float:
        """Vertical place; what lies outside is drawn at the edge."""
        low, high = self.y
        if self.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        ratio = (value - low) / (high - low) if high > low else 0.5
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(1.0, max(0.0, ratio)))


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    note: str = "",
    unit: str = "update",
    y: tuple[float, float] | None = None,
    guides: Sequence[tuple[float, str]] = (),
    allow_log: bool = False,
) -> Markup:
    """Curves over steps.

    Args:
        title: what is drawn.
        lines: with at least one point each.
        note: a line of explanation under the title.
        unit: what a step is.
        y: ends of the axis; None fits it to the curves.
        guides: (value, label) of dashed horizontal lines.
        allow_log: take a logarithmic axis where the curves span powers of ten.
    """
    axes = _axes(lines, y, guides, allow_log)
    drawn: list[Markup] = [_grid(axes, unit)]
    for value, label in guides:
        drawn.append(_guide(axes, value, label))
    drawn += [_band(axes, line) for line in lines if line.low]
    drawn += [_stroke(axes, line) for line in lines]
    told = [line for line in lines if not line.faint]
    drawn.append(_hits(axes, told, unit))
    legend = [(line.name, line.colour) for line in told] if len(told) > 1 else []
    note += " (logarithmic axis)" if axes.log else ""
    return figure(title, note, legend, drawing(f"{title}: {_summary(told, unit)}", drawn))


def share_chart(
    title: str, names: Sequence[str], x: Sequence[float], shares: Sequence[Sequence[float]], **choices
) -> Markup:
    """Shares that sum to 1, one area above the other, with dashed lines where they would be even.

    Args:
        title: what is drawn.
        names: of the areas, from the bottom.
        x: steps, at least one.
        shares: one list a step, as long as ``names``.
        choices: ``note`` and ``unit`` as in :func:`line_chart`.
    """
    unit = choices.get("unit", "update")
    axes = Axes(x=(min(x), max(x)), y=(0.0, 1.0))
    drawn = []
    below = [0.0] * len(x)
    for index in range(len(names)):
        above = [b + row[index] for b, row in zip(below, shares, strict=True)]
        corners = [(axes.place_x(s), axes.place_y(v)) for s, v in zip(x, above, strict=True)]
        corners += [(axes.place_x(s), axes.place_y(v)) for s, v in zip(reversed(x), reversed(below), strict=True)]
        drawn.append(tag("polygon", points=_points(corners), class_=f"area f{index % COLOURS}"))
        below = above
    drawn.append(_grid(axes, unit))
    drawn += [_guide(axes, k / len(names), "") for k in range(1, len(names))]
    columns = [Line(name=name, x=tuple(x), y=tuple(row[i] for row in shares)) for i, name in enumerate(names)]
    drawn.append(_hits(axes, columns, unit))
    legend = [(name, index) for index, name in enumerate(names)]
    return figure(title, choices.get("note", ""), legend, drawing(f"{title}: {_summary(columns, unit)}", drawn))


def figure(title: str, note: str, legend: Sequence[tuple[str, int]], picture: Markup, style: str = "") -> Markup:
    """A chart with its title, explanation, legend and the line that tells the values under the pointer."""
    keys = [tag("li", tag("i", class_=f"key f{colour % COLOURS}"), name) for name, colour in legend]
    return tag(
        "figure",
        tag("figcaption", tag("h3", title), tag("p", note) if note else None),
        tag("ul", keys, class_="legend") if keys else None,
        picture,
        tag("output", class_="readout"),
        class_=f"chart {style}".strip(),
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(values: Sequence[T], most: int) -> list[T]:
    """``values``, or so few of them at even distances, the last one always among them."""
    return list(values[:: -max(1, math.ceil(len(values) / most))])[::-1]


def short(value: float) -> str:
    """A value of an axis or a curve in few characters: 0.96, 12, 1.2k, 3e-04."""
    if value == 0:
        return "0"
    size = abs(value)
    if 1000 <= size < 10_000:
        return f"{value:.0f}"
    if size >= 10_000:
        return f"{value / 1000:.3g}k" if size < 1e6 else f"{value:.2g}"
    return f"{value:.3g}" if size >= 0.001 else f"{value:.0e}"


def _axes(lines: Sequence[Line], y: tuple[float, float] | None, guides, allow_log: bool) -> Axes:
    steps = [s for line in lines for s in line.x]
    x = (min(steps), max(steps))
    if y is not None:
        return Axes(x=x, y=y)
    values = [v for line in lines for v in (*line.y, *line.low, *line.high)] + [value for value, _ in guides]
    low, high = min(values), max(values)
    if allow_log and low > 0 and high / low > LOG_SPAN:
        return Axes(x=x, y=(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))), log=True)
    if 0 < low < 0.4 * high:
        low = 0.0
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return Axes(x=x, y=(low - room if low else 0.0, high + room))


def _grid(axes: Axes, unit: str) -> Markup:
    """Horizontal lines with their values, steps under the plot."""
    low, high = axes.y
    if axes.log:
        values = [10.0**k for k in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    else:
        values = ticks(low, high)
    parts = []
    for value in values:
        place = axes.place_y(value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="grid"))
        parts.append(tag("text", short(value), x=LEFT - 6, y=place + 3.5, class_="tick end"))
    whole = [step for step in ticks(*axes.x, 6) if step == int(step)]
    for step in whole:
        parts.append(tag("text", short(step), x=axes.place_x(step), y=HEIGHT - BOTTOM + 14, class_="tick mid"))
    parts.append(tag("text", unit, x=WIDTH - RIGHT, y=HEIGHT - 4, class_="tick end"))
    return joined(parts)


def _guide(axes: Axes, value: float, label: str) -> Markup:
    place = axes.place_y(value)
    line = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=place, y2=place, class_="guide")
    return joined(line, tag("text", label, x=WIDTH - RIGHT - 2, y=place - 4, class_="tick end over") if label else None)


def _band(axes: Axes, line: Line) -> Markup:
    there, back = (
        thinned([(axes.place_x(s), axes.place_y(v)) for s, v in zip(line.x, ends, strict=True)], MOST_POINTS)
        for ends in (line.high, line.low)
    )
    return tag("polygon", points=_points(there + back[::-1]), class_=f"band f{line.colour % COLOURS}")


def _stroke(axes: Axes, line: Line) -> Markup:
    points = thinned([(axes.place_x(s), axes.place_y(v)) for s, v in zip(line.x, line.y, strict=True)], MOST_POINTS)
    style = f"{'faint' if line.faint else 'line'} s{line.colour % COLOURS}"
    if len(points) == 1:
        return tag("circle", cx=points[0][0], cy=points[0][1], r=3, class_=f"dot f{line.colour % COLOURS}")
    return tag("polyline", points=_points(points), class_=style)


def _points(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in corners)


def _hits(axes: Axes, lines: Sequence[Line], unit: str) -> Markup:
    """An invisible column for each step, which tells the step's values."""
    steps = thinned(sorted({s for line in lines for s in line.x}), MOST_HITS)
    places = [axes.place_x(step) for step in steps]
    parts = []
    for index, (step, place) in enumerate(zip(steps, places, strict=True)):
        left = (places[index - 1] + place) / 2 if index else LEFT
        right = (place + places[index + 1]) / 2 if index + 1 < len(places) else WIDTH - RIGHT
        told = "; ".join(told for told in (_told(line, step, len(lines) > 1) for line in lines) if told)
        parts.append(
            tag(
                "g",
                tag("rect", x=left, y=TOP, width=max(1.0, right - left), height=HEIGHT - TOP - BOTTOM),
                tag("line", x1=place, x2=place, y1=TOP, y2=HEIGHT - BOTTOM),
                tag("title", f"{unit} {step:g}: {told}"),
                class_="hit",
            )
        )
    return joined(parts)


def _told(line: Line, step: float, named: bool) -> str:
    """A curve's value at ``step`` in words; empty where it has none."""
    if step not in line.x:
        return ""
    at = line.x.index(step)
    band = f" [{short(line.low[at])}, {short(line.high[at])}]" if line.low else ""
    return f"{line.name + ' ' if named else ''}{short(line.y[at])}{band}"


def _summary(lines: Sequence[Line], unit: str) -> str:
    """First and last value of each curve, for those who do not see it."""
    return "; ".join(
        f"{line.name} from {short(line.y[0])} at {unit} {line.x[0]:g} to {short(line.y[-1])} at {unit} {line.x[-1]:g}"
        for line in lines
    )


def drawing(label: str, drawn: Sequence[Markup], height: float = HEIGHT) -> Markup:
    """An SVG picture as wide as all charts; ``label`` says what it shows to those who do not see it."""
    return tag("svg", drawn, viewBox=f"0 0 {WIDTH} {number(height)}", role="img", aria_label=label)
