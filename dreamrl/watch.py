"""``dreamrl watch``: a run that goes on in another process, in the terminal, from its files.

On a terminal the view is drawn over and over, and the newest dreams are played step by step. Elsewhere each update
is a line. It ends when the run is over; a run that seems dead may be resumed, so it is watched on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dreamrl.dream_record import NEWEST, DreamRecord, read_record
from dreamrl.run_state import METRICS, MetricsTail, RunState, check_run, look
from dreamrl.terminal import dream_grid, format_metric, format_seconds, printable
from dreamrl.types import Dream

BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH, BAR_WIDTH = 24, 20
LEAST_GRID_HEIGHT = 9
"""Lines that a row of dreams needs at the least."""
MOST_EXPERTS = 8
"""Experts that are listed; the others are counted."""
CURVES: dict[str, dict[str, dict[str, str]]] = {
    "pretrain": {
        "held out": {
            "frame": "pretrain/exact_frame",
            "answers": "pretrain/answer_accuracy",
            "focus": "pretrain/focus_accuracy",
        },
        "losses": {
            "total": "pretrain/loss/total",
            "frame": "pretrain/loss/frame",
            "answer": "pretrain/loss/answer",
            "focus": "pretrain/loss/focus",
        },
    },
    "ppo": {
        "answers": {"EM": "ppo/exact_match", "success": "ppo/success", "frame": "ppo/exact_frame"},
        "rewards": {
            name: f"ppo/{name}" for name in ("faithfulness", "coherence", "correctness", "creativity", "progress")
        },
        "losses": {"policy": "ppo/policy_loss", "value": "ppo/value_loss", "world": "ppo/world_loss"},
    },
}
"""Stage -> heading -> label -> metric that is shown under it."""
IN_LINES: dict[str, dict[str, str]] = {
    "pretrain": {
        "frame": "pretrain/exact_frame",
        "answers": "pretrain/answer_accuracy",
        "loss": "pretrain/loss/total",
    },
    "ppo": {
        "EM": "ppo/exact_match",
        "frame": "ppo/exact_frame",
        "faithful": "ppo/faithfulness",
        "policy": "ppo/policy_loss",
        "value": "ppo/value_loss",
    },
}
"""Stage -> label -> metric whose newest value is in a plain line."""
STYLES = {"starting": "bright_black", "running": "green", "stopping": "yellow", "dead": "bold red", "over": "blue"}


@dataclass(frozen=True, kw_only=True)
class View:
    """What there is to see of a run at one moment."""

    name: str
    """The run's directory, as it was given."""
    state: RunState
    record: DreamRecord | None
    """Its newest dreams."""


def watch(
    directory: Path,
    once: bool = False,
    every: float = 2.0,
    patience: float | None = None,
    console: Console | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Show the run in ``directory`` until it is over; with ``once`` only as it is now.

    Args:
        directory: of the run.
        once: do not wait for news.
        every: seconds between two looks.
        patience: seconds without news after which a run seems dead; None: by its pace.
        console: where to draw; stdout when left out.
        clock: seconds since the epoch.
        sleep: waits.

    Raises:
        UserError: ``directory`` is no run, or is one no longer.
    """
    console = console or Console()
    tail = MetricsTail(directory / METRICS)

    def view() -> View:
        run = check_run(directory)  # each time: it may have been started anew, with other settings
        tail.read()
        state = look(directory, run, tail.records, clock(), patience)
        return View(name=str(directory), state=state, record=read_record(directory / NEWEST))

    first = view()
    if not console.is_interactive:
        _tell(console, view, first, once, lambda: sleep(every))
    elif once:
        console.print(drawn(first, console.width, console.height))
    else:
        _play(console, view, first, lambda: sleep(every))


def _play(console: Console, view: Callable[[], View], seen: View, wait: Callable[[], object]) -> None:
    """Draw what is seen again and again, the dreams a step further each time."""
    tick = 0
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            over = seen.state.status == "over"
            live.update(drawn(seen, console.width, console.height, None if over else tick), refresh=True)
            if over:
                return
            wait()
            tick, seen = tick + 1, view()


def _tell(console: Console, view: Callable[[], View], seen: View, once: bool, wait: Callable[[], object]) -> None:
    """A line for every update of the run, and for every new dream."""
    told, dreamed = None, None
    while True:
        state = seen.state
        if (now := (state.stage, state.status, state.step)) != told:
            told = now
            _plain(console, line_of(state))
        if (record := seen.record) is not None and (now := (record.stage, record.step)) != dreamed:
            dreamed = now
            _plain(console, dream_line(record))
        if once or state.status == "over":
            return
        wait()
        seen = view()


def line_of(state: RunState) -> str:
    """A state as one plain line.

    Example:
        ``ppo  12/26  7.5 s/it  eta 1:45  EM 0.84  frame 1.00  checkpoint ppo-00000010 0:15 ago``
    """
    parts = [state.stage, *progress_of(state)]
    if not state.results:
        shown = [(label, state.series(metric)) for label, metric in IN_LINES[state.learned].items()]
        parts += [f"{label} {format_metric(values[-1])}" for label, values in shown if values]
    parts += [f"{name} {format_metric(value)}" for name, value in state.results.items()]
    return "  ".join([*parts, *[text for text in (checkpoint_of(state), status_of(state)) if text]])


def dream_line(record: DreamRecord) -> str:
    """The newest answer as one plain line, and how true the dreams behind it are."""
    steps = [triplet for dream in record.dreams for triplet in dream.triplets]
    true = sum(triplet.faithful is True for triplet in steps)
    about = f"dreamed after update {record.step} of {record.stage}: {true} of {len(steps)} pictures true"
    return printable(f'{about}; "{record.question}" -> "{record.answer}" ({record.verdict})')


def progress_of(state: RunState) -> list[str]:
    """Updates, pace and time left, as far as they are known."""
    parts = [f"{state.step}/{state.total}"] if state.total else []
    if state.pace:
        parts.append(f"{1 / state.pace:.1f} it/s" if state.pace < 1 else f"{state.pace:.1f} s/it")
    if state.eta is not None and state.status in ("running", "stopping"):
        parts.append(f"eta {format_seconds(state.eta)}")
    return parts


def checkpoint_of(state: RunState) -> str:
    """The newest checkpoint and its age."""
    return (
        ""
        if state.checkpoint is None
        else f"checkpoint {state.checkpoint[0]} {format_seconds(state.checkpoint[1])} ago"
    )


def status_of(state: RunState) -> str:
    """What there is to say beyond numbers."""
    if state.status == "dead":
        return f"seems dead: nothing new for {format_seconds(state.silent)}, and no process holds it"
    if state.status == "over":
        took = ", ".join(f"{stage} {format_seconds(seconds)}" for stage, seconds in state.took.items())
        return f"over; took {took}" if took else "over"
    return {"starting": "starting", "stopping": "stopping: it was asked to"}.get(state.status, "")


def drawn(view: View, width: int, height: int, tick: int | None = None) -> RenderableType:
    """The whole view for a terminal of ``width`` x ``height`` characters.

    Args:
        view: what to show.
        width: in characters.
        height: in lines; dreams that do not fit are left out.
        tick: number of the look: the dreams are shown up to a step that goes round with it; None: to their end.
    """
    upper = Group(_head(view, width), Columns(_groups(view.state), padding=(0, 4)), Text())
    if (record := view.record) is None:
        return Group(upper, Text("no dreams yet", style="bright_black"))
    told = Text(dream_line(record), style="bright_black", overflow="ellipsis", no_wrap=True)
    used = len(Console(width=width, height=height).render_lines(upper, pad=False)) + 2
    if height - used < LEAST_GRID_HEIGHT:
        return Group(upper, told)
    return Group(upper, told, dream_grid(_until(record.dreams, tick), width, height - used))


def _head(view: View, width: int) -> RenderableType:
    state = view.state
    title = Text.assemble(
        (view.name, "bold"), "  ", state.stage, "  ", (state.status, STYLES[state.status]), overflow="ellipsis"
    )
    bar = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [Text("  ".join(progress_of(state)))]
    if state.total:
        cells.insert(0, ProgressBar(total=state.total, completed=state.step, width=max(10, min(40, width // 3))))
    bar.add_row(*cells)
    news = "" if state.status == "over" else f"last news {format_seconds(state.silent)} ago"
    below = [text for text in (status_of(state), checkpoint_of(state), news) if text]
    return Group(title, bar, Text("  ".join(below), style=STYLES[state.status] if state.status == "dead" else ""))


def _groups(state: RunState) -> list[Table]:
    """A table for each heading: newest value and curve of its metrics; how much each expert is used; the results."""
    tables = []
    for heading, labels in CURVES[state.learned].items():
        rows = [(label, state.series(metric)) for label, metric in labels.items()]
        tables.append(_table(heading, [(label, v[-1], sparkline(v, SPARK_WIDTH)) for label, v in rows if v]))
    usage = {}
    for name, share in (state.records[-1] if state.records else {}).items():
        if "/expert_usage/" in name and share is not None:
            usage[name.rpartition("/")[2]] = share
    bars = [(label, share, _bar(share)) for label, share in usage.items()]
    hidden = len(bars) - MOST_EXPERTS
    tables.append(_table("experts", bars[:MOST_EXPERTS], f"and {hidden} more" if hidden > 0 else ""))
    tables.append(_table("exact match", [(label, share, _bar(share)) for label, share in state.results.items()]))
    return [table for table in tables if table.row_count]


def _bar(share: float) -> str:
    return BARS[-1] * round(BAR_WIDTH * share)


def _table(heading: str, rows: Sequence[tuple[str, float, str]], below: str = "") -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column(heading, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True, min_width=SPARK_WIDTH)
    for label, value, curve in rows:
        table.add_row(Text(label), Text(format_metric(value)), Text(curve))
    if below:
        table.add_row("", "", Text(below, style="bright_black"))
    return table


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line of text: from its lowest value to its highest, and flat if they are all equal.

    Example:
        >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8)
        '▁▂▃▄▅▆▇█'

    Args:
        values: at least one.
        width: characters at most; more values are averaged in groups.
    """
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(means), max(means)
    if high == low:
        return BARS[0] * count
    return "".join(BARS[min(len(BARS) - 1, int((value - low) / (high - low) * len(BARS)))] for value in means)


def _until(dreams: Sequence[Dream], tick: int | None) -> list[Dream]:
    """Every dream up to a step that goes round with ``tick``; the end is held for as long as a step more."""
    if tick is None:
        return list(dreams)
    longest = max(len(dream.triplets) for dream in dreams)
    steps = min(longest, 1 + tick % (longest + 1))
    return [replace(dream, triplets=dream.triplets[:steps]) for dream in dreams]


def _plain(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
