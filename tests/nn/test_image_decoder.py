"""The image decoder reads its picture and its memory, ignores padding, and learns to draw what it is told."""

import pytest
import torch
import torch.nn.functional as F

from dreamrl.dreaming_config import NORMALISERS, POSITIONS, DreamingConfig
from dreamrl.nn.image_decoder import ImageDecoder
from dreamrl.nn.input_tokenizer import InputTokenizer

CODES = 27


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randint(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def new_decoder(**settings):
    config = DreamingConfig(embedding_dim=16, num_heads=2, code_levels=(3, 3, 3), **settings)
    assert config.num_codes == CODES
    torch.manual_seed(5)
    return ImageDecoder(config, InputTokenizer(config, 300))


def inputs(questions=3):
    """Boards of 2x3, 3x3 and 4x3 patches, and memories of 5, 2 and 4 tokens."""
    grid = torch.tensor([[2, 3], [3, 3], [4, 3]])[:questions]
    last = randint(CODES, questions, 12).masked_fill(torch.arange(12) >= grid.prod(1, keepdim=True), CODES)
    return last, grid, randn(questions, 5, 16), torch.arange(5) < torch.tensor([[5], [2], [4]])[:questions]


def test_it_is_one_block_and_a_tied_table():
    decoder, (last, grid, memory, mask) = new_decoder(), inputs()
    table = decoder.codes.weight
    real = torch.arange(12) < grid.prod(1, keepdim=True)
    _, places = decoder.positions(grid[:, 1], 12)
    x = decoder.block(table[last], real[:, None, None, :], places, memory, mask[:, None, None, :])
    x = F.layer_norm(x, (16,), decoder.norm.weight, decoder.norm.bias)
    expected = torch.stack([x @ table[code] / 4 + decoder.bias[code] for code in range(CODES)], dim=-1)
    torch.testing.assert_close(decoder(last, grid, memory, mask), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("kind", POSITIONS)
def test_padding_is_not_read_and_all_else_is(kind, normaliser):
    decoder, (last, grid, memory, mask) = new_decoder(positions=kind, attention=normaliser, yarn_factor=2.0), inputs()
    before = decoder(last, grid, memory, mask)
    hidden = memory.masked_fill(~mask.unsqueeze(-1), 9.0)
    torch.testing.assert_close(decoder(last, grid, hidden, mask), before, atol=0, rtol=0)
    for row in range(3):
        size, known = int(grid[row].prod()), int(mask[row].sum())
        alone = decoder(
            last[row : row + 1, :size], grid[row : row + 1], memory[row : row + 1, :known], mask[:1, :known]
        )
        torch.testing.assert_close(alone[0], before[row, :size], atol=1e-5, rtol=1e-4)
    assert (decoder(last, grid, memory.roll(1, 0), mask) - before).abs().amax((1, 2)).min() > 1e-3
    other = decoder(last, grid.flip(1), memory, mask)[0, :6]  # the same patches as 3 rows of 2
    assert (other - before[0, :6]).abs().max() > 1e-4


@torch.no_grad()
def test_a_change_of_one_patch_is_seen_by_the_others():
    decoder, (last, grid, memory, mask) = new_decoder(), inputs(1)
    before, changed = decoder(last, grid, memory, mask), last.clone()
    changed[0, 0] = (changed[0, 0] + 1) % CODES
    assert (decoder(changed, grid, memory, mask) - before)[0, 1:6].abs().amax(-1).min() > 1e-5


def test_every_parameter_has_a_gradient():
    for kind in POSITIONS:
        decoder, batch = new_decoder(positions=kind), inputs()
        decoder(*batch).square().sum().backward()
        own = {n: p for n, p in decoder.named_parameters()}
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in own.values()), kind


@pytest.mark.parametrize("kind", POSITIONS)
def test_it_learns_to_move_a_picture_and_to_paint_what_the_memory_says(kind):
    """The answer is the picture one patch further right; the memory says what comes in from the left."""
    decoder, words = new_decoder(positions=kind, yarn_factor=4.0), randn(6, 16)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    grid, mask = torch.tensor([[2, 3]]).expand(48, 2), torch.ones(48, 2, dtype=torch.bool)

    def batch():
        last, told = torch.randint(6, (48, 2, 3), generator=generator), torch.randint(6, (48,), generator=generator)
        wanted = torch.cat([told[:, None, None].expand(48, 2, 1), last[:, :, :2]], dim=2)
        memory = torch.stack([words[told], torch.zeros(48, 16)], dim=1)
        return last.flatten(1), memory, wanted.flatten(1)

    for _ in range(200):
        last, memory, wanted = batch()
        loss = F.cross_entropy(decoder(last, grid, memory, mask).flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last, memory, wanted = batch()
    right = (decoder(last, grid, memory, mask).argmax(-1) == wanted).float()
    assert right.mean() > 0.9
