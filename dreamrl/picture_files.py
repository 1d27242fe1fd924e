"""Which picture files are accepted, whoever brings them, and what is said of those that are not.

A file is data from outside: it may claim any size, be cut short, or be of a format that starts other programs. Nothing
here needs torch, so that a command can refuse a picture before anything large is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image

from dreamrl.errors import UserError

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded; a file of a few bytes can claim any size."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM")
"""Formats of pictures that are read; some others run an external program when they are opened."""


class UnknownFormat(UserError):
    """A file that is no picture, or one of a format that is not read."""


class TooLarge(UserError):
    """A picture of more pixels than are read."""


@contextmanager
def opened(source: Path | IO[bytes], name: str) -> Iterator[Image.Image]:
    """The picture in ``source``; it is decoded when its pixels are first asked for, inside the context.

    Args:
        source: a file.
        name: what the errors call it.

    Raises:
        UserError: in one line, also for what goes wrong while the picture is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(source, formats=FORMATS) as image:
                check_size(image.width, image.height, f"{name}: ")
                yield image
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        fix = "convert it to PNG"
        raise UnknownFormat(f"{name} is not a picture in a known format ({', '.join(FORMATS)}); {fix}") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{name} has too many pixels; make it smaller") from error
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: a broken PNG
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise UserError(f"{name} cannot be read as a picture: {reason}") from error


def check_size(width: int, height: int, where: str) -> None:
    """Raise unless a picture of this size shows something and is small enough; ``where`` begins the error."""
    if height * width == 0:
        raise UserError(f"{where}a picture of {width}x{height} pixels shows nothing")
    if height * width > MAX_PIXELS:
        fix = "make it smaller"
        raise TooLarge(f"{where}{width}x{height} pixels are more than {MAX_PIXELS // 10**6} million; {fix}")
