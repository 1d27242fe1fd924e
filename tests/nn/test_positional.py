"""Positions of every kind, in 1-D and 2-D, against transformers' and against slow loops; what each may see."""

import cmath
import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from dreamrl.dreaming_config import POSITIONS
from dreamrl.nn.layers import Block
from dreamrl.nn.positional import (
    GridPositions,
    Places,
    TextPositions,
    alibi_slopes,
    grid_angles,
    rotary_angles,
    rotate,
    yarn_frequencies,
    yarn_sharpness,
)

CPU = torch.device("cpu")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(query, key, angles):
    """(L, L) products of queries and keys (L, D) that both stand at ``angles`` (L, D / 2)."""
    query, key = (rotate(x[None, None], angles[None])[0, 0] for x in (query, key))
    return query @ key.T


def test_angles_are_position_times_a_geometric_series():
    found = rotary_angles(torch.tensor([0, 1, 5]), 8, 100.0)
    for row, position in zip(found.tolist(), (0, 1, 5), strict=True):
        assert row == pytest.approx([position * 100.0 ** (-2 * i / 8) for i in range(4)], rel=1e-6)


def test_rotating_is_multiplying_complex_numbers():
    x, angles = randn(2, 3, 5, 8), randn(2, 5, 4, seed=1)
    out = rotate(x, angles)
    for b in range(2):
        for h in range(3):
            for place in range(5):
                for i in range(4):
                    number = complex(x[b, h, place, i], x[b, h, place, i + 4]) * cmath.exp(1j * angles[b, place, i])
                    assert complex(out[b, h, place, i], out[b, h, place, i + 4]) == pytest.approx(number, abs=1e-5)


@pytest.mark.parametrize("shift", [1, 7, 100])
def test_text_attention_sees_only_how_far_apart_tokens_are(shift):
    query, key = randn(6, 8), randn(6, 8, seed=1)
    here = scores(query, key, rotary_angles(torch.arange(6), 8, 100.0))
    there = scores(query, key, rotary_angles(torch.arange(6) + shift, 8, 100.0))
    torch.testing.assert_close(here, there, atol=2e-4, rtol=1e-4)


def test_direction_and_distance_matter():
    token = randn(8).expand(6, 8)
    found = scores(token, randn(8, seed=1).expand(6, 8), rotary_angles(torch.arange(6), 8, 100.0))
    offsets = [float(found[2, 2 + offset]) for offset in (-2, -1, 0, 1, 2, 3)]
    gaps = [abs(a - b) for i, a in enumerate(offsets) for b in offsets[:i]]
    assert min(gaps) > 1e-3
    for offset in (-2, -1, 0, 1, 2):  # the same offset is the same wherever it is
        assert torch.diagonal(found, offset).std() < 1e-5


@pytest.mark.parametrize("down, right", [(0, 1), (1, 0), (5, 5), (2, 4)])
def test_a_picture_anywhere_on_a_board_has_the_same_attention(down, right):
    window = torch.tensor([row * 8 + column for row in range(3) for column in range(3)])
    angles = grid_angles(torch.tensor([8]), 64, 8)[0]
    query, key = randn(9, 8), randn(9, 8, seed=1)
    here = scores(query, key, angles[window])
    there = scores(query, key, angles[window + 8 * down + right])
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


def test_rows_and_columns_are_told_apart():
    angles = grid_angles(torch.tensor([4]), 16, 8)[0]
    token = randn(8).expand(16, 8)
    found = scores(token, randn(8, seed=1).expand(16, 8), angles)
    assert abs(found[0, 1] - found[0, 4]) > 1e-3  # one to the right, one down


def test_every_board_has_its_own_rows_and_columns():
    widths, length = [2, 3, 4, 8], 16
    found = grid_angles(torch.tensor(widths), length, 12, 100.0)
    for width, board in zip(widths, found, strict=True):
        for place in range(length):
            row, column = divmod(place, width)
            series = [100.0 ** (-2 * i / 6) for i in range(3)]
            expected = [row * f for f in series] + [column * f for f in series]
            assert board[place].tolist() == pytest.approx(expected, rel=1e-5)


def test_padding_patches_change_nothing():
    torch.manual_seed(0)
    block = Block(16, 2)
    small, padded = randn(1, 9, 16), randn(1, 25, 16, seed=1)
    padded[:, :9] = small
    columns = torch.tensor([3])
    alone = block(small, places=Places(grid_angles(columns, 9, 8)))
    mask = (torch.arange(25) < 9)[None, None, None, :]
    together = block(padded, mask=mask, places=Places(grid_angles(columns, 25, 8)))
    torch.testing.assert_close(together[:, :9], alone, atol=1e-5, rtol=1e-5)
    wrong_width = block(small, places=Places(grid_angles(columns + 1, 9, 8)))
    assert (wrong_width - alone).abs().max() > 1e-3


@pytest.mark.parametrize("heads", [*range(1, 18), 31, 64])
def test_alibi_equals_transformers(heads):
    theirs = build_alibi_tensor(torch.ones(1, 9, dtype=torch.long), heads, torch.float32)  # (heads, 1, keys)
    ours = TextPositions("alibi", 4 * heads, heads, 9)(torch.arange(9))[1].bias[0, :, -1]
    torch.testing.assert_close(ours - ours[:, :1], theirs[:, 0], atol=1e-6, rtol=1e-5)  # they count from the first key


def test_alibi_slopes_are_those_of_the_paper():
    assert alibi_slopes(8, CPU).tolist() == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(6, CPU).tolist() == pytest.approx([2.0**-i for i in (2, 4, 6, 8, 1, 3)])
    assert alibi_slopes(1, CPU).tolist() == [2.0**-8]


@pytest.mark.parametrize("keys", [None, [0, 1, 2, 3, 4, 5, 6]])
def test_text_alibi_is_a_penalty_per_token_of_distance_on_both_sides(keys):
    at = [4, 5, 9]
    added, places = TextPositions("alibi", 12, 3, 8)(torch.tensor(at), None if keys is None else torch.tensor(keys))
    assert added is None and places.angles is None and places.sharpness == 1
    slopes = alibi_slopes(3, CPU).tolist()
    expected = [[[-slope * abs(i - j) for j in keys or at] for i in at] for slope in slopes]
    torch.testing.assert_close(places.bias, torch.tensor([expected]))


def test_grid_alibi_is_manhattan_distance():
    widths, length = [3, 4], 12
    bias = GridPositions("alibi", 8, 2)(torch.tensor(widths), length)[1].bias
    for board, width in enumerate(widths):
        for head, slope in enumerate((2.0**-4, 2.0**-8)):
            for i in range(length):
                for j in range(length):
                    steps = abs(i // width - j // width) + abs(i % width - j % width)
                    assert bias[board, head, i, j] == -slope * steps


@pytest.mark.parametrize("factor", [1.0, 2.0, 8.0, 32.0])
@pytest.mark.parametrize(
    "head_dim, base, length", [(16, 10_000.0, 512), (64, 10_000.0, 4096), (128, 500_000.0, 8192), (16, 100.0, 24)]
)
def test_yarn_equals_transformers(head_dim, base, length, factor):
    rope = {
        "rope_type": "yarn", "rope_theta": base, "factor": factor, "original_max_position_embeddings": length,
        "beta_fast": 32.0, "beta_slow": 1.0,
    }  # fmt: skip
    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, max_position_embeddings=int(length * factor),
        rope_parameters=rope,
    )  # fmt: skip
    frequencies, scale = ROPE_INIT_FUNCTIONS["yarn"](config, CPU)
    torch.testing.assert_close(yarn_frequencies(head_dim, base, length, factor, CPU), frequencies, atol=0, rtol=1e-5)
    assert yarn_sharpness(factor) == pytest.approx(scale**2)  # they scale queries and keys each
    added, places = TextPositions("rope+yarn", 2 * head_dim, 2, length, factor, base)(torch.tensor([0, 3, length]))
    assert added is None and places.bias is None
    torch.testing.assert_close(
        places.angles, torch.tensor([[0], [3], [length]]) * frequencies[None, None], atol=0, rtol=1e-5
    )
    assert places.sharpness == yarn_sharpness(factor)


def test_rope_equals_transformers():
    neutral = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 1.0}
    config = LlamaConfig(hidden_size=64, num_attention_heads=2, rope_parameters=neutral)
    theirs, _ = ROPE_INIT_FUNCTIONS["linear"](config, CPU)
    _, places = TextPositions("rope", 64, 2, 512, base=10_000.0)(torch.arange(3))
    torch.testing.assert_close(places.angles[0, 1], theirs)


def test_yarn_stretches_slow_channels_only_and_by_the_factor():
    plain = rotary_angles(torch.tensor([1]), 32, 10_000.0)[0]
    slowed = plain / yarn_frequencies(32, 10_000.0, 512, 8.0, CPU)
    turns = plain * 512 / (2 * math.pi)
    assert (slowed[turns > 32] < 1 + 1e-6).all() and (slowed[turns < 0.5] > 8 - 1e-4).all()
    assert (slowed.diff() >= 0).all() and ((slowed > 1.1) & (slowed < 7.9)).any()


@pytest.mark.parametrize("length", [4, 8])
def test_grid_yarn_stretches_each_axis(length):
    columns = torch.tensor([5, 3])
    added, places = GridPositions("rope+yarn", 32, 2, 4.0, length)(columns, 15)
    assert added is None and places.bias is None and places.sharpness == yarn_sharpness(4.0)
    frequencies = yarn_frequencies(8, 10.0, length, 4.0, CPU)
    assert frequencies[0] == 1 and (frequencies[1:] < rotary_angles(torch.tensor([1]), 8, 10.0)[0, 1:]).all()
    for board, width in enumerate(columns.tolist()):
        for place in range(15):
            row, column = divmod(place, width)
            expected = torch.cat([row * frequencies, column * frequencies])
            torch.testing.assert_close(places.angles[board, place], expected)


def test_yarn_without_stretching_is_rope():
    at, columns = torch.arange(40), torch.tensor([6])
    for plain, yarn in (
        (TextPositions("rope", 16, 2, 8)(at), TextPositions("rope+yarn", 16, 2, 8)(at)),
        (GridPositions("rope", 16, 2)(columns, 36), GridPositions("rope+yarn", 16, 2)(columns, 36)),
    ):
        torch.testing.assert_close(yarn[1].angles, plain[1].angles)
        assert yarn[1].sharpness == plain[1].sharpness == 1


def test_the_default_is_rope_of_base_100_for_text_and_10_for_the_grid():
    at, columns = torch.tensor([0, 7, 23]), torch.tensor([4, 3])
    text, grid = TextPositions("rope", 24, 3, 8), GridPositions("rope", 24, 3)
    assert not list(text.parameters()) and not list(grid.parameters())
    expected = at[:, None] * 100.0 ** (-torch.arange(0, 8, 2) / 8)
    assert torch.equal(text(at)[1].angles[0], expected)
    assert torch.equal(grid(columns, 12)[1].angles, grid_angles(columns, 12, 8, 10.0))


def test_learned_text_positions_are_a_table_whose_last_row_goes_on():
    positions = TextPositions("learned", 8, 2, 5)
    added, places = positions(torch.tensor([0, 3, 4, 5, 99]))
    assert places == Places()
    for found, row in zip(added[0], (0, 3, 4, 4, 4), strict=True):
        assert torch.equal(found, positions.table.weight[row])


@pytest.mark.parametrize("kind", ["learned", "alibi"])
def test_learned_grid_positions_are_a_row_and_a_column(kind):
    positions, widths = GridPositions(kind, 8, 2), [3, 40]
    added, places = positions(torch.tensor(widths), 120)
    assert places.angles is None and (places.bias is None) == (kind == "learned")
    for board, width in enumerate(widths):
        for place in (0, 1, 2, 3, 7, 38, 39, 40, 119):
            row, column = divmod(place, width)
            expected = positions.row.weight[min(row, 31)] + positions.column.weight[min(column, 31)]
            torch.testing.assert_close(added[board, place], expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", POSITIONS)
def test_order_matters_and_absolute_place_only_if_learned(kind):
    torch.manual_seed(0)
    positions, block, x = TextPositions(kind, 16, 2, 64, 2.0), Block(16, 2), randn(1, 6, 16)

    def read(at, tokens):
        added, places = positions(torch.as_tensor(at))
        return block(tokens if added is None else tokens + added, places=places)

    here = read([0, 1, 2, 3, 4, 5], x)
    shifted = (read([30, 31, 32, 33, 34, 35], x) - here).abs().max()
    assert shifted > 1e-2 if kind == "learned" else shifted < 1e-4
    swapped = [0, 1, 2, 4, 3, 5]
    assert (read([0, 1, 2, 3, 4, 5], x[:, swapped])[:, swapped] - here).abs().max() > 1e-4
    torch.testing.assert_close(read(swapped, x[:, swapped])[:, swapped], here, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", POSITIONS)
def test_no_kind_confuses_directions_on_the_grid(kind):
    """If a mirrored or transposed picture always had the mirrored or transposed result, no move could be learned."""
    torch.manual_seed(0)
    positions, block, board = GridPositions(kind, 16, 2, 2.0), Block(16, 2), randn(4, 4, 16)
    added, places = positions(torch.tensor([4]), 16)

    def read(cells):
        x = cells.reshape(1, 16, 16)
        return block(x if added is None else x + added, places=places).view(4, 4, 16)

    for turn in (lambda x: x.flip(0), lambda x: x.flip(1), lambda x: x.transpose(0, 1), lambda x: x.flip(0, 1)):
        assert (turn(read(turn(board))) - read(board)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("kind", POSITIONS)
def test_a_row_of_the_batch_keeps_its_places(kind):
    torch.manual_seed(0)
    positions, block, x = GridPositions(kind, 16, 2, 2.0), Block(16, 2), randn(3, 12, 16)
    added, places = positions(torch.tensor([3, 4, 6]), 12)
    x = x if added is None else x + added
    whole, rows = block(x, places=places), torch.tensor([2, 0])
    torch.testing.assert_close(block(x[rows], places=places.rows(rows)), whole[rows], atol=1e-6, rtol=1e-5)
    shared = Places(torch.ones(1, 4, 2), torch.ones(1, 2, 4, 4), 1.5)
    assert all(a is b for a, b in zip(shared.rows(rows), shared, strict=True))
