"""What is shown of a search while it runs: a table on a terminal, a line for each trial that ends elsewhere."""

import io

import pytest
from rich.console import Console

from dreamrl.tune.live import LiveTable, TrialRow, header, ordered

KEYS = ["ppo.lr", "model.num_experts"]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def row(name, status="running", score=None, **more):
    return TrialRow(name=name, status=status, score=score, settings={"ppo.lr": 1e-3, "model.num_experts": 4}, **more)


@pytest.fixture
def plain():
    clock, out = Clock(), io.StringIO()
    return LiveTable(KEYS, "exact_match", 4, Console(file=out, width=60), clock), clock, out


def test_each_trial_that_ends_is_one_line_once(plain):
    table, _, out = plain
    rows = [row("0", "finished", 0.5, iteration=8), row("1", "failed", reason="diverged: loss is nan"), row("2")]
    table.update(rows)
    table.update(rows)
    assert out.getvalue().splitlines() == [
        "trial 0 finished at iteration 8: exact_match 0.50  lr=1.0e-03 num_experts=4",
        "trial 1 failed: diverged: loss is nan  lr=1.0e-03 num_experts=4",
    ]


def test_every_thirty_seconds_one_line_sums_up(plain):
    table, clock, out = plain
    for clock.now in range(0, 95, 5):
        table.update([row("0", "finished", 0.25), row("1", "running", 0.5)])
    summaries = out.getvalue().splitlines()[1:]
    assert [line.rpartition(", ")[2] for line in summaries] == ["0:30", "1:00", "1:30"]
    assert set(line.rpartition(", ")[0] for line in summaries) == {
        "1/4 trials ended, 1 running, best exact_match 0.50 (1)"
    }


def test_on_a_terminal_the_table_is_redrawn_and_fits_the_screen():
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=90, height=12, force_terminal=True, force_interactive=True)
    table = LiveTable(KEYS, "exact_match", 30, console, clock)
    rows = [row(f"{n:05}", "finished", n / 100) for n in range(29)] + [row("00029", "running", 0.0)]
    clock.now = 2.0
    table.update(rows)
    before = out.getvalue()
    table.update(rows)  # too soon
    assert out.getvalue() == before
    table.close()
    assert "00029" in before and "running" in before  # what runs is always shown
    assert "00028" in before and "00000" not in before  # of the others the best
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back
    shown = Console(file=io.StringIO(), width=90, height=12)
    shown.print(table.table(rows))
    assert len(shown.file.getvalue().splitlines()) <= 12


def test_the_best_comes_first_and_names_are_short_where_they_are_clear():
    rows = [row("a"), row("b", score=0.1), row("c", score=0.3), row("d", score=0.3, iteration=2)]
    assert [r.name for r in ordered(rows)] == ["d", "c", "b", "a"]
    assert header(["ppo.lr", "pretrain.lr", "ppo.epochs"], "valid")[4:] == ["ppo.lr", "pretrain.lr", "epochs"]
