"""Lines of a chat: what is read out of those that are typed, and what those that answer say.

Nothing here knows the conversation; ``dreamrl.chat`` does.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from dreamrl.errors import UserError
from dreamrl.generate import verdict_text

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".ppm")
"""A word of a question that ends so and is a file is the picture that is asked about."""
HEARD = 12
"""Edges that /why lists."""


def graph_lines(result: dict[str, Any]) -> list[str]:
    """The dreams of a result of ``generate``, and what was heard most along their graph's edges, as text."""
    lines = []
    for number, dream in enumerate(result["dreams"], 1):
        steps = [t.action + (" (false)" if t.faithful is False else "") for t in dream.triplets]
        read = " (the answer is read here)" if dream.focus else ""
        lines.append(f"dream {number}{read}: {', '.join(steps)} -> {dream.belief}")
    data = result["graph_data"]
    names = [f"dream {n['dream'] + 1} step {n['step'] + 1} {n['action']}" for n in data["nodes"]]
    edges = sorted((e for e in data["edges"] if e["weight"] > 0), key=lambda e: -e["weight"])
    lines.append(f"{data['num_nodes']} steps heard of each other along {len(edges)} edges; the heaviest:")
    width = max(len(name) for name in names)
    for edge in edges[:HEARD]:
        ends = f"{names[edge['source']]:<{width}} -> {names[edge['target']]:<{width}}"
        lines.append(f"  {edge['weight']:.2f}  {ends}  {edge['type']}")
    return lines


def remarks(result: dict[str, Any]) -> list[str]:
    """What there is to say of an answer: warnings, the simulator's verdict, confidence, the dream that was read."""
    said = list(result["warnings"])
    if result["verdict"] is not None:
        said.append(verdict_text(result["verdict"]) or "")
    said.append(f"confidence {result['confidence']:.2f}")
    if result["focus"] is not None:
        said.append(f"read from dream {result['focus'] + 1} of {len(result['dreams'])}")
    return said


def split_picture(line: str) -> tuple[str, Path | None]:
    """A question without the path of a picture that stands in it, and the path."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is not closed: no path, then
        return line, None
    for word in words:
        path = Path(word).expanduser()
        if path.suffix.lower() in SUFFIXES and path.is_file():
            return " ".join(other for other in words if other != word), path
    return line, None


def unquoted(text: str) -> str:
    """``text`` without the quotes around it, if there are any."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def number(text: str, what: str, low: float, high: float, whole: bool = False) -> float:
    """The number that ``text`` is; a UserError about ``what`` unless it is one from ``low`` to ``high``."""
    kind = "a whole number" if whole else "a number"
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise UserError(f'{what} ("{text}") must be {kind}') from None
    if not low <= value <= high:
        raise UserError(f"{what} ({text}) must be between {low:g} and {high:g}")
    return value
