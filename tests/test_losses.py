"""Losses against slow loops over questions, dreams, steps, patches and words."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from dreamrl.config import WorldConfig
from dreamrl.data import RandomPlay
from dreamrl.losses import (
    alignment_loss,
    chance_loss,
    clipped_policy_loss,
    damage,
    dream_rows,
    happened,
    past,
    pretrain_loss,
    prompt_rows,
    reading_loss,
    routing_loss,
    size_groups,
    touch_all,
    world_model_loss,
)
from dreamrl.nn.moe import Routing, load_balance_loss, router_z_loss
from dreamrl.nn.text import BOS, PAD

KINDS = {
    "default": {},
    "memory": {"use_dream_memory": True, "expert_types": ("temporal", "general")},
    "graph": {"use_learned_edges": True, "use_node_memory": True, "num_edge_types": 2},
    "pictures": {"vision_backbone": "lite", "use_contrastive_loss": True},
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def loaded(request, make_loaded):
    return make_loaded(model=request.param, world=WorldConfig(sizes=(2, 3)))


@pytest.fixture
def model(loaded):
    return loaded.model


@pytest.fixture
def batch(loaded):
    """Six scenes of both sizes, answered from all three rollouts; with padding behind the small ones."""
    batch = RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec).batch(1, 6)
    assert batch["focus_target"].shape[1] == 4 and len(batch["grid"].unique(dim=0)) == 2
    return batch


def test_policy_loss_is_the_clipped_objective_term_by_term():
    generator = torch.Generator().manual_seed(0)
    logp, old, advantages = torch.randn(3, 50, generator=generator)
    loss, metrics = clipped_policy_loss(logp, old, advantages, 0.3)
    total, outside, kl, worst = 0.0, 0, 0.0, 0.0
    for new, before, gain in zip(logp.tolist(), old.tolist(), advantages.tolist(), strict=True):
        ratio = torch.tensor(new - before).exp().item()
        total -= min(ratio * gain, max(0.7, min(1.3, ratio)) * gain)
        outside += not 0.7 <= ratio <= 1.3
        kl += ratio - 1 - (new - before)
        worst = max(worst, abs(ratio - 1))
    assert float(loss) == pytest.approx(total / 50, rel=1e-5)
    assert float(metrics["clip_fraction"]) == pytest.approx(outside / 50)
    assert float(metrics["approx_kl"]) == pytest.approx(kl / 50, rel=1e-4)
    assert float(metrics["max_ratio_error"]) == pytest.approx(worst, rel=1e-5)
    same, none = clipped_policy_loss(old, old, advantages, 0.3)
    assert float(same) == pytest.approx(-float(advantages.mean()), rel=1e-5)
    assert [float(value) for value in none.values()] == [0, 0, 0]


@pytest.mark.parametrize("memory", [False, True])
def test_rows_are_the_steps_that_happened(batch, memory):
    lengths = batch["lengths"]
    mask = happened(lengths, 4)
    rows = dream_rows(batch, mask, memory)
    expected = [(q, n, t) for q in range(6) for n in range(3) for t in range(int(lengths[q, n]))]
    assert list(zip(rows.question.tolist(), rows.slot.tolist(), rows.step.tolist(), strict=True)) == expected
    for i, (q, n, t) in enumerate(expected):
        assert torch.equal(rows.what[i], batch["frames"][q, n, t])
        assert torch.equal(rows.result[i], batch["frames"][q, n, t + 1])
        assert rows.action[i] == batch["actions"][q, n, t] and rows.belief[i] == batch["beliefs"][q, n, t]
        assert torch.equal(rows.grid[i], batch["grid"][q])
        if memory:
            assert torch.equal(rows.past_frames[i, :t], batch["frames"][q, n, :t])
            assert torch.equal(rows.past_actions[i, :t], batch["actions"][q, n, :t])
    assert rows.past_actions.shape[1] == (int(rows.step.max()) if memory else 0)


def test_no_rows_have_no_past():
    none = torch.zeros(0, dtype=torch.long)
    frames, actions = past(torch.zeros(2, 3, 5, 9), torch.zeros(2, 3, 4), none, none, none, True)
    assert frames.shape == (0, 0, 9) and actions.shape == (0, 0)


def test_size_groups_partition_the_rows():
    grid = torch.tensor([[3, 3], [4, 4], [2, 8], [3, 3], [3, 4], [8, 2]])
    groups = {size: rows.tolist() for rows, size in size_groups(grid)}
    assert groups == {9: [0, 3], 12: [4], 16: [1, 2, 5]}


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (3, [[0, 3], [4], [1, 2, 5]]),
        (4, [[0, 3], [1, 2, 4, 5]]),
        (13, [[0, 3], [1, 2, 4, 5]]),
        (14, [[0, 1, 2, 3, 4, 5]]),
    ],
)
def test_sizes_are_joined_where_that_pads_little(padding, expected):
    grid = torch.tensor([[3, 3], [4, 4], [2, 8], [3, 3], [3, 4], [8, 2]])
    groups = size_groups(grid, padding)
    assert [rows.tolist() for rows, _ in groups] == expected
    assert [size for _, size in groups] == [int(grid[rows].prod(1).max()) for rows, _ in groups]


@torch.no_grad()
def test_world_model_loss_is_the_mean_over_patches_and_rows(model, batch):
    rows = dream_rows(batch, happened(batch["lengths"], 4), model.config.use_dream_memory)
    prompt = prompt_rows(model.ask(batch), rows.question)
    losses, seen = world_model_loss(model, rows, prompt)
    frame, belief = [], []
    for i in range(len(rows.step)):
        one, size = torch.tensor([i]), int(rows.grid[i].prod())
        earlier = (rows.past_frames[one, : rows.step[i], :size], rows.past_actions[one, : rows.step[i]])
        look = model.dream_generator.look(
            rows.what[one, :size], rows.grid[one], rows.step[one], rows.slot[one], prompt_rows(prompt, one), earlier
        )
        codes, beliefs = model.dream_generator.imagine(look, rows.what[one, :size], rows.action[one])
        logp = codes[0].log_softmax(-1)
        frame += [-float(logp[p, rows.result[i, p]]) for p in range(size)]
        belief.append(-float(beliefs[0].log_softmax(-1)[rows.belief[i]]))
        assert bool(seen.exact[i]) == (codes[0].argmax(-1) == rows.result[i, :size]).all()
        for found, own in ((seen.action_logits, look.action_logits), (seen.chances, look.chances)):
            torch.testing.assert_close(found[i], own[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(seen.value[i], look.value[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(seen.routing.probs[i], look.routing.probs[0], atol=2e-5, rtol=1e-4)
    assert float(losses["frame"]) == pytest.approx(sum(frame) / len(frame), rel=1e-4)
    assert float(losses["belief"]) == pytest.approx(sum(belief) / len(belief), rel=1e-4)


@torch.no_grad()
def test_chances_are_scored_for_the_action_that_was_taken(model, batch):
    rows = dream_rows(batch, happened(batch["lengths"], 4), model.config.use_dream_memory)
    _, seen = world_model_loss(model, rows, prompt_rows(model.ask(batch), rows.question))
    returns = batch["returns"][rows.question, rows.slot, rows.step]
    expected = []
    for i, target in enumerate(returns.tolist()):
        chance = seen.chances[i, rows.action[i]].sigmoid()
        expected.append(-target * chance.log() - (1 - target) * (1 - chance).log())
    assert float(chance_loss(seen, rows.action, returns)) == pytest.approx(
        float(sum(expected)) / len(expected), rel=1e-4
    )


@torch.no_grad()
def test_reading_loss_word_by_word(model, batch):
    prompt = model.ask(batch)
    batch["focus_target"][0] = torch.tensor([True, True, False, False])  # a tie: either is right
    batch["focus_target"][1] = torch.tensor([False, False, False, True])
    batch["answer"][2] = PAD  # nothing is asked
    losses, value = reading_loss(model, batch, prompt, draw=True)
    reading = model.read(batch["frames"], batch["actions"], batch["beliefs"], batch["lengths"], prompt)
    torch.testing.assert_close(value, reading.value)
    focus, words, patches = [], [], []
    for q in range(6):
        right = batch["focus_target"][q]
        if q != 2:
            focus.append(-float(reading.focus_logits[q].softmax(-1)[right].sum().log()))
        one, chosen = torch.tensor([q]), right.float().argmax()
        own = type(reading)(*(part[one] for part in reading[:4]))
        memory = model.output_decoder.memory(own, chosen[None], prompt_rows(prompt, one))
        text = [t for t in batch["answer"][q].tolist() if t != PAD]
        for place, token in enumerate(text):
            logits = model.output_decoder(torch.tensor([[BOS, *text[:place]]]), *memory)[0, -1]
            words.append(-float(logits.log_softmax(-1)[token]))
        size, n = int(batch["grid"][q].prod()), int(chosen)
        last = batch["frames"][q, 0, 0] if n == 3 else batch["frames"][q, n, batch["lengths"][q, n]]
        codes = model.image_decoder(last[None, :size], batch["grid"][one], *memory)[0].log_softmax(-1)
        patches += [-float(codes[p, last[p]]) for p in range(size)]
    assert float(losses["focus"]) == pytest.approx(sum(focus) / len(focus), rel=1e-4)
    assert float(losses["answer"]) == pytest.approx(sum(words) / len(words), rel=1e-4)
    assert float(losses["picture"]) == pytest.approx(sum(patches) / len(patches), rel=1e-4)
    assert "picture" not in reading_loss(model, batch, prompt)[0]


@torch.no_grad()
def test_only_the_dreams_that_were_asked_about_are_read(model, batch):
    prompt = model.ask(batch)
    batch["focus_target"] = torch.tensor([[True, False, True]] * 6)  # of two dreams, or none
    before = reading_loss(model, batch, prompt, draw=True)[0]
    for name in ("frames", "actions", "beliefs", "lengths"):
        batch[name] = batch[name].clone()
        batch[name][:, 2] = 1
    after = reading_loss(model, batch, prompt, draw=True)[0]
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_damage_hits_a_tenth_of_the_real_patches_and_never_padding():
    codes = torch.arange(20_000).remainder(240).view(200, 100)
    padding = torch.rand(200, 100, generator=torch.Generator().manual_seed(5)) < 0.3
    codes = codes.masked_fill(padding, 240)
    found = damage(codes, 240, torch.Generator().manual_seed(1))
    assert (found[padding] == 240).all() and (found[~padding] < 240).all()
    hit = float((found != codes)[~padding].float().mean())
    assert hit == pytest.approx(0.1, abs=0.01)
    assert len(found[found != codes].unique()) > 220  # any code may stand there afterwards
    assert torch.equal(found, damage(codes, 240, torch.Generator().manual_seed(1)))
    assert not torch.equal(found, damage(codes, 240, torch.Generator().manual_seed(2)))


def test_routing_loss_weighs_balance_and_z_loss(loaded):
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    routing = Routing(logits.softmax(-1), logits.topk(2).indices, torch.full((8, 2), 0.5), logits)
    balance, z = load_balance_loss(routing), router_z_loss(routing)
    config = dataclasses.replace(loaded.run.model, load_balance_loss_weight=0.3, router_z_loss_weight=0.7)
    loss, reported = routing_loss(config, routing)
    torch.testing.assert_close(loss, 0.3 * balance + 0.7 * z)
    torch.testing.assert_close(reported, balance)
    by_bias = dataclasses.replace(config, load_balance="bias")  # there the weight is the step of the bias
    torch.testing.assert_close(routing_loss(by_bias, routing)[0], 0.7 * z)


def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_parameter(loaded, model, batch):
    model.codec.requires_grad_(False)
    try:
        loss, metrics = pretrain_loss(model, batch)
        parts = {name for name in metrics if name.startswith("loss/")}
        names = ("frame", "belief", "action", "chance", "value", "routing", "focus", "answer", "picture", "inverse")
        contrastive = {"loss/contrastive"} if model.config.use_contrastive_loss else set()
        assert parts == {f"loss/{name}" for name in names} | contrastive
        torch.testing.assert_close(loss.detach(), torch.stack([metrics[name] for name in parts]).sum())
        model.zero_grad()
        (loss + touch_all(model)).backward()
        still = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert still == []
        assert float(touch_all(model).detach()) == 0
        moved = [name for name, p in model.named_parameters() if p.requires_grad and bool(p.grad.any())]
        assert len(moved) > 0.9 * sum(p.requires_grad for p in model.parameters())
    finally:
        model.zero_grad()
        model.codec.requires_grad_(True)


@torch.no_grad()
def test_action_and_value_losses_by_hand(model, batch):
    _, metrics = pretrain_loss(model, {k: v for k, v in batch.items() if k != "noise_seed"})
    rows = dream_rows(batch, happened(batch["lengths"], 4), model.config.use_dream_memory)
    _, seen = world_model_loss(model, rows, prompt_rows(model.ask(batch), rows.question))
    clones, errors = [], []
    for i, (q, n, t) in enumerate(zip(rows.question, rows.slot, rows.step, strict=True)):
        if batch["cloned"][q, n]:
            clones.append(-float(seen.action_logits[i].log_softmax(-1)[rows.action[i]]))
        errors.append(float(seen.value[i] - batch["returns"][q, n, t]) ** 2)
    assert float(metrics["loss/action"]) == pytest.approx(sum(clones) / len(clones), rel=1e-4)
    assert float(metrics["loss/value"]) == pytest.approx(sum(errors) / len(errors), rel=1e-4)
    inverse = model.inverse_dynamics(batch["pair_what"], batch["pair_result"], batch["pair_grid"])
    assert float(metrics["loss/inverse"]) == pytest.approx(
        float(F.cross_entropy(inverse, batch["pair_action"])), rel=1e-4
    )


@torch.no_grad()
def test_alignment_matches_first_pictures_and_moves_with_last_pictures(make_loaded):
    """By hand: similarities of unit vectors over the temperature, results that look alike left out."""
    loaded = make_loaded(model=KINDS["pictures"], world=WorldConfig(sizes=(2,)))
    model = loaded.model
    batch = RandomPlay(loaded.run, loaded.world, loaded.text, model.codec).batch(0, 5)
    rollouts = [(q, n) for q in range(5) for n in range(3)]
    ends = torch.stack([batch["frames"][q, n, batch["lengths"][q, n]] for q, n in rollouts])
    begins = torch.stack([batch["frames"][q, n, 0] for q, n in rollouts])
    moves = torch.stack([batch["moves"][q, n] for q, n in rollouts])
    grid = torch.stack([batch["grid"][q] for q, _ in rollouts])
    what, told, result = model.input_tokenizer.triplet(begins, moves, ends, grid)
    left = F.normalize(model.contrastive.left(what + told), dim=-1)
    right = F.normalize(model.contrastive.right(result), dim=-1)
    heat, total, alike = float(model.contrastive.temperature()), 0.0, 0
    for i in range(15):
        others = [j for j in range(15) if j == i or not torch.equal(ends[i], ends[j])]
        alike += 15 - len(others)
        for a, b in ((left, right), (right, left)):
            sums = torch.stack([a[i] @ b[j] / heat for j in others])
            total += float(sums.logsumexp(0) - a[i] @ b[i] / heat) / 30
    assert alike > 0
    assert float(alignment_loss(model, batch)[0]) == pytest.approx(total, rel=1e-4)


def test_autocast_changes_the_loss_only_as_far_as_bfloat16_rounds(model, batch):
    loss, _ = pretrain_loss(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = pretrain_loss(model, batch)
    rounded.backward()
    assert rounded.item() == pytest.approx(loss.item(), rel=0.02) and rounded.item() != loss.item()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
