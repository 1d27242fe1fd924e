"""The dream graph for people: as plain values, as a networkx graph, as a picture.

Nodes are triplets, edges say which triplet heard of which while the dreams were read. Nothing here needs the
model: it takes the :class:`dreamrl.nn.graph.Edges` of a reading and the arrays that were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx
import numpy as np
from PIL import Image, ImageDraw

from dreamrl import drawing
from dreamrl.drawing import LABEL_SIZE, LINE, MUTED, PAPER, Colour, text_width, write
from dreamrl.filmstrip import BELIEF_COLOURS
from dreamrl.nn.graph import EDGE_TYPES, Edges, edge_type_name
from dreamrl.types import BELIEFS

COLOURS: dict[str, Colour] = {"next": (0, 114, 178), "previous": (86, 180, 233), "sibling": (150, 150, 150)}
LEARNED_COLOURS: tuple[Colour, ...] = ((213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0))
"""Colours that people with colour blindness tell apart (Okabe and Ito); further learned types use them again."""
MARGIN, LABEL_WIDTH, CAPTION = 28, 80, 56
"""Free pixels around the picture, width of the column "dream 1", height of the line "step 1"."""
BOX, CELL = (96, 44), (150, 100)
"""Width and height of a node, and the distance of two nodes, in pixels."""
MOST_BEND = 120.0
"""Pixels by which the control point of a long edge's curve lies aside; the curve itself is half as far."""
WIDEST = 6.0
"""Width in pixels of an edge of weight 1."""
SMOOTH_PIXELS = 4_000_000
"""Pictures up to this size have their edges drawn at twice the size and reduced, without jagged lines."""


def graph_data(
    edges: Edges, actions: np.ndarray, beliefs: np.ndarray, lengths: np.ndarray, action_names: Sequence[str]
) -> dict[str, Any]:
    """One question's dream graph as values that JSON can hold.

    Args:
        edges: of the reading of this question alone.
        actions: (N, T) of the dreams that were read.
        beliefs: (N, T).
        lengths: (N,) steps that each dream lasted.
        action_names: name of every action.

    Returns:
        ``num_nodes``, ``num_edges``; ``nodes``: a dict each with ``dream``, ``step``, ``action``, ``belief``;
        ``edges``: a dict each with ``source`` and ``target`` (numbers of nodes), ``type`` and ``weight``.

    Example:
        >>> import torch
        >>> edges = Edges(torch.tensor([[0], [1]]), torch.tensor([0]), torch.ones(1))
        >>> graph_data(edges, np.array([[1, 0]]), np.array([[0, 1]]), np.array([2]), ("up", "down"))["edges"]
        [{'source': 0, 'target': 1, 'type': 'next', 'weight': 1.0}]
    """
    dreams, steps = actions.shape
    where = [(n, t) for n in range(dreams) for t in range(int(lengths[n]))]
    number = {n * steps + t: index for index, (n, t) in enumerate(where)}
    nodes = [
        {"dream": n, "step": t, "action": action_names[int(actions[n, t])], "belief": BELIEFS[int(beliefs[n, t])]}
        for n, t in where
    ]
    ends = edges.edge_index.tolist()
    unknown = {end for row in ends for end in row} - number.keys()
    if unknown:
        raise ValueError(f"edges.edge_index ({min(unknown)}) must be steps of these dreams: pass one question's edges")
    found = [
        {"source": number[a], "target": number[b], "type": edge_type_name(kind), "weight": round(weight, 4)}
        for a, b, kind, weight in zip(*ends, edges.edge_type.tolist(), edges.weight.tolist(), strict=True)
    ]
    return {"num_nodes": len(nodes), "num_edges": len(found), "nodes": nodes, "edges": found}


def to_networkx(data: dict[str, Any]) -> networkx.MultiDiGraph:
    """:func:`graph_data` as a directed multigraph with the same numbers and attributes."""
    graph = networkx.MultiDiGraph()
    graph.add_nodes_from(enumerate(data["nodes"]))
    for edge in data["edges"]:
        graph.add_edge(edge["source"], edge["target"], type=edge["type"], weight=edge["weight"])
    return graph


def draw_graph(data: dict[str, Any], path: Path | None = None) -> Image.Image:
    """Draw :func:`graph_data`: a row per dream, steps from left to right, an edge's width by its weight.

    Edges of weight 0 are left out: nothing was heard along them.

    Args:
        data: at least one node.
        path: where to write a PNG; None writes nothing.

    Returns:
        an RGB picture; its size depends on the dreams.
    """
    nodes = data["nodes"]
    if not nodes:
        raise ValueError("nodes ([]) must hold at least one triplet")
    edges = sorted((e for e in data["edges"] if e["weight"] > 0), key=lambda e: e["weight"])  # heavy ones on top
    legend = _legend(sorted({edge["type"] for edge in edges}, key=_type_order))
    columns, rows = (1 + max(node[key] for node in nodes) for key in ("step", "dream"))
    width = max(2 * MARGIN + LABEL_WIDTH + columns * CELL[0], legend.width)
    height = MARGIN + CAPTION + rows * CELL[1] + CAPTION // 2 + legend.height
    scale = 2 if width * height <= SMOOTH_PIXELS else 1
    canvas = Image.new("RGB", (width * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(canvas)
    for edge in edges:
        _draw_edge(draw, nodes[edge["source"]], nodes[edge["target"]], edge, scale)
    canvas = canvas.resize((width, height), Image.Resampling.BOX)
    draw = ImageDraw.Draw(canvas)
    for step in range(columns):
        write(draw, (_centre({"dream": 0, "step": step})[0], MARGIN), f"step {step + 1}", LABEL_SIZE, MUTED, "ma")
    for dream in range(rows):
        y = _centre({"dream": dream, "step": 0})[1]
        write(draw, (MARGIN, y), f"dream {dream + 1}", LABEL_SIZE, anchor="lm", bold=True)
    for node in nodes:
        _draw_node(draw, node)
    canvas.paste(legend, (0, height - legend.height))
    draw.line((0, height - legend.height, width, height - legend.height), fill=LINE)
    if path is not None:
        canvas.save(path, format="PNG", optimize=True)
    return canvas


def edge_colour(kind: str) -> Colour:
    """Colour of an edge type."""
    return COLOURS[kind] if kind in COLOURS else LEARNED_COLOURS[_learned_number(kind) % len(LEARNED_COLOURS)]


def _learned_number(kind: str) -> int:
    return int(kind.removeprefix("learned_"))


def _type_order(kind: str) -> int:
    return EDGE_TYPES.index(kind) if kind in EDGE_TYPES else len(EDGE_TYPES) + _learned_number(kind)


def _centre(node: dict[str, Any]) -> tuple[float, float]:
    x = MARGIN + LABEL_WIDTH + (node["step"] + 0.5) * CELL[0]
    return x, MARGIN + CAPTION + (node["dream"] + 0.5) * CELL[1]


def _draw_edge(
    draw: ImageDraw.ImageDraw, source: dict[str, Any], target: dict[str, Any], edge: dict[str, Any], scale: int
) -> None:
    """An arrow that bends to its left: the way there and the way back do not cover each other."""
    ends = _centre(source), _centre(target)
    points = _outside(_curve(np.array(ends[0]), np.array(ends[1]), _type_order(edge["type"])), *ends)
    colour, width = edge_colour(edge["type"]), max(1.0, WIDEST * edge["weight"])
    draw.line([(x * scale, y * scale) for x, y in points], colour, max(1, round(width * scale)), joint="curve")
    tip = points[-1]
    back = tip - points[-3]
    along = back / np.linalg.norm(back) * (5 + width)
    across = np.array([-along[1], along[0]]) / 2
    corners = (tip, tip - along + across, tip - along - across)
    draw.polygon([(x * scale, y * scale) for x, y in corners], fill=colour)


def _curve(source: np.ndarray, target: np.ndarray, kind: int) -> np.ndarray:
    """(64, 2) points of a quadratic Bezier curve; a loop above the box if source and target are one node.

    Edges of different kinds between the same nodes bend differently.
    """
    along = target - source
    share = np.linspace(0, 1, 64)[:, None]
    if not along.any():
        turn = 2 * np.pi * share[:, 0]
        return source - [0, BOX[1] / 2] + (12 + 2 * kind) * np.stack([-np.sin(turn), np.cos(turn)], axis=1)
    distance = np.linalg.norm(along)
    bend = 0.14 if distance <= CELL[0] else 0.36  # beyond the next node, the curve must pass those between
    aside = min(bend * distance, MOST_BEND) + 6 * kind
    middle = (source + target) / 2 + aside / distance * np.array([along[1], -along[0]])
    return (1 - share) ** 2 * source + 2 * share * (1 - share) * middle + share**2 * target


def _outside(points: np.ndarray, source: tuple[float, float], target: tuple[float, float]) -> np.ndarray:
    """The ``points`` that lie between the boxes around both ends; at least three, for an arrow to have a direction."""
    first, last = 0, len(points) - 1
    while first < len(points) - 3 and _within(points[first], source):
        first += 1
    while last > first + 2 and _within(points[last], target):
        last -= 1
    return points[first : last + 1]


def _within(point: np.ndarray, centre: tuple[float, float]) -> bool:
    return abs(point[0] - centre[0]) <= BOX[0] / 2 and abs(point[1] - centre[1]) <= BOX[1] / 2


def _draw_node(draw: ImageDraw.ImageDraw, node: dict[str, Any]) -> None:
    x, y = _centre(node)
    left, top = x - BOX[0] / 2, y - BOX[1] / 2
    colour = BELIEF_COLOURS[node["belief"]]
    draw.rounded_rectangle((left, top, left + BOX[0], top + BOX[1]), 6, PAPER, colour, 2)
    write(draw, (x, y - 3), drawing.elide(node["action"], LABEL_SIZE, BOX[0] - 12), LABEL_SIZE, anchor="ms", bold=True)
    write(draw, (x, y + 3), node["belief"], LABEL_SIZE, colour, "ma")


def _legend(kinds: Sequence[str]) -> Image.Image:
    """A line in the colour of each edge type beside its name, and what the width means."""
    entries = [(edge_colour(kind), kind) for kind in kinds]
    note = "an arrow's width is how much its end took in of its start" if entries else "nothing heard of anything else"
    width = 2 * MARGIN + sum(64 + text_width(kind, LABEL_SIZE) for kind in kinds) + text_width(note, LABEL_SIZE)
    block = Image.new("RGB", (width, 2 * MARGIN), PAPER)
    draw, x = ImageDraw.Draw(block), MARGIN
    for colour, kind in entries:
        draw.line((x, MARGIN, x + 28, MARGIN), fill=colour, width=4)
        write(draw, (x + 36, MARGIN), kind, LABEL_SIZE, anchor="lm")
        x += 64 + text_width(kind, LABEL_SIZE)
    write(draw, (x, MARGIN), note, LABEL_SIZE, MUTED, "lm")
    return block
