"""Drawing on a PIL canvas, shared by the film strip and the animation: type, colours, framed pictures, GIF palette.

Only PIL's built-in typeface is used, so nothing need be installed. It covers ASCII and few other characters;
what it lacks is drawn as an empty box.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

PAPER: Colour = (255, 255, 255)
INK: Colour = (31, 35, 40)
MUTED: Colour = (89, 96, 105)
LINE: Colour = (208, 215, 222)
GOOD: Colour = (26, 127, 55)
BAD: Colour = (207, 34, 46)
FOCUS: Colour = (9, 105, 218)
FOCUS_TINT: Colour = (234, 244, 255)
LABEL_SIZE = 13
"""Type size in pixels of labels and captions."""
BORDER = 3
"""Width in pixels of the border around a picture, drawn outside of it."""
TARGET_SIDE, LARGEST_SIDE = 128, 192
"""Small frames are enlarged until the longer side would exceed the first; larger than the second are reduced."""
PATCH_TOLERANCE = 16.0
"""Root mean squared difference (of 255) up to which two patches look alike.

A trained codec redraws a patch with an error of 4 to 15; FrozenLake's two most similar tiles are 28 apart.
"""


@functools.lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """PIL's built-in typeface at ``size`` pixels."""
    face = ImageFont.load_default(size=size)
    assert isinstance(face, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return face


def text_width(text: str, size: int) -> int:
    """Pixels that ``text`` takes, rounded up."""
    return int(np.ceil(font(size).getlength(text))) + 1


def elide(text: str, size: int, width: int) -> str:
    """``text``, or as much of its beginning as fits into ``width`` pixels with "..." at the end."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def wrap(text: str, size: int, width: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words; a word longer than a line is broken inside."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if text_width(joined, size) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def line_height(size: int) -> int:
    """Distance in pixels between two lines of running text."""
    return round(size * 1.4)


def write(
    draw: ImageDraw.ImageDraw,
    xy: tuple[float, float],
    text: str,
    size: int,
    colour: Colour = INK,
    anchor: str = "la",
    bold: bool = False,
) -> None:
    """Draw one line of text; ``anchor`` as in PIL. The typeface has one weight: bold is a fine outline."""
    draw.text(xy, text, font=font(size), fill=colour, anchor=anchor, stroke_width=0.25 if bold else 0)


def paragraphs(parts: Sequence[tuple[str, str, int, bool]], width: int, margin: int, indent: int) -> Image.Image:
    """A block of (label, text, size, bold) paragraphs, ``margin`` pixels free on both sides.

    Labels stand in a column of their own, ``indent`` wide; the text beside them is wrapped.
    """
    wrapped = [wrap(text, size, width - 2 * margin - indent) for _, text, size, _ in parts]
    heights = [len(lines) * line_height(size) + 4 for lines, (_, _, size, _) in zip(wrapped, parts, strict=True)]
    block = Image.new("RGB", (width, sum(heights)), PAPER)
    draw, top = ImageDraw.Draw(block), 0
    for (label, _, size, bold), lines, height in zip(parts, wrapped, heights, strict=True):
        write(draw, (margin, top + size), label, LABEL_SIZE, MUTED, "ls")
        for number, text in enumerate(lines):
            write(draw, (margin + indent, top + size + number * line_height(size)), text, size, INK, "ls", bold)
        top += height
    return block


def shown_size(frame: np.ndarray) -> tuple[int, int]:
    """(width, height) in which a frame (H, W, 3) is drawn: a whole multiple, unless it is very large."""
    height, width = frame.shape[:2]
    longest = max(height, width)
    if longest > LARGEST_SIDE:
        return max(1, width * LARGEST_SIDE // longest), max(1, height * LARGEST_SIDE // longest)
    scale = max(1, TARGET_SIDE // longest)
    return width * scale, height * scale


def differing_patches(first: np.ndarray, second: np.ndarray, patch_size: int) -> list[tuple[int, int]]:
    """(row, column) of every patch in which two pictures (H, W, 3) visibly differ; edge patches may be smaller."""
    if first.shape != second.shape:
        raise ValueError(f"the dreamed frame {first.shape} and the true frame {second.shape} must have one shape")
    rows, columns = range(0, first.shape[0], patch_size), range(0, first.shape[1], patch_size)
    squared = (first.astype(np.float64) - second) ** 2
    return [
        (i, j)
        for i, y in enumerate(rows)
        for j, x in enumerate(columns)
        if squared[y : y + patch_size, x : x + patch_size].mean() > PATCH_TOLERANCE**2
    ]


def draw_frame(
    canvas: Image.Image,
    frame: np.ndarray,
    xy: tuple[int, int],
    border: Colour = LINE,
    outlined: Sequence[tuple[int, int]] = (),
    patch_size: int = 1,
) -> None:
    """Put ``frame`` at ``xy``: the border is drawn outside of it, a red outline inside each of ``outlined`` patches."""
    draw = ImageDraw.Draw(canvas)
    size = shown_size(frame)
    enlarged = size[0] >= frame.shape[1]
    picture = Image.fromarray(frame).resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)
    x, y = xy
    thickness = 1 if border == LINE else BORDER
    draw.rectangle(
        (x - thickness, y - thickness, x + size[0] + thickness - 1, y + size[1] + thickness - 1), fill=border
    )
    canvas.paste(picture, xy)
    scale = size[0] / frame.shape[1]
    for row, column in outlined:
        left, top = x + round(column * patch_size * scale), y + round(row * patch_size * scale)
        right = min(x + round((column + 1) * patch_size * scale), x + size[0]) - 1
        bottom = min(y + round((row + 1) * patch_size * scale), y + size[1]) - 1
        draw.rectangle((left, top, right, bottom), outline=BAD, width=2)


def draw_arrow(draw: ImageDraw.ImageDraw, left: int, right: int, y: int) -> None:
    """An arrow from ``left`` to ``right`` at height ``y``."""
    draw.line((left, y, right - 6, y), fill=MUTED, width=2)
    draw.polygon([(right, y), (right - 8, y - 5), (right - 8, y + 5)], fill=MUTED)


def draw_equality(draw: ImageDraw.ImageDraw, x: int, y: int, equal: bool) -> None:
    """An equals sign around (x, y), struck through unless ``equal``: colour alone would not reach everyone."""
    colour = GOOD if equal else BAD
    for offset in (-3, 2):
        draw.line((x - 6, y + offset, x + 6, y + offset), fill=colour, width=2)
    if not equal:
        draw.line((x - 4, y + 7, x + 4, y - 8), fill=colour, width=2)


def with_shared_palette(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Reduce pictures of one size to one palette of 256 colours, so that a GIF does not flicker.

    The colours of this module are in it as they are: a thin outline is too few pixels to be given one otherwise.
    """
    fixed = (PAPER, INK, MUTED, LINE, GOOD, BAD, FOCUS, FOCUS_TINT)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width, height * len(pictures)))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (0, index * height))
    found = sheet.quantize(256 - len(fixed), method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette()
    assert found is not None
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for colour in fixed for channel in colour] + found)
    return [_exact(picture, picture.quantize(palette=palette, dither=Image.Dither.NONE), fixed) for picture in pictures]


def _exact(picture: Image.Image, reduced: Image.Image, fixed: Sequence[Colour]) -> Image.Image:
    """Give pixels that have one of the ``fixed`` colours that very colour: PIL looks colours up in coarse bins."""
    pixels, indices = np.asarray(picture), np.array(reduced)
    for index, colour in enumerate(fixed):
        indices[(pixels == colour).all(axis=-1)] = index
    reduced.frombytes(indices.tobytes())
    return reduced
