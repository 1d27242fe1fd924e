"""The text decoder: causal, blind to every dream but the one in focus, and the same with a cache."""

import pytest
import torch

from dreamrl.bench import decode as decode_bench
from dreamrl.dreaming_config import NORMALISERS, POSITIONS, DreamingConfig
from dreamrl.nn.graph import Reading
from dreamrl.nn.input_tokenizer import InputTokenizer
from dreamrl.nn.output_decoder import OutputDecoder
from dreamrl.nn.text import BOS, PAD

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


def new_decoder(room=12, **settings):
    config = DreamingConfig(
        embedding_dim=16, num_heads=2, dream_length=4, max_prompt_tokens=24, max_answer_tokens=room, **settings
    )
    torch.manual_seed(4)
    return OutputDecoder(config, InputTokenizer(config, 300))


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("kind", POSITIONS)
def test_writing_with_a_cache_equals_writing_without(kind, normaliser):
    decoder = new_decoder(positions=kind, attention=normaliser, yarn_factor=2.0)
    memory, mask = randn(3, 6, 16), torch.arange(6) < torch.tensor([[6], [2], [4]])
    words = torch.randint(3, 300, (3, 20), generator=torch.Generator().manual_seed(1))
    plain = decoder(words, memory, mask)
    cache, longer = decoder.start(memory, mask), decoder.start(memory, mask, 20)
    for place in range(20):
        found = decoder.step(words[:, place : place + 1], longer)
        torch.testing.assert_close(found, plain[:, place], atol=1e-4, rtol=1e-4)
        if place < 12:
            assert torch.equal(decoder.step(words[:, place : place + 1], cache), found)
    assert (cache.length, longer.length) == (12, 20)
    with pytest.raises(AssertionError, match="no room for 13 tokens"):
        decoder.step(words[:, :1], cache)


@pytest.mark.parametrize("kind", [kind for kind in POSITIONS if kind != "learned"])
def test_words_past_the_longest_answer_are_told_apart(kind):
    decoder, mask = new_decoder(positions=kind, yarn_factor=2.0), torch.ones(1, 6, dtype=torch.bool)
    words = torch.randint(3, 300, (1, 20), generator=torch.Generator().manual_seed(1))
    swapped = words.clone()
    swapped[0, [14, 16]] = words[0, [16, 14]]
    changed = decoder(swapped, randn(1, 6, 16), mask) - decoder(words, randn(1, 6, 16), mask)
    assert changed[0, -1].abs().max() > 1e-3


def test_two_caches_do_not_mix_and_steps_need_no_gradient():
    decoder, words = new_decoder(), torch.tensor([[BOS], [BOS]])
    memory, mask = randn(2, 2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    alone = decoder.start(memory[0], mask)
    expected = [decoder.step(words + place, alone) for place in range(4)]
    one, two = decoder.start(memory[0], mask, 4), decoder.start(memory[1], mask, 4)
    for place in range(4):
        found, other = decoder.step(words + place, one), decoder.step(words + place, two)
        assert torch.equal(found, expected[place]) and not torch.equal(found, other)
        assert not found.requires_grad


def test_positions_tell_words_apart_by_kind():
    words, memory = torch.tensor([[BOS, 7, 8, 7, 8]]), randn(1, 6, 16)
    found = [new_decoder(positions=k, yarn_factor=4.0)(words, memory, torch.ones(1, 6) > 0) for k in POSITIONS]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:i])


def test_padding_and_begin_are_never_written_with_or_without_a_cache():
    decoder = new_decoder()
    with torch.no_grad():
        decoder.text.weight[[PAD, BOS]] = 100.0
    memory, mask = randn(1, 6, 16), torch.ones(1, 6, dtype=torch.bool)
    words = torch.tensor([[BOS]])
    for logits in (decoder(words, memory, mask)[:, 0], decoder.step(words, decoder.start(memory, mask))):
        assert (logits.softmax(-1)[0, [PAD, BOS]] == 0).all()


def test_the_bench_compares_the_same_words():
    found = decode_bench.bench(length=24, batch=2, dim=32, layers=1)
    assert list(found) == list(POSITIONS)
    for row in found.values():
        assert row["largest_error"] < 1e-4
        assert row["speedup"] == pytest.approx(row["uncached_s"] / row["cached_s"]) and row["cached_s"] > 0
