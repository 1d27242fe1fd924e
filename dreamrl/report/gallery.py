"""One question of a report: its dreams as filmstrips over the simulator's pictures, its graph, rewards, verdict."""

from __future__ import annotations

from collections.abc import Sequence

from dreamrl.filmstrip import BELIEF_WORDS
from dreamrl.report.chart import COLOURS
from dreamrl.report.graph_svg import graph_svg
from dreamrl.report.markup import Markup, joined, table, tag
from dreamrl.report.questions import REASONS, Places, Shown
from dreamrl.report.sprites import Sprites
from dreamrl.types import Dream, Triplet

TOLD_EXPERTS = 2
"""Experts whose weight stands in letters under a step; the bar shows all."""


def question_card(shown: Shown, place: str, sprites: Sprites, unfolded: bool) -> Markup:
    """A question as a part of the page that can be folded away.

    Args:
        shown: the question.
        place: its id in the page.
        sprites: where its pictures go.
        unfolded: whether it is open at first.
    """
    first = shown.dreams[0].triplets[0].what
    exact = shown.verdict.exact
    flags = [] if exact else ["wrong"]
    flags += ["false"] if shown.false_pictures else []
    head = tag(
        "summary",
        sprites.show(first, "", style="thumb", hidden=True),
        tag("span", "✓" if exact else "✗", class_="mark", aria_hidden="true"),
        tag("span", tag("strong", shown.question), tag("span", _outcome(shown), class_="said"), class_="asked"),
        tag("span", _confidence(shown.confidence), _chips(shown), class_="facts"),
    )
    return tag(
        "details",
        head,
        tag("div", answer_block(shown, place, sprites), class_="body"),
        id=place,
        open=unfolded,
        class_=f"question {'right' if exact else 'wrong'}",
        data_flags=" ".join(flags) or None,
        data_part=part_of(shown),
    )


def part_of(shown: Shown) -> str:
    """The part of the world that a question is about, by which questions are filtered."""
    return shown.part or f"size {shown.size}"


def size_words(shown: Shown) -> str:
    """The picture's grid, such as 3x4."""
    return shown.size if "x" in shown.size else f"{shown.size}x{shown.size}"


def answer_block(shown: Shown, place: str, sprites: Sprites) -> Markup:
    """Everything about one model's answer: facts, strips, graph, rewards."""
    facts = [
        ("answer", tag("b", shown.answer or "(nothing)")),
        ("verdict", tag("span", shown.verdict_words, class_="good" if shown.verdict.exact else "bad")),
        ("a right answer", shown.right if not shown.verdict.exact and shown.right else None),
        ("why", REASONS[shown.reason] if shown.reason else None),
    ]
    listed = [tag("div", tag("dt", name), tag("dd", text)) for name, text in facts if text]
    strips = [strip(dream, n, shown, place, sprites) for n, dream in enumerate(shown.dreams)]
    panel = tag(
        "div", tag("p", "Point at a step to see its triplet and what it heard.", class_="muted"), class_="panel"
    )
    return tag(
        "div",
        tag("dl", listed, class_="facts"),
        tag("div", strips, class_="strips"),
        tag(
            "div",
            tag("section", tag("h4", "Dream graph"), graph_svg(shown.graph, shown.dreams, place, sprites)),
            tag("section", panel, tag("h4", "Rewards"), _rewards(shown)),
            class_="beside",
        ),
        class_="answer",
    )


def strip(dream: Dream, number: int, shown: Shown, place: str, sprites: Sprites) -> Markup:
    """A dream from left to right: each imagined picture over the simulator's, its experts under them."""
    name = f"dream {number + 1}"
    belief = BELIEF_WORDS[dream.belief]
    label = tag(
        "div",
        tag("strong", name),
        tag("span", "answer read here", class_="badge") if dream.focus else None,
        tag("span", "believes it ", tag("b", belief, class_=f"b-{dream.belief}"), class_="muted"),
        class_="label",
    )
    start = tag(
        "div",
        tag("span", "start", class_="act"),
        sprites.show(dream.triplets[0].what, f"{name}: the picture that was asked about"),
        tag("span", "simulator", class_="row-name"),
        class_="step start",
    )
    steps = [
        _step(
            triplet, wrong, f"{name}, step {s + 1}: {triplet.action}", f"{place}-d{number}-s{s}", shown.patch, sprites
        )
        for s, (triplet, wrong) in enumerate(zip(dream.triplets, shown.differs[number], strict=True))
    ]
    row = tag(
        "div", start, steps, class_="film", tabindex="0", role="group", aria_label=f"{name}: {', '.join(dream.actions)}"
    )
    return tag("div", label, row, class_="strip read" if dream.focus else "strip")


def _step(triplet: Triplet, wrong: Places, name: str, place: str, patch: int, sprites: Sprites) -> Markup:
    """A triplet: the arrow with its action, the dreamed result, the simulator's, and the experts' weights."""
    assert triplet.true_result is not None, "held-out questions have a simulator"
    many = f"{len(wrong)} patch{'es differ' if len(wrong) > 1 else ' differs'}"
    verdict, sign, told = ("bad", "≠", f", {many}") if wrong else ("good", "=", " as in the simulator")
    return tag(
        "div",
        tag("span", triplet.action, class_="act"),
        sprites.show(triplet.result, f"{name}, dreamed result{told}", wrong, patch, verdict),
        tag("span", sign, class_=f"sign {verdict}", title=many if wrong else None),
        sprites.show(triplet.true_result, f"{name}, true result", wrong, patch, "true"),
        expert_bar(triplet.experts),
        id=place,
        class_="step",
    )


def expert_bar(weights: Sequence[float]) -> Markup:
    """The experts' shares in one step as a bar, with the largest ones in letters."""
    used = [(weight, index) for index, weight in enumerate(weights) if weight >= 0.005]
    told = ", ".join(f"expert {index} {weight:.2f}" for weight, index in used)
    parts = [tag("i", class_=f"f{index % COLOURS}", style=f"flex:{weight:.3f}") for weight, index in used]
    most = sorted(used, reverse=True)[:TOLD_EXPERTS]
    letters = " ".join(f"e{index} {weight:.2f}".replace(" 0.", " .") for weight, index in most)
    bar = tag("span", parts, class_="bar", role="img", aria_label=told, title=told)
    return joined(bar, tag("span", letters, class_="tiny", aria_hidden="true"))


def _rewards(shown: Shown) -> Markup:
    names = list(shown.rewards[0])
    rows = []
    for n, parts in enumerate(shown.rewards):
        read = tag("span", "read", class_="badge") if shown.dreams[n].focus else None
        cells = [
            tag("span", f"{parts[k]:.2f}", class_="bad" if k == "faithfulness" and parts[k] < 1 else None)
            for k in names
        ]
        rows.append([joined(f"dream {n + 1} ", read), *cells, f"{shown.dreams[n].value:.2f}"])
    return table(["", *names, "expected"], rows)


def _outcome(shown: Shown) -> str:
    return f"answered: {shown.answer or '(nothing)'}"


def _confidence(value: float) -> Markup:
    bar = tag("span", tag("i", style=f"width:{100 * value:.0f}%"), class_="meter", aria_hidden="true")
    return tag("span", "confidence ", tag("b", f"{value:.2f}"), bar, class_="sure")


def _chips(shown: Shown) -> list[Markup]:
    words = [shown.part] if shown.part else []
    words.append(size_words(shown))
    if shown.false_pictures:
        words.append(f"{shown.false_pictures} false picture{'s' if shown.false_pictures > 1 else ''}")
    words.append(f"no. {shown.number + 1}")
    return [tag("span", word, class_="chip") for word in words]
