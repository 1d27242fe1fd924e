"""`dreamrl bench families`: its statistics by brute force, its report, and a tiny run of all of it."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from dreamrl.bench import families
from dreamrl.bench.families import constants, families_of, measure, members, play_losses, without
from dreamrl.bench.families_report import information, markdown, mutual_information, summarise, verdict
from dreamrl.bench.run import run_bench
from dreamrl.config import PretrainConfig, WorldConfig
from dreamrl.errors import UserError
from dreamrl.evaluate import held_out
from dreamrl.judge import Judge
from dreamrl.settings import load_settings
from envs.questions import stream
from envs.world import Split

WORLDS = ("frozen_lake@2", "temporal@2")


def by_hand(usage, labels):
    """I(F; E) = H(F) + H(E) - H(F, E), by loops over questions."""
    joint = {}
    for label, row in zip(labels, usage, strict=True):
        for expert, share in enumerate(row):
            joint[label, expert] = joint.get((label, expert), 0.0) + share / len(usage)

    def entropy(parts):
        return -sum(p * math.log2(p) for p in parts if p > 0)

    families_, experts = {f for f, _ in joint}, {e for _, e in joint}
    rows = [sum(joint[f, e] for e in experts) for f in families_]
    columns = [sum(joint[f, e] for f in families_) for e in experts]
    return entropy(rows) + entropy(columns) - entropy(joint.values())


def test_information_by_brute_force():
    rng = np.random.default_rng(0)
    usage, labels = rng.dirichlet(np.full(5, 0.3), size=40), rng.integers(3, size=40)
    usage[3] = [0, 0, 1, 0, 0]
    assert mutual_information(usage, labels) == pytest.approx(by_hand(usage, labels), abs=1e-12)
    assert mutual_information(usage, labels) > 0.01


@pytest.mark.parametrize("count", [2, 3, 4])
def test_an_expert_for_each_family_tells_log2_k_bits(count):
    labels = np.repeat(np.arange(count), 6)
    assert mutual_information(np.eye(count)[labels], labels) == pytest.approx(math.log2(count), abs=1e-12)


def test_experts_used_alike_by_all_tell_nothing():
    labels = np.repeat(np.arange(3), 4)
    usage = np.tile([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0]], (3, 1))
    assert mutual_information(usage, labels) == pytest.approx(0, abs=1e-12)


def test_a_binary_channel_in_closed_form():
    """Two families, each with its expert in 90% of the steps: 1 - H(0.1) bits."""
    labels = np.repeat([0, 1], 10)
    usage = np.where(labels[:, None] == np.arange(2), 0.9, 0.1)
    expected = 1 + 0.9 * math.log2(0.9) + 0.1 * math.log2(0.1)
    assert mutual_information(usage, labels) == pytest.approx(expected, abs=1e-12)


def test_shuffling_deals_out_questions():
    """The mean over shuffles against that over all ways to deal out the labels."""
    usage = np.random.default_rng(1).dirichlet([0.2, 0.2], size=6)
    labels = np.array([0, 0, 0, 1, 1, 1])
    ways = [np.isin(np.arange(6), own).astype(int) for own in itertools.combinations(range(6), 3)]
    every = [mutual_information(usage, own) for own in ways]
    found = information(usage, labels, 4000)
    assert found["bits"] == mutual_information(usage, labels)
    assert found["shuffled_mean"] == pytest.approx(np.mean(every), rel=0.05)
    assert found["shuffled_95"] == pytest.approx(np.quantile(every, 0.95), rel=0.15)
    share = np.mean([value >= found["bits"] - 1e-12 for value in every])
    assert found["p"] == pytest.approx(share, abs=0.03)


def test_real_structure_beats_the_shuffled_and_chance_does_not():
    labels = np.repeat([0, 1], 50)
    own = np.where(labels[:, None] == np.arange(2), 0.7, 0.3)
    found = information(own, labels, 300)
    assert found["bits"] > 10 * found["shuffled_95"] and found["p"] == pytest.approx(1 / 301)
    noise = np.random.default_rng(0).dirichlet([1, 1], size=100)
    found = information(noise, labels, 300)
    assert found["p"] > 0.05 and found["bits"] <= found["shuffled_95"]


@pytest.mark.parametrize(("ci", "said"), [((0.01, 0.2), "better"), ((-0.1, 0.1), "no better"), ((-0.2, -0.1), "worse")])
def test_verdicts(ci, said):
    assert verdict({"mean": np.mean(ci), "ci": ci}).strip("*") == said


def measured(seed, exact, usage, loss=1.0):
    """One seed; world "a" of family "x" is asked in two topics, "b" of "y" in one."""
    own = {"exact": exact, "usage": usage, "frames": {"a": 0.5, "b": 1.0}, "pictures": {"a": 0.25, "b": 0.75}}
    own["loss"] = {"a": loss, "b": 2 * loss}
    nothing = {"a": [0.0] * 4, "b": [0.0, 1.0, 0.0, 0.0]}
    return {
        "seed": seed,
        "settings": {"steps": 3, "iterations": 2},
        "parameters": {"model": 1000, "baseline": 990},
        "topics": {"a": ["p", "p", "q", "q"], "b": ["r"] * 4},
        "codec": {"a": {"redrawn": 1.0, "apart": 0.5}, "b": {"redrawn": 0.9, "apart": 1.0}},
        "constant": {"answers": {"a": {"p": "yes"}, "b": {}}, "exact": nothing},
        "baseline": {"exact": nothing},
        "pretrained": own | {"exact": nothing},
        "ppo": own,
        "without": [own | {"exact": nothing, "loss": {"a": 4.0, "b": 2.0}}, own],
    }  # fmt: skip


def test_the_report_pools_questions_and_keeps_experts_apart():
    split = {"a": [[1.0, 0.0]] * 4, "b": [[0.0, 1.0]] * 4}
    one = measured(0, {"a": [1.0, 1.0, 0.0, 1.0], "b": [0.0, 1.0, 0.0, 0.0]}, split)
    two = measured(1, {"a": [1.0] * 4, "b": [0.0, 1.0, 0.0, 0.0]}, {"a": [[0.5, 0.5]] * 4, "b": [[0.5, 0.5]] * 4})
    report = summarise([one, two], {"a": "x", "b": "y"}, 200)
    assert report["by_family"]["x"]["ppo"]["mean"] == 7 / 8 and report["by_family"]["x"]["questions"] == 8
    assert report["by_topic"]["a: q"]["ppo"]["mean"] == 3 / 4
    assert report["by_family"]["x"]["ppo_minus_constant"]["verdict"] == "better"
    assert report["by_family"]["y"]["ppo_minus_constant"]["verdict"].strip("*") == "no better"
    assert report["pictures"]["b"]["codec_redrawn"] == 0.9
    first, second = report["experts"]
    assert first["usage"] == {"x": [1.0, 0.0], "y": [0.0, 1.0]} and second["usage"]["x"] == [0.5, 0.5]
    assert first["information"]["bits"] == pytest.approx(1) and second["information"]["bits"] == pytest.approx(0)
    assert second["information"]["p"] == 1
    assert first["without"][0]["exact_match"]["x"]["mean"] == -0.75
    assert first["without"][0]["loss"] == {"x": 3.0, "y": 0.0}
    text = markdown(report)
    assert "| y | 8 | 0.250 [" in text and "**no better**" in text and "**no more than chance**" in text
    assert json.loads(json.dumps(report)) == report


@pytest.fixture(scope="module")
def small(make_loaded):
    world = WorldConfig(worlds=WORLDS)
    shape = {"max_prompt_tokens": 40, "max_answer_tokens": 24}
    loaded = make_loaded(model=shape, world=world, pretrain=PretrainConfig(num_workers=1))
    loaded.model.codec.trained = True
    return loaded


def test_the_constant_answer_is_the_best_of_training_and_known_by_topic(small, monkeypatch):
    monkeypatch.setattr(families, "TRAIN_QUESTIONS", 60)
    worlds = members(small.world)
    world, questions = worlds["temporal"], {name: held_out(w, w.sizes, 30, 0, length=4) for name, w in worlds.items()}
    found = constants(worlds, questions, small.run)
    answers = found["answers"]["temporal"]
    assert {"between", "next"} <= set(answers)
    again = [float(world.verify(q, answers[q.topic]).exact) for q in questions["temporal"]]
    assert found["exact"]["temporal"] == again and 0 < np.mean(again) < 0.6
    training = held_out(world, world.sizes, families.TRAIN_QUESTIONS, families.TRAIN_SEED, Split.TRAIN, 4)
    assert not {q.scene.key for q in training} & {q.scene.key for q in questions["temporal"]}
    own = [q for q in training if q.topic == "next"]
    right = {f"picture {n}": sum(world.verify(q, f"picture {n}").exact for q in own) for n in (1, 2, 3)}
    assert right[answers["next"]] == max(right.values())


def test_usage_is_that_of_the_dream_steps_and_an_expert_can_be_left_out(small):
    questions = families.test_questions(small, 3)
    assert [{q.scene.world for q in own} for own in questions.values()] == [{"frozen_lake"}, {"temporal"}]
    judge = Judge(small.model)
    complete, loss = measure(small, questions, judge), play_losses(small)
    usage = np.array([row for own in complete["usage"].values() for row in own])
    assert usage.shape == (6, 4) and np.allclose(usage.sum(1), 1)
    busiest = int(usage.mean(0).argmax())
    found = without(small, busiest, questions, judge)
    rows = np.array([row for own in found["usage"].values() for row in own])
    assert not rows[:, busiest].any() and np.allclose(rows.sum(1), 1)
    assert all(found["loss"][world] != loss[world] for world in loss)
    assert measure(small, questions, judge) == complete and play_losses(small) == loss


@torch.no_grad()
def test_codec_errors_see_what_is_lost(small):
    """A codec that makes one code of everything redraws nothing and keeps nothing apart."""
    world = members(small.world)["frozen_lake"]
    codec = small.model.codec
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    for parameter in codec.encoder.parameters():
        parameter.zero_()
    codec.forget()
    assert families.codec_errors(small, world) == {"redrawn": 0.0, "apart": 0.0}
    codec.load_state_dict(before)
    codec.forget()


def test_a_trained_codec_has_no_errors(tile_codec):
    """All seven tiles have codes of their own, and the pictures come back as they were."""

    class Exact:
        def __init__(self):
            self.tiles = {}

        def encode(self, frame):
            codes = tile_codec.encode(frame)
            cells = frame.reshape(frame.shape[0] // 16, 16, frame.shape[1] // 16, 16, 3).swapaxes(1, 2)
            self.tiles |= dict(zip(codes.tolist(), cells.reshape(-1, 16, 16, 3), strict=True))
            return codes

        def decode(self, codes, grid):
            cells = np.stack([self.tiles[c] for c in codes.tolist()]).reshape(*grid, 16, 16, 3)
            return cells.swapaxes(1, 2).reshape(16 * grid[0], 16 * grid[1], 3)

    class Holder:
        run = load_settings("nano")

        class model:
            codec = Exact()

    from envs.registry import make_world

    world = make_world("frozen_lake", sizes=(3,))
    assert families.codec_errors(Holder, world) == {"redrawn": 1.0, "apart": 1.0}  # pyright: ignore
    assert len(Holder.model.codec.tiles) >= 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["seeds=0"], "seeds .0. must be a whole number >= 1"),
        (["items=few"], "items .few. must be a whole number >= 1"),
        (["shuffles=1.5"], "shuffles .1.5. must be a whole number"),
        (["budget=much"], "budget .much. must be a number > 0"),
        (["budget=-1"], "budget .-1. must be a number > 0"),
        (["item=3"], '"item=3" is no setting of bench families; did you mean "items"'),
        (["preset=nano"], "world.worlds .*must hold worlds of at least two families"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        run_bench("families", [f"out={tmp_path / 'out'}", *settings])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_an_expert_must_be_dispensable():
    worlds = "world.worlds=[frozen_lake, temporal]"
    with pytest.raises(UserError, match="model.moe_top_k .2. must be < model.num_experts .2."):
        families_of(load_settings(overrides=[worlds, "model.num_experts=2"]))


def test_the_preset_holds_all_four_families():
    run = load_settings("families")
    assert set(families_of(run).values()) == {"spatial", "temporal", "causal", "abstract"}
    for world in members(families.world_of(run)).values():
        rng = stream(0, 1)
        for _ in range(5):
            scene = world.sample_scene(rng, Split.TRAIN, 1)
            question = world.draw(scene, True, run.model.dream_length, rng)
            assert len(question.script) <= run.model.dream_length


TINY = [
    "world.worlds=[frozen_lake@2, temporal@2]", "model.embedding_dim=16", "model.num_heads=2",
    "model.graph_num_heads=2", "model.expert_num_heads=2", "model.dream_length=4", "model.max_prompt_tokens=40",
    "model.num_experts=3", "pretrain.codec_steps=40", "pretrain.steps=8", "pretrain.scenes_per_step=4",
    "pretrain.num_workers=1", "ppo.iterations=4", "ppo.questions_per_iteration=8", "ppo.minibatch_size=8",
    "ppo.num_learners=1",
]  # fmt: skip


@pytest.mark.slow
def test_a_tiny_bench_from_beginning_to_end(tmp_path, monkeypatch, capsys):
    """Two families; a second call makes nothing anew, and what was lost is made as it was."""
    monkeypatch.setattr(families, "load_settings", lambda preset, seed: load_settings(overrides=TINY, seed=seed))
    monkeypatch.setattr(families, "TRAIN_QUESTIONS", 20)
    monkeypatch.setattr(families, "PLAY_SCENES", 4)
    settings = ["budget=0.5", "items=4", "shuffles=50", f"out={tmp_path}"]
    report = run_bench("families", settings)
    assert report["settings"] == {"steps": 4, "iterations": 2} and report["questions"] == dict.fromkeys(
        ("frozen_lake", "temporal"), 4
    )
    sizes = report["parameters"]
    assert abs(sizes["baseline"] / sizes["model"] - 1) < 0.1
    assert set(report["by_family"]) == {"spatial", "temporal"} and len(report["experts"][0]["without"]) == 3
    assert json.loads((tmp_path / "families.json").read_text()) == json.loads(json.dumps(report))
    assert (tmp_path / "families.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "families.md").read_text() in capsys.readouterr().out
    place = tmp_path / "seed0"
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file() and path.parent != place}
    assert run_bench("families", settings) == report
    (place / "measured-4" / "without1.json").unlink()
    (place / "measured-4" / "baseline.json").unlink()
    assert run_bench("families", settings) == report
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if before[path] != after[path]} == {"without1.json", "baseline.json"}
    with pytest.raises(UserError, match="seed0 holds a benchmark with other settings"):
        run_bench("families", [*settings, "budget=1.0"])
