"""What all annotated image sets share: going through the images one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from envs.annotations.fields import Entry
from envs.annotations.pictures import PictureSize, content_hash, decode, read_file
from envs.annotations.records import ImageInfo
from envs.annotations.report import BadRecord, Report
from envs.scene import Split, split_of

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Source:
    """One image with its annotations, as far as they are known before it is opened."""

    image: ImageInfo
    path: Path
    entry: Entry
    """Where the file is named, for messages."""
    field: str
    annotations: Sequence[Any]

    def open(self, split: Split | None = None) -> tuple[Split, Image.Image] | None:
        """The image and its split; None, without decoding it, where it is not of ``split``."""
        data = read_file(self.path, self.entry, self.field)
        found = split_of(content_hash(data))
        if split is not None and found is not split:
            return None
        return found, decode(data, self.path, self.image, self.entry, self.field)


class ImageSet(ABC, Generic[RecordT]):
    """Records of annotated images, streamed: one image is open at a time, each once.

    ``report`` says what was used and what was not, and why.
    """

    def __init__(self, size: PictureSize, skip_bad: bool):
        """Args: ``size`` of the pictures in the records; ``skip_bad`` counts bad records instead of raising."""
        self.size = size
        self.report = Report(skip_bad=skip_bad)

    @abstractmethod
    def sources(self) -> Iterator[Source]:
        """The images in the order of the files, with their good annotations."""

    @abstractmethod
    def build(self, source: Source, image: Image.Image, split: Split) -> Iterator[RecordT]:
        """The records of one image."""

    def records(self, split: Split | None = None) -> Iterator[RecordT]:
        """All records, or those of ``split``, in the same order every time.

        Raises:
            BadRecord: at the first bad record, unless bad ones are skipped.
        """
        self.report.begin_pass()
        for source in self.sources():
            if not source.annotations:
                continue
            try:
                opened = source.open(split)
            except BadRecord as error:
                self.report.note(error, len(source.annotations))
                continue
            if opened is None:
                continue
            found, image = opened
            for record in self.build(source, image, found):
                self.report.used += 1
                yield record

    def __iter__(self) -> Iterator[RecordT]:
        """All records."""
        return self.records()
