"""Whatever shows a picture -> uint8 RGB: files, Pillow images, numpy arrays, tensors.

What cannot be read without guessing is refused with the fix: numbers of an unknown range, channels first in an
array, formats that start other programs. Transparent parts are laid on white.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from dreamrl.errors import UserError
from dreamrl.preflight import FORMATS, MAX_PIXELS


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
        x: a path (str or Path) of a file in one of ``FORMATS`` (of a moving picture the first frame counts), a Pillow
            image, a numpy array (H, W) or (H, W, C), or a tensor (H, W), (C, H, W) or (H, W, C), C being 1, 3 or
            4; numbers are uint8, or floats from 0 to 1. A tensor that could be both is taken for (C, H, W).

    Raises:
        UserError: it is no picture, or one of more than ``MAX_PIXELS``.
    """
    if isinstance(x, str | Path):
        return _from_file(Path(x))
    if isinstance(x, Image.Image):
        return _from_image(x)
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


def _from_file(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(path, formats=FORMATS) as image:
                return _from_image(image, f"{path}: ")
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise UserError(f"{path} is not a picture in a known format ({known}); convert it to PNG") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a picture: {reason}") from error


def _from_image(image: Image.Image, where: str = "") -> np.ndarray:
    width, height = image.size
    _check_size(height, width, where)
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
    _check_size(x.shape[0], x.shape[1], f"{kind} of shape {shape}: ")
    if np.issubdtype(x.dtype, np.floating):
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= 1):  # false for NaN, too
            raise UserError(f"{kind} has numbers from {low:g} to {high:g}; floats must lie in 0 to 1, or give uint8")
        x = np.round(x * 255.0).astype(np.uint8)
    if x.dtype != np.uint8:
        fix = "give uint8 from 0 to 255, or floats from 0 to 1"
        raise UserError(f"{kind} of {x.dtype} has no known range; {fix}")
    if x.shape[2] == 4:
        return _from_image(Image.fromarray(np.ascontiguousarray(x)))
    return np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x.copy()


def _check_size(height: int, width: int, where: str) -> None:
    if height * width == 0:
        raise UserError(f"{where}a picture of {width}x{height} pixels shows nothing")
    if height * width > MAX_PIXELS:
        fix = "make it smaller"
        raise UserError(f"{where}{width}x{height} pixels are more than {MAX_PIXELS // 10**6} million; {fix}")
