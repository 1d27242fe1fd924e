"""How results of commands are printed: as one JSON object, or as lines of label and value."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any


def quiet_stdout(as_json: bool) -> contextlib.AbstractContextManager:
    """With --json, stdout holds the object and nothing else: the rest goes to stderr."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print ``result`` as one JSON object, or a line for each of its values; records get a line each."""
    if as_json:
        print(json.dumps(result, default=lambda array: array.tolist()))
        return
    rows = []
    for key, value in result.items():
        label, records = key.replace("_", " "), isinstance(value, list) and any(isinstance(v, dict) for v in value)
        if isinstance(value, dict) or records:
            parts = value.items() if isinstance(value, dict) else enumerate(value, 1)
            rows += [(f"{label} {part}", _brief(item)) for part, item in parts]
        else:
            rows.append((label, _brief(value)))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"{label:<{width}}  {text}")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]


def dream_line(steps: list[dict[str, Any]]) -> str:
    """A dream in words, such as "right, down (false) -> failure".

    Args:
        steps: of one dream, each with ``action``, ``belief`` and ``faithful``; a step whose picture is not what the
            simulator shows is marked.
    """
    words = [step["action"] + (" (false)" if step["faithful"] is False else "") for step in steps]
    return f"{', '.join(words)} -> {steps[-1]['belief']}" if steps else "no step"


def _brief(value: Any) -> str:
    """A value on one line of the table; pictures by their shape."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "shape"):
        return "x".join(map(str, value.shape))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(item)}" for key, item in value.items())
    return f"[{', '.join(map(_brief, value))}]" if isinstance(value, list | tuple) else str(value)
