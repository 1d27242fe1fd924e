"""The convolution over patches, against a loop over cells and their neighbours."""

import pytest
import torch
import torch.nn.functional as F

from dreamrl.nn.local_mixing import LocalMixing


def slow(layer, picture, rows, columns):
    """(rows * columns, D) -> the same, cell by cell."""
    normed = F.layer_norm(picture, picture.shape[-1:], layer.norm.weight, layer.norm.bias)
    weight, bias = layer.depthwise.weight[:, 0], layer.depthwise.bias  # (D, 3, 3), (D,)
    out = []
    for row in range(rows):
        for column in range(columns):
            total = bias.clone()
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < rows and 0 <= column + right < columns:
                        total = total + weight[:, down + 1, right + 1] * normed[(row + down) * columns + column + right]
            out.append(picture[row * columns + column] + layer.pointwise(total))
    return torch.stack(out)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    made = LocalMixing(8)
    torch.nn.init.normal_(made.norm.weight)
    torch.nn.init.normal_(made.norm.bias)
    return made


def test_it_equals_a_loop_over_cells_in_pictures_of_any_shape(layer):
    grids = torch.tensor([[3, 4], [4, 3], [2, 2], [3, 4], [1, 5]])
    x = torch.randn(5, 12, 8)
    out = layer(x, grids)
    for i, (rows, columns) in enumerate(grids.tolist()):
        used = rows * columns
        assert torch.allclose(out[i, :used], slow(layer, x[i, :used], rows, columns), atol=1e-5)


def test_padding_is_never_read(layer):
    grid = torch.tensor([[2, 3]])
    x = torch.randn(1, 9, 8)
    other = x.clone()
    other[:, 6:] = 100.0
    assert torch.equal(layer(x, grid)[:, :6], layer(other, grid)[:, :6])


def test_a_patch_hears_of_its_neighbours_only(layer):
    """One layer carries news one cell far, in every direction; the row below does not follow the row's end."""
    x = torch.randn(1, 25, 8)
    changed = x.clone()
    changed[0, 4] = torch.randn(8)  # the last cell of the first row of five
    heard = (layer(x, torch.tensor([[5, 5]])) != layer(changed, torch.tensor([[5, 5]]))).any(-1)[0]
    assert heard.nonzero().flatten().tolist() == [3, 4, 8, 9]


def test_gradients_reach_every_parameter(layer):
    layer(torch.randn(2, 4, 8), torch.tensor([[2, 2], [1, 3]])).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
