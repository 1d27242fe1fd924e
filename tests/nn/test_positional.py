"""Rotary positions: rotation is a complex product, and only relative offsets are seen, in 1-D and 2-D."""

import cmath

import pytest
import torch

from dreamrl.nn.layers import Block
from dreamrl.nn.positional import Places, grid_angles, rotary_angles, rotate


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
