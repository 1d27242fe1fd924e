"""The text decoder: causal, and blind to every dream but the one in focus."""

import pytest
import torch

from dreamrl.nn.graph import Reading
from dreamrl.nn.text import BOS

QUESTIONS, DREAMS, STEPS, LENGTH = 3, 4, 5, 7


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reading(dim=16):
    lengths = torch.tensor([[5, 3, 1, 4], [2, 5, 5, 1], [4, 4, 2, 3]])
    mask = torch.arange(STEPS) < lengths.unsqueeze(-1)
    return Reading(
        randn(QUESTIONS, DREAMS, STEPS, dim), mask, torch.zeros(QUESTIONS, DREAMS + 1), torch.zeros(QUESTIONS)
    )


@pytest.fixture
def decode(loaded):
    """Logits (Q, L, vocabulary) for a reading, a focus and optionally other inputs or another prompt."""
    texts = ["Give the shortest way to the gift.", "The elf moves up. What happens?", "left"]
    text = torch.stack([torch.from_numpy(loaded.text.encode(t, 24)) for t in texts])
    asked = loaded.model.input_tokenizer(text)
    words = torch.randint(3, loaded.text.vocab_size, (QUESTIONS, LENGTH), generator=torch.Generator().manual_seed(0))
    words[:, 0] = BOS

    @torch.no_grad()
    def decode(read, focus, inputs=words, prompt=asked):
        decoder = loaded.model.output_decoder
        return decoder(inputs, *decoder.memory(read, torch.as_tensor(focus), prompt))

    decode.words, decode.prompt = words, asked
    return decode


def test_later_words_do_not_matter_and_earlier_ones_do(decode):
    before = decode(reading(), [0, 1, 2])
    for place in range(1, LENGTH):
        words = decode.words.clone()
        words[:, place] = (words[:, place] + 5) % 200 + 3
        after = decode(reading(), [0, 1, 2], words)
        torch.testing.assert_close(after[:, :place], before[:, :place], atol=1e-5, rtol=1e-5)
        changed = (after - before)[:, place:].abs().amax(-1)
        assert (changed > 1e-4).all(), f"word {place} is not read by all that follow"


def test_writing_word_by_word_equals_writing_at_once(decode):
    whole = decode(reading(), [2, 0, 4])
    for length in range(1, LENGTH):
        part = decode(reading(), [2, 0, 4], decode.words[:, :length])
        torch.testing.assert_close(part, whole[:, :length], atol=1e-5, rtol=1e-4)


def test_only_the_dream_in_focus_is_read(decode):
    focus = [3, 0, 1]
    before = decode(reading(), focus)
    read = reading()
    others = torch.ones(QUESTIONS, DREAMS, dtype=torch.bool)
    others[torch.arange(QUESTIONS), torch.tensor(focus)] = False
    hidden = read.nodes.masked_fill(others[..., None, None], 9.0)
    torch.testing.assert_close(decode(read._replace(nodes=hidden), focus), before, atol=0, rtol=0)
    past = read.nodes.masked_fill(~read.mask.unsqueeze(-1), 9.0)
    torch.testing.assert_close(decode(read._replace(nodes=past), focus), before, atol=0, rtol=0)
    for step in range(STEPS):
        seen = read.nodes.clone()
        seen[:, :, step] += 1
        changed = (decode(read._replace(nodes=seen), focus) - before).abs().amax((1, 2))
        there = read.mask[torch.arange(QUESTIONS), torch.tensor(focus), step]
        assert ((changed > 1e-4) == there).all()


def test_with_no_dream_in_focus_none_is_read(decode):
    none = [DREAMS] * QUESTIONS
    before, read = decode(reading(), none), reading()
    after = decode(read._replace(nodes=randn(*read.nodes.shape, seed=1) * 10), none)
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    assert ((decode(read, [0, 0, 0]) - before).abs().amax((1, 2)) > 1e-3).all()


def test_the_question_is_read_with_and_without_a_dream(decode):
    other = type(decode.prompt)(*(part.roll(1, 0) for part in decode.prompt))
    for focus in ([0, 1, 2], [DREAMS] * QUESTIONS):
        changed = (decode(reading(), focus, prompt=other) - decode(reading(), focus)).abs().amax((1, 2))
        assert (changed > 1e-3).all()
