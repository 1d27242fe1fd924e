"""Pictures of a page, each embedded once however often it is shown: dreams of one question are much alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dreamrl.pictures import data_url
from dreamrl.report.markup import Markup, tag

FULL_COLOURS = 0
"""Stands for pictures as they are."""


class Sprites:
    """Pictures that are defined once in the page and drawn by reference.

    Args:
        colours: largest number of colours of a picture; ``FULL_COLOURS`` keeps it as it is.
    """

    def __init__(self, colours: int = FULL_COLOURS):
        """See the class."""
        self.colours = colours
        self._names: dict[tuple[tuple[int, ...], bytes], str] = {}
        self._defined: list[Markup] = []

    def show(
        self,
        frame: np.ndarray,
        label: str,
        wrong: Sequence[tuple[int, int]] = (),
        patch: int = 1,
        style: str = "",
        hidden: bool = False,
    ) -> Markup:
        """A picture in its place.

        Args:
            frame: uint8 (H, W, 3).
            label: what it shows, for those who do not see it.
            wrong: (row, column) of patches to outline.
            patch: their side in pixels.
            style: further classes.
            hidden: it repeats a picture that is described elsewhere.
        """
        height, width = frame.shape[:2]
        outlines = [
            tag(
                "rect",
                x=column * patch + 0.75,
                y=row * patch + 0.75,
                width=min(patch, width - column * patch) - 1.5,
                height=min(patch, height - row * patch) - 1.5,
                class_="differs",
            )
            for row, column in wrong
        ]
        told = {"aria_hidden": "true"} if hidden else {"role": "img", "aria_label": label}
        drawn = tag("use", href=f"#{self.name(frame)}")
        return tag("svg", drawn, outlines, viewBox=f"0 0 {width} {height}", class_=f"frame {style}".strip(), **told)

    def name(self, frame: np.ndarray) -> str:
        """The id under which ``frame`` is defined."""
        key = (frame.shape, frame.tobytes())
        if key not in self._names:
            self._names[key] = f"p{len(self._names)}"
            height, width = frame.shape[:2]
            self._defined.append(
                tag(
                    "image",
                    id=self._names[key],
                    width=width,
                    height=height,
                    href=data_url(self._image(frame), smallest=True),
                    style="image-rendering:pixelated",
                )
            )
        return self._names[key]

    def definitions(self, *further: Markup) -> Markup:
        """All pictures and ``further`` things to refer to, to be put into the page once."""
        return tag("svg", tag("defs", self._defined, further), width=0, height=0, class_="sprites", aria_hidden="true")

    def _image(self, frame: np.ndarray) -> Image.Image:
        image = Image.fromarray(frame)
        if not self.colours:
            return image
        return image.quantize(self.colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
