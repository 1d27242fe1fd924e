import json

import numpy as np
import pytest
from annotated import COLOURS, GenomeFiles, image_of, write_image, write_json

from envs.annotations import (
    BadRecord,
    PictureSize,
    Triplet,
    VisualGenomeAttributes,
    VisualGenomeRelationships,
)
from envs.annotations.pictures import content_hash
from envs.scene import Split, WorldError, split_of

THINGS = {
    "man": ("man", 40, 80, 40, 80),
    "hat": ("hat", 40, 40, 40, 40),
    "car": ("car", 160, 120, 120, 60),
}
RELATIONS = [("man", "wears", "hat"), ("man", "NEXT  to ", "car"), ("hat", "ON", "man")]


@pytest.fixture
def files(tmp_path):
    """Twelve images in the two directories, each a little wider."""
    genome = GenomeFiles(tmp_path / "vg")
    for number in range(1, 13):
        genome.add(number, THINGS, RELATIONS, "VG_100K_2" if number % 3 else "VG_100K", width=300 + 10 * number)
    return genome


def near(pixels, colour, tolerance=12):
    return (np.abs(pixels.astype(int) - COLOURS[colour]) <= tolerance).all(-1)


def summary(record):
    return record.image_id, record.subject, record.action, record.object


def test_relations_become_triplets_in_the_order_of_the_file(files):
    found = VisualGenomeRelationships(files.write())
    records = list(found)
    expected = [("man", "wears", "hat"), ("man", "next to", "car"), ("hat", "on", "man")]
    assert [summary(r) for r in records] == [(n, *words) for n in range(1, 13) for words in expected]
    assert [r.record_id for r in records[:3]] == [r["relationship_id"] for r in files.relationships[0]["relationships"]]
    assert str(found.report) == "36 records used"
    wears = records[0]
    assert isinstance(wears, Triplet) and wears.what.shape == wears.result.shape == (64, 64, 3)
    assert near(wears.what[:, 17:47], "man").all() and (wears.what[:, :16] == 127).all()  # 40x80: half the width
    # hat above man: 40x120, so 21 pixels wide, a third of it hat
    assert near(wears.result[:20, 24:40], "hat").all() and near(wears.result[23:, 24:40], "man").all()


def test_the_result_is_the_object_alone_where_that_is_asked(files):
    record = next(VisualGenomeRelationships(files.write(), result="object").records())
    assert near(record.result, "hat").all()
    with pytest.raises(WorldError, match=r'result \("both"\) must be "union" or "object"'):
        VisualGenomeRelationships(files.root, result="both")  # pyright: ignore


def test_attributes_describe_crops(files):
    files.attributes[0]["attributes"][1].pop("attributes")
    files.attributes[1]["attributes"] = []
    found = VisualGenomeAttributes(files.write(), size=PictureSize(side=32, patch_size=8))
    records = list(found)
    assert [r.text for r in records[:3]] == ["plain, big man", "plain, big car", "plain, big man"]
    assert [r.image_id for r in records[:3]] == [1, 1, 3]
    assert records[0].picture.shape == (32, 32, 3) and near(records[0].picture[:, 9:23], "man").all()
    assert str(found.report) == "32 records used; 1 left out (1 no attributes)"


def test_splits_depend_on_the_bytes_of_the_image_alone(files):
    found = VisualGenomeRelationships(files.write())
    everything = [(r.image_id, r.record_id, r.split) for r in found]
    for number, _, split in everything:
        path = files.root / ("VG_100K_2" if number % 3 else "VG_100K") / f"{number}.jpg"
        assert split is split_of(content_hash(path.read_bytes()))
    for split in Split:
        part = [(r.image_id, r.record_id, r.split) for r in found.records(split)]
        assert part == [r for r in everything if r[2] is split]
    captions = {r.image_id: r.split for r in VisualGenomeAttributes(files.root)}
    assert captions == {number: split for number, _, split in everything}


def test_images_may_lie_in_the_root_and_files_may_be_of_version_1_0(tmp_path):
    """Older files call every id "id" and have other names; nothing but the essentials is there."""
    write_image(tmp_path / "7.jpg", image_of(THINGS.values()))
    man = {"id": 1, "x": 40, "y": 80, "w": 40, "h": 80}
    hat = {"id": 2, "name": "Hat", "x": 40, "y": 40, "w": 40, "h": 40}
    write_json(tmp_path / "image_data.json", [{"id": 7, "width": 320, "height": 240}])
    relation = {"id": 3, "predicate": "wears", "subject": {**man, "names": [" MAN", "x"]}, "object": hat}
    write_json(tmp_path / "relationships.json", [{"id": 7, "relationships": [relation]}])
    attribute = {**man, "object_names": ["man"], "attributes": ["tall"]}
    write_json(tmp_path / "attributes.json", [{"id": 7, "attributes": [attribute]}])
    (triplet,) = VisualGenomeRelationships(tmp_path)
    assert summary(triplet) == (7, "man", "wears", "hat") and triplet.record_id == 3
    (caption,) = VisualGenomeAttributes(tmp_path)
    assert caption.text == "tall man" and near(caption.picture[:, 17:47], "man").all()


def test_a_box_that_sticks_out_by_a_little_is_clipped(files):
    first = files.relationships[0]["relationships"][0]
    first["subject"] |= {"x": -20, "w": 60, "y": 80, "h": 80}  # a third outside: 40x80 from the left edge
    record = next(VisualGenomeRelationships(files.write()).records())
    assert not near(record.what, "man").any() and (record.what[:, :15] == 127).all()
    assert (record.what[:, 17:47] > 200).all()


DELETE = object()


def spoil(entry, path, value):
    *most, last = path.split(".")
    for key in most:
        entry = entry[key]
    if value is DELETE:
        del entry[last]
    else:
        entry[last] = value


@pytest.mark.parametrize(
    "path, value, problem, reason",
    [
        ("predicate", DELETE, '"predicate" is missing; add it', "missing field"),
        ("predicate", "", '"predicate" is empty', "empty text"),
        ("predicate", None, '"predicate" must be text; got None', "wrong type"),
        ("subject", DELETE, '"subject" is missing', "missing field"),
        ("subject", [1], "subject: must be an object in braces; got list", "wrong type"),
        ("object.name", DELETE, 'object: "names" is missing', "missing field"),
        ("object.name", 7, 'object: "name" must be text; got 7', "wrong type"),
        ("subject.w", 0, r'subject: "x, y, w, h" \[40, 80, 0, 80\] has no area', "box of no size"),
        ("subject.h", -3, "has no area", "box of no size"),
        ("object.y", -904, "lies mostly outside of image 2, 320x240 pixels", "box outside of the image"),
        ("object.x", "12", "object: \"x\" must be a finite number; got '12'", "wrong type"),
        ("object.x", DELETE, 'object: "x" is missing', "missing field"),
        ("relationship_id", DELETE, 'at place 1: "relationship_id" is missing', "missing field"),
        ("relationship_id", "7", '"relationship_id" must be a whole number', "wrong type"),
    ],
)
def test_a_bad_relationship_is_one_clear_line_or_counted(files, path, value, problem, reason):
    spoil(files.relationships[1]["relationships"][0], path, value)
    found = VisualGenomeRelationships(files.write())
    records = found.records()
    assert [next(records).image_id for _ in range(3)] == [1, 1, 1]
    with pytest.raises(BadRecord, match=f"relationships.json: image 2, relationship .*{problem}") as caught:
        next(records)
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
    found = VisualGenomeRelationships(files.root, skip_bad=True)
    for _ in range(2):
        assert len(list(found)) == 35
        assert str(found.report) == f"35 records used; 1 skipped (1 {reason})"


def test_names_that_are_empty(files):
    listed = files.relationships[1]["relationships"][1]
    for names in ([], [""], "hat"):
        listed["object"]["names"] = names
        with pytest.raises(BadRecord, match='object: "names" (is empty|must be a list)'):
            list(VisualGenomeRelationships(files.write()))


@pytest.mark.parametrize(
    "change, problem, skipped",
    [
        (lambda g: g.image_data.pop(1), '"image_id" is not in image_data.json; take both', {"unknown image": 3}),
        (lambda g: g.image_data.append(g.image_data[1]), "image 2: .*is used twice", {"duplicate id": 1}),
        (lambda g: g.relationships.append(g.relationships[1]), "image 2: .*is used twice", {"duplicate id": 3}),
        (
            lambda g: g.relationships[1]["relationships"].append(g.relationships[1]["relationships"][0]),
            'image 2, relationship .*"relationship_id" is used twice',
            {"duplicate id": 1},
        ),
        (
            lambda g: g.image_data[1].pop("height"),
            'image 2: "height" is missing',
            {"missing field": 1, "unknown image": 3},
        ),
        (lambda g: g.relationships[1].pop("relationships"), '"relationships" is missing', {"missing field": 1}),
        (lambda g: g.relationships[1].pop("image_id"), 'image at place 2: "image_id" is missing', {"missing field": 1}),
        (lambda g: g.relationships.insert(1, None), "image at place 2: must be an object", {"wrong type": 1}),
        (lambda g: (g.root / "VG_100K_2/2.jpg").unlink(), "2.jpg, which cannot be read", {"image file missing": 3}),
        (
            lambda g: (g.root / "VG_100K_2/2.jpg").write_bytes((g.root / "VG_100K_2/2.jpg").read_bytes()[:3000]),
            "2.jpg, which is broken",
            {"image file broken": 3},
        ),
    ],
)
def test_a_bad_image(files, change, problem, skipped):
    change(files)
    root = files.write()
    with pytest.raises(BadRecord, match=problem) as caught:
        list(VisualGenomeRelationships(root))
    assert "\n" not in str(caught.value)
    found = VisualGenomeRelationships(root, skip_bad=True)
    for _ in range(2):
        used = len(list(found))
        assert found.report.skipped == skipped and found.report.used == used
        assert used == 36 - (0 if "duplicate id" in skipped or "wrong type" in skipped else 3)


def test_bad_attributes(files):
    files.attributes[0]["attributes"][0]["attributes"] = ["big", None]
    files.attributes[0]["attributes"][1]["attributes"] = "big"
    files.attributes[0]["attributes"][2]["h"] = 0
    root = files.write()
    with pytest.raises(BadRecord, match='attributes.json: image 1, object .*"attributes" must be text; got None'):
        list(VisualGenomeAttributes(root))
    found = VisualGenomeAttributes(root, skip_bad=True)
    assert len(list(found)) == 33
    assert str(found.report) == "33 records used; 3 skipped (2 wrong type, 1 box of no size)"


def test_missing_and_broken_files(files, tmp_path):
    with pytest.raises(WorldError, match="relationships.json is missing; unpack relationships.json.zip"):
        VisualGenomeRelationships(tmp_path / "nowhere")
    root = files.write()
    text = (root / "relationships.json").read_text()
    (root / "relationships.json").write_text(text[: len(text) // 2])
    records = VisualGenomeRelationships(root, skip_bad=True).records()  # broken JSON is no bad record
    with pytest.raises(WorldError, match=rf"relationships.json is broken JSON .*\(character {len(text) // 2}\)"):
        list(records)
    (root / "relationships.json").write_text(json.dumps({"relationships": []}))
    with pytest.raises(WorldError, match="relationships.json must be a list, one entry for each image"):
        list(VisualGenomeRelationships(root))
    (root / "image_data.json").unlink()
    with pytest.raises(WorldError, match="image_data.json cannot be read: No such file"):
        VisualGenomeRelationships(root)
