"""Annotated images as records: COCO captions and instances, Visual Genome relationships and attributes.

The files are read in the formats in which their authors publish them. Annotation files are parsed once and piece by
piece, images are opened one at a time, the order is that of the files, and the split of a record is decided by the
bytes of its image file alone. Left out: segmentations (regions are boxes here), key points, region descriptions and
questions, and downloading anything.

Example:
    ``for record in CocoCaptions("captions_val2017.json", "val2017").records(Split.TRAIN): ...``
"""

from envs.annotations.coco import CocoCaptions, CocoInstances
from envs.annotations.pictures import PictureSize
from envs.annotations.records import Box, Caption, Look, Triplet
from envs.annotations.report import BadRecord, Report
from envs.annotations.visual_genome import VisualGenomeAttributes, VisualGenomeRelationships

__all__ = [
    "BadRecord",
    "Box",
    "Caption",
    "CocoCaptions",
    "CocoInstances",
    "Look",
    "PictureSize",
    "Report",
    "Triplet",
    "VisualGenomeAttributes",
    "VisualGenomeRelationships",
]
