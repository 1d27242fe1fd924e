"""`dreamrl watch` and what it reads: files of a run that another process writes, or has left behind."""

import dataclasses
import doctest
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dreamrl import dream_record, run_state
from dreamrl import watch as watch_module
from dreamrl.cli import main
from dreamrl.dream_record import MOST_BYTES, NEWEST, DreamRecord, read_record, write_record
from dreamrl.files import locked
from dreamrl.run_state import EVAL_PATIENCE, LEAST_PATIENCE, PATIENCE_LINES, MetricsTail, look
from dreamrl.settings import load_settings, write_yaml
from dreamrl.types import Dream, Triplet
from dreamrl.watch import View, drawn, dream_line, line_of, sparkline, watch

RUN = load_settings(overrides=["pretrain.steps=40", "ppo.iterations=6"])
SCENES = RUN.pretrain.scenes_per_step


def pretrained(step, seconds=0.5):
    """A line of pretraining in which an update takes ``seconds``."""
    values = {"exact_frame": step / 40, "loss/total": 40 / step, "expert_usage/0": 0.75, "expert_usage/1": 0.25}
    speed = {"pretrain/scenes_per_second": SCENES / seconds}
    return {"stage": "pretrain", "step": step} | {f"pretrain/{name}": value for name, value in values.items()} | speed


def learned(step, seconds=8.0):
    """A line of PPO whose update of 500 env steps took ``seconds``."""
    values = {"exact_match": step / 10, "env_steps": 500 * step, "env_steps_per_second": 500 / seconds}
    return {"stage": "ppo", "step": step} | {f"ppo/{name}": value for name, value in values.items()}


EVALUATED = {"stage": "eval", "step": 0, "eval/exact_match/random": 0.1, "eval/exact_match/ppo_4": 0.9}


def append(directory, *records):
    with (directory / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def run(tmp_path):
    """Makes the directory of a run with what is named, everything written ``age`` seconds ago."""

    def make(*records, names=(), age=0.0, name="run"):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        write_yaml(RUN, directory / "config.yaml")
        if records:
            append(directory, *records)
        for part in names:
            (directory / part).parent.mkdir(exist_ok=True)
            if part.endswith((".json", "stop", ".lock")):
                (directory / part).write_text("{}")
            else:
                (directory / part).mkdir()
        for path in [directory, *directory.rglob("*")]:
            os.utime(path, (time.time() - age,) * 2)
        return directory

    return make


def state_of(directory, now=None, patience=None):
    tail = MetricsTail(directory / "metrics.jsonl")
    tail.read()
    return look(directory, RUN, tail.records, time.time() if now is None else now, patience)


BOTH = (pretrained(20), pretrained(40), learned(5))
ENDED = (*BOTH, learned(6))


@pytest.mark.parametrize(
    ("records", "names", "stage", "status", "step"),
    [
        ((), [], "pretrain", "starting", 0),
        ((pretrained(10),), [], "pretrain", "running", 10),
        ((pretrained(40),), [], "pretrain", "running", 40),
        ((pretrained(40),), ["pretrained"], "ppo", "starting", 0),
        ((pretrained(40),), ["pretrained", "model"], "pretrain", "over", 40),
        ((), ["pretrained"], "ppo", "starting", 0),
        (BOTH, ["pretrained"], "ppo", "running", 5),
        (BOTH, ["pretrained", "stop"], "ppo", "stopping", 5),
        (ENDED, ["pretrained"], "ppo", "running", 6),
        (ENDED, ["pretrained", "model"], "eval", "running", 0),
        ((*ENDED, EVALUATED), ["pretrained", "model"], "eval", "running", 0),
        ((*ENDED, EVALUATED), ["pretrained", "model", "summary.json"], "eval", "over", 0),
    ],
)
def test_stage_and_status_follow_from_what_is_there(run, records, names, stage, status, step):
    state = state_of(run(*records, names=names))
    assert (state.stage, state.status, state.step) == (stage, status, step)


@pytest.mark.parametrize(
    ("records", "names", "patience"),
    [
        ((), [], LEAST_PATIENCE),
        ([pretrained(s) for s in (10, 20, 30)], [], LEAST_PATIENCE),  # a line every 5 s
        ([pretrained(s, 9.0) for s in (10, 20, 30)], [], PATIENCE_LINES * 10 * 9),
        ([learned(s, 100.0) for s in (1, 2, 3)], ["pretrained"], PATIENCE_LINES * 100),
        (ENDED, ["pretrained", "model"], EVAL_PATIENCE),
    ],
)
def test_a_run_seems_dead_after_a_silence_that_suits_its_pace(run, records, names, patience):
    for age, dead in ((patience - 5, False), (patience + 5, True)):
        directory = run(*records, names=names, age=age, name=f"run-{dead}")
        assert (state_of(directory).status == "dead") is dead
        assert state_of(directory).silent == pytest.approx(age, abs=3)
    assert state_of(directory, patience=patience + 60).status != "dead"


def test_a_silent_run_is_alive_while_its_lock_is_held(run):
    directory = run(pretrained(10), age=1e5)
    assert state_of(directory).status == "dead"
    with locked(directory, "train"):
        assert state_of(directory).status == "running"
    assert state_of(directory).status == "dead"
    with locked(directory, "train"):  # asking has not taken it
        pass


def test_a_finished_run_is_never_dead(run):
    names = ["pretrained", "model", "summary.json"]
    assert state_of(run(*ENDED, EVALUATED, names=names, age=1e6)).status == "over"


def test_time_left_is_the_median_pace_times_what_is_left(run):
    speeds = [4.0, 0.5, 0.5, 0.5, 60.0]
    state = state_of(run(*(pretrained(5 * i, s) for i, s in enumerate(speeds, 1))))
    assert state.pace == 0.5 and state.eta == 15 * 0.5
    state = state_of(run(*(learned(i, s) for i, s in enumerate([99.0, 8.0, 8.0, 30.0], 1)), name="ppo"))
    assert state.pace == pytest.approx(8.0) and state.eta == pytest.approx(16.0)
    assert state_of(run(learned(1), name="one")).eta is None


def test_the_newest_checkpoint_has_its_age(run):
    names = ["checkpoints/pretrain-00000040", "checkpoints/ppo-00000002", "checkpoints/ppo-00000010"]
    directory = run(*BOTH, names=[*names, "checkpoints/.ppo-00000011.partial-1"], age=50)
    name, age = state_of(directory).checkpoint
    assert name == "ppo-00000010" and age == pytest.approx(50, abs=3)


def test_the_tail_reads_what_is_new_and_starts_over_with_a_new_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert not tail.read() and tail.records == []
    append(tmp_path, pretrained(10))
    with path.open("a") as file:
        file.write('{"stage": "pretrain", "st')
    assert tail.read() and [r["step"] for r in tail.records] == [10]
    assert not tail.read()
    with path.open("a") as file:
        file.write('ep": 20}\nno json\n[1]\n{"stage": "moon", "step": 1}\n')
    assert tail.read() and [r["step"] for r in tail.records] == [10, 20]
    shorter = tmp_path / "new"
    shorter.write_text(json.dumps(pretrained(5)) + "\n")
    shorter.replace(path)  # as MetricsWriter.truncate_after does
    assert tail.read() and [r["step"] for r in tail.records] == [5]
    path.unlink()
    assert tail.read() and tail.records == []


def colour(seed):
    return np.full((16, 16, 3), np.random.default_rng(seed).integers(0, 256, 3), np.uint8)


def record(step=5, lengths=(2, 3)):
    dreams = []
    for n, length in enumerate(lengths):
        frames = [colour(10 * n + t) for t in range(length + 1)]
        steps = [
            Triplet(
                what=frames[t], action="down", result=frames[t + 1], belief=("continue", "success")[t + 1 == length],
                true_result=colour(99) if t else None, faithful=None if t == 0 else t == 1, experts=(0.5, 0.5),
            )
            for t in range(length)
        ]  # fmt: skip
        dreams.append(Dream(triplets=tuple(steps), value=0.25 * n, focus=n == 1))
    return DreamRecord(
        stage="ppo", step=step, question="Where [now]?", answer="down", verdict="exact", dreams=tuple(dreams)
    )


def test_dreams_come_back_from_their_file(tmp_path):
    first = record()
    write_record(first, tmp_path / NEWEST)
    second = read_record(tmp_path / NEWEST)
    assert (second.stage, second.step, second.question, second.answer) == ("ppo", 5, "Where [now]?", "down")
    for a, b in zip(first.dreams, second.dreams, strict=True):
        assert (a.actions, a.belief, a.value, a.focus) == (b.actions, b.belief, b.value, b.focus)
        for x, y in zip(a.triplets, b.triplets, strict=True):
            assert (x.what == y.what).all() and (x.result == y.result).all() and x.faithful == y.faithful
            assert (x.true_result is None) == (y.true_result is None) and x.experts == y.experts
            assert x.true_result is None or (x.true_result == y.true_result).all()


@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "text", "pickle", "fewer", "bomb"])
def test_a_file_of_dreams_that_cannot_be_read_is_none(tmp_path, harm):
    path = tmp_path / "newest.npz"
    write_record(record(), path)
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "pickle":
        np.savez(path, words=np.array([{"a": 1}], dtype=object))
    elif harm == "bomb":
        with np.load(path) as file:
            np.savez_compressed(path, **{**file, "more": np.zeros(MOST_BYTES, np.uint8)})
    elif harm == "fewer":
        with np.load(path) as file:
            np.savez(path, **{name: file[name][:1] if name == "results" else file[name] for name in file.files})
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "text": b"no dreams"}[harm])
    assert read_record(path) is None


def test_an_answer_cannot_command_the_terminal():
    hostile = dataclasses.replace(record(), answer="\x1b[2Jgo\x04\r on\x9b3m")
    assert dream_line(hostile).endswith('-> "\ufffd[2Jgo\ufffd\ufffd on\ufffd3m" (exact)')


def plain():
    return Console(file=io.StringIO(), width=80)


def lines(console):
    return console.file.getvalue().splitlines()


def test_without_a_terminal_every_update_is_a_line_and_the_end_ends_it(run):
    directory, console = run(pretrained(10)), plain()
    news = iter(
        [
            lambda: None,
            lambda: append(directory, pretrained(20), pretrained(30)),
            lambda: (append(directory, pretrained(40)), (directory / "pretrained").mkdir()),
            lambda: (append(directory, learned(1)), write_record(record(1), directory / NEWEST)),
            lambda: (append(directory, *(learned(s) for s in range(2, 7))), (directory / "model").mkdir()),
            lambda: (append(directory, EVALUATED), (directory / "summary.json").write_text("{}")),
        ]
    )
    watch(directory, console=console, sleep=lambda seconds: next(news)())
    told = lines(console)
    beginnings = [line.split("  ")[:2] for line in told if not line.startswith("dreamed")]
    assert beginnings == [
        ["pretrain", "10/40"],
        ["pretrain", "30/40"],
        ["ppo", "0/6"],
        ["ppo", "1/6"],
        ["eval", "EM 0.60"],
        ["eval", "random 0.10"],
    ]
    assert told[0] == "pretrain  10/40  2.0 it/s  eta 0:15  frame 0.25  loss 4.00"
    assert [line for line in told if line.startswith("dreamed")] == [
        'dreamed after update 1 of ppo: 2 of 5 pictures true; "Where [now]?" -> "down" (exact)'
    ]
    assert told[-1].endswith("over")


def test_a_dead_run_is_said_once_and_watched_on(run):
    directory, console = run(pretrained(10), age=400), plain()
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            append(directory, pretrained(20))  # resumed
        if len(waits) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(directory, every=7.0, console=console, sleep=wait)
    assert waits == [7.0] * 4
    first, second = lines(console)
    assert "seems dead: nothing new for 6:4" in first and "20/40" in second and "dead" not in second


def terminal(width=110, height=44):
    return Console(
        file=io.StringIO(), force_terminal=True, force_interactive=True, color_system="truecolor", width=width,
        height=height, _environ={},
    )  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(110, 44), (60, 30), (40, 12)])
def test_a_terminal_shows_curves_experts_and_dreams_and_is_never_overrun(run, width, height):
    state = state_of(run(*(pretrained(s) for s in range(5, 40, 5))))
    console = terminal(width, height)
    rows = console.render_lines(drawn(View(name="run", state=state, record=record()), width, height), pad=False)
    text = "\n".join("".join(segment.text for segment in row) for row in rows)
    assert "35/40" in text and "eta" in text
    if height > 20:
        assert len(rows) < height and all(sum(segment.cell_length for segment in row) <= width for row in rows)
        assert sparkline(state.series("pretrain/exact_frame"), 24) in text
        assert "0        0.75  ███████████████" in text and "1        0.25  █████" in text
    if height > 40:
        assert "dream 2" in text and "(false)" in text
        codes = {segment.style.color.triplet for row in rows for segment in row if segment.text.startswith("▀")}
        last = [dream.triplets[-1].result[0, 0].tolist() for dream in record().dreams]
        assert codes == {tuple(pixel) for pixel in last}


def test_the_dreams_are_played_step_by_step(run):
    """Steps of dreams of 2 and 3 steps over 8 looks; the end stands for two of them."""
    state = state_of(run(pretrained(5)))
    shown = []
    for tick in range(8):
        rows = terminal().render_lines(drawn(View(name="r", state=state, record=record()), 110, 44, tick), pad=False)
        codes = {segment.style.color.triplet for row in rows for segment in row if segment.text.startswith("▀")}
        found = [
            next(t for t, triplet in enumerate(dream.triplets) if tuple(triplet.result[0, 0].tolist()) in codes)
            for dream in record().dreams
        ]
        shown.append(found)
    assert shown == [[0, 0], [1, 1], [1, 2], [1, 2]] * 2


def test_on_a_terminal_it_ends_with_the_run_and_gives_the_cursor_back(run):
    directory, console = run(*ENDED, names=["pretrained"]), terminal()

    def finish(seconds):
        append(directory, EVALUATED)
        (directory / "model").mkdir()
        (directory / "summary.json").write_text("{}")

    watch(directory, console=console, sleep=finish)
    written = console.file.getvalue()
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert "over" in written and "ppo_4" in written


def test_a_sparkline_is_a_curve():
    assert sparkline([3.0], 5) == "▁" and sparkline([2, 2, 2], 5) == "▁▁▁"
    values = np.sin(np.arange(100))
    means = [chunk.mean() for chunk in np.split(values, 20)]
    low, high = min(means), max(means)
    heights = [min(7, int(8 * (m - low) / (high - low))) for m in means]
    assert sparkline(values.tolist(), 20) == "".join("▁▂▃▄▅▆▇█"[h] for h in heights)


@pytest.mark.parametrize("module", [run_state, watch_module, dream_record])
def test_examples_in_docstrings_are_true(module):
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted >= 1 and result.failed == 0


def test_once_is_one_look(run, capsys):
    directory = run(*BOTH, names=["pretrained"])
    assert main(["watch", str(directory), "--once"]) == 0
    assert capsys.readouterr().out == line_of(state_of(directory)) + "\n"


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["nowhere"], "run nowhere does not exist; give the directory of a run"),
        (["file"], "run file is a file"),
        (["empty"], "empty/config.yaml is missing"),
        (["run", "--every", "0"], "--every (0) must be between 0.1 and 86400"),
        (["run", "--dead-after", "nan"], "--dead-after (nan) must be between"),
        (["run", "--evry", "1"], 'has no flag "--evry"; did you mean "--every"'),
    ],
)
def test_mistakes_are_one_line(run, refused, tmp_path, monkeypatch, argv, reason):
    run()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert reason in refused("watch", *argv)


def test_a_running_process_is_watched_and_ctrl_c_is_clean(run):
    directory = run(pretrained(10))
    program = "import sys; from dreamrl.cli import main; code = main(sys.argv[1:]); "
    program += "assert not {'torch', 'ray', 'gymnasium'} & set(sys.modules), 'heavy'; sys.exit(code)"
    child = subprocess.Popen(
        [sys.executable, "-c", program, "watch", str(directory), "--every", "0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert child.stdout.readline().startswith("pretrain  10/40")
    append(directory, pretrained(20))
    assert child.stdout.readline().startswith("pretrain  20/40")
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "dreamrl: watching ends; the run itself is left alone\n")
