"""COCO's caption and instance files (https://cocodataset.org/#format-data) as records.

``segmentation``, polygons or run lengths, is not read: a region is its ``bbox``. Crowds (``iscrowd`` 1, a box around
many) are left out and counted. Boxes that stick out of the image are clipped; train2017 has two of height 0, which
are bad records.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from PIL import Image

from envs.annotations.fields import Entry, numbered
from envs.annotations.image_set import ImageSet, RecordT, Source
from envs.annotations.json_stream import json_items
from envs.annotations.pictures import PictureSize, crop, letterbox
from envs.annotations.records import Box, Caption, ImageInfo, Look
from envs.annotations.report import BadRecord
from envs.scene import Split, WorldError


class CaptionEntry(NamedTuple):
    """What is kept of a caption until its image is opened."""

    id: int
    image_id: int
    text: str


class InstanceEntry(NamedTuple):
    """What is kept of an instance until its image is opened."""

    id: int
    image_id: int
    category_id: int
    box: Box


class CocoFile(ImageSet[RecordT]):
    """One COCO annotation file, parsed when the object is made.

    Images and annotations may stand in any order in the file, so what is needed of them is kept in memory: some
    200 bytes for an annotation.
    """

    sections: ClassVar[tuple[str, ...]] = ("images", "annotations")

    def __init__(self, annotations: Path | str, images: Path | str, *, size: PictureSize | None = None, skip_bad=False):
        """Read the file.

        Args:
            annotations: the JSON file.
            images: directory that the ``file_name`` of each image is relative to.
            size: of the pictures in the records, 64 pixels and patches of 16 by default.
            skip_bad: count bad records in ``report`` instead of raising the first one's error.

        Raises:
            WorldError: the file cannot be read or lacks a section.
            BadRecord: a record is wrong, unless bad ones are skipped.
        """
        super().__init__(size or PictureSize(), skip_bad)
        self.file, self.directory = Path(annotations), Path(images)
        self.images: dict[int, ImageInfo] = {}
        self.categories: dict[int, str] = {}
        self.annotations: dict[int, Any] = {}
        found = set()
        for item in json_items(self.file):
            found.add(item.section)
            if item.index >= 0 and item.section in self.sections:
                try:
                    self._keep(item.section, item.index, item.value)
                except BadRecord as error:
                    self.report.note(error)
        missing = [section for section in self.sections if section not in found]
        if missing:
            raise WorldError(f'{self.file} has no "{missing[0]}"; is it a COCO {type(self).__name__[4:].lower()} file?')
        self._group()

    def _keep(self, section: str, index: int, value: Any) -> None:
        entry = numbered(self.file, {"categories": "category"}.get(section, section[:-1]), index, value, "id")
        number = entry.whole("id")
        if number in getattr(self, section):
            raise entry.bad("id", "is used twice", reason="duplicate id", fix="delete one of the records")
        if section == "images":
            width, height = entry.whole("width", least=1), entry.whole("height", least=1)
            self.images[number] = ImageInfo(number, width, height, self._file_name(entry))
        elif section == "categories":
            self.categories[number] = entry.text("name")
        else:
            kept = self.annotation(entry)
            if kept is not None:
                self.annotations[number] = kept

    def _file_name(self, entry: Entry) -> str:
        name = entry.text("file_name")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            fix = "name a file inside of the image directory"
            raise entry.bad("file_name", f'"{name}" leads elsewhere', reason="file name", fix=fix)
        return name

    def annotation(self, entry: Entry) -> Any:
        """What to keep of an annotation; None to leave it out."""
        raise NotImplementedError

    def checked(self, entry: Entry, kept: Any, image: ImageInfo) -> Any:
        """``kept`` as it is used, now that images and categories are known."""
        return kept

    def _group(self) -> None:
        """Sort the annotations by image."""
        self.by_image: dict[int, list[Any]] = {number: [] for number in self.images}
        for kept in self.annotations.values():
            entry = Entry(self.file, f"annotation {kept.id}", {})
            try:
                if kept.image_id not in self.images:
                    fix = 'add the image to "images" or delete the annotation'
                    problem = f"{kept.image_id} is the id of no image"
                    raise entry.bad("image_id", problem, reason="unknown image", fix=fix)
                self.by_image[kept.image_id].append(self.checked(entry, kept, self.images[kept.image_id]))
            except BadRecord as error:
                self.report.note(error)
        self.annotations.clear()

    def sources(self) -> Iterator[Source]:
        """See :meth:`ImageSet.sources`."""
        for image in self.images.values():
            entry = Entry(self.file, f"image {image.id}", {})
            yield Source(image, self.directory / image.file_name, entry, "file_name", self.by_image[image.id])


class CocoCaptions(CocoFile[Caption]):
    """``captions_*.json``: every caption with its whole image.

    Example:
        ``next(CocoCaptions("captions_val2017.json", "val2017").records()).text`` is the first image's first caption.
    """

    def annotation(self, entry: Entry) -> CaptionEntry:
        """See :meth:`CocoFile.annotation`."""
        return CaptionEntry(entry.whole("id"), entry.whole("image_id"), entry.text("caption"))

    def build(self, source: Source, image: Image.Image, split: Split) -> Iterator[Caption]:
        """See :meth:`ImageSet.build`."""
        picture = letterbox(image, self.size.side)
        for kept in source.annotations:
            yield Caption(picture=picture, text=kept.text, image_id=kept.image_id, record_id=kept.id, split=split)


class CocoInstances(CocoFile[Look]):
    """``instances_*.json``: every object that is no crowd, as a look at it.

    Example:
        ``next(CocoInstances("instances_val2017.json", "val2017").records()).action`` is such as "look at the dog".
    """

    sections = ("images", "annotations", "categories")

    def annotation(self, entry: Entry) -> InstanceEntry | None:
        """See :meth:`CocoFile.annotation`."""
        kept = InstanceEntry(entry.whole("id"), entry.whole("image_id"), entry.whole("category_id"), entry.bbox())
        crowd = entry.whole("iscrowd")
        if crowd not in (0, 1):
            raise entry.bad("iscrowd", f"is {crowd}", reason="number out of range", fix="give 0 or 1")
        if crowd:
            self.report.leave_out("crowd")
            return None
        return kept

    def checked(self, entry: Entry, kept: InstanceEntry, image: ImageInfo) -> InstanceEntry:
        """See :meth:`CocoFile.checked`."""
        if kept.category_id not in self.categories:
            fix = 'add the category to "categories" or delete the annotation'
            problem = f"{kept.category_id} is the id of no category"
            raise entry.bad("category_id", problem, reason="unknown category", fix=fix)
        return kept._replace(box=entry.fit("bbox", kept.box, image))

    def build(self, source: Source, image: Image.Image, split: Split) -> Iterator[Look]:
        """See :meth:`ImageSet.build`."""
        whole = letterbox(image, self.size.side)
        for kept in source.annotations:
            name = self.categories[kept.category_id]
            yield Look(
                what=whole,
                action=f"look at the {name}",
                result=letterbox(crop(image, kept.box), self.size.side),
                name=name,
                image_id=kept.image_id,
                record_id=kept.id,
                split=split,
            )
