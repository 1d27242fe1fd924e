"""Rooms of the third-party simulator itself, built by hand, to compare ours with."""

from minigrid.core.actions import Actions
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Box, Door, Goal, Key, Wall
from minigrid.minigrid_env import MiniGridEnv

from envs.worlds.minigrid_rules import FLOOR, NAMES

MAKE = {"ball": Ball, "box": Box, "key": Key}
ACTIONS = {
    "turn left": Actions.left,
    "turn right": Actions.right,
    "forward": Actions.forward,
    "pick up": Actions.pickup,
    "toggle": Actions.toggle,
}


def thing(name):
    words = name.split()
    if name == "floor":
        return None
    if name in ("wall", "goal"):
        return {"wall": Wall, "goal": Goal}[name]()
    if words[-1] == "door":
        return Door(words[1], is_open=words[0] == "open", is_locked=words[0] == "locked")
    return MAKE[words[1]](words[0])


def name_of(found):
    if found is None:
        return "floor"
    if found.type in ("wall", "goal"):
        return found.type
    if found.type == "door":
        return f"{'open' if found.is_open else 'locked' if found.is_locked else 'closed'} {found.color} door"
    return f"{found.color} {found.type}"


class Room(MiniGridEnv):
    """A room as a state of ours describes it."""

    def __init__(self, state, width):
        super().__init__(MissionSpace(lambda: "none"), width=width, height=len(state.cells) // width, max_steps=10**6)
        self.given = state
        self.reset(seed=0)
        self.carrying = thing(NAMES[state.carrying])

    def _gen_grid(self, width, height):
        self.grid = Grid(width, height)
        for place, code in enumerate(self.given.cells):
            if code != FLOOR:
                self.grid.set(place % width, place // width, thing(NAMES[code]))
        self.agent_pos, self.agent_dir = (self.given.x, self.given.y), self.given.direction

    def seen(self):
        """All that there is to know, in words."""
        cells = [name_of(cell) for cell in self.grid.grid]
        return *(int(v) for v in self.agent_pos), self.agent_dir, name_of(self.carrying), cells

    def do(self, name):
        """Take a named action; whether the episode ended."""
        return self.step(ACTIONS[name])[2]

    def picture(self, patch_size):
        return self.get_frame(highlight=False, tile_size=patch_size)


def seen_in(state):
    return state.x, state.y, state.direction, NAMES[state.carrying], [NAMES[code] for code in state.cells]
