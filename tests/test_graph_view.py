"""The dream graph for people: numbers and names are those of the reading, and the picture shows them."""

import doctest
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dreamrl import graph_view
from dreamrl.graph_view import BOX, CAPTION, CELL, LABEL_WIDTH, MARGIN, draw_graph, edge_colour, graph_data, to_networkx
from dreamrl.nn.graph import NEXT, PREVIOUS, SIBLING, Edges, build_graph

NAMES = ("left", "down", "right", "up")
LENGTHS = np.array([3, 1, 2])
ACTIONS = np.array([[0, 1, 2], [3, 0, 0], [1, 2, 0]])
BELIEFS = np.array([[0, 0, 1], [2, 0, 0], [0, 3, 0]])


def edges_of(*edges):
    """:class:`Edges` from (source, target, type, weight)."""
    source, target, kind, weight = zip(*edges, strict=True)
    return Edges(torch.tensor([source, target]), torch.tensor(kind), torch.tensor(weight))


def data_of(*edges):
    return graph_data(edges_of(*edges), ACTIONS, BELIEFS, LENGTHS, NAMES)


def ink(image, kind, box=None):
    """Pixels covered with the colour of an edge type, above the legend or in ``box``; soft rims count in part."""
    part = image.crop(box or (0, 0, image.width, image.height - 2 * MARGIN))
    darker = 255.0 - np.asarray(part, float)
    colour = 255.0 - np.array(edge_colour(kind))
    share = darker @ colour / (colour @ colour)
    alike = np.abs(darker - share[..., None] * colour).max(-1) < 12
    return float(share[alike & (share > 0.2)].sum())


def between(first, second):
    """What lies between two neighbouring nodes (dream, step) of a row or of a column."""
    (x, y), (right, below) = (
        (MARGIN + LABEL_WIDTH + (step + 0.5) * CELL[0], MARGIN + CAPTION + (dream + 0.5) * CELL[1])
        for dream, step in (first, second)
    )
    if first[0] == second[0]:
        return x + BOX[0] / 2 + 4, y - BOX[1] / 2, right - BOX[0] / 2 - 4, y + BOX[1] / 2
    return x - BOX[0] / 2, y + BOX[1] / 2 + 4, x + BOX[0] / 2, below - BOX[1] / 2 - 4


def test_nodes_and_edges_have_the_numbers_of_the_reading():
    graph = build_graph(torch.from_numpy(LENGTHS)[None], 3)
    weights = torch.linspace(0.1, 0.9, len(graph.edge_type))
    learned = (torch.tensor([[8], [0]]), torch.tensor([5]), torch.tensor([0.25]))
    index = torch.cat([graph.node[graph.edge_index], torch.tensor([[7], [0]])], dim=1)
    edges = Edges(index, torch.cat([graph.edge_type, learned[1]]), torch.cat([weights, learned[2]]))
    data = graph_data(edges, ACTIONS, BELIEFS, LENGTHS, NAMES)
    assert [(node["dream"], node["step"]) for node in data["nodes"]] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    assert [node["action"] for node in data["nodes"]] == ["left", "down", "right", "up", "down", "right"]
    beliefs = ["continue", "continue", "success", "failure", "continue", "stop"]
    assert [node["belief"] for node in data["nodes"]] == beliefs
    assert (data["num_nodes"], data["num_edges"]) == (6, len(weights) + 1)
    assert data["edges"][-1] == {"source": 5, "target": 0, "type": "learned_2", "weight": 0.25}
    offsets = {"next": (0, 1), "previous": (0, -1)}
    for edge, weight in zip(data["edges"][:-1], weights.tolist(), strict=True):
        source, target = (data["nodes"][edge[end]] for end in ("source", "target"))
        moved = (target["dream"] - source["dream"], target["step"] - source["step"])
        if edge["type"] == "sibling":
            assert moved[0] != 0 and moved[1] == 0
        else:
            assert moved == offsets[edge["type"]]
        assert edge["weight"] == pytest.approx(weight, abs=1e-4)
    assert json.loads(json.dumps(data)) == data


def test_edges_of_another_question_are_refused():
    with pytest.raises(ValueError, match=r"edge_index \(9\) must be steps of these dreams"):
        data_of((0, 9, NEXT, 1.0))
    with pytest.raises(ValueError, match=r"edge_index \(4\)"):  # the second dream ended after one step
        data_of((0, 4, NEXT, 1.0))


def test_networkx_has_the_same_graph():
    data = data_of((0, 1, NEXT, 0.5), (1, 0, PREVIOUS, 0.75), (0, 1, 3, 0.125), (0, 3, SIBLING, 1.0))
    graph = to_networkx(data)
    assert [graph.nodes[i] for i in range(6)] == data["nodes"]
    found = [{"source": a, "target": b, **attributes} for a, b, attributes in graph.edges(data=True)]
    assert sorted(found, key=str) == sorted(data["edges"], key=str)
    assert graph.number_of_edges(0, 1) == 2


def test_an_edge_is_drawn_between_its_ends_in_the_colour_of_its_type():
    image = draw_graph(data_of((0, 1, NEXT, 0.5), (0, 3, SIBLING, 0.5), (6, 7, 4, 0.5)))
    expected = {"next": ((0, 0), (0, 1)), "sibling": ((0, 0), (1, 0)), "learned_1": ((2, 0), (2, 1))}
    for kind in (*expected, "previous", "learned_0"):
        for other, ends in expected.items():
            covered = ink(image, kind, between(*ends))
            assert covered > 60 if other == kind else covered < 10


def test_width_grows_with_the_weight_and_nothing_is_drawn_for_no_weight():
    counts = [ink(draw_graph(data_of((0, 1, NEXT, w), (1, 2, PREVIOUS, 0.1))), "next") for w in (0.0, 0.2, 0.6, 1.0)]
    assert counts[0] == 0
    assert counts[1] > 20
    assert counts[2] > counts[1] + 50
    assert counts[3] > counts[2] + 50


def test_the_arrow_points_at_the_target():
    left, top, right, bottom = between((0, 0), (0, 1))
    halves = (left, top, (left + right) / 2, bottom), ((left + right) / 2, top, right, bottom)
    there, back = (draw_graph(data_of((*ends, NEXT, 0.1))) for ends in ((0, 1), (1, 0)))
    assert ink(there, "next", halves[1]) > 1.3 * ink(there, "next", halves[0]) > 0
    assert ink(back, "next", halves[0]) > 1.3 * ink(back, "next", halves[1]) > 0


def test_edges_of_two_types_between_the_same_triplets_can_both_be_seen():
    image = draw_graph(data_of((0, 2, 3, 0.3), (0, 2, 4, 0.3), (1, 1, 5, 0.3), (3, 3, SIBLING, 0.3)))
    for kind in ("learned_0", "learned_1", "learned_2", "sibling"):
        assert ink(image, kind) > 20


def test_the_size_follows_the_dreams_and_the_file_is_the_picture(tmp_path):
    data = data_of((0, 1, NEXT, 1.0))
    image = draw_graph(data, tmp_path / "graph.png")
    with Image.open(tmp_path / "graph.png") as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(image))
    steps = np.zeros((5, 6), int)
    larger = draw_graph(graph_data(edges_of((0, 1, NEXT, 1.0)), steps, steps, np.full(5, 6), NAMES))
    assert larger.height - image.height == 2 * CELL[1]
    assert larger.width == 2 * MARGIN + LABEL_WIDTH + 6 * CELL[0]


def test_dreams_that_heard_nothing_of_each_other_can_be_drawn():
    nothing = Edges(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    data = graph_data(nothing, ACTIONS, BELIEFS, LENGTHS, NAMES)
    assert data["num_edges"] == 0 and to_networkx(data).number_of_nodes() == 6
    assert draw_graph(data).height > 3 * CELL[1]


def test_no_triplets_are_refused():
    with pytest.raises(ValueError, match="at least one triplet"):
        draw_graph({"num_nodes": 0, "num_edges": 0, "nodes": [], "edges": []})


def test_the_example_is_true():
    assert doctest.testmod(graph_view).failed == 0
