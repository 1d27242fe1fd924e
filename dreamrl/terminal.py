"""What people see while it works: dreams as they are imagined, progress of a stage, tables of results.

Everything has two forms: colours and motion on a terminal, plain lines in a file, a pipe or a CI log. Progress
goes to stderr and tables to stdout, so that a table can be piped on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from rich.box import DOUBLE, ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from dreamrl.types import Dream

UPPER_HALF = "\u2580"
FRAME_COLUMNS = (32, 28, 24, 20, 16, 12, 8, 6)
"""Widths in characters that a live frame may have; the widest with which all dreams fit is taken."""
BELIEF_STYLES = {"continue": "bright_black", "success": "green", "failure": "red", "stop": "blue"}
PLAIN_SECONDS = 10.0
"""Least time between two plain lines of progress."""


def half_blocks(frame: np.ndarray, columns: int) -> Text:
    """A picture in characters: each shows two pixels, the upper as its colour and the lower as its background.

    Args:
        frame: uint8 (H, W, 3).
        columns: width in characters; the height follows from the picture's shape.

    Returns:
        lines of ``columns`` characters, the picture averaged over the area of each half.
    """
    height, width = frame.shape[:2]
    lines = max(1, round(columns * height / width / 2))
    pixels = np.asarray(Image.fromarray(frame).resize((columns, 2 * lines), Image.Resampling.BOX))
    text = Text(no_wrap=True)
    for line in range(lines):
        for upper, lower in zip(pixels[2 * line], pixels[2 * line + 1], strict=True):
            text.append(UPPER_HALF, style=f"rgb({_rgb(upper)}) on rgb({_rgb(lower)})")
        if line < lines - 1:
            text.append("\n")
    return text


def _rgb(pixel: np.ndarray) -> str:
    return ",".join(str(int(channel)) for channel in pixel)


class DreamWatcher:
    """Draws dreams while they are imagined; call :meth:`update` with all dreams after each step.

    Where the output is no terminal, each new step becomes a line: ``dream 1 step 2: right -> continue``.

    Args:
        console: where to draw; stdout when left out.
    """

    def __init__(self, console: Console | None = None):
        """See the class."""
        self.console = console or Console()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_interactive else None
        self._told: list[int] = []
        self._told_focus = False

    def __enter__(self) -> DreamWatcher:
        """Start to draw."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """Leave the last picture standing and give the cursor back, whatever happened."""
        if self._live:
            try:
                self._live.stop()
            finally:
                self.console.show_cursor(True)

    def update(self, dreams: Sequence[Dream]) -> None:
        """Show ``dreams`` as far as they are imagined, always all of them and in the same order."""
        if self._live:
            self._live.update(dream_grid(dreams, self.console.width, self.console.height), refresh=True)
        else:
            self._tell(dreams)

    def _tell(self, dreams: Sequence[Dream]) -> None:
        self._told += [0] * (len(dreams) - len(self._told))
        for step in range(max(len(dream.triplets) for dream in dreams)):
            for index, dream in enumerate(dreams):
                if self._told[index] <= step < len(dream.triplets):
                    triplet = dream.triplets[step]
                    _plain(self.console, f"dream {index + 1} step {step + 1}: {triplet.action} -> {triplet.belief}")
                    self._told[index] = step + 1
        focus = [index for index, dream in enumerate(dreams) if dream.focus]
        if focus and not self._told_focus:
            _plain(self.console, f"answer read from dream {focus[0] + 1}")
            self._told_focus = True


def dream_grid(dreams: Sequence[Dream], width: int, height: int) -> Table:
    """Every dream's latest picture, action and belief, as large as ``width`` x ``height`` characters allow."""
    frame = dreams[0].triplets[0].what
    columns, abreast = _fit(len(dreams), frame.shape[0] / frame.shape[1], width, height)
    grid = Table.grid()
    panels = [_panel(dream, index, columns) for index, dream in enumerate(dreams)]
    for begin in range(0, len(panels), abreast):
        grid.add_row(*panels[begin : begin + abreast])
    return grid


def _fit(count: int, aspect: float, width: int, height: int) -> tuple[int, int]:
    """(columns of a frame, dreams abreast) for ``count`` dreams of ``aspect`` height / width."""
    for columns in FRAME_COLUMNS:
        abreast = min(count, width // (columns + 4))
        lines = max(1, round(columns * aspect / 2)) + 4
        rows = -(-count // abreast) if abreast else height
        if rows * lines < height:
            return columns, -(-count // rows)  # rows of even length
    return FRAME_COLUMNS[-1], max(1, min(count, width // (FRAME_COLUMNS[-1] + 4)))


def _panel(dream: Dream, index: int, columns: int) -> Panel:
    """One dream: border and last line say what it believes, a double border that the answer is read from it."""
    last = dream.triplets[-1]
    style = BELIEF_STYLES[dream.belief]
    action = Text(f"{len(dream.triplets)} {last.action}", no_wrap=True, overflow="ellipsis")
    if last.faithful is False:
        action.append(" (false)", style="red")
    belief = Text(dream.belief, style=style, no_wrap=True, overflow="ellipsis")
    return Panel(
        Group(half_blocks(last.result, columns), action, belief),
        box=DOUBLE if dream.focus else ROUNDED,
        title=Text(f"dream {index + 1}", style="bold"),
        border_style="bright_blue" if dream.focus else style,
        width=columns + 4,
    )


class StageProgress:
    """Progress of one stage: a bar on a terminal, else a line at the first advance, every ~10 s and at the end.

    Example:
        ``pretrain  350/700  2.9 it/s  eta 2:01  frame 0.98``

    Args:
        stage: name shown in front.
        total: steps of the stage.
        done: steps made before, by a run that is resumed; the rate does not count them.
        console: where to draw; stderr when left out.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        done: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """See the class."""
        self.stage, self.total, self.done = stage, total, done
        self.metrics: dict[str, float] = {}
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._begun_at = clock()
        self._begun_with = done
        self._last_line = -float("inf")
        self._bar: Progress | None = None
        if self._console.is_interactive:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                console=self._console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(stage, total=total, completed=done, status="")

    def __enter__(self) -> StageProgress:
        """Start the clock and the bar."""
        self._begun_at = self._clock()
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """Say how far it came and how long it took; give the cursor back, whatever happened."""
        if not self._bar:
            _plain(self._console, self.line(ended=True))
            return
        try:
            self._bar.update(self._task, completed=self.done, status=self._status(ended=True))
            self._bar.stop()
        finally:
            self._console.show_cursor(True)

    def advance(self, n: int = 1, **metrics: float) -> None:
        """Count ``n`` more steps; ``metrics`` are shown from now on, until a newer value replaces them."""
        self.done += n
        self.metrics |= metrics
        if self._bar:
            self._bar.update(self._task, completed=self.done, status=self._status())
        elif self._clock() - self._last_line >= PLAIN_SECONDS:
            self._last_line = self._clock()
            _plain(self._console, self.line())

    def line(self, ended: bool = False) -> str:
        """The progress as one plain line."""
        return f"{self.stage}  {self.done}/{self.total}  {self._status(ended)}"

    def _status(self, ended: bool = False) -> str:
        seconds = self._clock() - self._begun_at
        rate = (self.done - self._begun_with) / seconds if seconds > 0 else 0.0
        if ended:
            clock = f"took {format_seconds(seconds)}"
        else:
            clock = f"eta {format_seconds((self.total - self.done) / rate) if rate > 0 else '-:--'}"
        shown = [f"{name} {format_metric(value)}" for name, value in self.metrics.items()]
        return "  ".join([f"{format_metric(rate) if rate < 1 else f'{rate:.1f}'} it/s", clock, *shown])


class Stages:
    """Progress of work in named stages, each with a :class:`StageProgress` of its own from its first report on.

    Args:
        totals: steps of each stage, by name.
        make: what shows a stage.
    """

    def __init__(self, totals: Mapping[str, int], make: Callable[..., StageProgress] = StageProgress):
        """See the class."""
        self.totals, self._make = totals, make
        self._bar: StageProgress | None = None

    def __enter__(self) -> Stages:
        """Nothing is shown before the first report."""
        return self

    def __exit__(self, *error: Any) -> None:
        """End the stage that is shown."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def __call__(self, stage: str, step: int, **metrics: float) -> None:
        """``stage`` has made ``step`` steps; what it had made before its first report is not in the rate."""
        if self._bar is None or self._bar.stage != stage:
            self.__exit__()
            self._bar = self._make(stage, self.totals[stage], done=step).__enter__()
        self._bar.advance(step - self._bar.done, **metrics)


def printable(text: str) -> str:
    """``text`` without characters that a terminal would obey; a model that has learned little writes any bytes."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def format_seconds(seconds: float) -> str:
    """121 as "2:01", 3721 as "1:02:01"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_metric(value: float) -> str:
    """Two decimals where they say something, else two significant digits: 0.98, 12.30, 1.0e-04."""
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.1e}"


def result_table(rows: Sequence[tuple[str, ...]], header: tuple[str, ...], console: Console | None = None) -> None:
    """Print a compact table, first column to the left and the others to the right.

    Args:
        rows: as many cells each as ``header``.
        header: name of each column.
        console: where to print; stdout when left out.
    """
    console = console or Console()
    for row in rows:
        assert len(row) == len(header), (row, header)
    if not console.is_interactive:
        widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
        for row in [header, *rows]:
            cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
            _plain(console, "  ".join(cells).rstrip())
        return
    table = Table(box=SIMPLE_HEAD)
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _plain(console: Console, line: str) -> None:
    """One line as it is: no wrapping, colour or markup, so that ``[0.91, 0.95]`` survives."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
