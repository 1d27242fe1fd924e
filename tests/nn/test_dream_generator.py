"""Dream steps: each row stands for itself, padding is not seen, and T steps cost T times one."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamrl import policy
from dreamrl.losses import prompt_rows
from dreamrl.nn.dream_generator import InverseDynamics

ROWS, PATCHES = 6, 16
GRIDS = [[3, 3], [4, 4], [3, 4], [4, 4], [2, 3], [4, 4]]


def rows(loaded, seed=0):
    """Codes (R, P), grids, steps, slots, prompt and actions of rows that differ in everything."""
    generator = torch.Generator().manual_seed(seed)
    what = torch.randint(loaded.model.config.num_codes, (ROWS, PATCHES), generator=generator)
    grid = torch.tensor(GRIDS)
    what[torch.arange(PATCHES) >= grid.prod(1, keepdim=True)] = loaded.model.pad_code
    texts = ["Give the shortest way to the gift.", "The elf moves up. What happens?", "left"] * 2
    text = torch.stack([torch.from_numpy(loaded.text.encode(t, 24)) for t in texts])
    prompt = loaded.model.input_tokenizer(text)
    return what, grid, torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0, 1, 2, 3, 1, 0]), prompt, torch.arange(6) % 4


@torch.no_grad()
def compute(loaded, what, grid, step, slot, prompt, action):
    """What PPO and the dreamer use of a step."""
    look = loaded.model.dream_generator.look(what, grid, step, slot, prompt)
    result, belief = loaded.model.dream_generator.imagine(look, what, action)
    routed = torch.zeros_like(look.routing.probs).scatter(1, look.routing.experts, look.routing.weights)
    return {
        "action": look.action_logits,
        "value": look.value,
        "chances": look.chances,
        "experts": routed,
        "result": result.masked_fill(~look.mask.unsqueeze(-1), 0),
        "belief": belief,
    }


def take(parts, index):
    what, grid, step, slot, prompt, action = parts
    return what[index], grid[index], step[index], slot[index], prompt_rows(prompt, index), action[index]


def test_a_row_alone_equals_the_row_among_others(loaded):
    parts = rows(loaded)
    together = compute(loaded, *parts)
    for row in range(ROWS):
        what, *rest = take(parts, torch.tensor([row]))
        size = int(parts[1][row].prod())
        alone = compute(loaded, what[:, :size], *rest)  # without the padding, too
        for name, value in alone.items():
            expected = together[name][row : row + 1]
            expected = expected[:, :size] if name == "result" else expected
            torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-4, msg=f"{name} of row {row}")


def test_codes_past_the_picture_are_not_seen(loaded):
    what, *rest = rows(loaded)
    before = compute(loaded, what, *rest)
    past = torch.arange(PATCHES) >= rest[0].prod(1, keepdim=True)
    after = compute(loaded, what.masked_fill(past, 5), *rest)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("changed", ["what", "shape", "step", "slot", "prompt"])
def test_everything_that_is_given_is_seen(loaded, changed):
    what, grid, step, slot, prompt, action = rows(loaded)
    before = compute(loaded, what, grid, step, slot, prompt, action)
    if changed == "what":
        what = what.clone()
        what[:, 0] = (what[:, 0] + 11) % loaded.model.config.num_codes
    if changed == "shape":
        what, grid = what[[2, 4]], grid[[2, 4]].flip(1)  # 3x4 read as 4x3, 2x3 as 3x2
        step, slot, prompt, action = (
            step[[2, 4]],
            slot[[2, 4]],
            prompt_rows(prompt, torch.tensor([2, 4])),
            action[[2, 4]],
        )
        before = {k: v[[2, 4]] for k, v in before.items()}
    step = (step + 1) % 4 if changed == "step" else step
    slot = (slot + 1) % 4 if changed == "slot" else slot
    prompt = type(prompt)(*(part.roll(1, 0) for part in prompt)) if changed == "prompt" else prompt
    after = compute(loaded, what, grid, step, slot, prompt, action)
    for name in ("action", "value", "result", "belief"):
        difference = (after[name] - before[name]).flatten(1) if name != "value" else after[name] - before[name]
        assert (difference.abs().reshape(len(what), -1).amax(1) > 1e-4).all(), name


def test_dream_offsets_repeat_but_else_differ(loaded):
    parts = rows(loaded)
    offsets = loaded.model.config.num_dream_offsets
    one = take(parts, torch.zeros(offsets + 1, dtype=torch.long))
    out = compute(loaded, *one[:3], torch.arange(offsets + 1), *one[4:])["action"]
    torch.testing.assert_close(out[offsets], out[0], atol=1e-5, rtol=1e-5)
    for i in range(offsets):
        for j in range(i):
            assert (out[i] - out[j]).abs().max() > 1e-3


def test_a_dream_may_go_on_for_longer_than_it_was_trained(loaded):
    what, grid, _, *rest = rows(loaded)
    last = compute(loaded, what, grid, torch.full((ROWS,), 3), *rest)
    later = compute(loaded, what, grid, torch.full((ROWS,), 9), *rest)
    torch.testing.assert_close(later["action"], last["action"], atol=0, rtol=0)


def test_the_result_depends_on_the_sampled_action(loaded):
    *parts, _ = take(rows(loaded), torch.tensor([1, 1, 1, 1]))
    out = compute(loaded, *parts, torch.arange(4))
    for i in range(4):
        for j in range(i):
            assert (out["result"][i] - out["result"][j]).abs().max() > 1e-3
            assert (out["belief"][i] - out["belief"][j]).abs().max() > 1e-4
    torch.testing.assert_close(out["action"], out["action"][:1].expand(4, -1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_inverse_dynamics_sees_both_pictures_but_no_padding(loaded):
    model, (what, grid, *_) = loaded.model.inverse_dynamics, rows(loaded)
    result = rows(loaded, seed=1)[0]
    assert isinstance(model, InverseDynamics)
    before = model(what, result, grid)
    past = torch.arange(PATCHES) >= grid.prod(1, keepdim=True)
    torch.testing.assert_close(
        model(what.masked_fill(past, 1), result.masked_fill(past, 2), grid), before, atol=0, rtol=0
    )
    for row in range(ROWS):
        size = int(grid[row].prod())
        one = slice(row, row + 1)
        alone = model(what[one, :size], result[one, :size], grid[one])
        torch.testing.assert_close(alone, before[one], atol=1e-5, rtol=1e-4)
    assert ((model(result, what, grid) - before).abs().amax(1) > 1e-3).all()
    assert ((model(what, what, grid) - before).abs().amax(1) > 1e-3).all()


def flops_of_learning(loaded, steps):
    """Floating-point operations of scoring ``steps`` dream steps of one episode, as the learner does."""
    generator = torch.Generator().manual_seed(0)
    dreams = loaded.model.config.num_dream_sequences
    frames = torch.randint(loaded.model.config.num_codes, (dreams, steps + 1, 9), generator=generator)
    count = steps
    obs = {
        "frames": frames.expand(count, -1, -1, -1),
        "actions": torch.zeros(count, dreams, steps, dtype=torch.long),
        "grid": torch.tensor([[3, 3]]).expand(count, -1),
        "active": torch.ones(count, dreams),
        "step": torch.arange(count),
        "phase": torch.zeros(count),
        "text": torch.from_numpy(np.stack([loaded.text.encode("Give the shortest way to the gift.", 24)] * count)),
    }
    action = policy.empty_action(obs, loaded.model.config.max_answer_tokens)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy.dream(loaded.model, obs, loaded.model.input_tokenizer(obs["text"]), action)
    return counter.get_total_flops()


@pytest.mark.parametrize("steps", [4, 16])
def test_learning_from_twice_as_many_steps_costs_twice_as_much(loaded, steps):
    assert flops_of_learning(loaded, steps) > 1e5 * steps
    assert flops_of_learning(loaded, 2 * steps) / flops_of_learning(loaded, steps) == pytest.approx(2, rel=0.05)
