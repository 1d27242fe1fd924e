from collections import Counter

import pytest
from annotated import (
    INFO,
    caption,
    captions_file,
    image_entry,
    image_of,
    instance,
    instances_file,
    write_image,
    write_images,
    write_json,
)

from envs.annotations import BadRecord, CocoCaptions, CocoInstances
from envs.scene import WorldError


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path)


WRONG_CAPTIONS = {
    "wrong type": [caption(1, 1, None), caption(2, 1, 7), caption(3, 1, ["A dog."]), caption("4", 1), "a caption"],
    "empty text": [caption(1, 1, ""), caption(2, 1, " \n ")],
    "missing field": [caption(1, 1, caption=...), caption(2, ...), caption(..., 1), {}],
    "unknown image": [caption(1, 99)],
    "duplicate id": [caption(20, 1)],
}


@pytest.mark.parametrize("reason", WRONG_CAPTIONS)
def test_a_bad_caption_is_one_clear_line_or_counted(tmp_path, images, reason):
    good = [caption(20, 1), caption(21, 2)]
    for wrong in WRONG_CAPTIONS[reason]:
        file = captions_file(tmp_path, [*good, wrong])
        with pytest.raises(BadRecord) as caught:
            list(CocoCaptions(file, images))
        message = str(caught.value)
        assert message.startswith(f"{file}: annotation ") and "\n" not in message and ";" in message
        assert caught.value.reason == reason
    found = CocoCaptions(captions_file(tmp_path, [*good, *WRONG_CAPTIONS[reason]]), images, skip_bad=True)
    for _ in range(2):
        assert [r.record_id for r in found] == [20, 21]
        assert found.report.skipped == Counter({reason: len(WRONG_CAPTIONS[reason])})
    count = len(WRONG_CAPTIONS[reason])
    assert str(found.report) == f"2 records used; {count} skipped ({count} {reason})"


@pytest.mark.parametrize(
    "wrong, problem",
    [
        (caption(5, 1, None), 'annotation 5: "caption" must be text; got None'),
        (caption(5, 1, caption=...), r'annotation 5: "caption" is missing; add it \(there is id, image_id\)'),
        (caption(5, 77), 'annotation 5: "image_id" 77 is the id of no image; add the image to "images"'),
        (caption(5, True), 'annotation 5: "image_id" must be a whole number; got True'),
        ([5], "annotation at place 1: must be an object in braces; got list"),
    ],
)
def test_messages_name_the_record_the_field_and_the_fix(tmp_path, images, wrong, problem):
    with pytest.raises(BadRecord, match=problem):
        CocoCaptions(captions_file(tmp_path, [wrong]), images)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"bbox": [1, 2, 3]}, r'"bbox" must be four numbers, \[x, y, width, height\]; got \[1, 2, 3\]'),
        ({"bbox": [1, 2, "3", 4]}, "\"bbox\" must be a finite number; got '3'"),
        ({"bbox": [1, 2, float("nan"), 4]}, '"bbox" must be a finite number; got nan'),
        ({"bbox": "1 2 3 4"}, '"bbox" must be a list'),
        ({"bbox": ...}, '"bbox" is missing'),
        ({"bbox": [296.65, 100.5, 1.03, 0.0]}, r'"bbox" \[296.65, 100.5, 1.03, 0\] has no area; width and height'),
        ({"bbox": [9, 9, -5, 5]}, "has no area"),
        ({"bbox": [10, -904, 30, 25]}, "lies mostly outside of image 1, 320x240 pixels"),
        ({"bbox": [310, 10, 30, 25]}, "lies mostly outside"),
        ({"category_id": 99}, '"category_id" 99 is the id of no category'),
        ({"category_id": "dog"}, '"category_id" must be a whole number'),
        ({"iscrowd": 2}, '"iscrowd" is 2; give 0 or 1'),
        ({"iscrowd": ...}, '"iscrowd" is missing'),
    ],
)
def test_a_bad_instance(tmp_path, images, changes, problem):
    file = instances_file(tmp_path, [instance(5, 1, **changes), instance(6, 2)])
    with pytest.raises(BadRecord, match=f"instances_val.json: annotation 5: .*{problem}"):
        CocoInstances(file, images)
    found = CocoInstances(file, images, skip_bad=True)
    assert [r.record_id for r in found] == [6] and found.report.skipped.total() == 1


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"file_name": None}, 'image 1: "file_name" must be text'),
        ({"file_name": "../secret.jpg"}, 'image 1: "file_name" "../secret.jpg" leads elsewhere'),
        ({"file_name": "/etc/passwd"}, "leads elsewhere"),
        ({"file_name": ...}, '"file_name" is missing'),
        ({"width": 0}, '"width" is 0; give 1 or more'),
        ({"height": 240.5}, '"height" must be a whole number; got 240.5'),
        ({"height": ...}, '"height" is missing'),
        ({"id": ...}, 'image at place 1: "id" is missing'),
        ({"id": 2}, 'image 2: "id" is used twice'),
    ],
)
def test_a_bad_image_entry_costs_its_annotations(tmp_path, images, changes, problem):
    file = captions_file(
        tmp_path, [caption(1, 1), caption(2, 1), caption(3, 2)], [image_entry(1, **changes), image_entry(2)]
    )
    with pytest.raises(BadRecord, match=problem):
        CocoCaptions(file, images)
    found = CocoCaptions(file, images, skip_bad=True)
    assert [r.record_id for r in found] == [3]
    assert found.report.skipped.total() == 3 and found.report.skipped["unknown image"] == 2


@pytest.mark.parametrize(
    "spoil, problem, reason",
    [
        (lambda path: path.unlink(), "cannot be read .No such file", "image file missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:4000]), "is broken .*truncated", "image file broken"),
        (lambda path: path.write_bytes(b""), "is no image in a known format", "image file broken"),
        (lambda path: path.write_text("<svg/>"), "is no image in a known format", "image file broken"),
        (
            lambda path: write_image(path, image_of([], 240, 320)),
            "of 240x320 pixels, not 320x240",
            "image of another size",
        ),
    ],
)
def test_a_bad_image_file(tmp_path, images, spoil, problem, reason):
    spoil(images / f"{2:012}.jpg")
    file = captions_file(tmp_path, [caption(1, 1), caption(2, 2), caption(3, 2), caption(4, 3)])
    found = CocoCaptions(file, images)
    records = found.records()
    assert next(records).record_id == 1
    with pytest.raises(BadRecord, match=f'captions_val.json: image 2: "file_name" names .*{problem}') as caught:
        next(records)
    assert "\n" not in str(caught.value)
    found = CocoCaptions(file, images, skip_bad=True)
    for _ in range(2):
        assert [r.record_id for r in found] == [1, 4]
        assert str(found.report) == f"2 records used; 2 skipped (2 {reason})"


def test_files_of_another_kind(tmp_path, images):
    captions = captions_file(tmp_path, [caption(1, 1)])
    with pytest.raises(WorldError, match='captions_val.json: annotation 1: "category_id" is missing'):
        CocoInstances(captions, images)
    with pytest.raises(WorldError, match='has no "images"; is it a COCO captions file?'):
        CocoCaptions(write_json(tmp_path / "list.json", [1, 2]), images)
    with pytest.raises(WorldError, match='has no "annotations"; is it a COCO instances file?'):
        CocoInstances(write_json(tmp_path / "part.json", {**INFO, "images": [], "categories": []}), images)
    with pytest.raises(WorldError, match="absent.json cannot be read: No such file"):
        CocoCaptions(tmp_path / "absent.json", images)
    with pytest.raises(WorldError, match="cannot be read: Is a directory"):
        CocoCaptions(tmp_path, images)
    (tmp_path / "packed.json").write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(WorldError, match="is not UTF-8 text"):
        CocoCaptions(tmp_path / "packed.json", images)
    empty = CocoCaptions(captions_file(tmp_path, []), images)
    assert list(empty) == [] and str(empty.report) == "0 records used"
