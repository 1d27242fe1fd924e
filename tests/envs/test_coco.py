import numpy as np
import pytest
from annotated import (
    CAR,
    COLOURS,
    GROUND,
    RUN_LENGTHS,
    caption,
    captions_file,
    image_entry,
    image_of,
    instance,
    instances_file,
    write_images,
)
from PIL import Image

from envs.annotations import BadRecord, Box, CocoCaptions, CocoInstances, PictureSize
from envs.annotations.pictures import content_hash
from envs.scene import Split, WorldError, split_of


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path)


def near(pixels, colour, tolerance=12):
    """Where ``pixels`` have this colour; JPEG is not exact."""
    return (np.abs(pixels.astype(int) - colour) <= tolerance).all(-1)


def test_captions_come_with_their_image_in_the_order_of_the_images(tmp_path, images):
    entries = [caption(50, 2, " A dog\nnear a car. "), caption(7, 1, "First."), caption(9, 2, "Again.")]
    found = CocoCaptions(captions_file(tmp_path, entries), images)
    records = list(found.records())
    assert [(r.image_id, r.record_id, r.text) for r in records] == [
        (1, 7, "First."),
        (2, 50, "A dog near a car."),
        (2, 9, "Again."),
    ]
    assert str(found.report) == "3 records used"
    picture = records[0].picture
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    # 320x240 in 64x64: rows 8 to 56, and the dog a fifth as large
    assert (picture[:8] == 127).all() and (picture[56:] == 127).all()
    assert near(picture[22:34, 18:46], COLOURS["dog"]).all()
    assert near(picture[10:18, 2:62], GROUND).all()
    assert near(picture[46:55, 1:6], COLOURS["car"]).all()


def test_an_instance_is_a_look_at_its_box(tmp_path, images):
    entries = [instance(5, 1), instance(6, 1, CAR, (0, 180, 40, 60), segmentation=RUN_LENGTHS)]
    dog, car = CocoInstances(instances_file(tmp_path, entries), images)
    assert (dog.action, dog.name, dog.record_id) == ("look at the dog", "dog", 5)
    assert (car.action, car.image_id, car.record_id) == ("look at the car", 1, 6)
    assert near(dog.result[16:48], COLOURS["dog"]).all() and (dog.result[:16] == 127).all()  # 160x80: half the height
    assert near(car.result[:, 11:53], COLOURS["car"]).all() and (car.result[:, :10] == 127).all()  # 40x60
    assert (dog.what == car.what).all() and near(dog.what[10:18, 2:62], GROUND).all()


@pytest.mark.parametrize("side, patch", [(128, 16), (96, 32), (16, 16)])
def test_pictures_are_whole_numbers_of_patches(tmp_path, images, side, patch):
    (record,) = CocoInstances(
        instances_file(tmp_path, [instance(5, 1)]), images, size=PictureSize(side=side, patch_size=patch)
    )
    assert record.what.shape == record.result.shape == (side, side, 3)
    middle = record.result[side // 2 - side // 8 : side // 2 + side // 8]
    assert near(middle, COLOURS["dog"]).all()


@pytest.mark.parametrize("side, patch", [(60, 16), (8, 16), (0, 16), (16, 0)])
def test_other_sizes_are_refused(side, patch):
    with pytest.raises(WorldError, match="side|patch_size"):
        PictureSize(side=side, patch_size=patch)


def test_boxes_by_hand():
    assert Box(10, 20, 30, 40).union(Box(0, 50, 20, 30)) == Box(0, 20, 40, 60)
    assert Box(-5, 230, 20, 20).clipped(320, 240) == Box(0, 230, 15, 10)
    assert Box(400, 300, 20, 20).clipped(320, 240).area == 0
    assert Box(1, 2, -3, 4).area == 0


def test_a_box_that_sticks_out_is_clipped_and_a_tiny_one_is_still_seen(tmp_path, images):
    entries = [instance(1, 1, bbox=(-40, 60, 280, 80)), instance(2, 1, bbox=(100.2, 100.7, 0.3, 0.2))]
    wide, tiny = CocoInstances(instances_file(tmp_path, entries), images)
    reference = image_of([("dog", 80, 60, 160, 80)])[60:140, :240]
    share = near(reference, COLOURS["dog"]).mean()
    inner = wide.result[(wide.result != 127).any((1, 2))]
    assert near(inner, COLOURS["dog"]).mean() == pytest.approx(share, abs=0.03)
    assert near(tiny.result, COLOURS["dog"]).all()


def test_crowds_are_left_out_and_counted(tmp_path, images):
    entries = [instance(1, 1), instance(2, 1, iscrowd=1, segmentation=RUN_LENGTHS), instance(3, 2, iscrowd=1)]
    found = CocoInstances(instances_file(tmp_path, entries), images)
    for _ in range(2):
        assert [r.record_id for r in found] == [1]
        assert str(found.report) == "1 record used; 2 left out (2 crowd)"


def test_images_are_read_as_stored(tmp_path):
    """COCO has grey images; boxes are measured before a camera's rotation."""
    pixels = image_of([("car", 0, 0, 160, 240)])
    rotated = Image.Exif()
    rotated[0x0112] = 6
    (tmp_path / "val").mkdir()
    Image.fromarray(pixels).convert("L").save(tmp_path / "val" / f"{1:012}.jpg", quality=100)
    Image.fromarray(pixels).save(tmp_path / "val" / f"{2:012}.jpg", quality=100, exif=rotated)
    entries = [instance(1, 1, CAR, (0, 0, 160, 240)), instance(2, 2, CAR, (0, 0, 160, 240))]
    grey, turned = CocoInstances(instances_file(tmp_path, entries), tmp_path / "val")
    assert np.ptp(grey.result, axis=-1).max() == 0
    assert near(turned.result[:, 12:52], COLOURS["car"]).all()


def test_splits_depend_on_the_bytes_of_the_image_alone(tmp_path, images):
    entries = [caption(n, n) for n in range(1, 13)] + [caption(n + 100, n) for n in range(1, 13)]
    found = CocoCaptions(captions_file(tmp_path, entries), images)
    everything = [(r.image_id, r.record_id, r.split) for r in found]
    for number, _, split in everything:
        data = (images / f"{number:012}.jpg").read_bytes()
        assert split is split_of(content_hash(data))
    parts = [[(r.image_id, r.record_id, r.split) for r in found.records(split)] for split in Split]
    assert sorted(sum(parts, [])) == sorted(everything) and len(everything) == 24
    for split, part in zip(Split, parts, strict=True):
        assert part == [r for r in everything if r[2] is split]
    # the same image under another name and id, in the other file format: the same split
    (images / "copy.jpg").write_bytes((images / f"{3:012}.jpg").read_bytes())
    other = CocoInstances(
        instances_file(tmp_path, [instance(1, 900)], [image_entry(900, file_name="copy.jpg")]), images
    )
    assert next(iter(other)).split is next(split for number, _, split in everything if number == 3)


def test_one_image_is_open_at_a_time(tmp_path, images):
    entries = [caption(n, n) for n in range(1, 13)]
    records = CocoCaptions(captions_file(tmp_path, entries), images).records()
    for number in range(1, 13):
        assert next(records).image_id == number
        following = images / f"{number + 1:012}.jpg"
        if number == 6:
            following.unlink()
            break
    with pytest.raises(BadRecord, match="image 7"):
        next(records)
