"""The pretraining loop without Ray: reproducible, resumable, and it learns."""

import json

import pytest
import torch

from dreamrl.config import DreamingConfig, PretrainConfig, RunConfig, WorldConfig
from dreamrl.pretrain import learning_rate, pretrain_loop
from dreamrl.saving import load_pretrained, new_model, weights

KINDS = {
    "default": {},
    "noise, bias and pictures": {
        "moe_noise_std": 1.0,
        "token_masking": 0.2,
        "embedding_dropout": 0.2,
        "load_balance": "bias",
        "vision_backbone": "lite",
        "use_contrastive_loss": True,
        "use_dream_memory": True,
    },
}


BOTH = ["default", pytest.param("noise, bias and pictures", marks=pytest.mark.slow)]


def tiny_run(steps=12, seed=0, **model):
    return RunConfig(
        seed=seed,
        model=DreamingConfig(
            embedding_dim=16, num_heads=2, codec_hidden=32, num_dream_sequences=2, dream_length=4, **model
        ),
        world=WorldConfig(sizes=(3, 4)),
        pretrain=PretrainConfig(codec_steps=40, steps=steps, scenes_per_step=4, num_workers=1, checkpoint_every=5),
    )


@pytest.mark.parametrize("kind", BOTH)
def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, kind):
    first, second, other = (
        weights(pretrain_loop(tiny_run(4, seed, **KINDS[kind]), tmp_path / name).model)
        for seed, name in ((0, "first"), (0, "second"), (1, "other"))
    )
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("kind", BOTH)
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, kind):
    run = tiny_run(**KINDS[kind])
    whole = weights(pretrain_loop(run, tmp_path / "whole").model)
    stopped = pretrain_loop(run, tmp_path / "stopped", should_stop=lambda: True)
    assert stopped is None
    assert sorted(p.name for p in (tmp_path / "stopped" / "checkpoints").iterdir()) == [
        "pretrain-00000005",
        "pretrain-00000010",
    ]
    resumed = weights(pretrain_loop(run, tmp_path / "stopped").model)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    if kind != "default":
        assert whole["dream_generator.moe.bias"].any()  # balanced after every update


def test_a_killed_run_repeats_only_what_came_after_the_checkpoint(tmp_path):
    """Metrics that were logged after the last checkpoint are logged once more, not twice."""
    whole = weights(pretrain_loop(tiny_run(), tmp_path / "whole").model)
    out = tmp_path / "killed"
    pretrain_loop(tiny_run(), out)
    for name in ("pretrained", "checkpoints/pretrain-00000012"):
        for file in (out / name).iterdir():
            file.unlink()
        (out / name).rmdir()
    resumed = weights(pretrain_loop(tiny_run(), out).model)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 12]


def test_what_is_saved_is_what_was_trained(tmp_path):
    trained = pretrain_loop(tiny_run(), tmp_path)
    loaded = load_pretrained(tmp_path / "pretrained")
    assert loaded.run == trained.run
    assert not torch.equal(loaded.model.calibration, new_model(trained.run).model.calibration)  # confidence is fitted
    assert all(
        torch.equal(a, b) for a, b in zip(weights(trained.model).values(), weights(loaded.model).values(), strict=True)
    )


def test_learning_rate_warms_up_and_decays():
    run = tiny_run(steps=200)
    rates = [learning_rate(run, step) for step in range(200)]
    assert max(rates) <= run.pretrain.lr and rates.index(max(rates)) in range(25, 35)
    assert rates[-1] == pytest.approx(0.02 * run.pretrain.lr, rel=0.05)
    assert all(a >= b for a, b in zip(rates[30:], rates[31:], strict=False))


@pytest.mark.slow
def test_it_learns_what_random_play_shows(tmp_path):
    """3x3 boards: next frames, beliefs and the choice among dreams come far above chance."""
    run = RunConfig(
        world=WorldConfig(sizes=(3,)),
        pretrain=PretrainConfig(steps=220, scenes_per_step=24, num_workers=1),
    )
    pretrain_loop(run, tmp_path)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["pretrain/exact_frame"] > 0.8
    assert last["pretrain/focus_accuracy"] > 0.85
    assert last["pretrain/answer_accuracy"] > 0.6
