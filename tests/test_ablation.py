"""Ablations: what is planned, how the pieces are done and gone on with, and whether the table says what was measured.

Most tests let a small program stand in for the process that trains; the slow ones train.
"""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamrl import ablation_runner
from dreamrl.ablation import BASELINES, VARIANTS, at_budget, plan
from dreamrl.ablation_report import markdown, mean_interval, summarise, verdict
from dreamrl.ablation_runner import ablate
from dreamrl.cli import main
from dreamrl.errors import UserError
from dreamrl.settings import load_settings

ROOT = Path(__file__).parent.parent

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


# --- what is planned


def test_every_variant_differs_from_the_default_in_what_it_says():
    base = load_settings()
    assert list(VARIANTS)[:9] == [
        "default",
        "baseline-params",
        "no-rl",
        "no-replay",
        "naive-progress",
        "mean-reader",
        "shuffled-edges",
        "dense",
        "baseline-flops",
    ]
    for piece in plan(list(VARIANTS), 1, 1.0, []):
        if piece.variant == "baseline-time":
            assert (piece.run.pretrain.steps, piece.run.ppo.iterations) == (4 * 360, 4 * 26)
            continue
        differs = piece.run != base
        assert differs != (piece.variant == "default" or piece.variant in BASELINES), piece.variant
        assert (piece.equal != "") == (piece.variant in BASELINES)


def test_work_comes_in_the_order_of_the_variants_all_seeds_of_one_first():
    pieces = plan(["dense", "default"], 2, 1.0, [])
    assert [p.name for p in pieces] == ["default-seed0", "default-seed1", "dense-seed0", "dense-seed1"]


def test_the_budget_scales_updates_but_leaves_none_where_there_were_none():
    run = load_settings(overrides=["pretrain.steps=10", "ppo.iterations=3"])
    assert at_budget(run, 0.5).pretrain.steps == 5 and at_budget(run, 0.5).ppo.iterations == 2
    assert at_budget(run, 0.001).pretrain.steps == 1 and at_budget(run, 3).ppo.iterations == 9
    (piece,) = plan(["no-rl"], 1, 2.0, ["pretrain.steps=10"])
    assert piece.run.ppo.iterations == 0 and piece.run.pretrain.steps == 20


def test_pretraining_is_shared_by_those_that_differ_only_later():
    keys = {p.name: p.pretraining for p in plan(list(VARIANTS), 2, 1.0, [])}
    same = {name for name, key in keys.items() if key == keys["default-seed0"]}
    assert same == {f"{name}-seed0" for name in ("default", "no-rl", "no-replay", "naive-progress")}
    others = [key for name, key in keys.items() if name.endswith("seed0") and name not in same]
    assert len(set(others)) == len(others)
    assert keys["default-seed0"] != keys["default-seed1"]

    def key(*overrides):
        return plan(["default"], 1, 1.0, overrides)[0].pretraining

    assert key("ppo.lr=1e-4", "model.ppo_clip_epsilon=0.1", "eval.num_items=3", "reward.progress=2") == key()
    for change in ("ppo.gamma=0.9", "model.embedding_dim=32", "pretrain.steps=9", "world.sizes=3"):
        assert key(change) != key()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ["defalt"]}, 'unknown variant "defalt"; did you mean "default"?'),
        ({"seeds": 0}, r"--seeds \(0\) must be between 1 and 1000"),
        ({"budget": 0.0}, r"--budget \(0\) must be between 0.0001 and 10000"),
        ({"budget": math.nan}, r"--budget \(nan\) must be"),
        ({"overrides": ["seed=3"]}, "seed=... contradicts --seeds"),
        (
            {"variants": ["all-experts"], "overrides": ["model.num_experts=2"]},
            r'variant "all-experts" does not go with these settings: model.moe_top_k \(4\) must be',
        ),
    ],
)
def test_mistakes_in_the_plan(changes, message):
    with pytest.raises(UserError, match=message):
        plan(**({"variants": ["default"], "seeds": 1, "budget": 1.0, "overrides": []} | changes))


# --- how it is done


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
    monkeypatch.setattr(ablation_runner, "ablate", functools.partial(ablate, command=command))
    began = time.monotonic()
    argv = ["ablate", "--out", str(out), "--variants", "default", "--seeds", "1"]
    assert main(argv) == 130
    assert time.monotonic() - began < 30  # the stand-in would sleep for 60
    assert capsys.readouterr().err == "dreamrl: interrupted; the same command goes on where it stopped\n"
    assert list((out / "pieces").iterdir()) == []
    monkeypatch.setattr(ablation_runner, "ablate", functools.partial(ablate, command=stand_in()))
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
        ablation_runner.locked(out),
        pytest.raises(UserError, match="another `dreamrl ablate` works in .*; wait for it or"),
    ):
        ablate(out, ["default"], seeds=1, command=stand_in())
    ablate(out, ["default"], seeds=1, command=stand_in())


# --- what the table says


def test_interval_over_seeds_by_hand():
    """Three values: t = 4.303 with 2 degrees of freedom (any printed table)."""
    mean, half = mean_interval([0.8, 0.9, 0.7])
    assert mean == pytest.approx(0.8)
    assert half == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert mean_interval([0.5, 0.7])[1] == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert mean_interval([0.25]) == (0.25, None)


@pytest.mark.parametrize(
    ("difference", "half", "expected"),
    [
        (0.1, 0.05, "better"),
        (-0.1, 0.05, "worse"),
        (0.05, 0.1, "no difference at this budget"),
        (-0.05, 0.1, "no difference at this budget"),
        (0.0, 0.0, "no difference at this budget"),
        (0.5, None, "too few seeds for a verdict"),
    ],
)
def test_verdicts(difference, half, expected):
    assert verdict(difference, half) == expected


def result(variant, seed, exact, frame=0.5):
    return {
        "variant": variant,
        "seed": seed,
        "parameters": 1234567,
        "flops": 251_000_000,
        "seconds": {"pretrain": 100.0 + seed, "ppo": 200.0, "eval": 30.0},
        "cpu_seconds": {"pretrain": 90.0, "ppo": 190.0, "eval": 29.0},
        "exact_match": {"1": exact, "4": exact + 0.01},
        "progress_rate": {"1": exact, "4": exact},
        "valid": {"1": 1.0, "4": 1.0},
        "exact_frame": {"1": frame, "4": frame},
    }


def test_differences_are_paired_by_seed():
    """The default swings by 0.2 over the seeds and so does the variant, always 0.03 to 0.05 above it."""
    default = [result("default", s, e) for s, e in enumerate([0.5, 0.6, 0.7, 0.9])]
    variant = [result("memory", s, e) for s, e in enumerate([0.53, 0.65, 0.74])]
    baseline = [result("baseline-params", s, e, None) for s, e in enumerate([0.1, 0.5, 0.9])]
    found = summarise(variant + default + baseline, VARIANTS)
    assert list(found) == ["default", "baseline-params", "memory"]
    assert "difference" not in found["default"]
    assert found["default"]["exact_match"]["1"]["mean"] == pytest.approx(0.675)
    assert found["default"]["seconds"]["pretrain"] == pytest.approx(101.5)
    difference = found["memory"]["difference"]["4"]
    assert difference["values"] == pytest.approx([0.03, 0.05, 0.04])
    assert difference["mean"] == pytest.approx(0.04)
    assert difference["half_width"] == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)
    assert difference["verdict"] == "better"
    assert found["baseline-params"]["difference"]["4"]["verdict"] == "no difference at this budget"
    assert found["baseline-params"]["exact_frame"] == {}


def test_the_table_shows_what_was_measured():
    settings = {
        "eval": {"dreams": [1, 4], "num_items": 600},
        "model": {"num_dream_sequences": 4, "dream_length": 8},
        "world": {"sizes": [3, 4]},
        "pretrain": {"steps": 180},
        "ppo": {"iterations": 13},
    }
    default = [result("default", s, e) for s, e in enumerate([0.5, 0.6, 0.7])]
    baseline = [result("baseline-params", s, e, None) for s, e in enumerate([0.1, 0.2, 0.3])]
    text = markdown({"budget": 0.5, "settings": settings}, summarise(default + baseline, VARIANTS))
    half = f"{4.303 * 0.1 / math.sqrt(3):.3f}"
    cells = f"| 1,234,567 | 251.0 | 101 s | 200 s | 0.600 ± {half} | 0.610 ± {half} | - | - |"
    assert f"| default | 3 {cells}" in text
    assert "| -0.400 ± 0.000 | worse |" in text
    assert "Budget 0.5: 180 updates of pretraining on random play, 13 iterations of PPO" in text
    assert "Verdicts: 1;" in text and "600 held-out boards, 3x3, 4x4" in text
    assert "| baseline-params | no dreams: image tokens straight to the answer, as many parameters | 0.200" in text


# --- with real training


TINY = """model.embedding_dim=16 model.codec_hidden=16 model.dream_length=4 model.num_dream_sequences=2
pretrain.codec_steps=60 pretrain.steps=12 pretrain.scenes_per_step=4 pretrain.checkpoint_every=10 ppo.iterations=4
ppo.questions_per_iteration=8 ppo.minibatch_size=8 ppo.num_learners=0 eval.num_items=12 eval.dreams=1,3""".split()


def program(out, *argv, **options):
    words = [sys.executable, "-m", "dreamrl", "ablate", "--out", str(out), "--seeds", "1", *argv, *TINY]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, **options)


def children(pid):
    return [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]


def measured(out, name):
    found = json.loads((out / "pieces" / f"{name}.json").read_text())
    return {k: v for k, v in found.items() if k not in ("seconds", "cpu_seconds")}


def weights(out, name):
    return (out / "models" / name / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
@pytest.mark.parametrize("variant", ["default", "baseline-params"])
def test_killed_at_any_stage_it_ends_with_the_same_model(tmp_path, variant):
    name = f"{variant}-seed0"
    whole = program(tmp_path / "whole", "--variants", variant)
    assert whole.communicate()[0].splitlines()[-1].startswith("results in") and whole.returncode == 0
    out = tmp_path / "killed"
    for sign in ("pretrained/*/checkpoints/pretrain-*/manifest.json", f"work/{name}/checkpoints/ppo-*/manifest.json"):
        process = program(out, "--variants", variant)
        while not list(out.glob(sign)):
            assert process.poll() is None, "it ended before there was anything to kill"
            time.sleep(0.01)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(workers) == 1
        deadline = time.monotonic() + 20
        while Path(f"/proc/{workers[0]}").exists():
            assert time.monotonic() < deadline, "the worker outlives the program that started it"
            time.sleep(0.05)
    again = program(out, "--variants", variant)
    assert again.communicate()[0].startswith("1 pieces of work; 1 to do") and again.returncode == 0
    assert measured(out, name) == measured(tmp_path / "whole", name)
    assert weights(out, name) == weights(tmp_path / "whole", name)
    assert not (out / "work" / name).exists()


@pytest.mark.slow
def test_pretraining_is_done_once_for_variants_that_share_it(tmp_path):
    process = program(tmp_path / "out", "--variants", "default,no-rl,baseline-params", "--workers", "1")
    process.communicate()
    assert process.returncode == 0
    out = tmp_path / "out"
    assert len(list((out / "pretrained").iterdir())) == 2
    default, no_rl, baseline = (measured(out, f"{v}-seed0") for v in ("default", "no-rl", "baseline-params"))
    assert default["pretraining"] == no_rl["pretraining"] != baseline["pretraining"]
    assert weights(out, "default-seed0") != weights(out, "no-rl-seed0")
    assert len(default["curve"]) == 4 and no_rl["curve"] == []
    assert set(default["exact_match"]) == {"1", "2", "3", "8"} and set(no_rl["exact_match"]) == {"1", "3"}
    assert baseline["parameters"] != default["parameters"] and baseline["exact_frame"] == {"1": None, "3": None}
    for step in default["curve"] + baseline["curve"]:
        assert 0 <= step["exact_match"] <= 1
    table = (out / "ablation.md").read_text()
    assert all(f"| {v} | 1 |" in table for v in ("default", "no-rl", "baseline-params"))
