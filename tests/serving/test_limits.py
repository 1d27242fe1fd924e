"""What a client may send."""

import base64
import struct
import zlib

import numpy as np
import pytest
from asked import encoded
from pydantic import ValidationError

from dreamrl.serving.limits import Limits, Refused, check_options, check_patches, read_picture
from dreamrl.serving.requests import EditRequest, GenerateRequest


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


def test_a_picture_comes_as_base64_or_as_data_url(picture):
    text = encoded(picture)
    for given in (text, f"data:image/png;base64,{text}"):
        assert np.array_equal(read_picture(given, 0), picture)


def bomb(width, height):
    """A PNG of a few bytes that claims to be large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    raw = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + raw).decode()


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("%%%", 400, "images[2] is not base64"),
        (base64.b64encode(b"GIF or not").decode(), 400, "no picture in a known format"),
        (bomb(40_000, 40_000), 413, "too many pixels"),
        (bomb(100, 5000), 413, "100x5000 pixels"),
        (bomb(64, 64), 400, "images[2] cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(text, status, reason):
    with pytest.raises(Refused) as refused:
        read_picture(text, 2)
    assert refused.value.status == status and reason in refused.value.reason


def test_what_is_dreamed_about_is_a_whole_number_of_patches_and_not_too_many(picture):
    check_patches([], 16)
    check_patches([picture, picture[:5]], 16)  # only the first is dreamed about
    with pytest.raises(Refused, match="48x31 pixels; both sides must be multiples of 16"):
        check_patches([picture[:31]], 16)
    with pytest.raises(Refused, match="has 6 patches; at most 5") as refused:
        check_patches([picture], 16, Limits(picture_patches=5))
    assert refused.value.status == 413


def test_descriptions_of_scenes_are_bounded():
    check_options(None)
    check_options({"desc": ["SG"]})
    with pytest.raises(Refused, match="at most 20000"):
        check_options({"desc": ["S" * 20_000]})
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(Refused):
        check_options(deep)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dreams": 0},
        {"dreams": 33},
        {"seed": -1},
        {"seed": 2**31},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"prompt": "x" * 501},
        {"images": [""] * 5},
        {"max_length": 10_000},
        {"output": "sound"},
        {"model": "other"},
        {"options": ["SG"]},
    ],
)
def test_fields_are_bounded_and_unknown_ones_refused(wrong):
    GenerateRequest()
    with pytest.raises(ValidationError):
        GenerateRequest(**wrong)


@pytest.mark.parametrize("edits", [[], [{"dream": -1}], [{"dream": 0, "mode": "forget"}], [{"dream": 0}] * 9])
def test_edits_are_bounded(edits):
    with pytest.raises(ValidationError):
        EditRequest(edits=edits)
