"""Ablations with real training: killed and gone on with, and pretraining that several variants share."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three variants that nothing disturbed, in one worker."""
    out = tmp_path_factory.mktemp("whole")
    process = program(out, "--variants", "default,no-rl,baseline-params", "--workers", "1")
    assert process.communicate()[0].splitlines()[-1].startswith("results in") and process.returncode == 0
    return out


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
@pytest.mark.parametrize("variant", ["default", "baseline-params"])
def test_killed_at_any_stage_it_ends_with_the_same_model(whole, tmp_path, variant):
    name, out = f"{variant}-seed0", tmp_path / "killed"
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
    assert measured(out, name) == measured(whole, name)
    assert weights(out, name) == weights(whole, name)
    assert not (out / "work" / name).exists()


@pytest.mark.slow
def test_pretraining_is_done_once_for_variants_that_share_it(whole):
    assert len(list((whole / "pretrained").iterdir())) == 2
    default, no_rl, baseline = (measured(whole, f"{v}-seed0") for v in ("default", "no-rl", "baseline-params"))
    assert default["pretraining"] == no_rl["pretraining"] != baseline["pretraining"]
    assert weights(whole, "default-seed0") != weights(whole, "no-rl-seed0")
    assert len(default["curve"]) == 4 and no_rl["curve"] == []
    assert set(default["exact_match"]) == {"1", "2", "3", "8"} and set(no_rl["exact_match"]) == {"1", "3"}
    assert baseline["parameters"] != default["parameters"] and baseline["exact_frame"] == {"1": None, "3": None}
    for step in default["curve"] + baseline["curve"]:
        assert 0 <= step["exact_match"] <= 1
    table = (whole / "ablation.md").read_text()
    assert all(f"| {v} | 1 |" in table for v in ("default", "no-rl", "baseline-params"))
