"""Memory of the dream so far: a step reads the earlier steps of its own dream, and nothing else."""

import pytest
import torch
from torch import nn

from dreamrl.losses import prompt_rows
from dreamrl.nn.dream_generator import Remembered

ROWS, PATCHES, STEPS = 6, 16, 4
GRIDS = torch.tensor([[3, 3], [4, 4], [3, 4], [4, 4], [2, 3], [4, 4]])
STEP = torch.tensor([0, 1, 2, 3, 3, 2])
KINDS = {"memory": {}, "temporal experts": {"expert_types": ("temporal", "spatial")}}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def loaded(request, make_loaded):
    loaded = make_loaded(model={"use_dream_memory": True, **request.param})
    loaded.model.requires_grad_(False)
    return loaded


def dreams(loaded, seed=0):
    """(R, T, P) frames, the one at its step being what a row sees, and (R, T) actions; with its future, too."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(loaded.model.pad_code, (ROWS, STEPS, PATCHES), generator=generator)
    padding = torch.arange(PATCHES) >= GRIDS.prod(1, keepdim=True)
    actions = torch.randint(4, (ROWS, STEPS), generator=generator)
    return frames.masked_fill(padding.unsqueeze(1), loaded.model.pad_code), actions


def prompt_of(loaded):
    texts = ["Give the shortest way to the gift.", "The elf moves up. What happens?", "left"] * 2
    return loaded.model.input_tokenizer(torch.stack([torch.from_numpy(loaded.text.encode(t, 24)) for t in texts]))


def outputs(loaded, frames, actions, rows=None, what=None):
    """What PPO and the dreamer use of a step, for some of the rows."""
    rows = torch.arange(ROWS) if rows is None else rows
    what = dreams(loaded)[0][torch.arange(ROWS), STEP] if what is None else what
    generator, prompt = loaded.model.dream_generator, prompt_rows(prompt_of(loaded), rows)
    look = generator.look(what[rows], GRIDS[rows], STEP[rows], torch.arange(ROWS)[rows], prompt, (frames, actions))
    result, belief = generator.imagine(look, what[rows], torch.arange(ROWS)[rows] % 4)
    return {
        "action": look.action_logits,
        "value": look.value.unsqueeze(1),
        "router": look.routing.logits,
        "result": result.masked_fill(~look.mask.unsqueeze(-1), 0),
        "belief": belief,
    }


def slow_pool(pool, x):
    """``AttentionPool`` of the tokens x (L, D) of one picture, head by head."""
    x = pool.norm(x)
    value, width = pool.value(x), x.shape[1] // pool.heads
    parts = []
    for head in range(pool.heads):
        weight = pool.score(x)[:, head].softmax(0)
        parts.append(sum(w * v for w, v in zip(weight, value[:, head * width : (head + 1) * width], strict=True)))
    return torch.cat(parts)


def slow_attention(attention, query, tokens):
    """``Attention`` of one query (D,) over tokens (M, D), head by head and token by token."""
    width = len(query) // attention.heads
    asked = attention.query(query)
    keys, values = attention.key_value(tokens).chunk(2, dim=-1)
    parts = []
    for head in range(attention.heads):
        own = slice(head * width, (head + 1) * width)
        weight = torch.stack([asked[own] @ key[own] / width**0.5 for key in keys]).softmax(0)
        parts.append(sum(w * value[own] for w, value in zip(weight, values, strict=True)))
    return attention.out(torch.cat(parts))


class SlowMemory(nn.Module):
    """Stands in for ``DreamMemory``, with its weights: one row, one step, one head at a time."""

    def __init__(self, memory):
        super().__init__()
        self.fast, self.told = memory, []

    def forward(self, frames, actions, step):
        self.told = []
        for row in range(len(step)):
            tokens = [self.fast.nothing]
            for t in range(int(step[row])):
                real = frames[row, t][frames[row, t] != self.fast.pad]
                seen = slow_pool(self.fast.pool, self.fast.codes(real))
                tokens.append(seen + self.fast.action.weight[actions[row, t]] + self.fast.step.weight[t])
            self.told.append(torch.stack(tokens))
        longest = max(len(tokens) for tokens in self.told)
        memory = torch.stack([nn.functional.pad(tokens, (0, 0, 0, longest - len(tokens))) for tokens in self.told])
        mask = torch.arange(longest) < torch.tensor([[len(tokens)] for tokens in self.told])
        return Remembered(memory, mask)

    def recall(self, condition, context):
        pairs = zip(condition, self.told, strict=True)
        return torch.stack([slow_attention(self.fast.attention, query, tokens) for query, tokens in pairs])


def assert_same(found, expected, **tolerance):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name, **({"atol": 2e-5, "rtol": 1e-4} | tolerance))


def test_memory_is_attention_over_the_earlier_steps(loaded):
    frames, actions = dreams(loaded)
    found = outputs(loaded, frames[:, :3], actions[:, :3])
    generator = loaded.model.dream_generator
    generator.memory = SlowMemory(generator.memory)
    try:
        expected = outputs(loaded, frames[:, :3], actions[:, :3])
    finally:
        generator.memory = generator.memory.fast
    assert_same(found, expected)


def test_a_row_alone_with_its_own_past_equals_the_row_among_others(loaded):
    frames, actions = dreams(loaded)
    together = outputs(loaded, frames, actions)
    for row in range(ROWS):
        one, step = torch.tensor([row]), int(STEP[row])
        alone = outputs(loaded, frames[one, :step], actions[one, :step], one)
        assert_same(alone, {name: value[one] for name, value in together.items()})


def test_steps_at_or_after_the_own_one_are_not_read(loaded):
    frames, actions = dreams(loaded)
    other_frames, other_actions = dreams(loaded, seed=1)
    later = torch.arange(STEPS) >= STEP.unsqueeze(1)  # (R, T)
    changed = torch.where(later.unsqueeze(-1), other_frames, frames), torch.where(later, other_actions, actions)
    assert (changed[0] != frames).any() and (changed[1] != actions).any()
    assert_same(outputs(loaded, *changed), outputs(loaded, frames, actions), atol=0, rtol=0)


@pytest.mark.parametrize("part", ["frame", "action", "order"])
def test_every_earlier_step_is_read(loaded, part):
    frames, actions = dreams(loaded)
    before = outputs(loaded, frames, actions)
    for step in range(3):
        new_frames, new_actions = frames.clone(), actions.clone()
        if part == "frame":
            new_frames[:, step, 0] = (frames[:, step, 0] + 17) % loaded.model.pad_code
        elif part == "action":
            new_actions[:, step] = (actions[:, step] + 1) % 4
        else:
            swap = [*range(step), step + 1, step, *range(step + 2, STEPS)]
            new_frames, new_actions = frames[:, swap], actions[:, swap]
        after = outputs(loaded, new_frames, new_actions)
        reads = STEP > (step + 1 if part == "order" else step)
        for name, value in before.items():
            moved = (after[name] - value).abs().flatten(1).amax(1)
            assert (moved[reads] > 0).all(), f"{name} at step {step}"
            assert (moved[~reads] == 0).all() or part == "order", f"{name} at step {step}"


def test_a_dream_may_remember_more_steps_than_it_was_trained_on(loaded):
    frames, actions = dreams(loaded)
    what = frames[:, 0]
    long_frames, long_actions = frames.repeat(1, 3, 1), actions.repeat(1, 3)
    generator = loaded.model.dream_generator
    look = generator.look(
        what, GRIDS, torch.full((ROWS,), 11), torch.arange(ROWS), prompt_of(loaded), (long_frames, long_actions)
    )
    assert look.action_logits.isfinite().all()
    long_actions[:, 10] = (long_actions[:, 10] + 1) % 4
    again = generator.look(
        what, GRIDS, torch.full((ROWS,), 11), torch.arange(ROWS), prompt_of(loaded), (long_frames, long_actions)
    )
    assert ((look.action_logits - again.action_logits).abs().amax(1) > 1e-5).all()
