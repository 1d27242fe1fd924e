"""Attention, block and pooling against slow loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from dreamrl.nn.layers import Attention, AttentionPool, Block, mlp
from dreamrl.nn.positional import Places, rotary_angles, rotate


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def attention():
    torch.manual_seed(1)
    return Attention(12, 3)


def slow_attention(layer, x, memory, mask, angles=None):
    """Softmax attention, one batch row, head and query at a time; ``mask`` (B, L, M)."""
    size = x.shape[-1] // layer.heads
    queries, keys = layer.query(x), layer.key_value(memory)[..., : x.shape[-1]]
    values = layer.key_value(memory)[..., x.shape[-1] :]
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            query, key = queries[b, :, part], keys[b, :, part]
            if angles is not None:
                query, key = (rotate(side[None, None], angles[b : b + 1])[0, 0] for side in (query, key))
            for place in range(x.shape[1]):
                weights = [
                    math.exp(float(query[place] @ key[m]) / math.sqrt(size)) if mask[b, place, m] else 0.0
                    for m in range(memory.shape[1])
                ]
                for m, weight in enumerate(weights):
                    out[b, place, part] += weight / sum(weights) * values[b, m, part]
    return layer.out(out)


@torch.no_grad()
@pytest.mark.parametrize("crossed, rotary", [(False, False), (False, True), (True, False)])
def test_attention_equals_a_slow_loop(attention, crossed, rotary):
    x = randn(2, 5, 12)
    memory = randn(2, 7, 12, seed=1) if crossed else x
    mask = randn(2, 5, memory.shape[1], seed=2) > -0.5
    mask[..., 0] = True
    angles = rotary_angles(torch.arange(5), 4, 100.0).expand(2, 5, 2) if rotary else None
    found = attention(x, memory=memory if crossed else None, mask=mask.unsqueeze(1), places=Places(angles))
    torch.testing.assert_close(found, slow_attention(attention, x, memory, mask, angles), atol=1e-5, rtol=1e-4)


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
@pytest.mark.parametrize("cross", [False, True])
def test_block_is_its_residual_parts_in_order(cross):
    torch.manual_seed(2)
    block = Block(12, 3, cross=cross, expansion=3)
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
