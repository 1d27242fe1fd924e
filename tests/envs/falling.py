"""A canvas of things for the physics world's tests."""

from envs.worlds.physics import Physics

WORLD = Physics()
RED = {"kind": "ball", "colour": "red", "row": 0, "column": 2.5}
BLUE = {"kind": "ball", "colour": "blue", "row": 3, "column": 4}
UNDER_BLUE = {"kind": "platform", "row": 3, "column": 4}
GREEN = {"kind": "block", "colour": "green", "row": 3, "column": 0}
RAMP = {"kind": "ramp", "row": 2, "column": 2, "slope": "right"}


def scene(*objects, size=6, world=WORLD):
    return world.scene({"size": size, "objects": [dict(o) for o in objects]})
