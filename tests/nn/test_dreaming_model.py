"""Dream steps: what is sampled has the log-probability that scoring finds again, and nothing else is random."""

import copy
import dataclasses

import pytest
import torch

from dreamrl.losses import prompt_rows

ROWS, PATCHES = 6, 16
GRIDS = [[3, 3], [4, 4], [3, 4], [4, 4], [2, 3], [4, 4]]


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def model_with(loaded, stochastic):
    model = copy.deepcopy(loaded.model)
    model.config = dataclasses.replace(model.config, stochastic_results=stochastic)
    return model


def dream_inputs(loaded):
    what = torch.randint(loaded.model.config.num_codes, (ROWS, PATCHES), generator=torch.Generator().manual_seed(0))
    grid = torch.tensor(GRIDS)
    what[torch.arange(PATCHES) >= grid.prod(1, keepdim=True)] = loaded.model.pad_code
    text = torch.stack(
        [torch.from_numpy(loaded.text.encode(t, 24)) for t in ["The way to the gift?", "up", "left"] * 2]
    )
    step, slot = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0, 1, 2, 3, 1, 0])
    return what, grid, step, slot, loaded.model.input_tokenizer(text)


@torch.no_grad()
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("heat", [None, 0.0, 1.0, 2.5])
def test_scoring_a_sampled_step_finds_its_log_probability(loaded, stochastic, heat):
    model, inputs = model_with(loaded, stochastic), dream_inputs(loaded)
    temperature = None if heat is None else torch.full((ROWS,), heat)
    drawn = model.dream_step(*inputs, uniform=rand(ROWS, PATCHES + 2), temperature=temperature)
    scored = model.dream_step(*inputs, taken=(drawn.action, drawn.result, drawn.belief))
    for name in ("logp", "entropy", "value", "result_logits", "belief_logits"):
        torch.testing.assert_close(getattr(scored, name), getattr(drawn, name), atol=1e-5, rtol=1e-5, msg=name)
    assert torch.equal(scored.action, drawn.action) and torch.equal(scored.result, drawn.result)


@torch.no_grad()
@pytest.mark.parametrize("stochastic", [False, True])
def test_log_probability_by_hand(loaded, stochastic):
    model, (what, grid, step, slot, prompt) = model_with(loaded, stochastic), dream_inputs(loaded)
    out = model.dream_step(what, grid, step, slot, prompt, uniform=rand(ROWS, PATCHES + 2, seed=1))
    for row in range(ROWS):
        one = torch.tensor([row])
        look = model.dream_generator.look(what[one], grid[one], step[one], slot[one], prompt_rows(prompt, one))
        codes, belief = model.dream_generator.imagine(look, what[one], out.action[one])
        probs = look.action_logits[0].softmax(-1)
        expected = probs[out.action[row]].log()
        if stochastic:
            expected = expected + belief[0].softmax(-1)[out.belief[row]].log()
            for patch in range(int(grid[row].prod())):
                expected = expected + codes[0, patch].softmax(-1)[out.result[row, patch]].log()
        torch.testing.assert_close(out.logp[row], expected, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(out.entropy[row], -(probs * probs.log()).sum(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_not_in_the_log_probability_is_not_random(loaded):
    model, inputs = model_with(loaded, False), dream_inputs(loaded)
    out = model.dream_step(*inputs, uniform=rand(ROWS, PATCHES + 2))
    dice = rand(ROWS, PATCHES + 2, seed=1)
    dice[:, 0] = rand(ROWS, PATCHES + 2)[:, 0]  # the same actions, everything else drawn anew
    again = model.dream_step(*inputs, uniform=dice)
    for name in ("action", "result", "belief"):
        assert torch.equal(getattr(again, name), getattr(out, name))
    mask = torch.arange(PATCHES) < inputs[1].prod(1, keepdim=True)
    assert torch.equal(out.result[mask], out.result_logits.argmax(-1)[mask])
    assert (out.result[~mask] == model.pad_code).all()
    stochastic = model_with(loaded, True)
    first, second = (stochastic.dream_step(*inputs, uniform=u) for u in (rand(ROWS, PATCHES + 2), dice))
    assert torch.equal(first.action, second.action) and not torch.equal(first.result, second.result)


@torch.no_grad()
@pytest.mark.parametrize("stochastic", [False, True])
def test_uniform_numbers_alone_decide(loaded, stochastic):
    model, (what, grid, step, slot, prompt) = model_with(loaded, stochastic), dream_inputs(loaded)
    dice = rand(ROWS, PATCHES + 2)
    torch.manual_seed(0)
    together = model.dream_step(what, grid, step, slot, prompt, uniform=dice)
    torch.manual_seed(1)
    for row in range(ROWS):
        one, size = torch.tensor([row]), int(grid[row].prod())
        alone = model.dream_step(
            what[one, :size], grid[one], step[one], slot[one], prompt_rows(prompt, one), dice[one, : size + 2]
        )
        assert int(alone.action) == int(together.action[row])
        assert int(alone.belief) == int(together.belief[row])
        assert alone.result[0].tolist() == together.result[row, :size].tolist()


@torch.no_grad()
def test_an_empty_or_odd_prompt_is_read(loaded):
    text = torch.stack([torch.from_numpy(loaded.text.encode(t, 24)) for t in ("", "a", "👍")])
    prompt = loaded.model.input_tokenizer(text)
    assert prompt.tokens.isfinite().all() and prompt.summary.isfinite().all()
    what, grid, step, slot, _ = (part[:3] for part in dream_inputs(loaded)[:4] + (torch.zeros(3),))
    out = loaded.model.dream_step(what, grid, step, slot, prompt, uniform=rand(3, PATCHES + 2))
    assert out.logp.isfinite().all() and out.value.isfinite().all()


@torch.no_grad()
def test_prompts_are_read_with_their_pictures(loaded, make_loaded):
    text = torch.stack([torch.from_numpy(loaded.text.encode("left", 24))] * 2)
    pixels = torch.randint(256, (2, 1, 48, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    asked = {"text": text, "pixels": pixels, "picture_size": torch.tensor([[[48, 48]], [[32, 48]]], dtype=torch.int32)}
    blind, seeing = loaded.model, make_loaded(model={"vision_backbone": "lite"}).model
    assert torch.equal(blind.ask(asked).summary[0], blind.ask(asked).summary[1])
    before = seeing.ask(asked).summary
    assert (before[0] - before[1]).abs().max() > 1e-3
    outside, inside = pixels.clone(), pixels.clone()
    outside[1, :, 32:] = 0
    inside[1, :, :16] = 0
    assert torch.equal(seeing.ask(asked | {"pixels": outside}).summary, before)
    after = seeing.ask(asked | {"pixels": inside}).summary
    assert torch.equal(after[0], before[0]) and (after[1] - before[1]).abs().max() > 1e-3


def test_the_bias_of_the_router_follows_the_usage_that_was_seen(loaded, make_loaded):
    usage = {f"expert_usage/{i}": torch.tensor(share) for i, share in enumerate((0.1, 0.5, 0.25, 0.15))}
    model = make_loaded(model={"load_balance": "bias", "load_balance_loss_weight": 0.01}).model
    before = model.dream_generator.moe.bias.clone()
    model.balance(usage)
    torch.testing.assert_close(model.dream_generator.moe.bias - before, torch.tensor([0.01, -0.01, 0.0, 0.01]))
    kept = [p.clone() for p in loaded.model.parameters()]
    loaded.model.balance(usage)
    assert all(torch.equal(a, b) for a, b in zip(kept, loaded.model.parameters(), strict=True))
