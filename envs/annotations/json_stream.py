"""JSON files of any size, piece by piece: memory for one element of a list at a time, not for the file.

The standard library decodes the elements; this only finds where they begin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from envs.scene import WorldError

CHUNK = 1 << 20
"""Characters that are read at once. No string in the formats read here is nearly as long."""
SPACE = " \t\n\r"


class Item(NamedTuple):
    """One element of a list, or the value of a key that holds no list."""

    section: str
    """The key that it stands under; "" where the file is one list."""
    index: int
    """Its place in the list, from 0; -1 for a value that is no list, and for a list's own announcement."""
    value: Any


def json_items(path: Path) -> Iterator[Item]:
    """Everything in a file that is a list, or an object whose values are lists and others.

    Each list is announced with index -1 and an empty list as its value, so that an empty one is seen, too.

    Raises:
        WorldError: the file is missing, is not UTF-8 or no JSON; with the position.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Reader(path, file).items()
    except OSError as error:
        raise WorldError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise WorldError(f"{path} is not UTF-8 text ({error.reason}); unpack it first if it is an archive") from error


class _Reader:
    def __init__(self, path: Path, file: TextIO):
        self.path, self.file = path, file
        self.decoder = json.JSONDecoder()
        self.buffer, self.at, self.over = "", 0, False
        self.dropped, self.lines, self.line_start = 0, 0, 0

    def items(self) -> Iterator[Item]:
        first = self._peek()
        if first == "[":
            yield from self._list("")
        elif first == "{":
            yield from self._object()
        else:
            self._fail("it must begin with [ or {", self.at)
        if self._peek():
            self._fail("something follows after the end", self.at)

    def _object(self) -> Iterator[Item]:
        self.at += 1
        if self._peek() == "}":
            self.at += 1
            return
        while True:
            if self._peek() != '"':
                self._fail("a key in double quotes is expected", self.at)
            key = self._value()
            self._take(":")
            if self._peek() == "[":
                yield from self._list(key)
            else:
                yield Item(key, -1, self._value())
            if self._take(",}") == "}":
                return

    def _list(self, section: str) -> Iterator[Item]:
        yield Item(section, -1, [])
        self.at += 1
        if self._peek() == "]":
            self.at += 1
            return
        index = 0
        while True:
            self._peek()
            yield Item(section, index, self._value())
            index += 1
            if self._take(",]") == "]":
                return

    def _value(self) -> Any:
        """The value that begins here; more is read until it is whole."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                # Whatever is cut off fails near the end of what was read, or at the start of a cut string.
                if self.over or error.pos < len(self.buffer) - CHUNK:
                    self._fail(error.msg[:1].lower() + error.msg[1:], error.pos, error)
            except RecursionError as error:
                self._fail("it is nested too deeply", self.at, error)
            else:
                # A number near the end may go on: of "1.5e-3" cut before the 3 "1.5" is decoded.
                if end + len("e-") < len(self.buffer) or self.over:
                    self.at = end
                    return value
            self._read()

    def _take(self, wanted: str) -> str:
        found = self._peek()
        if not found or found not in wanted:
            self._fail(f"{' or '.join(wanted)} is expected", self.at)
        self.at += 1
        return found

    def _peek(self) -> str:
        """The next character that is no space, where ``at`` then stands; "" at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.buffer) or self.over:
                return self.buffer[self.at : self.at + 1]
            self._read()

    def _read(self) -> None:
        """Drop what is used and read on, more at a time the longer the value is."""
        used = self.buffer[: self.at]
        if "\n" in used:
            self.lines += used.count("\n")
            self.line_start = self.dropped + used.rindex("\n") + 1
        self.dropped += self.at
        more = self.file.read(max(CHUNK, len(self.buffer) - self.at))
        self.buffer, self.at, self.over = self.buffer[self.at :] + more, 0, not more

    def _fail(self, problem: str, position: int, cause: Exception | None = None) -> None:
        before = self.buffer[:position]
        line = self.lines + before.count("\n") + 1
        start = self.dropped + before.rindex("\n") + 1 if "\n" in before else self.line_start
        column = self.dropped + position - start + 1
        where = f"line {line}, column {column} (character {self.dropped + position})"
        raise WorldError(
            f"{self.path} is broken JSON at {where}: {problem}; fetch it again, it may be cut off"
        ) from cause
