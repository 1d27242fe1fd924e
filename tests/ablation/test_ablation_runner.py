"""Ablations: how the pieces are done and gone on with; a small program stands in for the process that trains."""

import functools
import json
import sys
import time

import pytest

from dreamrl.ablation import runner
from dreamrl.ablation.runner import ablate
from dreamrl.cli import main
from dreamrl.errors import UserError
from dreamrl.files import locked

STAND_IN = """
import json, os, signal, sys, time
job = json.loads(sys.stdin.readline())
log = open(os.path.join(job["out"], "calls"), "a")
log.write(job["name"] + " begins\\n"); log.flush()
made = os.path.join(job["out"], "pretrained", job["pretraining"], "pretrained")
time.sleep({seconds})
if job["name"] in {failing}:
    sys.exit("cannot " + job["name"])
if job["name"] in {interrupting}:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
os.makedirs(made, exist_ok=True)
value = job["seed"] / 10 + len(job["variant"]) / 100
entry = {{str(n): value for n in job["dreams"]}}
result = {{k: job[k] for k in ("variant", "seed", "budget", "settings", "pretraining")}}
result |= {{k: entry for k in ("exact_match", "progress_rate", "valid", "exact_frame")}}
result |= {{"parameters": 10, "flops": 20, "pid": os.getpid()}}
result |= {{k: {{"pretrain": 1.0, "ppo": 2.0, "eval": 3.0}} for k in ("seconds", "cpu_seconds")}}
log.write(job["name"] + " ends\\n")
json.dump(result, open(os.path.join(job["out"], "pieces", job["name"] + ".json"), "w"))
"""


@pytest.fixture
def stand_in(tmp_path):
    """A command that takes the place of the one that trains."""

    def make(seconds=0.0, failing=(), interrupting=()):
        script = tmp_path / "stand_in.py"
        script.write_text(STAND_IN.format(seconds=seconds, failing=list(failing), interrupting=list(interrupting)))
        return [sys.executable, "-S", str(script)]

    return make


def calls(out):
    return (out / "calls").read_text().splitlines()


def test_pieces_are_done_in_order_and_never_twice(stand_in, tmp_path, capsys):
    out, command = tmp_path / "out", stand_in()
    ablate(out, ["dense", "default"], seeds=2, workers=1, command=command)
    order = [f"{v}-seed{s} {what}" for v in ("default", "dense") for s in (0, 1) for what in ("begins", "ends")]
    assert calls(out) == order
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 pieces of work; 4 to do, 1 at a time, in {out}"
    text = "exact match 0.070 / 0.070 / 0.070 / 0.070 / 0.070 with 1 / 2 / 4 / 8 / 16 dreams"
    assert lines[1].startswith(f"default seed 0: {text}, pretrain 0:01, ppo 0:02, eval 0:03  [1/4, eta 0:0")
    assert lines[4].endswith("[4/4]")
    before = (out / "ablation.md").read_text()
    ablate(out, ["default", "z-loss"], seeds=3, workers=1, command=command)
    assert calls(out)[len(order) :: 2] == ["default-seed2 begins"] + [f"z-loss-seed{s} begins" for s in (0, 1, 2)]
    assert capsys.readouterr().out.startswith("6 pieces of work, 2 finished before; 4 to do")
    after = (out / "ablation.md").read_text()
    assert "| z-loss |" in after and "| z-loss |" not in before and "| dense |" in after
    ablate(out, ["default", "z-loss"], seeds=3, workers=1, command=command)
    assert "0 to do" in capsys.readouterr().out


def test_two_at_a_time_but_never_two_that_need_the_same_pretraining(stand_in, tmp_path):
    out = tmp_path / "out"
    ablate(out, ["default", "no-rl", "dense"], seeds=1, workers=2, command=stand_in(seconds=0.5))
    seen = calls(out)
    assert set(seen[:2]) == {"default-seed0 begins", "dense-seed0 begins"}
    assert seen.index("no-rl-seed0 begins") > seen.index("default-seed0 ends")


def test_what_fails_is_said_and_tried_again(stand_in, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"1 pieces failed \(dense-seed0\): see .*logs; call again to retry"):
        ablate(out, ["default", "dense"], seeds=1, command=stand_in(failing=["dense-seed0"]))
    assert "dense seed 0: failed: cannot dense-seed0" in capsys.readouterr().out
    assert "| default |" in (out / "ablation.md").read_text()
    ablate(out, ["default", "dense"], seeds=1, command=stand_in())
    assert calls(out).count("default-seed0 begins") == 1 and calls(out).count("dense-seed0 begins") == 2


def test_ctrl_c_ends_the_workers_and_the_same_command_goes_on(stand_in, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = stand_in(interrupting=["default-seed0"])
    monkeypatch.setattr(runner, "ablate", functools.partial(ablate, command=command))
    began = time.monotonic()
    argv = ["ablate", "--out", str(out), "--variants", "default", "--seeds", "1"]
    assert main(argv) == 130
    assert time.monotonic() - began < 30  # the stand-in would sleep for 60
    assert capsys.readouterr().err == "dreamrl: interrupted; the same command goes on where it stopped\n"
    assert list((out / "pieces").iterdir()) == []
    monkeypatch.setattr(runner, "ablate", functools.partial(ablate, command=stand_in()))
    assert main(argv) == 0


def test_a_directory_of_another_ablation_or_of_something_else_is_refused(stand_in, tmp_path):
    out, command = tmp_path / "out", stand_in()
    ablate(out, ["default"], seeds=1, budget=0.5, command=command)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UserError, match=r"out was made with --budget 0.5, not 1; pass --budget 0.5 to go on with it"):
        ablate(out, ["default"], seeds=1, command=command)
    with pytest.raises(UserError, match=r"out was made with ppo.lr 0.001, not 0.01; choose another --out"):
        ablate(out, ["default"], seeds=1, budget=0.5, overrides=["ppo.lr=0.01"], command=command)
    with pytest.raises(UserError, match=r"--workers \(0\) must be between 1 and"):
        ablate(out, ["default"], seeds=1, budget=0.5, workers=0, command=command)
    piece = out / "pieces" / "default-seed0.json"
    found = json.loads(piece.read_text())
    found["settings"]["model"]["moe_top_k"] = 3
    piece.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"default-seed0.json was made with model.moe_top_k 3, not 2; delete it"):
        ablate(out, ["default"], seeds=1, budget=0.5, command=command)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path != piece} == {
        path: time for path, time in before.items() if path != piece
    }
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="thesis is not empty and was not made by `dreamrl ablate`"):
        ablate(tmp_path / "thesis", ["default"], seeds=1, command=command)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.txt"]


def test_one_at_a_time_in_a_directory(stand_in, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (
        locked(out, "ablate"),
        pytest.raises(UserError, match="another `dreamrl ablate` works in .*; wait for it or"),
    ):
        ablate(out, ["default"], seeds=1, command=stand_in())
    ablate(out, ["default"], seeds=1, command=stand_in())
