"""The page in a real browser: draw a board, watch dreams, edit one; with the keyboard, in the dark, on a phone."""

import pytest
from browser import CHROMIUM
from page import ANSWERED, ASK, CONTRAST, NAMELESS, fresh, hosted

from dreamrl.saving import load_pretrained
from dreamrl.serving.service import Service
from dreamrl.shipped import model_directory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]
DESC = """[...document.querySelectorAll('.board button')].map(cell =>
    ({start: 'S', ice: 'F', hole: 'H', gift: 'G'})[cell.getAttribute('aria-label').split(': ')[1]]).join('')"""


@pytest.fixture(scope="module")
def address():
    """The application around the shipped model."""
    with hosted(Service(load_pretrained(model_directory("frozen-lake")), "frozen-lake")) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """The page anew, in a browser that all tests share."""
    fresh(browser, address)
    yield browser
    assert browser.problems == []


def select(page, row, column):
    page.run(f"document.querySelectorAll('.board button')[{row} * 4 + {column}].click()")


def press_tool(page, number):
    page.run(f"document.querySelectorAll('.tools button')[{number}].click()")


def four_by_four(page):
    """A board of ice with the start in the first cell and the gift in the last."""
    page.run("""for (const n of [0, 1]) {
        const field = document.querySelectorAll('.size input')[n];
        field.value = 4; field.dispatchEvent(new Event('change')); }""")
    press_tool(page, 1)
    select(page, 0, 0)
    press_tool(page, 2)
    select(page, 3, 3)
    press_tool(page, 0)
    for index, letter in enumerate(page.run(DESC)):
        if letter == "H":
            select(page, index // 4, index % 4)
    assert page.run(DESC) == "SFFFFFFFFFFFFFFG"


def test_a_board_is_drawn_dreamed_about_and_a_dream_edited(page):
    four_by_four(page)
    select(page, 1, 1)
    assert page.run(DESC) == "SFFFFHFFFFFFFFFG"
    page.run(ASK)
    page.wait(ANSWERED)
    assert page.run("document.querySelector('.badge').className") == "badge good"
    said = page.run("document.querySelector('.said').textContent")
    assert sorted(said.replace(",", " ").replace("then", " ").split()) == ["down"] * 3 + ["right"] * 3
    assert page.run("document.querySelectorAll('.strip').length") == 4
    assert page.run("document.querySelectorAll('.strip.focus').length") == 1
    steps = page.run("document.querySelectorAll('.step').length")
    assert steps == page.run("document.querySelectorAll('.dream-graph .node').length") > 6
    page.run("document.querySelector('.strip.focus .step').click()")
    page.wait("document.getElementById('edit').open")
    page.run("document.querySelector('#edit button[value=apply]').click()")
    page.wait("document.querySelector('.edited') !== null")
    assert page.run("document.querySelector('.said').textContent") != said
    assert "it was read from them" in page.run("document.querySelector('.edited').textContent")
    page.run("document.querySelector('.edited button').click()")
    assert page.run("document.querySelector('.said').textContent") == said


def test_a_board_without_a_way_is_told_before_anything_is_sent(page):
    four_by_four(page)
    for row, column in ((0, 1), (1, 0)):
        select(page, row, column)
    assert "No path leads" in page.run("document.querySelector('.fault').textContent")
    page.run(ASK)
    assert "No path leads" in page.run("document.getElementById('status').textContent")
    assert page.run("document.querySelector('.working') === null")


def test_a_new_seed_shows_another_scene(page):
    page.run("document.querySelector('.board').id = 'old'")
    page.run(
        "{ const seed = document.getElementById('seed'); seed.value = 8; seed.dispatchEvent(new Event('change')) }"
    )
    page.wait("document.querySelector('.board') && !document.querySelector('#old')")
    first = page.run(DESC)
    page.run(ASK)
    page.wait(ANSWERED)
    assert page.run(DESC) == first and "S" in first and "G" in first


def test_the_keyboard_is_enough(page):
    page.run("document.querySelector('.board button').focus()")
    page.press("ArrowRight")
    assert page.run("document.activeElement.getAttribute('aria-label')").startswith("row 1, column 2")
    page.run("document.getElementById('prompt').focus()")
    page.press("Enter", "\r")
    page.wait(ANSWERED)
    page.run("document.querySelector('.dream-graph .node').focus()")
    page.press("Enter", "\r")
    page.wait("document.getElementById('edit').open")
    page.press("Escape")
    page.wait("!document.getElementById('edit').open")
    assert page.run(NAMELESS) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read_in_both_themes_and_on_a_phone(page, theme):
    page.look(1400, theme=theme)
    page.run(ASK)
    page.wait(ANSWERED)
    page.run("new Promise((done) => setTimeout(done, 600))")
    assert page.run(CONTRAST) == []
    page.look(360, theme=theme)
    assert page.run("document.documentElement.scrollWidth") == 360


def test_a_picture_is_uploaded_and_scaled(page):
    page.run("""(async () => {
      const canvas = document.createElement('canvas'); canvas.width = canvas.height = 256;
      const scene = await (await fetch('/v1/scene', {method: 'POST', headers: {'Content-Type': 'application/json'},
        body: JSON.stringify({options: {desc: ['SFFF', 'FHFF', 'FFFF', 'FFFG']}})})).json();
      const image = new Image(); image.src = scene.picture; await image.decode();
      const pen = canvas.getContext('2d'); pen.imageSmoothingEnabled = false; pen.drawImage(image, 0, 0, 256, 256);
      const file = new File([await new Promise((done) => canvas.toBlob(done))], 'board.png', {type: 'image/png'});
      const transfer = new DataTransfer(); transfer.items.add(file);
      const field = document.getElementById('file'); field.files = transfer.files;
      field.dispatchEvent(new Event('change'));
      document.getElementById('tab-picture').click();
    })()""")
    page.wait("!document.getElementById('upload-view').hidden")
    for name in "xy":
        page.run(
            f"{{ const f = document.getElementById('cells-{name}'); f.value = 4; f.dispatchEvent(new Event('input')) }}"
        )
    page.run(ASK)
    page.wait(ANSWERED)
    assert "nothing here to check it with" in page.run("document.querySelector('.badge').textContent")
    assert page.run("document.querySelector('.arrows') !== null")
