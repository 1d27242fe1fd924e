"""Files on disk: digests, and writing so that a kill at any moment leaves the old file or the new one.

A whole directory at once is published by ``dreamrl.checkpoint``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dreamrl.errors import UserError

LOCK = ".lock"
"""File in a directory that its present user keeps locked."""


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def replacement(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write to; on leaving it is flushed to the disk and takes the place of ``path``.

    After an exception ``path`` is as it was, and ``.NAME.partial`` is left beside it until the next attempt.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8 to the file ``path``, whole or not at all."""
    with replacement(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def locked(directory: Path, command: str) -> Iterator[None]:
    """Keep other runs of ``command`` out of ``directory``; the lock goes with the process, however it ends."""
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another `dreamrl {command}` works in {directory}; wait for it or choose another --out"
            ) from None
        yield
