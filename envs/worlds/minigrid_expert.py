"""BabyAI's bot as an expert for rooms of ours. It knows only what the agent has seen, so it may take detours."""

from __future__ import annotations

from envs.worlds.minigrid_rules import FLOOR, NAMES, WALL, Actions, RoomState, thing_of

# After our own rules, which tell pygame that there is no screen before it is loaded.
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel  # isort: skip
from minigrid.envs.babyai.core.verifier import GoToInstr, ObjDesc  # isort: skip
from minigrid.utils.baby_ai_bot import BabyAIBot  # isort: skip


class GoToLevel(RoomGridLevel):
    """A room of ours as a level of BabyAI with the mission "go to the red ball"."""

    def __init__(self, size: int, state: RoomState, target: int):
        """Args: ``size`` cells a side, ``state`` of the room, code of the ``target``."""
        self.wanted = (state, target)
        super().__init__(num_rows=1, num_cols=1, room_size=size)

    def gen_mission(self):
        """Put everything where it is."""
        state, target = self.wanted
        for place, code in enumerate(state.cells):
            if code not in (WALL, FLOOR):
                self.grid.set(place % self.width, place // self.width, thing_of(code))
        self.agent_pos, self.agent_dir = (state.x, state.y), state.direction
        color, thing = NAMES[target].split()
        self.instrs = GoToInstr(ObjDesc(thing, color))


def advice(size: int, state: RoomState, target: int) -> Actions | None:
    """What the bot would do first; ``Actions.done`` when it is there."""
    level = GoToLevel(size, state, target)
    level.reset(seed=0)
    return BabyAIBot(level).replan()
