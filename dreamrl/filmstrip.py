"""Dreams as pictures: a film strip (one row a dream) and an animation, beside what the simulator says.

Under each imagined frame stands the true one. A green border and "=" mean that the simulator agrees; a red
border and a struck "=" that it does not, with every patch that differs outlined in red in both frames. What
the model computed with (codes, probabilities, expert weights) is left out: a strip shows only what a person
can check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dreamrl import drawing
from dreamrl.drawing import BAD, FOCUS, FOCUS_TINT, GOOD, INK, LINE, MUTED, PAPER, Colour, text_width, write
from dreamrl.types import Dream, Triplet

BELIEF_WORDS = {
    "continue": "is still going",
    "success": "reaches the goal",
    "failure": "fails",
    "stop": "did what was asked",
}
BELIEF_COLOURS: dict[str, Colour] = {"continue": MUTED, "success": GOOD, "failure": BAD, "stop": INK}
BELIEF_INTRO = "believes that it"
FOCUS_TEXT = "answer read here"
LEGEND = (
    (GOOD, "the simulator agrees"),
    (BAD, "the simulator differs; patches that differ are outlined"),
)

MARGIN = 28
PADDING = 16
"""Free pixels around the content of a row or column."""
BETWEEN = 26
"""Pixels between an imagined frame and the true one under it; holds the equals sign."""
TITLE, BODY, SMALL = 19, 16, drawing.LABEL_SIZE
"""Type sizes in pixels."""
INDENT = 71
"""Width of the column that holds the labels question, answer and verdict."""
SMALLEST_WIDTH = 620
LONGEST_ACTION = 150
"""Pixels after which an action's name is cut short."""
STEP_MS, HOLD_MS = 700, 3500
DREAMS_ABREAST = 8
"""Columns of the animation; further dreams go underneath."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes in pixels that every row of a strip, or column of an animation, shares."""

    cell: tuple[int, int]
    """Width and height in which a frame is drawn."""
    label: int
    """Width of the column of labels."""
    arrow: int
    """Width between two frames; the widest action fits above its arrow."""
    truth: bool
    """Whether any true frame is known, so that there is a second line of frames."""

    @classmethod
    def of(cls, dreams: Sequence[Dream]) -> Layout:
        """The layout in which all of ``dreams`` fit; at least one."""
        if not dreams:
            raise ValueError("dreams ([]) must hold at least one dream")
        sizes = [drawing.shown_size(frame) for dream in dreams for frame in _frames(dream)]
        labels = [f"dream {len(dreams)}", FOCUS_TEXT]
        actions = [text_width(action, SMALL) for dream in dreams for action in dream.actions]
        return cls(
            cell=(max(w for w, _ in sizes), max(h for _, h in sizes)),
            label=max(text_width(text, BODY) for text in labels) + PADDING,
            arrow=max(52, min(LONGEST_ACTION, max(actions)) + 28),
            truth=any(t.true_result is not None for dream in dreams for t in dream.triplets),
        )

    @property
    def height(self) -> int:
        """Height of the frames of a dream, imagined and true, padding included; never too low for the labels."""
        tall = max(self.cell[1], 40)
        return 2 * PADDING + (2 * tall + BETWEEN if self.truth else tall)

    @property
    def true_line(self) -> int:
        """Distance from the top of an imagined frame to that of the true one."""
        return max(self.cell[1], 40) + BETWEEN

    @property
    def column(self) -> int:
        """Width of a dream in an animation."""
        texts = (*BELIEF_WORDS.values(), FOCUS_TEXT)
        return max(self.cell[0], self.arrow, *(text_width(text, SMALL) for text in texts)) + 2 * PADDING

    def frame_x(self, step: int) -> int:
        """Left end of frame ``step`` of a row; 0 is the picture that was asked about."""
        return MARGIN + self.label + step * (self.cell[0] + self.arrow)


def filmstrip(
    dreams: Sequence[Dream], question: str, answer: str, verdict: str | None, *, patch_size: int = 16
) -> Image.Image:
    """One row per dream: the picture asked about, then an arrow and the imagined result for each step.

    Args:
        dreams: at least one; their frames uint8 (H, W, 3).
        question: what was asked.
        answer: what was answered.
        verdict: what the simulator says of the answer; None leaves it out.
        patch_size: side in pixels of the patches that are compared.

    Returns:
        an RGB picture; its size depends on the dreams.
    """
    layout = Layout.of(dreams)
    belief_width = max(text_width(text, BODY) for text in (*BELIEF_WORDS.values(), BELIEF_INTRO))
    longest = max(len(dream.triplets) for dream in dreams)
    width = layout.frame_x(longest) + layout.cell[0] + PADDING + belief_width + MARGIN
    width = max(width, SMALLEST_WIDTH)
    header, footer = _header(question, width, layout.truth), _footer(answer, verdict, width)
    captions = drawing.line_height(SMALL) + PADDING // 2
    height = header.height + captions + layout.height * len(dreams) + footer.height
    canvas = Image.new("RGB", (width, height), PAPER)
    canvas.paste(header, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for step in range(longest + 1):
        x = layout.frame_x(step) + layout.cell[0] / 2
        write(draw, (x, header.height), "start" if step == 0 else f"step {step}", SMALL, MUTED, "ma")
    for row, dream in enumerate(dreams):
        _draw_row(canvas, dream, row, header.height + captions + row * layout.height, layout, patch_size)
    canvas.paste(footer, (0, height - footer.height))
    return canvas


def animate(
    dreams: Sequence[Dream],
    question: str,
    answer: str,
    verdict: str | None,
    path: Path,
    *,
    patch_size: int = 16,
) -> None:
    """Write a GIF in which all dreams advance side by side, a step per 700 ms; the answer shows at the end.

    A dream that has ended keeps its last picture. Arguments as in :func:`filmstrip`.
    """
    layout = Layout.of(dreams)
    abreast = min(DREAMS_ABREAST, len(dreams))
    width = max(2 * MARGIN + abreast * layout.column, SMALLEST_WIDTH)
    header, footer = _header(question, width, layout.truth), _footer(answer, verdict, width)
    above, below = 3 * drawing.line_height(SMALL), drawing.line_height(SMALL) + PADDING
    row = layout.height + above + below
    rows = -(-len(dreams) // abreast)
    size = (width, header.height + rows * row + footer.height)
    longest = max(len(dream.triplets) for dream in dreams)
    pictures = []
    for step in range(longest + 1):
        canvas = Image.new("RGB", size, PAPER)
        canvas.paste(header, (0, 0))
        draw = ImageDraw.Draw(canvas)
        clock = "start" if step == 0 else f"step {step} of {longest}"
        write(draw, (width - MARGIN, MARGIN // 2), clock, SMALL, MUTED, "ra")
        for index, dream in enumerate(dreams):
            x = MARGIN + (index % abreast) * layout.column
            y = header.height + (index // abreast) * row
            _draw_column(canvas, dream, index, step, (x, y, layout.column, row), layout, patch_size)
        if step == longest:
            canvas.paste(footer, (0, size[1] - footer.height))
        pictures.append(canvas)
    first, *rest = drawing.with_shared_palette(pictures)
    first.save(path, save_all=True, append_images=rest, duration=[STEP_MS] * longest + [HOLD_MS], loop=0)


def save_png(image: Image.Image, path: Path) -> None:
    """Write ``image`` as PNG."""
    image.save(path, format="PNG", optimize=True)


def _frames(dream: Dream) -> list[np.ndarray]:
    return [dream.triplets[0].what, *(triplet.result for triplet in dream.triplets)]


def _compare(triplet: Triplet, patch_size: int) -> tuple[bool, list[tuple[int, int]]] | None:
    """Whether the simulator agrees, and the patches that differ; None when it was not asked.

    A picture that visibly differs is never called faithful, whatever the record says.
    """
    if triplet.true_result is None:
        return None
    wrong = drawing.differing_patches(triplet.result, triplet.true_result, patch_size)
    return triplet.faithful is not False and not wrong, wrong


def _draw_pair(canvas: Image.Image, triplet: Triplet, xy: tuple[int, int], layout: Layout, patch_size: int) -> None:
    """The imagined result at ``xy`` and the true one under it, with the verdict between them."""
    x, y = xy
    compared = _compare(triplet, patch_size)
    if compared is None or triplet.true_result is None:
        drawing.draw_frame(canvas, triplet.result, xy)
        return
    agrees, wrong = compared
    drawing.draw_frame(canvas, triplet.result, xy, GOOD if agrees else BAD, wrong, patch_size)
    drawing.draw_frame(canvas, triplet.true_result, (x, y + layout.true_line), LINE, wrong, patch_size)
    middle = y + layout.true_line - BETWEEN // 2
    drawing.draw_equality(ImageDraw.Draw(canvas), x + layout.cell[0] // 2, middle, agrees)


def _draw_row(canvas: Image.Image, dream: Dream, row: int, top: int, layout: Layout, patch_size: int) -> None:
    """Draw one dream of a strip, ``top`` pixels down."""
    draw = ImageDraw.Draw(canvas)
    if dream.focus:
        draw.rectangle((0, top + 1, canvas.width, top + layout.height - 1), fill=FOCUS_TINT)
        draw.rectangle((0, top + 1, 5, top + layout.height - 1), fill=FOCUS)
    draw.line((0, top, canvas.width, top), fill=LINE)
    y, (width, height) = top + PADDING, layout.cell
    middle = y + height // 2
    if dream.focus:
        write(draw, (MARGIN, middle - 2), f"dream {row + 1}", BODY, bold=True, anchor="ls")
        write(draw, (MARGIN, middle + 3), FOCUS_TEXT, SMALL, FOCUS, "la")
    else:
        write(draw, (MARGIN, middle), f"dream {row + 1}", BODY, bold=True, anchor="lm")
    if layout.truth:
        write(draw, (MARGIN, middle + layout.true_line), "simulator", SMALL, MUTED, "lm")
    drawing.draw_frame(canvas, dream.triplets[0].what, (layout.frame_x(0), y))
    for step, triplet in enumerate(dream.triplets, start=1):
        x = layout.frame_x(step)
        action = drawing.elide(triplet.action, SMALL, LONGEST_ACTION)
        write(draw, (x - layout.arrow / 2, middle - 7), action, SMALL, INK, "ms")
        drawing.draw_arrow(draw, x - layout.arrow + 10, x - 10, middle)
        _draw_pair(canvas, triplet, (x, y), layout, patch_size)
    x = layout.frame_x(len(dream.triplets)) + width + PADDING
    write(draw, (x, middle - 4), BELIEF_INTRO, SMALL, MUTED, "ls")
    write(draw, (x, middle + 1), BELIEF_WORDS[dream.belief], BODY, BELIEF_COLOURS[dream.belief], "la", bold=True)


def _draw_column(
    canvas: Image.Image,
    dream: Dream,
    index: int,
    step: int,
    box: tuple[int, int, int, int],
    layout: Layout,
    patch_size: int,
) -> None:
    """Draw one dream of an animation as it is after ``step`` steps, in ``box`` (x, y, width, height)."""
    draw = ImageDraw.Draw(canvas)
    left, top, width, height = box
    if dream.focus:
        draw.rounded_rectangle((left + 3, top, left + width - 4, top + height - 8), 8, FOCUS_TINT, FOCUS)
    centre, line = left + width / 2, drawing.line_height(SMALL)
    write(draw, (centre, top + 8), f"dream {index + 1}", BODY, anchor="ma", bold=True)
    if dream.focus:
        write(draw, (centre, top + 8 + line), FOCUS_TEXT, SMALL, FOCUS, "ma")
    y = top + 2 * line
    x = int(centre) - layout.cell[0] // 2
    taken = min(step, len(dream.triplets))
    caption = drawing.elide(dream.actions[taken - 1], SMALL, LONGEST_ACTION) if taken else "start"
    write(draw, (centre, y + 8), caption, SMALL, INK if taken else MUTED, "ma")
    y += line + PADDING
    if taken:
        _draw_pair(canvas, dream.triplets[taken - 1], (x, y), layout, patch_size)
    else:
        drawing.draw_frame(canvas, dream.triplets[0].what, (x, y))
    if taken == len(dream.triplets):
        y = top + 3 * line + layout.height
        write(draw, (centre, y - 6), BELIEF_WORDS[dream.belief], SMALL, BELIEF_COLOURS[dream.belief], "ma", bold=True)


def _header(question: str, width: int, truth: bool) -> Image.Image:
    """The question, and what the colours mean."""
    text = drawing.paragraphs([("question", question, TITLE, True)], width, MARGIN, INDENT)
    legend = drawing.line_height(SMALL) + PADDING if truth else 0
    block = Image.new("RGB", (width, MARGIN + PADDING // 2 + text.height + legend + PADDING), PAPER)
    block.paste(text, (0, MARGIN + PADDING // 2))
    draw, x = ImageDraw.Draw(block), MARGIN
    if truth:
        middle = MARGIN + PADDING // 2 + text.height + legend // 2
        for colour, meaning in LEGEND:
            draw.rectangle((x, middle - 6, x + 11, middle + 5), outline=colour, width=drawing.BORDER)
            write(draw, (x + 19, middle), meaning, SMALL, MUTED, "lm")
            x += 19 + text_width(meaning, SMALL) + 2 * PADDING
    return block


def _footer(answer: str, verdict: str | None, width: int) -> Image.Image:
    """The answer, and the simulator's verdict if there is one."""
    parts = [("answer", answer, BODY, True)]
    if verdict is not None:
        parts.append(("verdict", verdict, BODY, False))
    text = drawing.paragraphs(parts, width, MARGIN, INDENT)
    block = Image.new("RGB", (width, text.height + PADDING + MARGIN), PAPER)
    ImageDraw.Draw(block).line((0, 0, width, 0), fill=LINE)
    block.paste(text, (0, PADDING))
    return block
