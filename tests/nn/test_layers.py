"""Attention, its cache, block and pooling against slow loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from dreamrl.nn.layers import NOWHERE, Attention, AttentionPool, Block, KeyValues, mlp
from dreamrl.nn.positional import Places, rotary_angles, rotate


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["softmax", "sparsemax"])
def attention(request):
    torch.manual_seed(1)
    layer = Attention(12, 3, request.param)
    with torch.no_grad():
        layer.query.weight *= 4  # so that sparsemax leaves some tokens out and not all but one
    return layer


def slow_softmax(logits):
    weights = [math.exp(logit) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def slow_sparsemax(logits):
    """max(logit - threshold, 0), the threshold found by bisection."""
    low, high = max(logits) - 1, max(logits)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(max(z - middle, 0) for z in logits) > 1 else (low, middle)
    return [max(z - low, 0) for z in logits]


def slow_attention(layer, x, memory, mask, places=NOWHERE):
    """Attention, one batch row, head and query at a time; ``mask`` (B, L, M)."""
    size = x.shape[-1] // layer.heads
    normalise = {"softmax": slow_softmax, "sparsemax": slow_sparsemax}[layer.normaliser]
    queries, keys = layer.query(x), layer.key_value(memory)[..., : x.shape[-1]]
    values = layer.key_value(memory)[..., x.shape[-1] :]
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            query, key = queries[b, :, part], keys[b, :, part]
            if places.angles is not None:
                query, key = (rotate(side[None, None], places.angles[b : b + 1])[0, 0] for side in (query, key))
            for place in range(x.shape[1]):
                seen = [m for m in range(memory.shape[1]) if mask[b, place, m]]
                logits = [float(query[place] @ key[m]) / math.sqrt(size) * places.sharpness for m in seen]
                if places.bias is not None:
                    logits = [z + float(places.bias[b, h, place, m]) for z, m in zip(logits, seen, strict=True)]
                for m, weight in zip(seen, normalise(logits), strict=True):
                    out[b, place, part] += weight * values[b, m, part]
    return layer.out(out)


PLACES = {
    "nowhere": NOWHERE,
    "angles": Places(rotary_angles(torch.arange(5), 4, 100.0).expand(2, 5, 2)),
    "sharp angles": Places(rotary_angles(torch.arange(5), 4, 100.0).expand(2, 5, 2), sharpness=1.5),
    "bias": Places(bias=randn(2, 3, 5, 5, seed=9)),
}


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_attention_equals_a_slow_loop(attention, name, masked):
    x = randn(2, 5, 12)
    mask = randn(2, 5, 5, seed=2) > -0.5 if masked else torch.ones(2, 5, 5, dtype=torch.bool)
    mask[..., 0] = True
    found = attention(x, mask=mask.unsqueeze(1) if masked else None, places=PLACES[name])
    expected = slow_attention(attention, x, x, mask, PLACES[name])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if name != "nowhere":
        assert (found - slow_attention(attention, x, x, mask)).abs().max() > 1e-3


@torch.no_grad()
def test_reading_a_memory_equals_a_slow_loop(attention):
    x, memory, mask = randn(2, 5, 12), randn(2, 7, 12, seed=1), randn(2, 5, 7, seed=2) > -0.5
    mask[..., 0] = True
    found = attention(x, memory=memory, mask=mask.unsqueeze(1))
    torch.testing.assert_close(found, slow_attention(attention, x, memory, mask), atol=1e-5, rtol=1e-4)
    remembered = attention(x, memory=attention.remember(memory), mask=mask.unsqueeze(1))
    torch.testing.assert_close(remembered, found, atol=0, rtol=0)


def test_sparsemax_reads_nothing_of_some_tokens_and_softmax_something_of_all():
    shares = {}
    for normaliser in ("softmax", "sparsemax"):
        torch.manual_seed(1)
        layer, x, memory = Attention(8, 1, normaliser), randn(1, 6, 8), randn(1, 9, 8, seed=1).requires_grad_()
        torch.nn.init.eye_(layer.query.weight)
        layer(x, memory=memory).square().sum().backward()
        read = []
        for place in range(6):
            memory.grad = None
            layer(x[:, place : place + 1], memory=memory).square().sum().backward()
            read.append((memory.grad[0].abs().amax(-1) > 0).float().mean())
        shares[normaliser] = torch.stack(read).mean()
    assert shares["softmax"] == 1
    assert 0.1 < shares["sparsemax"] < 0.9


@pytest.mark.parametrize("name", PLACES)
def test_a_token_that_may_read_nothing_reads_zeros_with_finite_gradients(attention, name):
    x = randn(2, 5, 12).requires_grad_()
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, 2] = False
    out = attention(x, mask=mask, places=PLACES[name])
    assert (out[1, 2] == 0).all() and (out[1, [0, 1, 3]] != 0).all()
    out.square().sum().backward()
    assert x.grad.isfinite().all()


def test_no_rows_are_no_problem(attention):
    assert attention(randn(0, 4, 12), mask=torch.ones(0, 1, 1, 4, dtype=torch.bool)).shape == (0, 4, 12)


@torch.no_grad()
@pytest.mark.parametrize("normaliser", ["softmax", "sparsemax"])
@pytest.mark.parametrize("pieces", [[1] * 6, [2, 3, 1], [6]])
def test_a_block_that_remembers_equals_one_that_reads_all_at_once(pieces, normaliser):
    torch.manual_seed(2)
    block = Block(12, 3, cross=True, normaliser=normaliser)
    x, memory, known = randn(2, 6, 12), randn(2, 5, 12, seed=1), randn(2, 5, seed=2) > -0.5
    known[:, 0] = True
    memory_mask = known[:, None, None, :]
    angles = rotary_angles(torch.arange(6), 4, 100.0).unsqueeze(0)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    whole = block(x, mask=causal, places=Places(angles), memory=memory, memory_mask=memory_mask)
    cache, parts, start = block.start(memory, 6), [], 0
    for size in pieces:
        now = slice(start, start + size)
        mask = causal[now, : start + size]
        parts.append(block(x[:, now], mask, Places(angles[:, now]), memory_mask=memory_mask, cache=cache))
        start += size
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert cache.past.length == 6
    with pytest.raises(AssertionError, match="no room for 7 tokens in a cache of 6"):
        block(x[:, :1], memory_mask=memory_mask, cache=cache)


def test_a_cache_keeps_what_is_appended_and_shows_no_more():
    room = KeyValues(torch.full((1, 2, 4, 3), torch.nan), torch.full((1, 2, 4, 3), torch.nan), 0)
    key, value = randn(1, 2, 3, 3), randn(1, 2, 3, 3, seed=1)
    room.append(key[:, :, :1], value[:, :, :1])
    found = room.append(key[:, :, 1:], value[:, :, 1:])
    for part, expected in zip(found, (key, value), strict=True):
        torch.testing.assert_close(part, expected, atol=0, rtol=0)


@torch.no_grad()
def test_what_is_masked_cannot_be_seen(attention):
    x, memory = randn(1, 4, 12), randn(1, 6, 12, seed=1)
    mask = torch.tensor([True, True, False, True, False, False])[None, None, None, :]
    before = attention(x, memory=memory, mask=mask)
    hidden = memory.clone()
    hidden[:, [2, 4, 5]] = 1e3
    torch.testing.assert_close(attention(x, memory=hidden, mask=mask), before, atol=0, rtol=0)
    seen = memory.clone()
    seen[:, 3] += 1
    assert (attention(x, memory=seen, mask=mask) - before).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("cross, normaliser", [(False, "softmax"), (True, "softmax"), (True, "sparsemax")])
def test_block_is_its_residual_parts_in_order(cross, normaliser):
    torch.manual_seed(2)
    block = Block(12, 3, cross=cross, expansion=3, normaliser=normaliser)
    x, memory = randn(2, 5, 12), randn(2, 3, 12, seed=1)
    everything = torch.ones(2, 5, 5, dtype=torch.bool)
    normed = F.layer_norm(x, (12,), block.norm.weight, block.norm.bias)
    expected = x + slow_attention(block.attention, normed, normed, everything)
    if cross:
        normed = F.layer_norm(expected, (12,), block.cross_norm.weight, block.cross_norm.bias)
        expected = expected + slow_attention(block.cross, normed, memory, everything[..., :3])
    normed = F.layer_norm(expected, (12,), block.feed_norm.weight, block.feed_norm.bias)
    inner, _, outer = block.feed
    assert inner.out_features == 36
    expected = expected + outer(F.gelu(inner(normed)))
    torch.testing.assert_close(block(x, memory=memory if cross else None), expected, atol=1e-5, rtol=1e-4)


def test_a_block_without_cross_attention_has_no_memory():
    torch.manual_seed(2)
    block, x = Block(8, 2), randn(1, 3, 8)
    assert block.cross is None and block.cross_norm is None
    torch.testing.assert_close(block(x, memory=randn(1, 4, 8, seed=1)), block(x), atol=0, rtol=0)
    with pytest.raises(AssertionError, match="reads a memory"):
        Block(8, 2, cross=True)(x)


@pytest.fixture
def pool():
    torch.manual_seed(3)
    return AttentionPool(12, 3)


@torch.no_grad()
def test_pooling_equals_a_slow_loop(pool):
    x = randn(2, 6, 12)
    mask = torch.tensor([[True, False, True, True, False, True], [True] * 6])
    found = pool(x, mask)
    normed = F.layer_norm(x, (12,), pool.norm.weight, pool.norm.bias)
    score, value = pool.score(normed), pool.value(normed)
    for b in range(2):
        for h in range(3):
            weights = [math.exp(score[b, i, h]) * bool(mask[b, i]) for i in range(6)]
            for channel in range(4 * h, 4 * h + 4):
                expected = sum(w * float(value[b, i, channel]) for i, w in enumerate(weights)) / sum(weights)
                assert float(found[b, channel]) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_pooling_ignores_order_and_masked_tokens(pool):
    x, order = randn(3, 6, 12), torch.tensor([4, 2, 0, 5, 1, 3])
    mask = randn(3, 6, seed=1) > -0.3
    found = pool(x, mask)
    torch.testing.assert_close(pool(x[:, order], mask[:, order]), found, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(pool(x.masked_fill(~mask.unsqueeze(-1), 7.0), mask), found, atol=0, rtol=0)
    assert (pool(x, torch.ones_like(mask)) - found).abs().max() > 1e-3


def test_pooling_nothing_gives_zero_and_finite_gradients(pool):
    x = randn(2, 4, 12).requires_grad_()
    mask = torch.tensor([[False] * 4, [True] * 4])
    out = pool(x, mask)
    assert (out[0] == 0).all() and (out[1] != 0).all()
    out.sum().backward()
    assert (x.grad[0] == 0).all() and x.grad.isfinite().all()


def test_mlp_is_two_layers_with_gelu():
    torch.manual_seed(4)
    net, x = mlp(3, 5, 2), randn(4, 3)
    first, _, second = net
    torch.testing.assert_close(net(x), second(0.5 * first(x) * (1 + torch.erf(first(x) / math.sqrt(2)))))
