"""Small data sets in the formats of COCO and Visual Genome, with pictures whose every pixel is known.

``...`` as a changed value leaves the field out.
"""

import json

import numpy as np
from PIL import Image

from envs.questions import stream
from envs.world import Split
from envs.worlds.scene_graphs import SceneGraph

COLOURS = {
    "man": (200, 40, 40),
    "dog": (240, 160, 30),
    "car": (40, 60, 200),
    "tree": (30, 140, 50),
    "house": (150, 90, 200),
    "street": (90, 90, 90),
    "hat": (240, 240, 60),
    "jeans": (60, 200, 220),
}
GROUND = (225, 225, 215)
PREDICATES = ("next to", "ON", "wears", "is behind a", "riding", "has")
CELL = 80
"""Things fill whole cells of 80 pixels, 2x2 patches of the 8x6 that an image of 320x240 is scaled to."""


def image_of(things, width=320, height=240):
    """uint8 (height, width, 3): the ``things``, (name, x, y, w, h), painted in turn."""
    pixels = np.full((height, width, 3), GROUND, np.uint8)
    for name, x, y, w, h in things:
        pixels[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = COLOURS[name]
    return pixels


def write_image(path, pixels):
    """A JPEG of the best quality, made with its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=100, subsampling=0)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


INFO = {
    "info": {
        "description": "fixture",
        "url": "",
        "version": "1.0",
        "year": 2017,
        "contributor": "",
        "date_created": "",
    },
    "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}],
}
DOG, CAR = 18, 3
CATEGORIES = [
    {"supercategory": "vehicle", "id": CAR, "name": "car"},
    {"supercategory": "animal", "id": DOG, "name": "dog"},
]
RUN_LENGTHS = {"counts": [272, 2, 4, 4, 4, 4, 76524], "size": [240, 320]}
POLYGON = [[80.0, 60.0, 239.0, 60.0, 239.0, 139.0, 80.0, 139.0]]


def image_entry(number, **changes):
    entry = {
        "license": 4,
        "file_name": f"{number:012}.jpg",
        "coco_url": f"http://images.cocodataset.org/val2017/{number:012}.jpg",
        "height": 240,
        "width": 320,
        "date_captured": "2013-11-14 17:02:52",
        "flickr_url": "",
        "id": number,
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def caption(number, image, text="A dog and a car.", **changes):
    return {key: v for key, v in {"image_id": image, "id": number, "caption": text, **changes}.items() if v is not ...}


def instance(number, image, category=DOG, bbox=(80, 60, 160, 80), **changes):
    entry = {
        "segmentation": POLYGON,
        "area": 12800.0,
        "iscrowd": 0,
        "image_id": image,
        "bbox": bbox,
        "category_id": category,
        "id": number,
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not ...}


def captions_file(tmp_path, entries, images=None):
    images = [image_entry(n) for n in range(1, 13)] if images is None else images
    return write_json(tmp_path / "captions_val.json", {**INFO, "images": images, "annotations": entries})


def instances_file(tmp_path, entries, images=None):
    images = [image_entry(n) for n in range(1, 13)] if images is None else images
    # the published files have the categories last
    content = {**INFO, "images": images, "annotations": entries, "categories": CATEGORIES}
    return write_json(tmp_path / "instances_val.json", content)


def write_images(tmp_path):
    """Twelve images: a dog from (80, 60) to (240, 140), 2 pixels wider in each; and a car."""
    for number in range(1, 13):
        things = [("dog", 80, 60, 158 + 2 * number, 80), ("car", 0, 180, 40, 60)]
        write_image(tmp_path / "val" / f"{number:012}.jpg", image_of(things))
    return tmp_path / "val"


class GenomeFiles:
    """A directory like Visual Genome's, filled image by image."""

    def __init__(self, root):
        self.root = root
        self.image_data, self.relationships, self.attributes = [], [], []
        self.ids = iter(range(1_000_000, 2_000_000))

    def thing(self, name, x, y, w, h, several_names=False):
        named = {"names": [name, "thing"], "merged_object_ids": [7]} if several_names else {"name": name}
        return {**named, "object_id": next(self.ids), "synsets": [f"{name}.n.01"], "x": x, "y": y, "w": w, "h": h}

    def add(self, number, things, relations, directory="VG_100K", width=320, height=240):
        """An image with ``things``, label -> (name, x, y, w, h), and ``relations``, (label, predicate, label)."""
        write_image(self.root / directory / f"{number}.jpg", image_of(things.values(), width, height))
        url = f"https://cs.stanford.edu/people/rak248/{directory}/{number}.jpg"
        self.image_data.append(
            {"image_id": number, "url": url, "width": width, "height": height, "coco_id": None, "flickr_id": None}
        )
        listed = []
        for index, (subject, predicate, target) in enumerate(relations):
            listed.append(
                {
                    "relationship_id": next(self.ids),
                    "predicate": predicate,
                    "synsets": ["along.r.01"],
                    "subject": self.thing(*things[subject]),
                    "object": self.thing(*things[target], several_names=index % 2 == 1),
                }
            )
        self.relationships.append({"image_id": number, "relationships": listed})
        found = [{**self.thing(*t, several_names=True), "attributes": ["Plain", "big "]} for t in things.values()]
        self.attributes.append({"image_id": number, "attributes": found})
        return listed

    def write(self):
        write_json(self.root / "image_data.json", self.image_data)
        write_json(self.root / "relationships.json", self.relationships)
        write_json(self.root / "attributes.json", self.attributes)
        return self.root


def random_graph(rng):
    """Things in cells of their own, label -> (name, x, y, w, h), and relations between them."""
    count = int(rng.integers(3, 8))
    cells = rng.choice(12, count, replace=False).tolist()
    names = rng.choice(list(COLOURS), count).tolist()
    things = {
        str(i): (n, c % 4 * CELL, c // 4 * CELL, CELL, CELL) for i, (n, c) in enumerate(zip(names, cells, strict=True))
    }
    pairs = [rng.choice(count, 2, replace=False) for _ in range(10)]
    return things, [(str(a), PREDICATES[rng.integers(len(PREDICATES))], str(b)) for a, b in pairs]


def small_world(tmp_path, things, relations, **options):
    """A world of one image, and its scene."""
    files = GenomeFiles(tmp_path)
    files.add(1, things, relations)
    world = SceneGraph(files.write(), **options)
    return world, world.scene({"image_id": 1})


def drawn(world, count, split=Split.TRAIN, length=8):
    """``count`` questions about relations, each about another scene of ``split``."""
    for index in range(count):
        rng = stream(21, index)
        yield world.draw(world.sample_scene(rng, split, 8), True, length, rng)
