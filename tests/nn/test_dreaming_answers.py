"""Answers: their words, their picture, their probability, and what the model knows of how sure it is."""

import copy

import pytest
import torch

from dreamrl.losses import prompt_rows
from dreamrl.nn.dreaming_model import last_frames
from dreamrl.nn.graph import Reading
from dreamrl.nn.sampling import sample
from dreamrl.nn.text import BOS, EOS, PAD


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


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


def one_of(reading, rows):
    """The reading of some questions, without its edges."""
    return Reading(*(part[rows] for part in reading[:4]))


def logp_by_hand(model, reading, prompt, focus, tokens, length=None):
    """Of choosing ``focus`` and then writing the first ``length`` of ``tokens``, up to and with the end mark."""
    out = []
    for q in range(len(focus)):
        one = torch.tensor([q])
        memory = model.output_decoder.memory(one_of(reading, one), focus[one], prompt_rows(prompt, one))
        total = reading.focus_logits[q].softmax(-1)[focus[q]].log()
        written = [BOS]
        for token in tokens[q].tolist()[:length]:
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
        memory = model.output_decoder.memory(one_of(reading, one), greedy.focus[one], prompt_rows(prompt, one))
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
        alone = model.answer(one_of(reading, one), prompt_rows(prompt, one), dice[one])
        assert alone.tokens[0].tolist() == together.tokens[q].tolist()
        assert int(alone.focus) == int(together.focus[q])


def slow_words(model, reading, prompt, dice, temperature, top_p, length):
    """Focus and tokens of question after question, each word from a pass over the whole text so far."""
    out = []
    for q in range(QUESTIONS):
        one = torch.tensor([q])
        focus = sample(reading.focus_logits[one], dice[one, 0])
        memory = model.output_decoder.memory(one_of(reading, one), focus, prompt_rows(prompt, one))
        inputs = [BOS]
        while len(inputs) <= length and inputs[-1] != EOS:
            logits = model.output_decoder(torch.tensor([inputs]), *memory)[:, -1]
            place = len(inputs)
            token = sample(logits, dice[one, place], torch.tensor([temperature]), None, top_p)
            inputs.append(int(token))
        out.append((int(focus), inputs[1:] + [PAD] * (model.config.max_answer_tokens + 1 - len(inputs))))
    return out


@torch.no_grad()
@pytest.mark.parametrize("positions", ["rope", "rope+yarn", "alibi", "learned"])
@pytest.mark.parametrize("temperature, top_p, length", [(1.0, 1.0, None), (0.6, 1.0, 5), (2.0, 0.7, 12)])
def test_words_are_drawn_one_after_the_other(make_loaded, positions, temperature, top_p, length):
    loaded = make_loaded(model={"positions": positions})
    model = loaded.model
    favour(model, EOS, 3.0)
    reading, prompt = read_dreams(loaded, model)
    dice = rand(QUESTIONS, model.config.max_answer_tokens + 1, seed=3)
    out = model.answer(reading, prompt, dice, temperature, top_p, length)
    expected = slow_words(model, reading, prompt, dice, temperature, top_p, length or model.config.max_answer_tokens)
    assert list(zip(out.focus.tolist(), out.tokens.tolist(), strict=True)) == expected
    # What PPO would need is untouched by temperature and nucleus.
    by_hand = logp_by_hand(model, reading, prompt, out.focus, out.tokens, length)
    torch.testing.assert_close(out.logp, by_hand, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_temperature_0_is_greedy_in_everything(loaded):
    reading, prompt = read_dreams(loaded, loaded.model)
    greedy = loaded.model.answer(reading, prompt)
    cold = loaded.model.answer(reading, prompt, rand(QUESTIONS, 13), temperature=0)
    assert torch.equal(cold.tokens, greedy.tokens) and torch.equal(cold.focus, greedy.focus)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 3, 12, 99])
def test_a_shorter_answer_begins_like_the_long_one(loaded, length):
    reading, prompt = read_dreams(loaded, loaded.model)
    dice = rand(QUESTIONS, 13)
    whole, part = (loaded.model.answer(reading, prompt, dice, max_length=n) for n in (None, length))
    assert torch.equal(part.tokens[:, :length], whole.tokens[:, :length])
    assert (part.tokens[:, length:] == PAD).all()


def test_the_last_frame_of_each_dream():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(200, (6, DREAMS, STEPS + 1, 9), generator=generator)
    frames[:, :, 0] = frames[:, :1, 0]  # all dreams of a question begin with its picture
    lengths = torch.randint(0, STEPS + 1, (6, DREAMS), generator=generator)
    focus = torch.tensor([0, 1, 2, 3, 3, 1])
    found = last_frames(frames, lengths, focus)
    for q in range(6):
        n = int(focus[q])
        expected = frames[q, 0, 0] if n == DREAMS else frames[q, n, lengths[q, n]]
        assert torch.equal(found[q], expected)


def painted(loaded, focus, frames, lengths, grid):
    reading, prompt = read_dreams(loaded, loaded.model)
    return loaded.model.draw(reading, prompt, focus, frames, lengths, grid), reading, prompt


def dreamed_frames(model):
    """Codes of dreams on boards of 2x2 to 3x3 cells, with padding past the picture."""
    grid = torch.tensor([[3, 3], [2, 3], [3, 2], [2, 2], [3, 3]])
    frames = torch.randint(
        model.pad_code, (QUESTIONS, DREAMS, STEPS + 1, 9), generator=torch.Generator().manual_seed(7)
    )
    frames[:, :, 0] = frames[:, :1, 0]
    past = torch.arange(9) >= grid.prod(1, keepdim=True)
    return frames.masked_fill(past[:, None, None], model.pad_code), grid


@torch.no_grad()
def test_an_answer_is_painted_over_the_last_picture_of_the_dream_in_focus(loaded):
    model = loaded.model
    frames, grid = dreamed_frames(model)
    lengths = torch.tensor([[1, 2, 3], [4, 4, 4], [2, 1, 4], [3, 3, 1], [1, 1, 1]])
    focus = torch.tensor([0, 1, 2, DREAMS, DREAMS])
    found, reading, prompt = painted(loaded, focus, frames, lengths, grid)
    for q in range(QUESTIONS):
        one, size = torch.tensor([q]), int(grid[q].prod())
        n = int(focus[q])
        last = frames[q, 0, 0] if n == DREAMS else frames[q, n, lengths[q, n]]
        memory = model.output_decoder.memory(one_of(reading, one), focus[one], prompt_rows(prompt, one))
        logits = model.image_decoder(last[None, :size], grid[one], *memory)
        assert found[q, :size].tolist() == logits[0].argmax(-1).tolist()
        assert (found[q, size:] == model.pad_code).all()
    assert (found[:, :4] < model.pad_code).all()


@torch.no_grad()
def test_nothing_but_the_first_picture_is_painted_over_when_no_dream_is_read(loaded):
    frames, grid = dreamed_frames(loaded.model)
    lengths = torch.full((QUESTIONS, DREAMS), STEPS)
    none = torch.full((QUESTIONS,), DREAMS)
    before, *_ = painted(loaded, none, frames, lengths, grid)
    later = frames.clone()
    later[:, :, 1:] = 5
    assert torch.equal(painted(loaded, none, later, lengths, grid)[0], before)
    first = frames.clone()
    first[:, :, 0, 0] = (first[:, :, 0, 0] + 50) % loaded.model.pad_code
    assert not torch.equal(painted(loaded, none, first, lengths, grid)[0], before)


@torch.no_grad()
def test_evidence_and_confidence_by_hand(loaded):
    model = copy.deepcopy(loaded.model)
    model.calibration.copy_(torch.tensor([0.5, -1.5, 2.0, 0.25]))
    reading, prompt = read_dreams(loaded, model)
    reading = reading._replace(value=torch.tensor([0.5, -3.0, 7.0, 0.2, 0.9]))
    out = model.answer(reading, prompt)
    evidence = model.evidence(reading, out)
    for q, value in enumerate([0.5, 0.01, 0.99, 0.2, 0.9]):  # expected rewards are clamped
        focus = reading.focus_logits[q].softmax(-1)[out.focus[q]].log()
        expected = torch.stack([torch.tensor(value / (1 - value)).log(), focus, out.logp[q] - focus])
        torch.testing.assert_close(evidence[q], expected, atol=1e-4, rtol=1e-4)
        chance = 1 / (1 + (-(0.5 * expected[0] - 1.5 * expected[1] + 2 * expected[2] + 0.25)).exp())
        torch.testing.assert_close(model.confidence(evidence)[q], chance, atol=1e-4, rtol=1e-3)
