"""Fields of annotation entries, checked as they are read; every fault names file, record, field and fix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.annotations.records import Box, ImageInfo
from envs.annotations.report import BadRecord

MIN_INSIDE = 0.5
"""Share of a box that must lie in the image. Visual Genome has boxes that stick out by a few pixels, which are
clipped, and boxes hundreds of pixels outside, which show nothing of what they name."""


@dataclass(frozen=True)
class Entry:
    """One JSON object of an annotation file, and how messages call it.

    Example:
        ``Entry(Path("captions.json"), "annotation 7", {"id": 7, "caption": "A dog."}).text("caption") == "A dog."``
    """

    file: Path
    name: str
    values: dict[str, Any]

    def bad(self, field: str, problem: str, *, reason: str, fix: str) -> BadRecord:
        """The error that says so of ``field``."""
        return BadRecord(self.file, self.name, field, problem, reason=reason, fix=fix)

    def value(self, *fields: str) -> Any:
        """The first of ``fields`` that there is; older files call some fields otherwise."""
        for field in fields:
            if field in self.values:
                return self.values[field]
        there = ", ".join(sorted(map(str, self.values))[:12]) or "no field at all"
        raise self.bad(fields[0], "is missing", reason="missing field", fix=f"add it (there is {there})")

    def whole(self, *fields: str, least: int | None = None) -> int:
        """A whole number, at least ``least``."""
        value = self.value(*fields)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(fields[0], "a whole number", value)
        if least is not None and value < least:
            fix = f"give {least} or more"
            raise self.bad(fields[0], f"is {value}", reason="number out of range", fix=fix)
        return value

    def number(self, field: str) -> float:
        """A finite number."""
        return self._finite(field, self.value(field))

    def text(self, field: str) -> str:
        """A text with something in it, white space collapsed."""
        return self._words(field, self.value(field))

    def texts(self, field: str) -> list[str]:
        """A list of texts."""
        return [self._words(field, text) for text in self.list(field)]

    def list(self, *fields: str) -> list[Any]:
        """A list."""
        value = self.value(*fields)
        if not isinstance(value, list):
            raise self._wrong(fields[0], "a list", value)
        return value

    def inner(self, field: str) -> Entry:
        """The object in ``field``; messages then speak of "RECORD, FIELD"."""
        return entry_of(self.file, f"{self.name}, {field}", self.value(field))

    def bbox(self) -> Box:
        """COCO's ``bbox``, [x, y, width, height]."""
        value = self.list("bbox")
        if len(value) != 4:
            raise self._wrong("bbox", "four numbers, [x, y, width, height]", value)
        return Box(*(self._finite("bbox", v) for v in value))

    def xywh(self) -> Box:
        """Visual Genome's ``x``, ``y``, ``w``, ``h``."""
        return Box(*(self.number(field) for field in "xywh"))

    def fit(self, field: str, box: Box, image: ImageInfo) -> Box:
        """The part of ``box`` that lies in ``image``, if it is large enough to show something."""
        shown = f"[{box.x:g}, {box.y:g}, {box.width:g}, {box.height:g}]"
        if not box.area:
            fix = "width and height must be above 0"
            raise self.bad(field, f"{shown} has no area", reason="box of no size", fix=fix)
        inside = box.clipped(image.width, image.height)
        if inside.area < MIN_INSIDE * box.area:
            problem = f"{shown} lies mostly outside of image {image.id}, {image.width}x{image.height} pixels"
            fix = "boxes are x, y, width, height from the top left corner"
            raise self.bad(field, problem, reason="box outside of the image", fix=fix)
        return inside

    def _words(self, field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._wrong(field, "text", value)
        text = " ".join(value.split())
        if not text:
            raise self.bad(field, "is empty", reason="empty text", fix="write it or delete the record")
        return text

    def _finite(self, field: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(field, "a finite number", value)
        return float(value)

    def _wrong(self, field: str, wanted: str, value: Any) -> BadRecord:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        return self.bad(field, f"must be {wanted}", reason="wrong type", fix=f"got {shown}")


def entry_of(file: Path, name: str, value: Any) -> Entry:
    """``value`` as an entry called ``name``, if it is an object."""
    if not isinstance(value, dict):
        problem, fix = "must be an object in braces", f"got {type(value).__name__}"
        raise BadRecord(file, name, "", problem, reason="wrong type", fix=fix)
    return Entry(file, name, value)


def numbered(file: Path, kind: str, index: int, value: Any, *ids: str) -> Entry:
    """The entry at ``index`` of a list, called by its id ("annotation 7") if it has one, else by its place."""
    name = f"{kind} at place {index + 1}"
    entry = entry_of(file, name, value)
    found = next((value[i] for i in ids if i in value), None)
    named = isinstance(found, int) and not isinstance(found, bool)
    return Entry(file, f"{kind} {found}", value) if named else entry
