"""Tests of dreamrl/terminal.py, on consoles that write into strings."""

import functools
import io
import re

import numpy as np
import pytest
from rich.console import Console

from dreamrl.terminal import (
    DreamWatcher,
    StageProgress,
    Stages,
    dream_grid,
    format_metric,
    format_seconds,
    half_blocks,
    result_table,
)
from dreamrl.types import Dream, Triplet

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def plain() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal(width: int = 100, height: int = 40) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        force_interactive=True,
        color_system="truecolor",
        width=width,
        height=height,
        _environ={},
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def dream(*steps: tuple[str, str], focus: bool = False, side: int = 32) -> Dream:
    frame = np.full((side, side, 3), (10, 200, 30), np.uint8)
    triplets = tuple(
        Triplet(what=frame, action=action, result=frame, belief=belief, true_result=None, faithful=None, experts=(1.0,))
        for action, belief in steps
    )
    return Dream(triplets=triplets, value=0.0, focus=focus)


class Clock:
    """A clock that the test turns."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_half_block_has_the_upper_pixel_as_colour_and_the_lower_as_background():
    text = half_blocks(np.array([[[255, 0, 7]], [[1, 2, 250]]], np.uint8), columns=1)
    console = terminal()
    console.print(text, end="")
    assert "38;2;255;0;7;48;2;1;2;250m\u2580" in written(console)


def test_half_blocks_put_every_pixel_in_its_place():
    frame = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
    console = terminal()
    console.print(half_blocks(frame, columns=4))
    lines = written(console).splitlines()
    assert len(lines) == 3
    for row, line in enumerate(lines):
        colours = [tuple(map(int, found)) for found in re.findall(r"38;2;(\d+);(\d+);(\d+);48", line)]
        assert colours == [tuple(pixel) for pixel in frame[2 * row].tolist()]


def test_half_blocks_average_over_the_area():
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[:2, :2] = 200
    frame[0, 0] = 0
    console = terminal()
    console.print(half_blocks(frame, columns=2))
    assert "38;2;150;150;150;48;2;0;0;0m\u2580" in written(console)


@pytest.mark.parametrize(("shape", "lines"), [((64, 64), 8), ((32, 64), 4), ((64, 32), 16), ((2, 64), 1)])
def test_half_blocks_keep_the_shape(shape, lines):
    text = half_blocks(np.zeros((*shape, 3), np.uint8), columns=16).plain.splitlines()
    assert [len(line) for line in text] == [16] * lines


def test_watcher_without_terminal_tells_each_step_once():
    console = plain()
    with DreamWatcher(console) as watcher:
        watcher.update([dream(("right", "continue")), dream(("up", "failure"))])
        watcher.update([dream(("right", "continue"), ("down", "success")), dream(("up", "failure"))])
        watcher.update([dream(("right", "continue"), ("down", "success"), focus=True), dream(("up", "failure"))])
    assert written(console).splitlines() == [
        "dream 1 step 1: right -> continue",
        "dream 2 step 1: up -> failure",
        "dream 1 step 2: down -> success",
        "answer read from dream 1",
    ]


def test_watcher_draws_frames_actions_and_beliefs_on_a_terminal():
    console = terminal()
    with DreamWatcher(console) as watcher:
        watcher.update([dream(("right", "continue"), ("down", "success")), dream(("up", "failure"))])
        shown = written(console)
    assert "38;2;10;200;30;48;2;10;200;30m" in shown
    for text in ("dream 1", "2 down", "success", "dream 2", "1 up", "failure"):
        assert text in shown


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_all_dreams_fit_the_terminal(count, width, height):
    console = terminal(width, height)
    lines = console.render_lines(dream_grid([dream(("left", "continue"))] * count, width, height))
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(lines) < height
    assert sum(line.count("dream") for line in text) == count
    assert sum(line.count("conti") for line in text) == count, "narrow ones read conti..."


@pytest.mark.parametrize("make", [DreamWatcher, lambda console: StageProgress("ppo", 10, console=console)])
def test_ctrl_c_gives_the_cursor_back(make):
    console = terminal()
    with pytest.raises(KeyboardInterrupt), make(console) as shown:
        if isinstance(shown, DreamWatcher):
            shown.update([dream(("left", "continue"))])
        else:
            shown.advance()
        assert HIDE in written(console)
        raise KeyboardInterrupt
    assert written(console).rindex(SHOW) > written(console).rindex(HIDE)


def test_plain_progress_is_a_line_every_ten_seconds_and_one_at_the_end():
    console, clock = plain(), Clock()
    with StageProgress("pretrain", 100, console=console, clock=clock) as progress:
        for step in range(100):
            clock.now += 0.5
            progress.advance(frame=step / 100)
    assert written(console).splitlines() == [
        "pretrain  1/100  2.0 it/s  eta 0:50  frame 0.00",
        "pretrain  21/100  2.0 it/s  eta 0:40  frame 0.20",
        "pretrain  41/100  2.0 it/s  eta 0:30  frame 0.40",
        "pretrain  61/100  2.0 it/s  eta 0:20  frame 0.60",
        "pretrain  81/100  2.0 it/s  eta 0:10  frame 0.80",
        "pretrain  100/100  2.0 it/s  took 0:50  frame 0.99",
    ]


def test_progress_keeps_metrics_until_replaced_and_does_not_count_a_resumed_past():
    console, clock = plain(), Clock()
    with StageProgress("ppo", 60, done=30, console=console, clock=clock) as progress:
        clock.now += 10
        progress.advance(5, EM=0.5)
        clock.now += 10
        progress.advance(5, loss=2.0)
        clock.now += 10
        progress.advance(5, EM=0.75)
    lines = written(console).splitlines()
    assert lines[0] == "ppo  35/60  0.50 it/s  eta 0:50  EM 0.50"
    assert lines[1] == "ppo  40/60  0.50 it/s  eta 0:40  EM 0.50  loss 2.00"
    assert lines[2] == "ppo  45/60  0.50 it/s  eta 0:30  EM 0.75  loss 2.00"


def test_stages_follow_each_other_each_with_its_own_clock():
    """A stage is shown from its first report on; the time before that is not its own."""
    console, clock = plain(), Clock()
    with Stages({"pretrain": 20, "ppo": 4}, functools.partial(StageProgress, console=console, clock=clock)) as stages:
        clock.now += 1000
        stages("pretrain", 10, loss=2.0)
        clock.now += 10
        stages("pretrain", 20, loss=1.0)
        clock.now += 50
        stages("ppo", 3, em=0.25)
        clock.now += 2
        stages("ppo", 4, em=0.5)
    assert written(console).splitlines() == [
        "pretrain  10/20  0.00 it/s  eta -:--  loss 2.00",
        "pretrain  20/20  1.0 it/s  eta 0:00  loss 1.00",
        "pretrain  20/20  0.17 it/s  took 1:00  loss 1.00",
        "ppo  3/4  0.00 it/s  eta -:--  em 0.25",
        "ppo  4/4  0.50 it/s  took 0:02  em 0.50",
    ]


def test_progress_that_stops_early_says_how_far_it_came():
    console, clock = plain(), Clock()
    with pytest.raises(RuntimeError), StageProgress("ppo", 60, console=console, clock=clock) as progress:
        clock.now += 4
        progress.advance(8)
        raise RuntimeError
    assert written(console).splitlines()[-1] == "ppo  8/60  2.0 it/s  took 0:04"


def test_long_plain_lines_are_not_wrapped_and_brackets_survive():
    console = plain()
    with StageProgress("a stage [bold]", 1, console=console) as progress:
        progress.advance(1, **{f"metric{i}": 0.5 for i in range(20)})
    assert all("[bold]" in line and "metric19 0.50" in line for line in written(console).splitlines())


def test_progress_bar_shows_stage_count_rate_and_metrics_on_a_terminal():
    console, clock = terminal(), Clock()
    with StageProgress("ppo", 60, console=console, clock=clock) as progress:
        clock.now += 10
        progress.advance(20, EM=0.834)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written(console))
    assert "ppo" in shown and "20/60" in shown and "2.0 it/s" in shown and "EM 0.83" in shown


def test_progress_goes_to_stderr_and_tables_to_stdout(capsys):
    with StageProgress("ppo", 1) as progress:
        progress.advance()
    result_table([("random", "0.12")], ("model", "EM"))
    captured = capsys.readouterr()
    assert "ppo" in captured.err and "ppo" not in captured.out
    assert "random" in captured.out and "random" not in captured.err


def test_plain_table_is_aligned():
    console = plain()
    result_table(
        [("random", "0.12", "[0.10, 0.15]"), ("ppo_16", "0.9", "[0.88, 0.92]")], ("model", "EM", "95%"), console
    )
    assert written(console).splitlines() == [
        "model     EM           95%",
        "random  0.12  [0.10, 0.15]",
        "ppo_16   0.9  [0.88, 0.92]",
    ]


def test_table_on_a_terminal_shows_every_cell_as_it_is():
    console = terminal()
    result_table([("[red]random", "[0.10, 0.15]")], ("model", "95%"), console)
    assert "[red]random" in written(console) and "[0.10, 0.15]" in written(console)


def test_table_rows_must_match_the_header():
    with pytest.raises(AssertionError):
        result_table([("random",)], ("model", "EM"), plain())


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (121, "2:01"), (3721, "1:02:01")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9834, "0.98"), (0, "0.00"), (12.3, "12.30"), (1e-4, "1.0e-04"), (-0.5, "-0.50"), (2e6, "2.0e+06")],
)
def test_format_metric(value, text):
    assert format_metric(value) == text
