"""Noise in prompts: only a generator makes it, and it hides and drops as much as it is told to."""

import copy

import pytest
import torch
from prompts import make, some_picture, some_text, stack_pictures

from dreamrl.nn.input_tokenizer import Noise
from dreamrl.nn.text import PAD

NOISY = {"vision_backbone": "lite", "token_masking": 0.3, "embedding_dropout": 0.2}


def test_noise_needs_a_generator_and_a_rate():
    quiet, noisy = make(vision_backbone="lite"), make(**NOISY)
    assert {n: p.shape for n, p in noisy.named_parameters()} == {n: p.shape for n, p in quiet.named_parameters()}
    text, pictures = some_text(), stack_pictures([[some_picture(seed=i)] for i in range(6)])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for model in (quiet, noisy, noisy.train()):
        for a, b in zip(model(text, pictures), quiet(text, pictures), strict=True):
            assert a.equal(b)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert quiet(text, pictures, generator).summary.equal(quiet(text, pictures).summary)
    assert generator.get_state().equal(state)
    noisy(text, pictures, generator)
    assert torch.get_rng_state().equal(before)
    assert not generator.get_state().equal(state)


def test_the_same_generator_gives_the_same_noise():
    model, text = make(**NOISY), some_text()
    pictures = stack_pictures([[some_picture(seed=i)] for i in range(6)])
    first, again, other = (model(text, pictures, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not torch.allclose(first.summary, other.summary, atol=1e-3)
    assert not torch.allclose(first.summary[0], first.summary[1], atol=1e-3)  # equal prompts, noise of their own


def test_hidden_tokens_are_replaced_and_no_others():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(200, 30, 4, generator=generator) + 9
    mask = torch.rand(200, 30, generator=generator) < 0.7
    instead = torch.full((4,), -1.0)
    hidden = Noise(0.3, 0.0, torch.Generator().manual_seed(1)).hide(tokens, mask, instead)
    changed = (hidden == instead).all(-1)
    assert hidden[~changed].equal(tokens[~changed])
    assert not changed[~mask].any()
    assert changed[mask].float().mean() == pytest.approx(0.3, abs=0.02)


def test_dropped_channels_are_zero_and_the_mean_stays():
    tokens, mask = torch.ones(200, 30, 8), torch.rand(200, 30, generator=torch.Generator().manual_seed(0)) < 0.7
    dropped = Noise(0.0, 0.2, torch.Generator().manual_seed(1)).drop(tokens, mask)
    assert dropped[~mask].equal(tokens[~mask])
    kept = dropped[mask]
    assert set(kept.unique().tolist()) == {0.0, 1.25}
    assert (kept == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    assert kept.mean() == pytest.approx(1, abs=0.01)


def test_a_hidden_word_is_a_padding_row_that_is_learned_and_not_padding():
    """Everything hidden: all texts of one length read alike, as words of padding's row, and only it learns."""
    model = make(token_masking=0.9)
    model.token_masking = 1.0
    text = some_text()
    prompt = model(text, generator=torch.Generator().manual_seed(0))
    lengths = (text != PAD).sum(1)
    plain = copy.deepcopy(model)
    with torch.no_grad():
        plain.text.weight[7] = plain.text.weight[PAD]
    expected = plain(torch.where(text != PAD, 7, PAD)).summary
    torch.testing.assert_close(prompt.summary, expected)
    assert len(lengths.unique()) > 1 and not torch.allclose(expected[0], expected[lengths != lengths[0]][0], atol=1e-3)
    prompt.summary.square().sum().backward()
    learned = model.text.weight.grad.any(1).nonzero().flatten().tolist()
    assert learned == [PAD]
