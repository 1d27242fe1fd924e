"""The records that annotated images are turned into, one kind each, and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.scene import Split


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels from the top left corner; ``x + width`` is just outside of it.

    Example:
        ``Box(10, 20, 30, 40).union(Box(0, 50, 20, 30)) == Box(0, 20, 40, 60)``
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def area(self) -> float:
        """Square pixels; 0 where a side is not positive."""
        return max(0.0, self.width) * max(0.0, self.height)

    def union(self, other: Box) -> Box:
        """The smallest box around both."""
        left, top = min(self.x, other.x), min(self.y, other.y)
        right = max(self.x + self.width, other.x + other.width)
        bottom = max(self.y + self.height, other.y + other.height)
        return Box(left, top, right - left, bottom - top)

    def clipped(self, width: float, height: float) -> Box:
        """The part inside of an image of ``width`` x ``height`` pixels; of no area where there is none."""
        left, top = min(max(self.x, 0.0), width), min(max(self.y, 0.0), height)
        right = min(max(self.x + self.width, 0.0), width)
        bottom = min(max(self.y + self.height, 0.0), height)
        return Box(left, top, right - left, bottom - top)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an annotation file says of one image.

    Example:
        ``ImageInfo(397133, 640, 427, "000000397133.jpg")``
    """

    id: int
    width: int
    height: int
    file_name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Caption:
    """An image, or a region of one, and a text that describes it: a positive pair for contrastive training.

    Example:
        COCO: annotation 179 ``{"image_id": 397133, "caption": "A man cooks in a kitchen. "}`` gives
        ``Caption(picture=<the whole image>, text="A man cooks in a kitchen.", image_id=397133, record_id=179, ...)``.
        Visual Genome attributes: object 5 ``{"names": ["clock"], "attributes": ["green", "tall"], "x": 421, ...}``
        gives ``Caption(picture=<crop of the clock>, text="green, tall clock", image_id=1, record_id=5, ...)``.
    """

    picture: np.ndarray
    """uint8 (side, side, 3)."""
    text: str
    image_id: int
    record_id: int
    split: Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """An image, "look at the NAME", and the crop that this leads to.

    Example:
        COCO instances: annotation 82445 ``{"image_id": 397133, "category_id": 18, "bbox": [10, 20, 64, 32]}`` with
        category 18 ``{"name": "dog"}`` gives ``Look(what=<the whole image>, action="look at the dog",
        result=<crop of the box>, name="dog", image_id=397133, record_id=82445, ...)``.
    """

    what: np.ndarray
    """The whole image, uint8 (side, side, 3)."""
    action: str
    result: np.ndarray
    """The region, uint8 (side, side, 3)."""
    name: str
    """The category's name."""
    image_id: int
    record_id: int
    split: Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Triplet:
    """A relation (subject, predicate, object) as a triplet (what, action, result).

    Example:
        Visual Genome: relationship 15927 ``{"predicate": "ON", "subject": {"name": "shade", ...}, "object": {"names":
        ["street"], ...}}`` of image 1 gives ``Triplet(what=<crop of the shade>, action="on", result=<crop of shade
        and street together>, subject="shade", object="street", image_id=1, record_id=15927, ...)``.
    """

    what: np.ndarray
    """The subject's region, uint8 (side, side, 3)."""
    action: str
    """The predicate in small letters."""
    result: np.ndarray
    """The smallest region that holds both, or the object's alone, uint8 (side, side, 3)."""
    subject: str
    object: str
    image_id: int
    record_id: int
    split: Split
