"""`dreamrl bench frozen-lake`: what it trains, measures and reports."""

import json

import pytest

from dreamrl.bench import frozen_lake
from dreamrl.bench.frozen_lake import SIZES, bench, markdown, summarise
from dreamrl.errors import UserError
from dreamrl.settings import load_settings, write_yaml


def measured(seed, exact):
    by_size = {str(size): {"4": exact} for size in SIZES}
    return {
        "parameters": 10,
        "settings": {"steps": 1, "iterations": 2},
        "seed": seed,
        "exact": {
            "random": {str(size): {"-": [0.0, 0.0]} for size in SIZES},
            "pretrained": by_size,
            "ppo": by_size | {"7": {"4": [0.0, 0.0]}},
        },
        "frames": {"pretrained": {}, "ppo": {str(size): {"4": 0.5} for size in SIZES}},
    }


def test_the_report_pools_boards_and_seeds():
    report = summarise([measured(0, [1.0, 1.0]), measured(1, [0.0, 1.0])])
    rows = {(row["model"], row["dreams"]): row["exact_match"] for row in report["rows"]}
    assert rows["ppo", "4"]["3-6"]["mean"] == 0.75 and rows["ppo", "4"]["7"]["mean"] == 0.0
    assert rows["random", "-"]["8"]["mean"] == 0.0
    low, high = rows["ppo", "4"]["3-6"]["ci"]
    assert low < 0.75 < high
    text = markdown(report)
    assert "seeds 0, 1" in text and "| ppo | 4 | 0.750 [" in text and "VPRL 7B (published) | - | 0.916" in text


def test_the_preset_keeps_to_the_published_protocol():
    run = load_settings("frozen-lake")
    assert run.world.sizes == (3, 4, 5, 6) and run.ppo.boards_per_size == 1000


def test_wrong_settings(tmp_path):
    with pytest.raises(UserError, match="seeds .0. and items"):
        bench(out=tmp_path / "a", seeds=0)
    (tmp_path / "b" / "seed0").mkdir(parents=True)
    write_yaml(load_settings("nano"), tmp_path / "b" / "seed0" / "config.yaml")
    with pytest.raises(UserError, match="holds a training with other settings"):
        bench(out=tmp_path / "b")


@pytest.mark.slow
def test_a_tiny_bench_from_beginning_to_end(tmp_path, monkeypatch, capsys):
    """Three sizes of boards, two of them never trained on; a second call measures nothing again."""
    monkeypatch.setattr(frozen_lake, "SIZES", (2, 3, 4))
    monkeypatch.setattr(frozen_lake, "INSIDE", (2,))
    tiny = [
        "world.sizes=[2]", "model.embedding_dim=16", "model.num_heads=2", "model.graph_num_heads=2",
        "model.expert_num_heads=2", "model.dream_length=4", "pretrain.codec_steps=40", "pretrain.steps=8",
        "pretrain.scenes_per_step=4", "pretrain.num_workers=1", "ppo.iterations=4", "ppo.questions_per_iteration=8",
        "ppo.minibatch_size=8", "ppo.num_learners=1", "ppo.boards_per_size=5",
    ]  # fmt: skip
    monkeypatch.setattr(frozen_lake, "load_settings", lambda preset, seed: load_settings(overrides=tiny, seed=seed))
    report = bench(out=tmp_path, budget=0.5, items=3, dreams=(1, 2), ray=False)
    assert report["settings"] == {"steps": 4, "iterations": 2} and report["seeds"] == [0]
    assert set(report["rows"][0]["exact_match"]) == {"2", "3", "4", "2-2"}
    saved = json.loads((tmp_path / "frozen_lake.json").read_text())
    assert saved == json.loads(json.dumps(report))
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "frozen_lake.md").read_text() in capsys.readouterr().out
    before = (tmp_path / "seed0" / "measured.json").stat().st_mtime_ns
    bench(out=tmp_path, budget=0.5, items=3, dreams=(1, 2), ray=False)
    assert (tmp_path / "seed0" / "measured.json").stat().st_mtime_ns == before
