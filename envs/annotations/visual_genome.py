"""Visual Genome's relationships and attributes (https://homes.cs.washington.edu/~ranjay/visualgenome) as records.

Read as published in versions 1.0 to 1.4, which differ in names: an object has ``name`` or ``names`` (or
``object_names``), an id is called ``image_id``, ``object_id``, ``relationship_id`` or just ``id``, and ``synsets``,
``merged_object_ids`` and an object's ``attributes`` may be missing. A directory is laid out as the archives unpack::

    image_data.json   relationships.json   attributes.json   VG_100K/2.jpg ...   VG_100K_2/1.jpg ...

A box may stick out of its image and is then clipped; known to be bad are boxes far outside or without area, empty
predicates and four image files that cannot be decoded.

The result of a triplet is by default the region around subject *and* object: a predicate such as "riding" can be seen
only where both are, so nothing else lets a model tell the action from "what" and "result". ``result="object"`` gives
the object alone, which makes the action a shift of attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from envs.annotations.fields import Entry, numbered
from envs.annotations.image_set import ImageSet, RecordT, Source
from envs.annotations.json_stream import json_items
from envs.annotations.pictures import PictureSize, crop, letterbox
from envs.annotations.records import Box, Caption, ImageInfo, Triplet
from envs.annotations.report import BadRecord
from envs.scene import Split, WorldError

IMAGE_DIRECTORIES = ("VG_100K", "VG_100K_2", ".")
"""Where under the root an image ID.jpg may lie."""


class Relation(NamedTuple):
    """One relationship, checked: names and predicate in small letters, boxes inside of the image."""

    id: int
    subject: str
    subject_box: Box
    predicate: str
    object: str
    object_box: Box


class Attributes(NamedTuple):
    """What is said of one object."""

    id: int
    name: str
    words: tuple[str, ...]
    box: Box


class VisualGenomeFile(ImageSet[RecordT]):
    """One annotation file beside ``image_data.json``, parsed anew, an image at a time, in every pass."""

    file_name: str
    section: str
    kind: str
    """What one annotation is called in messages."""

    def __init__(self, root: Path | str, *, size: PictureSize | None = None, skip_bad: bool = False):
        """Read ``image_data.json``.

        Args:
            root: directory that the archives were unpacked in.
            size: of the pictures in the records, 64 pixels and patches of 16 by default.
            skip_bad: count bad records in ``report`` instead of raising the first one's error.

        Raises:
            WorldError: a file cannot be read.
            BadRecord: an entry is wrong, unless bad ones are skipped.
        """
        super().__init__(size or PictureSize(), skip_bad)
        self.root = Path(root)
        self.file = self.root / self.file_name
        if not self.file.is_file():
            raise WorldError(f"{self.file} is missing; unpack {self.file_name}.zip of Visual Genome there")
        self.images: dict[int, ImageInfo] = {}
        image_data = self.root / "image_data.json"
        for index, value in self._entries(image_data):
            try:
                entry = numbered(image_data, "image", index, value, "image_id", "id")
                number = entry.whole("image_id", "id")
                self._once(entry, number, self.images)
                width, height = entry.whole("width", least=1), entry.whole("height", least=1)
                self.images[number] = ImageInfo(number, width, height, f"{number}.jpg")
            except BadRecord as error:
                self.report.note(error)

    def _entries(self, file: Path) -> Iterator[tuple[int, object]]:
        for item in json_items(file):
            if item.section:
                raise WorldError(f"{file} must be a list, one entry for each image; it is an object")
            if item.index >= 0:
                yield item.index, item.value

    def _once(self, entry: Entry, number: int, known: dict[int, ImageInfo] | set[int]) -> None:
        if number in known:
            raise entry.bad("image_id", "is used twice", reason="duplicate id", fix="delete one of the records")

    def sources(self) -> Iterator[Source]:
        """See :meth:`ImageSet.sources`."""
        seen: set[int] = set()
        for index, value in self._entries(self.file):
            listed = []
            try:
                entry = numbered(self.file, "image", index, value, "image_id", "id")
                number = entry.whole("image_id", "id")
                listed = entry.list(self.section)
                self._once(entry, number, seen)
                seen.add(number)
                if number not in self.images:
                    fix = "take both files from the same version"
                    problem = "is not in image_data.json"
                    raise entry.bad("image_id", problem, reason="unknown image", fix=fix)
            except BadRecord as error:
                self.report.note(error, max(1, len(listed)))
                continue
            yield self.source(self.images[number], self._annotations(entry, listed, self.images[number]))

    def source(self, image: ImageInfo, annotations: list) -> Source:
        """The file of ``image`` with these ``annotations``."""
        paths = [self.root / directory / image.file_name for directory in IMAGE_DIRECTORIES]
        path = next((p for p in paths if p.is_file()), paths[0])
        return Source(image, path, Entry(self.file, f"image {image.id}", {}), "image_id", annotations)

    def _annotations(self, image_entry: Entry, listed: list, image: ImageInfo) -> list:
        kept, seen = [], set()
        for index, value in enumerate(listed):
            try:
                ids = (f"{self.kind}_id", "id")
                name = f"{image_entry.name}, {self.kind}"
                entry = numbered(self.file, name, index, value, *ids)
                number = entry.whole(*ids)
                if number in seen:
                    fix = "delete one of the records"
                    raise entry.bad(ids[0], "is used twice", reason="duplicate id", fix=fix)
                seen.add(number)
                found = self.annotation(entry, number, image)
                if found is not None:
                    kept.append(found)
            except BadRecord as error:
                self.report.note(error)
        return kept

    def annotation(self, entry: Entry, number: int, image: ImageInfo) -> NamedTuple | None:
        """One annotation, checked; None to leave it out."""
        raise NotImplementedError


def object_name(entry: Entry) -> str:
    """The name of an object, the first where it has several."""
    if "name" in entry.values:
        return entry.text("name").lower()
    names = entry.list("names", "object_names")
    if not names:
        raise entry.bad("names", "is empty", reason="empty text", fix="name the object or delete the record")
    return Entry(entry.file, entry.name, {"names": names[0]}).text("names").lower()


class VisualGenomeRelationships(VisualGenomeFile[Triplet]):
    """``relationships.json`` as triplets.

    Example:
        ``next(VisualGenomeRelationships("visual_genome").records()).action`` is such as "on".
    """

    file_name, section, kind = "relationships.json", "relationships", "relationship"

    def __init__(
        self,
        root: Path | str,
        *,
        result: Literal["union", "object"] = "union",
        size: PictureSize | None = None,
        skip_bad: bool = False,
    ):
        """See :class:`VisualGenomeFile`; ``result`` says what a triplet's result shows."""
        if result not in ("union", "object"):
            raise WorldError(f'result ("{result}") must be "union" or "object"')
        super().__init__(root, size=size, skip_bad=skip_bad)
        self.result = result

    def annotation(self, entry: Entry, number: int, image: ImageInfo) -> Relation:
        """See :meth:`VisualGenomeFile.annotation`."""
        predicate = entry.text("predicate").lower()
        subject, target = entry.inner("subject"), entry.inner("object")
        return Relation(
            number,
            object_name(subject),
            subject.fit("x, y, w, h", subject.xywh(), image),
            predicate,
            object_name(target),
            target.fit("x, y, w, h", target.xywh(), image),
        )

    def build(self, source: Source, image: Image.Image, split: Split) -> Iterator[Triplet]:
        """See :meth:`ImageSet.build`."""
        for kept in source.annotations:
            both = kept.subject_box.union(kept.object_box)
            shown = both if self.result == "union" else kept.object_box
            yield Triplet(
                what=letterbox(crop(image, kept.subject_box), self.size.side),
                action=kept.predicate,
                result=letterbox(crop(image, shown), self.size.side),
                subject=kept.subject,
                object=kept.object,
                image_id=source.image.id,
                record_id=kept.id,
                split=split,
            )


class VisualGenomeAttributes(VisualGenomeFile[Caption]):
    """``attributes.json`` as captions of regions; objects of which nothing is said are left out and counted.

    Example:
        ``next(VisualGenomeAttributes("visual_genome").records()).text`` is such as "green, tall clock".
    """

    file_name, section, kind = "attributes.json", "attributes", "object"

    def annotation(self, entry: Entry, number: int, image: ImageInfo) -> Attributes | None:
        """See :meth:`VisualGenomeFile.annotation`."""
        name = object_name(entry)
        if entry.values.get("attributes") in (None, []):
            self.report.leave_out("no attributes")
            return None
        words = tuple(word.lower() for word in entry.texts("attributes"))
        return Attributes(number, name, words, entry.fit("x, y, w, h", entry.xywh(), image))

    def build(self, source: Source, image: Image.Image, split: Split) -> Iterator[Caption]:
        """See :meth:`ImageSet.build`."""
        for kept in source.annotations:
            yield Caption(
                picture=letterbox(crop(image, kept.box), self.size.side),
                text=f"{', '.join(kept.words)} {kept.name}",
                image_id=source.image.id,
                record_id=kept.id,
                split=split,
            )
