"""Image files -> pictures of a whole number of patches.

Regions are cropped from the image as it was stored and then scaled, so a small region keeps its detail. A stored
rotation (EXIF) is ignored: the boxes of both data sets are measured on the pixels as stored.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from envs.annotations.fields import Entry
from envs.annotations.records import Box, ImageInfo
from envs.scene import WorldError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM")
"""Formats that are read; some others run an external program when they are opened."""
MAX_PIXELS = 64_000_000
"""Largest image that is decoded; a file of a few bytes can claim any size."""
GREY = 127
"""What fills the sides of a picture whose region is not square."""


@dataclass(frozen=True, kw_only=True)
class PictureSize:
    """Size of the square pictures in records."""

    side: int = 64
    """Height and width in pixels; a whole number of patches."""
    patch_size: int = 16
    """Side of one patch in pixels."""

    def __post_init__(self):
        """Reject sizes that hold no whole number of patches."""
        if self.patch_size < 1:
            raise WorldError(f"patch_size ({self.patch_size}) must be at least 1 pixel")
        if self.side < self.patch_size or self.side % self.patch_size:
            raise WorldError(f"side ({self.side}) must be a multiple of patch_size ({self.patch_size})")


def read_file(path: Path, entry: Entry, field: str) -> bytes:
    """The bytes of the image file that ``field`` of ``entry`` names."""
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"names {path}, which cannot be read ({error.strerror or error})"
        fix = "fetch the image or give the directory that holds it"
        raise entry.bad(field, problem, reason="image file missing", fix=fix) from error


def content_hash(data: bytes) -> str:
    """What the split of an image is decided by; the bytes are the same on every machine, decoded pixels may not be."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode(data: bytes, path: Path, image: ImageInfo, entry: Entry, field: str) -> Image.Image:
    """The image in RGB, of the size that the annotations were made for."""
    fix = "fetch the image again"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                found = opened.size
                if found == (image.width, image.height) and found[0] * found[1] <= MAX_PIXELS:
                    return opened.convert("RGB")
    except Image.UnidentifiedImageError as error:
        problem = f"names {path}, which is no image in a known format ({', '.join(FORMATS)})"
        raise entry.bad(field, problem, reason="image file broken", fix=fix) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        problem = f"names {path}, which is broken ({' '.join(str(error).split())})"
        raise entry.bad(field, problem, reason="image file broken", fix=fix) from error
    if found[0] * found[1] > MAX_PIXELS:
        problem = f"names {path} of {found[0]}x{found[1]} pixels, more than {MAX_PIXELS // 10**6} million"
        raise entry.bad(field, problem, reason="image too large", fix="make it smaller")
    problem = f"names {path} of {found[0]}x{found[1]} pixels, not {image.width}x{image.height}"
    fix = "use the images that the boxes were drawn on"
    raise entry.bad(field, problem, reason="image of another size", fix=fix)


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The pixels that ``box`` touches, at least one each way."""
    left, top = min(math.floor(box.x), image.width - 1), min(math.floor(box.y), image.height - 1)
    right = max(left + 1, min(math.ceil(box.x + box.width), image.width))
    bottom = max(top + 1, min(math.ceil(box.y + box.height), image.height))
    return image.crop((left, top, right, bottom))


def letterbox(image: Image.Image, side: int) -> np.ndarray:
    """``image`` scaled to fit a square of ``side`` pixels, proportions kept, grey at the sides; uint8 (S, S, 3)."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    canvas = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas[top : top + height, left : left + width] = np.asarray(scaled)
    return canvas


def fit_patches(image: Image.Image, patches: int, patch_size: int) -> np.ndarray:
    """``image`` scaled to ``patches`` along its longer side and the nearest whole number along the other.

    Returns:
        uint8 (rows * patch, columns * patch, 3). Proportions change by half a patch at most; nothing is filled up.
    """
    scale = patches / max(image.size)
    columns, rows = (max(1, round(length * scale)) for length in image.size)
    size = (columns * patch_size, rows * patch_size)
    return np.array(image.resize(size, Image.Resampling.BILINEAR))
