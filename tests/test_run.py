"""The whole job as a user runs it: real processes, killed and interrupted, and what it learns."""

import json
import os
import signal
import subprocess
import sys

import pytest
from programs import finish, kill, start, wait_for

from dreamrl.bench.processes import metrics, weight_hash
from dreamrl.plain import train_plain
from dreamrl.settings import load_settings
from dreamrl.stop import StopRequest
from dreamrl.summary import write_summary

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = (
    "world.sizes=[3]",
    "model.num_experts=2",
    "model.dream_length=5",
    "model.trunk_loops=1",
    "pretrain.steps=150",
    "pretrain.scenes_per_step=24",
    "pretrain.checkpoint_every=20",
    "pretrain.num_workers=1",
    "ppo.iterations=12",
    "ppo.questions_per_iteration=128",
    "ppo.minibatch_size=40",
    "ppo.replay_scenes=2",
    "ppo.checkpoint_every=2",
    "ppo.num_learners=0",
    "eval.num_items=100",
    "eval.dreams=[1,4]",
)
"""3x3 boards, about two minutes: far from the numbers of the main job, far above an untrained model."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    output = finish(start("train", "--out", str(out), "--seed", "2", *SMALL))
    return out, output


def test_exact_match_rises_far_above_the_untrained_model(uninterrupted):
    out, output = uninterrupted
    summary = json.loads((out / "summary.json").read_text())
    exact = summary["exact_match"]
    assert exact["ppo_4"] >= exact["untrained"] + 0.5
    assert exact["ppo_1"] >= exact["pretrained_1"] + 0.3
    assert summary["exact_frame"]["ppo"] >= 0.9
    assert summary["episodes"] == 12 * 128
    for numbers in summary["details"].values():  # 100 boards: confidence is calibrated up to chance
        assert abs(numbers["confidence"] - numbers["exact_match"]) <= 0.2
    assert summary["details"]["ppo_1"]["exact_picture"] >= 0.8
    for name in (
        "config.yaml",
        "metrics.jsonl",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    ):
        assert (out / name).stat().st_size > 0
    assert (
        list(out.glob("tensorboard/*/events.*")) and list(out.glob("dreams/*.png")) and list(out.glob("dreams/*.gif"))
    )
    for noise in ("Warning", "WARNING", "INFO", "Traceback", "gputil"):
        assert noise not in output


def test_trained_model_answers_on_the_command_line(uninterrupted, tmp_path):
    out, _ = uninterrupted
    items = tmp_path / "items.jsonl"
    items.write_text(
        '{"desc": ["SFF", "FHF", "FFG"]}\n{"desc": ["SG", "FH"]}\n{"desc": ["HSFG"]}\n'.replace(
            '["HSFG"]', '["HSF", "FFG"]'
        )
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dreamrl",
            "eval",
            str(out / "model"),
            "--world",
            "frozen_lake",
            "--items",
            str(items),
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["items"] == 3 and set(result["by_size"]) == {"2", "3", "2x3"}
    assert result["exact_match_ci"][0] <= result["exact_match"] <= result["exact_match_ci"][1]


TINY = (
    "world.sizes=[3]", "model.embedding_dim=32", "model.dream_length=2", "model.max_answer_tokens=12",
    "pretrain.codec_steps=20", "pretrain.steps=80", "pretrain.scenes_per_step=4", "pretrain.checkpoint_every=10",
    "pretrain.num_workers=1", "ppo.iterations=12", "ppo.questions_per_iteration=16", "ppo.minibatch_size=16",
    "ppo.replay_scenes=1", "ppo.checkpoint_every=2", "ppo.num_learners=0", "eval.num_items=20", "eval.dreams=[1,4]",
)  # fmt: skip
"""Learns nothing, in seconds."""


def test_a_killed_and_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path):
    """Killed in pretraining and in PPO and interrupted once: weights, steps and results of one process without Ray."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    run = load_settings(overrides=TINY, seed=1)
    train_plain(run, whole)
    undisturbed = write_summary(run, whole, {}, StopRequest(whole))

    process = start("train", "--out", str(out), "--seed", "1", *TINY)
    wait_for(lambda: list(out.glob("checkpoints/pretrain-*30")), process)
    kill(process)

    process = start("train", "--resume", str(out))
    wait_for(lambda: list(out.glob("checkpoints/ppo-00000002")), process)
    output = kill(process)
    assert "pretrain: resuming from pretrain-000000" in output

    process = start("train", "--resume", str(out))
    wait_for(lambda: list(out.glob("checkpoints/ppo-00000004")), process)
    os.kill(process.pid, signal.SIGINT)
    output = finish(process, code=130, seconds=60)
    assert "ppo: resuming from ppo-0000000" in output and "--resume" in output

    output = finish(start("train", "--resume", str(out)))
    assert "pretrain: finished before" in output and "ppo: resuming from" in output
    summary = json.loads((out / "summary.json").read_text())
    for name in ("episodes", "env_steps", "exact_match", "exact_frame"):
        assert summary[name] == undisturbed[name], name
    assert weight_hash(out / "model") == weight_hash(whole / "model")
    assert [r["step"] for r in metrics(out) if r["stage"] == "ppo"] == list(range(1, 13))
