"""The dream graph as inline SVG: a row a dream, a picture a step, an edge's width by its weight.

Nodes and edges tell what they are in their titles. With the page's script, pointing at a node shows its triplet and
lists its edges; the arrow keys go from node to node.
"""

from __future__ import annotations

import math
from typing import Any

from dreamrl.nn.graph import EDGE_TYPES
from dreamrl.report.markup import Markup, joined, number, tag
from dreamrl.report.sprites import Sprites
from dreamrl.types import Dream

CELL = (92, 96)
"""Distance of two nodes, across and down."""
BOX = (58, 70)
"""Width and height of a node."""
THUMB = 46
"""Longer side of its picture."""
LEFT, TOP = 58, 26
WIDEST = 5.0
"""Width of an edge of weight 1."""
LEARNED_COLOURS = 4
"""Colours of report.css for learned edges."""
LEAST = 0.02
"""Edges of less weight are left out: hardly anything was heard along them."""
MEANINGS = {
    "next": "from the step before",
    "previous": "from the step after",
    "sibling": "from the same step of another dream",
}
"""What an edge of a fixed type brings to its target."""


def graph_svg(graph: dict[str, Any], dreams: tuple[Dream, ...], place: str, sprites: Sprites) -> Markup:
    """The graph of :func:`dreamrl.graph_view.graph_data` with the pictures of ``dreams``.

    ``place`` is the id of the question in the page; the strips' steps are called ``PLACE-dN-sT``.
    """
    nodes = graph["nodes"]
    columns, rows = (1 + max(node[key] for node in nodes) for key in ("step", "dream"))
    edges = sorted((e for e in graph["edges"] if e["weight"] >= LEAST), key=lambda e: e["weight"])
    width, height = LEFT + columns * CELL[0], TOP + rows * CELL[1]
    heads = [tag("text", f"step {t + 1}", x=_x(t), y=14, class_="tick mid") for t in range(columns)]
    heads += [tag("text", f"dream {n + 1}", x=2, y=_y(n) + 4, class_="label") for n in range(rows)]
    drawn = [_edge(edge, nodes) for edge in edges]
    boxes = [_node(i, node, dreams[node["dream"]], place, sprites) for i, node in enumerate(nodes)]
    label = f"Dream graph: {len(nodes)} steps of {rows} dreams, {len(graph['edges'])} edges"
    picture = tag(
        "svg",
        heads,
        drawn,
        boxes,
        viewBox=f"0 0 {width} {height}",
        class_="graph",
        role="group",
        aria_label=label,
        style=f"max-width:{width * 1.15:.0f}px;min-width:{min(width, 420)}px",
    )
    kinds = sorted({edge["type"] for edge in edges}, key=_order)
    return joined(tag("div", picture, class_="scroll"), _legend(kinds))


def markers() -> Markup:
    """Arrow heads of all edge types, to be put into the page once."""
    kinds = [f"e-{kind}" for kind in EDGE_TYPES] + [f"e-learned{k}" for k in range(LEARNED_COLOURS)]
    return joined(
        tag(
            "marker",
            tag("path", d="M0 0L7 3.5L0 7z", class_=f"arrow {kind}", style="marker-end:none;stroke:none"),
            id=f"m-{kind}",
            viewBox="0 0 7 7",
            refX=6,
            refY=3.5,
            markerWidth=7,
            markerHeight=7,
            markerUnits="userSpaceOnUse",
            orient="auto",
        )
        for kind in kinds
    )


def edge_class(kind: str) -> str:
    """The class of report.css that colours an edge type; learned types share four colours."""
    return f"e-{kind}" if kind in EDGE_TYPES else f"e-learned{int(kind.removeprefix('learned_')) % LEARNED_COLOURS}"


def _order(kind: str) -> int:
    return EDGE_TYPES.index(kind) if kind in EDGE_TYPES else len(EDGE_TYPES) + int(kind.removeprefix("learned_"))


def _x(step: int) -> float:
    return LEFT + (step + 0.5) * CELL[0]


def _y(dream: int) -> float:
    return TOP + (dream + 0.5) * CELL[1]


def _legend(kinds: list[str]) -> Markup:
    if not kinds:
        return tag("p", "Nothing was heard of anything else.", class_="small")
    keys = [
        tag("li", tag("i", class_=f"key line {edge_class(k)}"), f"{k}: {MEANINGS.get(k, 'chosen by the model')}")
        for k in kinds
    ]
    return tag("ul", keys, tag("li", "the wider, the more was heard", class_="muted"), class_="legend small")


def _edge(edge: dict[str, Any], nodes: list[dict[str, Any]]) -> Markup:
    """A curve that bends to its left, so that the ways there and back do not cover each other."""
    source, target = nodes[edge["source"]], nodes[edge["target"]]
    told = f"{_name(source)} → {_name(target)}: {edge['type']}, weight {edge['weight']:.2f}"
    weight = edge["weight"]
    return tag(
        "path",
        tag("title", told),
        d=_curve(source, target, _order(edge["type"])),
        class_=f"edge {edge_class(edge['type'])}",
        style=f"stroke-width:{0.8 + WIDEST * weight:.1f};opacity:{0.3 + 0.7 * min(1.0, weight):.2f}",
        data_s=edge["source"],
        data_t=edge["target"],
        data_k=edge["type"],
        data_w=f"{weight:.2f}",
    )


def _curve(source: dict[str, Any], target: dict[str, Any], kind: int) -> str:
    start, end = ((_x(n["step"]), _y(n["dream"])) for n in (source, target))
    across, down = end[0] - start[0], end[1] - start[1]
    distance = math.hypot(across, down)
    if not distance:
        x, y = start[0], start[1] - BOX[1] / 2
        return f"M{number(x - 8)} {number(y)}c-6 -18 22 -18 16 0"
    near = abs(across) <= CELL[0] and abs(down) <= CELL[1]
    aside = (0.16 if near else 0.3) * distance + 4 * kind
    middle = (start[0] + end[0]) / 2 + aside * down / distance, (start[1] + end[1]) / 2 - aside * across / distance
    points = _edge_of_box(start, middle), middle, _edge_of_box(end, middle)
    (a, b), (c, d), (e, f) = points
    return f"M{number(a)} {number(b)}Q{number(c)} {number(d)} {number(e)} {number(f)}"


def _edge_of_box(centre: tuple[float, float], towards: tuple[float, float]) -> tuple[float, float]:
    """Where the way from a node's centre leaves its box."""
    across, down = towards[0] - centre[0], towards[1] - centre[1]
    shares = [half / abs(way) for half, way in ((BOX[0] / 2, across), (BOX[1] / 2, down)) if way]
    share = min(shares, default=0.0)
    return centre[0] + share * across, centre[1] + share * down


def _name(node: dict[str, Any]) -> str:
    return f"dream {node['dream'] + 1}, step {node['step'] + 1} ({node['action']})"


def _node(index: int, node: dict[str, Any], dream: Dream, place: str, sprites: Sprites) -> Markup:
    """A step: its picture, its action, and a border in the colour of what it believes."""
    triplet = dream.triplets[node["step"]]
    height, width = triplet.result.shape[:2]
    scale = THUMB / max(height, width)
    x, y = _x(node["step"]), _y(node["dream"])
    left, top = x - BOX[0] / 2, y - BOX[1] / 2
    shown = tag(
        "use",
        href=f"#{sprites.name(triplet.result)}",
        transform=f"translate({number(x - width * scale / 2)} {number(top + 5)}) scale({scale:.4f})",
    )
    action = node["action"] if len(node["action"]) <= 10 else node["action"][:9] + "…"
    told = f"{_name(node)}: believes {node['belief']}"
    return tag(
        "g",
        tag("title", told),
        tag("rect", x=left, y=top, width=BOX[0], height=BOX[1], rx=5),
        shown,
        tag("text", action, x=x, y=top + BOX[1] - 6, class_="label mid"),
        class_=f"node b-{node['belief']}" + (" read" if dream.focus else ""),
        tabindex="-1" if index else "0",
        role="button",
        aria_label=told,
        data_n=index,
        data_at=f"{place}-d{node['dream']}-s{node['step']}",
        data_row=node["dream"],
        data_col=node["step"],
    )
