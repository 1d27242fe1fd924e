"""What a client may ask for, and how it is told that it asked for too much.

Everything that a client sends is data: it is checked here or by the world's own rules, and never run or written to
disk.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamrl.errors import UserError
from dreamrl.picture_files import FORMATS, TooLarge, UnknownFormat, opened
from dreamrl.pictures import from_image

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, TOO_LARGE, WRONG_TYPE, OVERLOADED, TOO_SLOW = 400, 401, 403, 413, 415, 503, 504


class Refused(Exception):
    """A request that is not answered; the ``reason`` is one line that the client sees."""

    def __init__(self, status: int, reason: str):
        """Args: the HTTP ``status`` and the ``reason``."""
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest values of one request, and of all of them together.

    Example:
        >>> Limits(dreams=8).dreams
        8
    """

    body_bytes: int = 4 * 2**20
    """Of a request's body."""
    pictures: int = 4
    """Pictures of one request."""
    picture_side: int = 4096
    """Pixels of an uploaded picture's longer side."""
    picture_patches: int = 144
    """Patches of a picture that is dreamed about."""
    prompt_chars: int = 500
    options_chars: int = 20_000
    """Of the JSON that describes a scene."""
    dreams: int = 32
    answer_tokens: int = 256
    edits: int = 8
    temperature: float = 100.0
    seconds: float = 60.0
    """From the arrival of a request to its answer."""
    requests: int = 256
    """Requests that are in work or wait; more are turned away."""
    batch: int = 32
    """Requests that dream together."""
    batch_dreams: int = 256
    """Their dreams."""


LIMITS = Limits()


def read_picture(text: str, number: int, limits: Limits = LIMITS) -> np.ndarray:
    """A picture from base64, with or without ``data:image/png;base64,`` in front: uint8 (H, W, 3)."""
    where = f"images[{number}]"
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        raw = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(BAD_REQUEST, f"{where} is not base64: {error}") from error
    try:
        with opened(io.BytesIO(raw), where) as image:
            width, height = image.size  # from the header: nothing is decoded yet
            if max(width, height) > limits.picture_side:
                rule = f"sides may have {limits.picture_side} pixels"
                raise Refused(TOO_LARGE, f"{where} has {width}x{height} pixels; {rule}")
            return from_image(image, f"{where}: ")
    except UnknownFormat as error:
        raise Refused(BAD_REQUEST, f"{where} is no picture in a known format ({', '.join(FORMATS)})") from error
    except UserError as error:
        raise Refused(TOO_LARGE if isinstance(error, TooLarge) else BAD_REQUEST, str(error)) from error


def check_patches(pictures: list[np.ndarray], patch_size: int, limits: Limits = LIMITS) -> None:
    """Raise unless the first of ``pictures`` is a whole number of patches, and not too many of them."""
    if not pictures:
        return
    height, width = pictures[0].shape[:2]
    if height % patch_size or width % patch_size:
        fix = f"both sides must be multiples of {patch_size}, one patch a cell"
        raise Refused(BAD_REQUEST, f"images[0] is {width}x{height} pixels; {fix}")
    patches = height * width // patch_size**2
    if patches > limits.picture_patches:
        raise Refused(TOO_LARGE, f"images[0] has {patches} patches; at most {limits.picture_patches} are dreamed about")


def check_options(options: dict[str, Any] | None, limits: Limits = LIMITS) -> None:
    """Raise if the description of a scene is longer than any that a world understands."""
    try:
        size = 0 if options is None else len(json.dumps(options))
    except RecursionError as error:
        raise Refused(BAD_REQUEST, "options are nested too deeply") from error
    if size > limits.options_chars:
        raise Refused(TOO_LARGE, f"options have {size} characters; at most {limits.options_chars} are read")
