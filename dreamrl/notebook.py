"""A generation result as notebooks show it: the answer, the dreams beside the simulator, the graph."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from dreamrl.pictures import data_url
from dreamrl.types import Dream

STYLE = (
    "font-family:system-ui,sans-serif;border:1px solid rgba(128,128,128,.4);border-radius:10px;"
    "padding:12px 16px;max-width:1000px"
)
CELL = "display:inline-block;text-align:center;margin:0 6px 8px 0;font-size:12px;vertical-align:top"
PICTURE = "width:72px;image-rendering:pixelated;border-radius:4px;display:block"
GOOD, BAD, PLAIN, READ = "#1a7f37", "#cf222e", "rgba(128,128,128,.5)", "#0969da"


class Result(dict):
    """What ``generate`` returns: a plain dict that notebooks draw.

    Example:
        >>> shown = Result(text="right <down>", confidence=0.5, question="Where?", warnings=[], verdict=None)
        >>> "right &lt;down&gt;" in shown._repr_html_()
        True
    """

    def _repr_html_(self) -> str:
        """HTML without scripts; everything that comes from outside is escaped."""
        parts = [f'<div style="{STYLE}">']
        parts.append(f'<div style="opacity:.7">{_text(self.get("question", ""))}</div>')
        parts.append(f'<div style="font-size:20px;font-weight:700">{_text(self.get("text", ""))}</div>')
        parts.append(f"<div>{_text(', '.join(_remarks(self)))}</div>")
        if self.get("image") is not None:
            parts.append(_picture(self["image"], PICTURE.replace("72px", "112px"), "The answer as a picture"))
        if self.get("dreams"):
            parts.append(_dreams(self["dreams"]))
        if self.get("graph_data", {}).get("nodes"):
            from dreamrl.graph_view import draw_graph

            graph = _picture(draw_graph(self["graph_data"]), "max-width:100%;background:#fff", "The dream graph")
            parts.append(f"<details><summary>dream graph</summary>{graph}</details>")
        return "".join([*parts, "</div>"])


def _text(value: object) -> str:
    return html.escape(str(value))


def _remarks(result: dict[str, Any]) -> list[str]:
    from dreamrl.generate import verdict_text

    verdict = verdict_text(result.get("verdict"))
    remarks = [*result.get("warnings", []), *([verdict] if verdict else [])]
    return [*remarks, f"confidence {result.get('confidence', 0.0):.2f}"]


def _picture(picture: Any, style: str, words: str) -> str:
    return f'<img src="{data_url(picture)}" alt="{_text(words)}" style="{style}">'


def _dreams(dreams: Sequence[Dream]) -> str:
    rows = []
    for number, dream in enumerate(dreams, 1):
        border = READ if dream.focus else PLAIN
        read = " · the answer is read here" if dream.focus else ""
        cells = [_cell(dream.triplets[0].what, PLAIN, "", "What is asked about")]
        for step, triplet in enumerate(dream.triplets, 1):
            colour = PLAIN if triplet.faithful is None else GOOD if triplet.faithful else BAD
            mark = {None: "", True: " ✓", False: " ✗"}[triplet.faithful]
            words = f"Dream {number}, step {step}: {triplet.action}"
            cell = _cell(triplet.result, colour, triplet.action + mark, words)
            if triplet.faithful is False and triplet.true_result is not None:
                cell += _cell(triplet.true_result, PLAIN, "simulator", f"The simulator after step {step}")
            cells.append(cell)
        title = f"<b>dream {number}</b>{read} · {_text(dream.belief)}"
        rows.append(f'<div style="border-left:3px solid {border};padding-left:10px;margin-top:10px">{title}<br>')
        rows.append("".join(cells) + "</div>")
    return "".join(rows)


def _cell(picture: Any, colour: str, caption: str, words: str) -> str:
    framed = _picture(picture, f"{PICTURE};border:3px solid {colour}", words)
    return f'<span style="{CELL}">{framed}{_text(caption)}</span>'
