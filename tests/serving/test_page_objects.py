"""The physics editor in a real browser, before an untrained model: what is placed is what is dreamed about."""

import base64
import io
import json

import numpy as np
import pytest
from browser import CHROMIUM
from page import ANSWERED, ASK, CONTRAST, NAMELESS, fresh, hosted
from PIL import Image

from dreamrl.config import WorldConfig
from dreamrl.generate import verdict_text
from dreamrl.serving.service import Service
from envs.world import Outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]
RED, BLUE = "ball red 0 1", "block blue 4 4"
SCENE = {
    "size": 6,
    "objects": [
        {"kind": "ball", "colour": "red", "row": 0, "column": 1},
        {"kind": "block", "colour": "blue", "row": 4, "column": 4},
    ],
}


@pytest.fixture(scope="module")
def physics(make_loaded):
    """A small untrained model of the physics world that dreams on for several steps."""
    loaded = make_loaded(world=WorldConfig(name="physics"))
    loaded.model.requires_grad_(False)
    loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 2.0
    return loaded


@pytest.fixture(scope="module")
def address(physics):
    with hosted(Service(physics, "untrained")) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """The page with ``SCENE`` in the editor, given as JSON."""
    fresh(browser, address)
    browser.run("document.querySelector('details').open = true")
    browser.run(f"document.querySelector('.options').value = {json.dumps(json.dumps(SCENE))}")
    browser.run("document.querySelector('details button').click()")
    holds(browser, RED, BLUE)
    yield browser
    assert [problem for problem in browser.problems if "400" not in json.dumps(problem)] == []
    browser.problems.clear()


def holds(page, *things):
    """Wait until the scene holds exactly these things: kind, colour or slope, row and column."""
    words = "[one.kind, one.colour ?? one.slope, one.row, one.column].filter((w) => w !== undefined).join(' ')"
    shown = f"JSON.parse(document.querySelector('.options').value).objects.map((one) => {words}).sort().join()"
    page.wait(f"{shown} === {json.dumps(','.join(sorted(things)))} && !document.querySelector('[aria-busy]')")


def place(row, column):
    return f"document.querySelector('.lattice [aria-label^=\"row {row}, column {column:g}:\"]')"


def choose(page, tool):
    page.run(
        f"{{ const s = document.querySelector('#editor select'); s.value = '{tool}'; "
        "s.dispatchEvent(new Event('change')) }"
    )


def label(page, script):
    return page.run(f"{script}.getAttribute('aria-label')").partition(": ")[2]


def test_things_are_placed_moved_and_removed_by_mouse(page):
    assert label(page, place(0, 1)) == "red ball" and label(page, place(2, 2)) == "nothing"
    choose(page, "platform")
    page.mouse(place(3, 3))
    holds(page, RED, BLUE, "platform 3 3")
    choose(page, "ball green")
    page.mouse(place(3, 3))  # a ball stands on a platform
    holds(page, RED, BLUE, "platform 3 3", "ball green 3 3")
    choose(page, "block green")
    page.mouse(place(2, 5))  # another green thing takes its name
    holds(page, RED, BLUE, "platform 3 3", "block green 2 5")
    choose(page, "move")
    page.mouse(place(4, 4))
    assert label(page, place(4, 4)) == "blue block, taken up"
    page.mouse(place(2, 4))
    holds(page, RED, "block blue 2 4", "platform 3 3", "block green 2 5")
    page.mouse(place(0, 1), place(0, 0.5))  # in one go
    holds(page, "ball red 0 0.5", "block blue 2 4", "platform 3 3", "block green 2 5")
    choose(page, "remove")
    page.mouse(place(3, 3))  # one after the other, however long the server takes
    page.mouse(place(1, 1))  # nothing is there
    page.mouse(place(2, 5))
    holds(page, "ball red 0 0.5", "block blue 2 4")
    assert page.run(NAMELESS) == []


def test_the_keyboard_is_enough(page):
    page.run(f"{place(0, 0)}.focus()")
    for key in ["ArrowRight"] * 2:
        page.press(key)
    page.press("Enter", "\r")
    assert label(page, place(0, 1)) == "red ball, taken up"
    page.press("Escape")
    assert label(page, place(0, 1)) == "red ball"
    page.press("Enter", "\r")
    for key in ["ArrowRight"] * 2:
        page.press(key)
    page.press("Enter", "\r")
    holds(page, "ball red 0 2", BLUE)
    assert page.run("document.activeElement.getAttribute('aria-label')") == "row 0, column 2: red ball"
    page.run(f"{place(4, 4)}.focus()")
    page.press("Delete")
    holds(page, "ball red 0 2")
    assert page.run("document.querySelectorAll('.lattice [tabindex=\"0\"]').length") == 1


@pytest.mark.parametrize(
    ("tool", "where", "reason"),
    [
        ("remove", (0, 1), "0 balls are in row 0; exactly one must be there"),
        ("ball green", (2, 3), "green ball at row 2, column 3 hangs in the air"),
        ("ball red", (0, 1.5), "the red ball's fall hangs on less than a pixel"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(page, tool, where, reason):
    choose(page, tool)
    page.mouse(place(*where))
    page.wait("document.querySelector('#editor .fault').textContent !== ''")
    assert page.run("document.querySelector('#editor .fault').textContent").startswith(reason)
    holds(page, RED, BLUE)
    page.run("document.querySelector('.options').value = '[1'")
    page.run("document.querySelector('details button').click()")
    assert "no JSON object" in page.run("document.querySelector('#editor .fault').textContent")


def test_the_edited_scene_is_dreamed_about_and_the_simulator_says_what_is_true(page, physics):
    choose(page, "platform")
    page.mouse(place(3, 4))
    holds(page, RED, BLUE, "platform 3 4")
    page.run("document.getElementById('truth').click()")
    page.run(ASK)
    page.wait(ANSWERED)
    options = json.loads(page.run("document.querySelector('.options').value"))
    scene = physics.world.scene(options)
    question = physics.world.interpret(page.run("document.querySelector('.asked').textContent"), scene)
    verdict = physics.world.verify(question, page.run("document.querySelector('.said').textContent"))
    assert verdict_text(verdict) in page.run("document.querySelector('.badge').textContent")
    assert page.run("document.querySelectorAll('.strip').length") == 3
    steps = page.run(
        "[...document.querySelectorAll('.strip')].map((row) => [...row.querySelectorAll('.step')].map("
        "(step) => [step.getAttribute('aria-label'), step.parentElement.querySelector('.true-picture').src]))"
    )
    assert sum(map(len, steps)) > 3
    for dream in steps:
        state = scene.start
        for words, picture in dream:
            state, _ = scene.step(state, physics.world.actions.index(words.partition(": ")[2].partition(",")[0]))
            seen = np.array(Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))))
            assert np.array_equal(seen, scene.frame(state))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_in_both_themes_and_on_a_phone(page, theme):
    page.look(1400, theme=theme)
    assert page.run(CONTRAST) == []
    page.look(360, theme=theme)
    assert page.run("document.documentElement.scrollWidth") == 360
    choose(page, "platform")
    page.mouse(place(3, 4))  # a place is where it is seen, however small the picture
    holds(page, RED, BLUE, "platform 3 4")
