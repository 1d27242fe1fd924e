"""Sampling is exact, and what is sampled has the log-probability that scoring finds again."""

import copy
import dataclasses

import pytest
import torch

from dreamrl.losses import prompt_rows
from dreamrl.model import sample
from dreamrl.nn.text import BOS, EOS, PAD

ROWS, PATCHES = 6, 16
GRIDS = [[3, 3], [4, 4], [3, 4], [4, 4], [2, 3], [4, 4]]


def grid_of_uniforms(count):
    """Numbers that fill [0, 1) evenly: what random numbers do in the long run, without the noise."""
    return (torch.arange(count, dtype=torch.double) + 0.5) / count


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("heat", [None, 1.0, 0.5, 3.0])
def test_sampled_frequencies_are_the_probabilities(heat):
    logits, count = randn(5) * 2, 20_000
    temperature = None if heat is None else torch.full((count,), heat)
    drawn = sample(logits.expand(count, -1), grid_of_uniforms(count), temperature)
    expected = (logits / (heat or 1.0)).softmax(-1)
    torch.testing.assert_close(drawn.bincount(minlength=5) / count, expected, atol=2 / count, rtol=0)


def test_sampling_inverts_the_cumulative_distribution():
    drawn = sample(randn(7).expand(1000, -1), grid_of_uniforms(1000))
    assert (drawn.diff() >= 0).all()
    assert drawn.unique().tolist() == list(range(7))


@pytest.mark.parametrize("uniform", [0.0, 1e-7, 0.5, 1 - 1e-7])
def test_the_impossible_is_never_drawn(uniform):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    assert int(sample(logits, torch.tensor([uniform]))) in (1, 3)


def test_temperature_0_and_greedy_take_the_most_probable():
    logits, uniform = randn(200, 4), rand(200)
    best, drawn = logits.argmax(-1), sample(logits, uniform)
    assert (best != drawn).sum() > 50
    assert torch.equal(sample(logits, uniform, torch.zeros(200)), best)
    assert torch.equal(sample(logits, uniform, None, True), best)
    cold = torch.arange(200) % 2 == 0
    assert torch.equal(sample(logits, uniform, (~cold).float()), torch.where(cold, best, drawn))
    many, dice = randn(200, 6, 4, seed=1), rand(200, 6, seed=1)
    mixed = sample(many, dice, None, cold)  # one decision a row, several categories in it
    assert torch.equal(mixed, torch.where(cold.unsqueeze(1), many.argmax(-1), sample(many, dice)))


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


QUESTIONS, DREAMS, STEPS = 5, 3, 4


def read_dreams(loaded, model):
    generator = torch.Generator().manual_seed(0)
    codes = loaded.model.config.num_codes
    text = torch.stack([torch.from_numpy(loaded.text.encode(f"Way {i}?", 24)) for i in range(QUESTIONS)])
    prompt = model.input_tokenizer(text)
    reading = model.read(
        torch.randint(codes, (QUESTIONS, DREAMS, STEPS + 1, 9), generator=generator),
        torch.randint(4, (QUESTIONS, DREAMS, STEPS), generator=generator),
        torch.randint(4, (QUESTIONS, DREAMS, STEPS), generator=generator),
        torch.randint(1, STEPS + 1, (QUESTIONS, DREAMS), generator=generator),
        prompt,
    )
    return reading, prompt


def logp_by_hand(model, reading, prompt, focus, tokens):
    """Of choosing ``focus`` and then writing ``tokens`` up to and with the end mark, one word at a time."""
    out = []
    for q in range(len(focus)):
        one = torch.tensor([q])
        memory = model.output_decoder.memory(
            type(reading)(*(r[one] for r in reading)), focus[one], prompt_rows(prompt, one)
        )
        total = reading.focus_logits[q].softmax(-1)[focus[q]].log()
        written = [BOS]
        for token in tokens[q].tolist():
            logits = model.output_decoder(torch.tensor([written]), *memory)[0, -1]
            total = total + logits.softmax(-1)[token].log()
            written.append(token)
            if token == EOS:
                break
        out.append(total)
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_scoring_a_written_answer_finds_its_log_probability(loaded, seed):
    model = loaded.model
    reading, prompt = read_dreams(loaded, model)
    dice = None if seed is None else rand(QUESTIONS, model.config.max_answer_tokens + 1, seed=seed)
    out = model.answer(reading, prompt, dice)
    scored = model.score_answer(reading, prompt, out.focus, out.tokens)
    torch.testing.assert_close(scored.logp, out.logp, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        out.logp, logp_by_hand(model, reading, prompt, out.focus, out.tokens), atol=1e-3, rtol=1e-4
    )
    probs = reading.focus_logits.softmax(-1)
    torch.testing.assert_close(out.entropy, -(probs * probs.log()).sum(-1))


def favour(model, token, strength):
    """Make the decoder give ``token`` a logit higher by ``strength`` everywhere."""
    weight, norm = model.output_decoder.text.weight, model.output_decoder.norm
    direction = weight[token].clone()
    norm.bias += strength * direction / (direction @ direction)


@torch.no_grad()
@pytest.mark.parametrize("token", [PAD, BOS, EOS])
@pytest.mark.parametrize("strength", [3.0, 8.0])
def test_log_probability_counts_every_sampled_token(loaded, token, strength):
    model = copy.deepcopy(loaded.model)
    favour(model, token, strength)
    reading, prompt = read_dreams(loaded, model)
    out = model.answer(reading, prompt, rand(QUESTIONS, model.config.max_answer_tokens + 1, seed=2))
    torch.testing.assert_close(
        out.logp, logp_by_hand(model, reading, prompt, out.focus, out.tokens), atol=1e-3, rtol=1e-4
    )


@torch.no_grad()
def test_answers_are_greedy_without_dice_and_end_once(loaded):
    model = copy.deepcopy(loaded.model)
    favour(model, EOS, 4.0)
    reading, prompt = read_dreams(loaded, model)
    greedy = model.answer(reading, prompt)
    assert torch.equal(greedy.focus, reading.focus_logits.argmax(-1))
    length = model.config.max_answer_tokens
    written = set()
    for seed in range(10):
        drawn = model.answer(reading, prompt, rand(QUESTIONS, length + 1, seed=seed))
        assert (drawn.logp <= 0).all()
        for tokens in drawn.tokens.tolist():
            assert tokens.count(EOS) <= 1
            if EOS in tokens:
                assert set(tokens[tokens.index(EOS) + 1 :]) <= {PAD}
            written.add(tuple(tokens))
    assert len(written) > 20
    for q in range(QUESTIONS):
        one = torch.tensor([q])
        memory = model.output_decoder.memory(
            type(reading)(*(r[one] for r in reading)), greedy.focus[one], prompt_rows(prompt, one)
        )
        inputs = [BOS]
        for token in greedy.tokens[q].tolist():
            assert token == int(model.output_decoder(torch.tensor([inputs]), *memory)[0, -1].argmax())
            inputs.append(token)
            if token == EOS:
                break


@torch.no_grad()
def test_answers_depend_on_their_own_dice_only(loaded):
    model = loaded.model
    reading, prompt = read_dreams(loaded, model)
    dice = rand(QUESTIONS, model.config.max_answer_tokens + 1)
    together = model.answer(reading, prompt, dice)
    for q in range(QUESTIONS):
        one = torch.tensor([q])
        alone = model.answer(type(reading)(*(r[one] for r in reading)), prompt_rows(prompt, one), dice[one])
        assert alone.tokens[0].tolist() == together.tokens[q].tolist()
        assert int(alone.focus) == int(together.focus[q])


@torch.no_grad()
def test_an_empty_or_odd_prompt_is_read(loaded):
    text = torch.stack([torch.from_numpy(loaded.text.encode(t, 24)) for t in ("", "a", "👍")])
    prompt = loaded.model.input_tokenizer(text)
    assert prompt.tokens.isfinite().all() and prompt.summary.isfinite().all()
    what, grid, step, slot, _ = (part[:3] for part in dream_inputs(loaded)[:4] + (torch.zeros(3),))
    out = loaded.model.dream_step(what, grid, step, slot, prompt, uniform=rand(3, PATCHES + 2))
    assert out.logp.isfinite().all() and out.value.isfinite().all()
