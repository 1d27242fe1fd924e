"""The learned judge: verified training data, an exact AUC, and a judge that knows true dreams on new boards."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreamrl.checkpoint import CONFIG
from dreamrl.config import DreamingConfig, RunConfig, WorldConfig
from dreamrl.dreaming_config import REWARD_COMPONENTS
from dreamrl.errors import UserError
from dreamrl.nn.reward_model import RewardModel
from dreamrl.reward_model import (
    KINDS,
    SMALLEST_GAP,
    VerifiedDreams,
    auc,
    evaluate_reward_model,
    judge,
    load_reward_model,
    preference_loss,
    reward_model_loss,
    save_reward_model,
    train_reward_model,
)
from dreamrl.rewards import answer_correctness
from dreamrl.saving import new_model, save_pretrained
from envs.world import Split, split_of
from envs.worlds.frozen_lake import FrozenLake

STEPS, QUESTIONS = 320, 8
RUN = RunConfig(
    model=DreamingConfig(
        embedding_dim=32, num_heads=2, code_levels=(3, 3), codec_hidden=16, num_dream_sequences=4, dream_length=3,
        max_prompt_tokens=24, max_answer_tokens=12,
    ),
    world=WorldConfig(sizes=(3,)),
)  # fmt: skip


class WatchedLake(FrozenLake):
    """FrozenLake that keeps the boards and the questions that were drawn."""

    def __init__(self):
        super().__init__()
        self.boards, self.questions = [], []

    def sample_scene(self, rng, split, size):
        self.boards.append(super().sample_scene(rng, split, size))
        return self.boards[-1]

    def ask(self, *args):
        self.questions.append(super().ask(*args))
        return self.questions[-1]


@pytest.fixture(scope="module")
def make(loaded, tile_codec):
    def make(split=Split.TRAIN, run=RUN):
        return VerifiedDreams(run, WatchedLake(), loaded.text, tile_codec, split)

    return make


@pytest.fixture(scope="module")
def trained(loaded, tile_codec):
    return train_reward_model(RUN, loaded.world, loaded.text, tile_codec, STEPS, 0, QUESTIONS)


def test_a_batch_is_a_function_of_seed_and_index(make):
    batch, data = make().batch(3, 1, 4), make()
    data.batch(3, 0, 4)
    again = data.batch(3, 1, 4)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    for other in (make().batch(4, 1, 4), make().batch(3, 2, 4)):
        assert not torch.equal(other["frames"], batch["frames"])


@pytest.mark.parametrize("split", [Split.TRAIN, Split.TEST])
def test_boards_are_of_the_split(make, split):
    data = make(split)
    data.batch(0, 0, 20)
    assert len(data.world.boards) == 20
    assert {split_of("/".join(scene.desc)) for scene in data.world.boards} == {split}


def test_targets_are_verified(make):
    data = make()
    batch = data.batch(0, 0, 60)
    assert len(data.world.questions) == 60
    assert torch.equal(batch["true"] == 1, batch["kind"] == 0)
    assert set(batch["kind"].tolist()) == set(range(len(KINDS) + 1))
    assert torch.equal(batch["coherence"][batch["true"] == 1], torch.ones(int(batch["true"].sum())))
    happened = torch.arange(3) < batch["lengths"].unsqueeze(1)
    claimed = batch["makers"].gather(-1, batch["actions"].unsqueeze(-1)).squeeze(-1) * happened
    torch.testing.assert_close(claimed.sum(1) / batch["lengths"], batch["coherence"])
    pays = {True: set(), False: set()}
    for row, question in enumerate(q for q in data.world.questions for _ in range(4)):
        assert data.text.decode(batch["text"][row].tolist()) == question.text
        answered = bool((batch["answer"][row] != 0).any())
        if answered:
            verdict = data.world.verify(question, data.text.decode(batch["answer"][row].tolist()))
            assert float(batch["correctness"][row]) == answer_correctness(verdict.exact, verdict.success)
        pays[answered].add(float(batch["correctness"][row]))
    assert {0.0, 1.0} <= pays[True] and {0.0, 1.0} <= pays[False]
    pay, true = RUN.reward, batch["true"]
    quality = pay.faithfulness * batch["faithfulness"] + pay.coherence * batch["coherence"]
    quality = quality + true * (pay.correctness * batch["correctness"] + pay.creativity * batch["creativity"])
    whole = sum(getattr(pay, name) for name in REWARD_COMPONENTS)
    torch.testing.assert_close(batch["quality"], quality / whole)


def test_components_that_are_not_paid_are_no_quality(make):
    run = dataclasses.replace(RUN, model=dataclasses.replace(RUN.model, reward_components=("coherence",)))
    batch = make(run=run).batch(0, 0, 10)
    assert torch.equal(batch["quality"], batch["coherence"])


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    true, wrong = rng.integers(5, size=20) / 4, rng.integers(4, size=30) / 4
    slow = sum(float(a > b) + 0.5 * float(a == b) for a in true for b in wrong) / (len(true) * len(wrong))
    assert auc(true, wrong) == pytest.approx(slow)
    assert auc(wrong, true) == pytest.approx(1 - slow)


def test_auc_in_closed_form():
    assert auc(np.array([0.9, 0.8]), np.array([0.1])) == 1
    assert auc(np.array([0.1]), np.array([0.1, 0.1])) == 0.5
    assert np.isnan(auc(np.array([]), np.array([0.1])))


def test_preference_loss_equals_a_slow_loop():
    model = RewardModel(RUN.model, 4, 300).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    total, quality = torch.rand(12, generator=generator), torch.rand(12, generator=generator).mul(20).round() / 20
    sharpness, losses = float(model.log_sharpness.exp()), []
    for i in range(12):
        for j in range(12):
            if quality[i] - quality[j] > SMALLEST_GAP:
                losses.append(-F.logsigmoid(sharpness * (total[i] - total[j])))
    assert 30 < len(losses) < 66
    torch.testing.assert_close(preference_loss(model, total, quality), sum(losses) / len(losses))
    assert preference_loss(model, total, torch.full((12,), 0.5)) == 0


@pytest.mark.parametrize("decisive", range(4))
def test_preferences_find_the_component_that_decides(decisive):
    model = RewardModel(RUN.model, 4, 300)
    components = torch.rand(64, 4, generator=torch.Generator().manual_seed(decisive))
    optimizer = torch.optim.Adam([model.weight_logits, model.log_sharpness], lr=0.05)
    for _ in range(150):
        loss = preference_loss(model, components @ model.weights(), components[:, decisive])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.weights()[decisive] > 0.9


def test_preferences_move_nothing_but_the_weights(make):
    """A component keeps its meaning: only what the simulator says of it trains it."""
    model = RewardModel(RUN.model, 4, 512)
    batch = make().batch(0, 0, 4)
    scores = judge(model, batch, 4)
    loss = preference_loss(model, scores.components.detach() @ scores.weights, batch["quality"])
    whole, metrics = reward_model_loss(model, batch, 4)
    torch.testing.assert_close(loss.detach(), metrics["loss/preference"])
    torch.testing.assert_close(whole.detach(), sum(metrics.values()))
    with_, without = (
        torch.autograd.grad(value, list(model.parameters()), allow_unused=True, retain_graph=True)
        for value in (whole, whole - loss)
    )
    for (name, _), a, b in zip(model.named_parameters(), with_, without, strict=True):
        if a is not None and name not in ("weight_logits", "log_sharpness"):
            torch.testing.assert_close(a, b, msg=name)


@pytest.mark.slow
def test_true_dreams_are_known_on_boards_never_seen(make, trained, loaded):
    found = evaluate_reward_model(trained, make(Split.TEST), 64, seed=1)
    assert found["dreams"] == 256
    assert found["auc/coherence/result"] > 0.95 and found["auc/coherence/action"] > 0.95
    assert found["auc/confidence/all"] > 0.75 and found["auc/total/action"] > 0.75
    assert found["auc/correctness/all"] > 0.85
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = RewardModel(RUN.model, 4, loaded.text.vocab_size).eval()
    untrained = evaluate_reward_model(fresh, make(Split.TEST), 64, seed=1)
    for name in found:
        if name.startswith("error/"):
            assert found[name] < untrained[name] - 0.02, name
    assert max(value for name, value in untrained.items() if name.startswith("auc/")) < 0.75


@pytest.mark.slow
def test_every_corruption_is_told_from_the_truth_with_the_default_settings(loaded, tile_codec):
    world = FrozenLake()
    judge_of_dreams = train_reward_model(RunConfig(), world, loaded.text, tile_codec, 800, seed=0)
    held_out = VerifiedDreams(RunConfig(), world, loaded.text, tile_codec, Split.TEST)
    found = evaluate_reward_model(judge_of_dreams, held_out, 320, seed=1)
    for score in ("total", "faithfulness", "confidence"):
        for kind in (*(kind.value for kind in KINDS), "all"):
            assert found[f"auc/{score}/{kind}"] > 0.9, (score, kind, found)
    assert found["calibration_error"] < 0.03


@pytest.mark.slow
def test_the_bad_step_is_found(make, trained):
    batch = make(Split.TEST).batch(2, 0, 64)
    with torch.no_grad():
        scores = judge(trained, batch, 4)
    swapped = (batch["kind"] == 1 + [kind.value for kind in KINDS].index("action")).nonzero().squeeze(1)
    claimed = batch["makers"].gather(-1, batch["actions"].unsqueeze(-1)).squeeze(-1)
    past = torch.arange(3) >= batch["lengths"].unsqueeze(1)
    worst = (scores.steps + past)[swapped].argmin(1)
    hits = [float(claimed[row, step]) == 0 for row, step in zip(swapped.tolist(), worst.tolist(), strict=True)]
    assert len(hits) > 20 and np.mean(hits) > 0.85


def test_the_same_seed_gives_the_same_judge_and_leaves_the_global_generator_alone(loaded, tile_codec):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    seen = []
    first, second, third = (
        train_reward_model(RUN, loaded.world, loaded.text, tile_codec, 2, seed, 2, lambda *a: seen.append(a))
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = [zip(first.parameters(), other.parameters(), strict=True) for other in (second, third)]
    assert all(torch.equal(a, b) for a, b in pairs[0])
    assert not all(torch.equal(a, b) for a, b in pairs[1])
    assert [step for step, _ in seen] == [1, 2] * 3 and set(seen[0][1]) > {"loss/confidence", "loss/preference"}


@pytest.fixture(scope="module")
def policy():
    return new_model(RUN)


@pytest.fixture(scope="module")
def beginner(loaded, tile_codec):
    """A judge that has left its initial weights."""
    return train_reward_model(RUN, loaded.world, loaded.text, tile_codec, 3, 0, 2)


@pytest.fixture
def saved(policy, beginner, tmp_path):
    save_reward_model(beginner, policy, tmp_path / "judge")
    return tmp_path / "judge"


def test_a_saved_judge_says_the_same(saved, policy, beginner, make):
    again = load_reward_model(saved, policy)
    batch = make(Split.TEST).batch(3, 0, 8)
    with torch.no_grad():
        for ours, theirs in zip(judge(beginner, batch, 4), judge(again, batch, 4), strict=True):
            assert torch.equal(ours, theirs)


def test_a_judge_is_only_for_the_codec_that_it_was_trained_with(saved, policy, tmp_path):
    other = new_model(dataclasses.replace(RUN, seed=1))
    with pytest.raises(UserError, match="judge was trained with another image codec, tokenizer or world"):
        load_reward_model(saved, other)
    save_pretrained(policy, tmp_path / "policy")
    with pytest.raises(UserError, match="policy holds no reward model"):
        load_reward_model(tmp_path / "policy", policy)


@pytest.mark.parametrize(("key", "value"), [("embedding_dim", 16), ("max_prompt_tokens", 30)])
def test_weights_of_another_architecture_are_refused_in_one_line(saved, policy, key, value):
    config = json.loads((saved / CONFIG).read_text())
    config["run"]["model"][key] = value
    (saved / CONFIG).write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"model.safetensors does not belong to its config.json: .*size mismatch"
    ) as caught:
        load_reward_model(saved, policy)
    assert "\n" not in str(caught.value)
