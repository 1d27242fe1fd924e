"""Whatever shows a picture -> uint8 RGB (files, Pillow images, numpy arrays, tensors), and back into a page.

What cannot be read without guessing is refused with the fix: numbers of an unknown range, channels first in an
array, files that :mod:`dreamrl.picture_files` does not accept. Transparent parts are laid on white.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from dreamrl.errors import UserError
from dreamrl.picture_files import check_size, opened


def as_pictures(x: Any) -> list[np.ndarray]:
    """One picture or several as a list, see :func:`as_picture`.

    Several are a list or tuple of anything that is a picture, or an array or tensor with one dimension more.
    """
    if isinstance(x, np.ndarray | torch.Tensor) and x.ndim == 4:
        x = list(x)
    if not isinstance(x, list | tuple):
        return [as_picture(x)]
    if not x:
        raise UserError("an empty list of pictures; give at least one, or leave pictures out")
    pictures = []
    for number, item in enumerate(x, start=1):
        try:
            pictures.append(as_picture(item))
        except UserError as error:
            raise UserError(f"picture {number} of {len(x)}: {error}") from error
    return pictures


def as_picture(x: Any) -> np.ndarray:
    """One picture as uint8 (H, W, 3), a copy.

    Args:
        x: a path (str or Path) of a file that :mod:`dreamrl.picture_files` accepts (of a moving picture the first
            frame counts), a Pillow image, a numpy array (H, W) or (H, W, C), or a tensor (H, W), (C, H, W) or
            (H, W, C), C being 1, 3 or 4; numbers are uint8, or floats from 0 to 1. A tensor that could be both is
            taken for (C, H, W).

    Raises:
        UserError: it is no picture, or one of more than ``picture_files.MAX_PIXELS``.
    """
    if isinstance(x, str | Path):
        with opened(Path(x), str(x)) as image:
            return from_image(image, f"{x}: ")
    if isinstance(x, Image.Image):
        return from_image(x)
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() else x).numpy()
        if x.ndim == 3 and x.shape[0] in (1, 3, 4):
            x = x.transpose(1, 2, 0)
        return _from_array(x, "tensor")
    if isinstance(x, np.ndarray):
        return _from_array(x, "array")
    kinds = "a path, a Pillow image, a numpy array or a tensor"
    raise UserError(f"a picture cannot be made of {type(x).__name__}; give {kinds}")


def from_image(image: Image.Image, where: str = "") -> np.ndarray:
    """A Pillow image as :func:`as_picture` gives it; ``where`` begins the error."""
    check_size(image.width, image.height, where)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        fix = 'make it one of 8 bits first, with convert("L") of values from 0 to 255'
        raise UserError(f'{where}a Pillow image of mode "{image.mode}" has no known range; {fix}')
    image = ImageOps.exif_transpose(image)  # cameras store which side is up
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _from_array(x: np.ndarray, kind: str) -> np.ndarray:
    shape = tuple(x.shape)
    if x.ndim == 2:
        x = x[:, :, None]
    if x.ndim != 3 or x.shape[2] not in (1, 3, 4):
        layout = "(H, W, 3), (H, W, 4), (H, W, 1) or (H, W)"
        fix = "; transpose(1, 2, 0) puts channels last" if x.ndim == 3 and x.shape[0] in (1, 3, 4) else ""
        raise UserError(f"{kind} of shape {shape} is no picture; give {layout}{fix}")
    check_size(x.shape[1], x.shape[0], f"{kind} of shape {shape}: ")
    if np.issubdtype(x.dtype, np.floating):
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):  # false for NaN, too
            raise UserError(f"{kind} has numbers from {low:g} to {high:g}; floats must lie in 0 to 1, or give uint8")
        x = np.round(x * 255.0).astype(np.uint8)
    if x.dtype != np.uint8:
        fix = "give uint8 from 0 to 255, or floats from 0 to 1"
        raise UserError(f"{kind} of {x.dtype} has no known range; {fix}")
    if x.shape[2] == 4:
        return from_image(Image.fromarray(np.ascontiguousarray(x)))
    return np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x.copy()


def data_url(picture: np.ndarray | Image.Image, smallest: bool = False) -> str:
    """A picture as a PNG in a ``data:`` URL; ``smallest`` takes longer."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=4, optimize=smallest)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
