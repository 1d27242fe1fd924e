"""Results in notebooks: everything is shown, nothing is run."""

import html.parser

import pytest

from dreamrl.generate import generate
from dreamrl.notebook import Result

PLAN = "Find the shortest safe path to the gift."
BOARD = {"desc": ["SFFF", "FFHF", "FFFF", "FHFG"]}


class Page(html.parser.HTMLParser):
    """Tags and text of a page whose tags all close."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def result(loaded):
    return Result(generate(loaded, PLAN, scene=BOARD, num_dreams=2, output_mode="both"))


def test_answer_dreams_and_graph_are_shown(result):
    page = Page(result._repr_html_())
    assert (
        result["text"] in page.words and PLAN in page.words and f"confidence {result['confidence']:.2f}" in page.words
    )
    steps = sum(len(dream.triplets) for dream in result["dreams"])
    false = sum(t.faithful is False for dream in result["dreams"] for t in dream.triplets)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 1 + 1 + 2 + steps + false  # answer, graph, first pictures, steps, what is true instead
    assert all(p["src"].startswith("data:image/png;base64,") and p["alt"] for p in pictures)


def test_a_result_is_still_the_dict_that_it_was(result):
    assert isinstance(result, dict) and result["output"]["text"] == result["text"]
    without = Result({k: v for k, v in result.items() if k != "dreams"})
    assert result["text"] in Page(without._repr_html_()).words


def test_what_a_prompt_says_is_text_and_no_markup(result):
    evil = Result(result | {"question": "<script>alert(1)</script>", "warnings": ["<b>"], "text": '"><img src=x>'})
    page = Page(evil._repr_html_())
    assert "<script>alert(1)</script>" in page.words and "script" not in [tag for tag, _ in page.tags]
    assert [a for tag, a in page.tags if tag == "img" and not a["src"].startswith("data:")] == []
