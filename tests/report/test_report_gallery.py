"""Questions in a page: what is marked, told, escaped and referred to."""

import base64
import io

import numpy as np
import pytest
from pages import WRONG, parsed, picture, question, triplet
from PIL import Image

from dreamrl.report.gallery import question_card
from dreamrl.report.graph_svg import markers
from dreamrl.report.markup import joined, tag
from dreamrl.report.sprites import Sprites


def card(shown, unfolded=True):
    sprites = Sprites()
    made = question_card(shown, "q1", sprites, unfolded)
    return parsed(joined(made, sprites.definitions(markers())))


def test_a_true_dream_has_no_marks():
    page = card(question())
    assert page.all("rect", "differs") == [] and page.all("svg", "bad") == []
    assert len(page.all("svg", "good")) == 2
    assert [sign.text for sign in page.all("span", "sign")] == ["=", "="]


def test_a_false_patch_is_outlined_in_both_pictures():
    page = card(question([[triplet(dreamed=(0, 90, 200))], [triplet()]]))
    marks = page.all("rect", "differs")
    assert [float(mark.attributes["x"]) // 4 for mark in marks] == [2, 2]
    assert [mark.parent.attributes["aria-label"] for mark in marks] == [
        "dream 1, step 1: right, dreamed result, 1 patch differs",
        "dream 1, step 1: right, true result",
    ]
    assert [sign.text for sign in page.all("span", "sign")] == ["≠", "="]
    assert page.one("details").attributes["data-flags"] == "false"


def test_everything_of_a_question_is_there():
    page = card(question(verdict=WRONG))
    text = page.words()
    for word in ("Which way?", "right", "down", "0.90", "wrong (correct leading steps: 50%)", "leads elsewhere"):
        assert word in text
    assert page.one("details").attributes["class"] == "question wrong"
    (read,) = page.all("div", "read")
    assert "dream 2" in read.words() and "answer read here" in read.words()
    assert [bar.attributes["aria-label"] for bar in page.all("span", "bar")] == ["expert 0 0.75, expert 2 0.25"] * 2
    rewards = [[cell.words() for cell in row.children] for row in page.one("tbody").all("tr")]
    assert rewards == [["dream 1 ", "1.00", "0.50", "0.50"], ["dream 2 read", "1.00", "0.50", "0.50"]]


def test_the_graph_has_every_step_and_what_was_heard():
    page = card(question())
    graph = page.one("svg", "graph")
    assert [node.attributes["aria-label"] for node in graph.all("g", "node")] == [
        "dream 1, step 1 (right): believes success",
        "dream 2, step 1 (down): believes success",
    ]
    ids = {element.attributes.get("id") for element in page.walk()}
    assert {node.attributes["data-at"] for node in graph.all("g", "node")} <= ids
    edges = {path.one("title").text: path.attributes for path in graph.all("path", "edge")}
    assert list(edges) == [  # the heaviest on top, those without weight left out
        "dream 2, step 1 (down) → dream 1, step 1 (right): learned_5, weight 0.40",
        "dream 1, step 1 (right) → dream 2, step 1 (down): sibling, weight 0.60",
    ]
    sibling = edges["dream 1, step 1 (right) → dream 2, step 1 (down): sibling, weight 0.60"]
    assert (sibling["data-s"], sibling["data-t"], sibling["data-k"], sibling["data-w"]) == ("0", "1", "sibling", "0.60")
    assert "e-learned1" in edges["dream 2, step 1 (down) → dream 1, step 1 (right): learned_5, weight 0.40"]["class"]


def test_one_node_of_a_graph_is_reached_by_tab():
    assert [node.attributes["tabindex"] for node in card(question()).all("g", "node")] == ["0", "-1"]


def test_text_from_data_is_escaped():
    bad = '"><script>alert(1)</script>&amp;'
    dreams = [[triplet(action=bad)], [triplet()]]
    shown = question(dreams, WRONG, question=bad, answer=bad, right=bad, part=bad)
    page = card(shown)
    assert page.all("script") == []
    assert page.words().count(bad) >= 5
    assert page.one("details").attributes["data-part"] == bad


def test_tags_escape_children_and_attributes():
    assert tag("a", "<&>", title='"<') == '<a title="&quot;&lt;">&lt;&amp;&gt;</a>'
    assert (
        tag("p", tag("b", "x"), None, ["<", tag("i")], hidden=True, open=False) == "<p hidden><b>x</b>&lt;<i></i></p>"
    )


def test_a_picture_is_embedded_once_and_pixel_for_pixel():
    sprites = Sprites()
    first, again, other = (sprites.name(picture(*v)) for v in ((1, 2), (1, 2), (2, 1)))
    assert first == again != other
    images = parsed(sprites.definitions()).all("image")
    assert [image.attributes["id"] for image in images] == [first, other]
    data = base64.b64decode(images[0].attributes["href"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), picture(1, 2))


def test_pictures_of_other_shapes_are_others():
    sprites = Sprites()
    assert sprites.name(np.zeros((2, 8, 3), np.uint8)) != sprites.name(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("colours", [4, 0])
def test_colours_are_reduced_where_asked(colours):
    noise = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    sprites = Sprites(colours)
    sprites.name(noise)
    data = parsed(sprites.definitions()).one("image").attributes["href"].partition(",")[2]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == (colours or 1024)
