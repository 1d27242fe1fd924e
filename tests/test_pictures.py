"""Pictures from files, images, arrays and tensors: equal pixels whatever they came in, and clear refusals."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamrl.errors import UserError
from dreamrl.picture_files import FORMATS
from dreamrl.pictures import as_picture, as_pictures

PICTURE = np.random.default_rng(0).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
GREY = np.repeat(PICTURE[:, :, :1], 3, axis=2)


def with_alpha(alpha):
    return np.concatenate([PICTURE, np.full((5, 7, 1), alpha, np.uint8)], axis=2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PICTURE, PICTURE),
        (PICTURE / 255, PICTURE),
        ((PICTURE / 255).astype(np.float16), PICTURE),
        (PICTURE[:, :, 0], GREY),
        (PICTURE[:, :, :1], GREY),
        (PICTURE[::-1, :, ::-1], PICTURE[::-1, :, ::-1]),
        (with_alpha(255), PICTURE),
        (with_alpha(255) / 255, PICTURE),
        (with_alpha(0), np.full_like(PICTURE, 255)),
        (torch.tensor(PICTURE), PICTURE),
        (torch.tensor(PICTURE).permute(2, 0, 1), PICTURE),
        (torch.tensor(PICTURE[:, :, 0]), GREY),
        (torch.tensor(with_alpha(255)).permute(2, 0, 1), PICTURE),
        ((torch.tensor(PICTURE) / 255).requires_grad_(), PICTURE),
        (Image.fromarray(PICTURE), PICTURE),
        (Image.fromarray(PICTURE[:, :, 0]), GREY),
        (Image.fromarray(with_alpha(255)), PICTURE),
        (Image.fromarray(with_alpha(0)), np.full_like(PICTURE, 255)),
    ],
)
def test_the_same_pixels_whatever_they_came_in(given, expected):
    found = as_picture(given)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_every_value_of_a_float_picture_comes_back():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(as_picture((levels / 255).astype(dtype))[:, :, 0], levels)
    halves = (torch.tensor(levels) / 255).bfloat16()
    assert abs(as_picture(halves)[:, :, 0].astype(int) - levels).max() <= 1  # bfloat16 has 8 bits


def test_half_transparent_is_laid_on_white():
    found = as_picture(with_alpha(128)).astype(float)
    np.testing.assert_allclose(found, PICTURE * (128 / 255) + 255 * (127 / 255), atol=1)


def test_a_tensor_of_3_rows_is_channels_first():
    x = torch.arange(9 * 3, dtype=torch.uint8).view(3, 9, 1).expand(3, 9, 3)
    np.testing.assert_array_equal(as_picture(x), x.permute(1, 2, 0).numpy())


def test_the_picture_is_a_copy():
    mine = PICTURE.copy()
    as_picture(mine)[:] = 0
    np.testing.assert_array_equal(mine, PICTURE)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "webp"])
def test_files_come_back_exactly(tmp_path, suffix):
    path = tmp_path / f"board.{suffix}"
    Image.fromarray(PICTURE).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(as_picture(path), PICTURE)
    np.testing.assert_array_equal(as_picture(str(path)), PICTURE)


def test_jpeg_palettes_and_moving_pictures(tmp_path):
    smooth = np.linspace(0, 255, 16 * 16 * 3).astype(np.uint8).reshape(16, 16, 3)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert abs(as_picture(tmp_path / "a.jpg").astype(int) - smooth).mean() < 8
    flat = [np.full((4, 4, 3), value, np.uint8) for value in (10, 200)]
    first, second = (Image.fromarray(f).convert("P") for f in flat)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(as_picture(tmp_path / "a.gif"), np.array(first.convert("RGB")))


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(PICTURE).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(as_picture(tmp_path / "photo.png"), np.rot90(PICTURE, -1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "cannot be made of NoneType"),
        (3, "cannot be made of int"),
        (b"x", "cannot be made of bytes"),
        (np.zeros((3, 5, 7), np.uint8), r"shape (3, 5, 7) is no picture; give (H, W, 3), (H, W, 4), (H, W, 1) or "),
        (np.zeros((3, 5, 7), np.uint8), "transpose(1, 2, 0) puts channels last"),
        (np.zeros((5, 7, 2), np.uint8), "shape (5, 7, 2)"),
        (np.zeros(5, np.uint8), "shape (5,)"),
        (np.zeros((2, 5, 7, 3), np.uint8), "shape (2, 5, 7, 3)"),
        (np.zeros((0, 7, 3), np.uint8), "7x0 pixels shows nothing"),
        (torch.zeros(0, 4), "4x0 pixels shows nothing"),
        (np.zeros((5, 7, 3), np.int64), "int64 has no known range; give uint8"),
        (np.zeros((5, 7, 3), bool), "bool has no known range"),
        (np.zeros((5, 7, 3), complex), "complex128 has no known range"),
        (np.array([["a"]]), "has no known range"),
        (torch.zeros(5, 7, 3, dtype=torch.int16), "tensor of int16"),
        (PICTURE.astype(float), "floats must lie in 0 to 1, or give uint8"),
        (PICTURE / 255 - 0.5, "floats must lie in 0 to 1"),
        (np.full((5, 7, 3), np.nan), "numbers from nan to nan"),
        (Image.new("I", (4, 4)), 'mode "I" has no known range'),
        (Image.new("I;16", (4, 4)), 'mode "I;16" has no known range'),
        (np.broadcast_to(np.uint8(0), (8001, 8000, 3)), "8000x8001 pixels are more than 64 million"),
        ("no/such.png", "no/such.png cannot be read as a picture: No such file or directory"),
        (Path("tests"), "cannot be read as a picture: Is a directory"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_fix(given, words):
    with pytest.raises(UserError) as error:
        as_picture(given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def png_claiming(width, height):
    """A PNG of a few bytes that says that it is this large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [8001, 20_000, 2_000_000])
def test_a_large_file_is_refused_before_it_is_decoded(tmp_path, width):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(width, 8000))
    with pytest.raises(UserError, match="bomb.png.*pixels"):
        as_picture(path)


def test_other_formats_are_not_even_opened(tmp_path):
    path = tmp_path / "page.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(UserError, match="is not a picture in a known format .PNG, JPEG.*; convert it to PNG"):
        as_picture(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_broken_files_are_refused_in_one_line_or_read(tmp_path, kind):
    rng, buffer = random.Random(0), io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind)
    path = tmp_path / "broken"
    for _ in range(60):
        content = bytearray(buffer.getvalue()[: rng.randrange(1, len(buffer.getvalue()) + 1)])
        for _ in range(rng.choice([0, 1, 4])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            assert as_picture(path).dtype == np.uint8
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_one_or_several(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    other = PICTURE[:2]
    for given, expected in [
        (PICTURE, [PICTURE]),
        (str(tmp_path / "a.png"), [PICTURE]),
        ([tmp_path / "a.png", Image.fromarray(other), other / 255], [PICTURE, other, other]),
        ((PICTURE,), [PICTURE]),
        (np.stack([PICTURE, 255 - PICTURE]), [PICTURE, 255 - PICTURE]),
        (torch.tensor(PICTURE).permute(2, 0, 1)[None], [PICTURE]),
    ]:
        found = as_pictures(given)
        assert len(found) == len(expected)
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))


def test_several_say_which_is_wrong():
    with pytest.raises(UserError, match=r"^picture 2 of 3: array of shape \(5,\) is no picture"):
        as_pictures([PICTURE, np.zeros(5), PICTURE])
    with pytest.raises(UserError, match="empty list of pictures"):
        as_pictures([])
