"""Scenes and sizes that the physics world refuses, each in one clear line."""

import pytest
from falling import BLUE, GREEN, RAMP, RED, UNDER_BLUE, WORLD

from envs.questions import stream
from envs.world import Split, WorldError
from envs.worlds.physics import Physics
from envs.worlds.physics_layout import UNIT


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, '"objects" is missing'),
        ({"object": []}, 'unknown option "object"'),
        ({"objects": []}, '"objects" must be a list'),
        ({"objects": {"kind": "ball"}}, '"objects" must be a list'),
        ({"size": 5, "objects": [RED]}, '"size" must be a whole number from 6 to 8, got 5'),
        ({"size": True, "objects": [RED]}, '"size" must be a whole number'),
        ({"objects": [RED, "ball"]}, "object 2 must look like"),
        ({"objects": [{}]}, 'object 1 has no "kind"'),
        ({"objects": [{**RED, "kind": "cube"}]}, 'unknown "kind" "cube"; it must be one of ball, block'),
        ({"objects": [{**RED, "colour": "pink"}]}, 'unknown "colour" "pink"; it must be one of red, green, blue'),
        ({"objects": [{**RED, "colour": ["red"]}]}, 'unknown "colour"'),
        ({"objects": [RED, {**RAMP, "slope": "up"}]}, 'unknown "slope" "up"'),
        ({"objects": [RED, {**RAMP, "colour": "red"}]}, 'object 2 has unknown field "colour"; a ramp has'),
        ({"objects": [{"kind": "ball", "colour": "red", "row": 0}]}, 'object 1 has no "column"'),
        ({"objects": [{**RED, "row": 0.5}]}, '"row" must be a whole number'),
        ({"objects": [{**RED, "column": 2.25}]}, '"column" must be a multiple of 0.5'),
        ({"objects": [{**RED, "column": float("nan")}]}, '"column" must be a multiple of 0.5'),
        ({"objects": [{**RED, "column": "2"}]}, '"column" must be a multiple of 0.5'),
        ({"objects": [RED, {**RAMP, "column": 1.5}]}, '"column" must be a whole number'),
        ({"objects": [{**RED, "column": 5.5}]}, "red ball at row 0, column 5.5 is outside"),
        ({"objects": [RED, {**RAMP, "row": 5}]}, "ramp at row 5, column 2 is outside: row must be 1 to 4"),
        ({"objects": [RED, {**GREEN, "row": -1}]}, "green block at row -1, column 0 is outside"),
        ({"objects": [RED, BLUE]}, "blue ball at row 3, column 4 hangs in the air"),
        ({"objects": [RED, {**BLUE, "column": 3.5}, UNDER_BLUE]}, "column 3.5 hangs in the air"),
        ({"objects": [RED, {**BLUE, "row": 5, "column": 1.5}]}, "overlaps a post between two bins"),
        ({"objects": [RED, {**RAMP, "row": 3, "column": 0}, GREEN]}, "overlaps"),
        ({"objects": [RED, UNDER_BLUE, UNDER_BLUE]}, "platform at row 3, column 4 overlaps platform"),
        ({"objects": [RED, {**GREEN, "colour": "red"}]}, "have the same colour"),
        ({"objects": [GREEN]}, "0 balls are in row 0"),
        ({"objects": [RED, {**RED, "colour": "blue", "column": 0}]}, "2 balls are in row 0"),
        ({"objects": [RED, {**GREEN, "column": 3}]}, "hangs on less than a pixel"),
    ],
)
def test_a_bad_scene_is_one_clear_line(options, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(options)
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_exist():
    for size in (5, 9):
        with pytest.raises(WorldError, match=rf"size \({size}\) must be between 6 and 8"):
            WORLD.sample_scene(stream(0), Split.TRAIN, size)
    for patch_size in (6, 15):
        with pytest.raises(WorldError, match="must be even and >= 8"):
            Physics(patch_size)
    assert UNIT == 16
