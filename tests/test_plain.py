"""Training without Ray: files, metrics, and a kill at any moment costs nothing but time."""

import json

import pytest
import torch

from dreamrl.plain import train_plain
from dreamrl.saving import load_pretrained, weights
from dreamrl.settings import load_settings

TINY = [
    "world.sizes=[2]", "model.embedding_dim=16", "model.num_heads=2", "model.graph_num_heads=2",
    "model.expert_num_heads=2", "model.dream_length=4", "pretrain.codec_steps=40", "pretrain.steps=4",
    "pretrain.scenes_per_step=4", "pretrain.num_workers=1", "ppo.iterations=3", "ppo.questions_per_iteration=8",
    "ppo.minibatch_size=8", "ppo.num_learners=1", "ppo.checkpoint_every=1", "eval.num_items=4",
]  # fmt: skip


class Killed(Exception):
    pass


STAGED = ["curriculum.enabled=true", "curriculum.max_iterations=1", "curriculum.min_iterations=1"]


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], STAGED], ids=["plain", "curriculum"])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, extra):
    run = load_settings(overrides=TINY + extra)
    reports = []
    whole = train_plain(run, tmp_path / "whole", lambda *report: reports.append(report))
    stages = [stage for stage, _, _ in reports]
    assert stages == sorted(stages, reverse=True) and set(stages) == {"pretrain", "ppo"}
    assert all(name.startswith(f"{stage}/") for stage, _, values in reports for name in values)

    def kill(stage, step, values):
        if (stage, step) == ("ppo", 2):
            raise Killed

    with pytest.raises(Killed):
        train_plain(run, tmp_path / "cut", kill)
    assert not (tmp_path / "cut" / "model").exists()
    steps = []
    again = train_plain(run, tmp_path / "cut", lambda stage, step, values: steps.append((stage, step)))
    assert steps == [("ppo", 3)]
    for name, value in weights(whole.model).items():
        assert torch.equal(value, weights(again.model)[name]), name
    assert train_plain(run, tmp_path / "cut").run == run  # nothing left to do
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    ppo = [line for line in lines if line["stage"] == "ppo"]
    assert [line["step"] for line in ppo] == [1, 2, 3]
    assert ppo[-1]["ppo/episodes"] == 24 and ppo[-1]["ppo/env_steps"] >= 24 * 2
    if extra:  # three iterations, a stage each
        assert [line["ppo/curriculum/stage"] for line in ppo] == [1, 2, 3]
    before, after = (weights(load_pretrained(tmp_path / "cut" / name).model) for name in ("pretrained", "model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
