"""HTML from Python: everything is escaped unless it was made here."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

VOID = {"meta", "br", "input"}
"""Elements without an end tag."""


class Markup(str):
    """Text that is HTML already."""


Child: TypeAlias = "str | None | Iterable[Child]"
"""What an element may hold: text (escaped), :class:`Markup` (as it is), nothing, or several of these."""


def joined(*children: Child) -> Markup:
    """``children`` one after the other."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str):
            parts.append(html.escape(child, quote=False))
        elif child is not None:
            parts.append(joined(*child))
    return Markup("".join(parts))


def tag(element: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element.

    Example:
        >>> tag("a", "<here>", href="#x", class_="on", hidden=False)
        '<a href="#x" class="on">&lt;here&gt;</a>'

    Args:
        element: its name.
        children: what it holds.
        attributes: by name, with _ for - and a _ behind words of Python; None and False leave one out, True has no
            value.
    """
    words = [element]
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            text = number(value) if isinstance(value, float) else str(value)
            words.append(f'{name}="{html.escape(text)}"')
    start = f"<{' '.join(words)}>"
    return Markup(start) if element in VOID else Markup(f"{start}{joined(*children)}</{element}>")


def number(value: float) -> str:
    """A coordinate with at most two decimals, such as 3, 0.5 or 12.25."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else str(int(value))


def share(value: float | None) -> str:
    """A share as in the other tables of the project, 0.960; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"


def table(header: Iterable[Child], rows: Iterable[Iterable[Child]], caption: str = "") -> Markup:
    """A table whose first column names its rows; it scrolls in itself where it is too wide."""
    head = tag("tr", [tag("th", cell, scope="col") for cell in header])
    body = []
    for first, *rest in rows:
        body.append(tag("tr", tag("th", first, scope="row"), [tag("td", cell) for cell in rest]))
    parts = tag("caption", caption) if caption else None
    return tag("div", tag("table", parts, tag("thead", head), tag("tbody", body)), class_="scroll", tabindex="0")
