"""Ablations: what is planned."""

import math

import pytest

from dreamrl.ablation.variants import BASELINES, VARIANTS, at_budget, plan
from dreamrl.errors import UserError
from dreamrl.settings import load_settings


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
