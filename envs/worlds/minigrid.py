"""MiniGrid: an agent in one room is told in BabyAI's words to go to a thing.

Description: a red triangle is in a walled room with 2 to 4 different balls, boxes and keys. "Go to the red ball."
Action Space: 3 actions in MiniGrid's order: turn left, turn right, forward.
Observation: the whole room from above, ``patch_size`` pixels a cell, walls included.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: the agent is before the thing and faces it (success), as BabyAI's ``GoToInstr`` has it.

The thing that is asked for belongs to the scene, so the same room is the scene of several questions; a scene
without one never ends, and that is what the question what the agent faces in the end is asked about.
"""

from __future__ import annotations

import functools
import re

from envs.search import distance_table, shortest_script
from envs.world import (
    Outcome,
    PictureScene,
    Question,
    QuestionKind,
    Scene,
    World,
    WorldError,
    random_actions,
    roll,
    split_of,
)
from envs.worlds.minigrid_expert import advice
from envs.worlds.minigrid_layout import (
    MAX_TRIES,
    THING_CODES,
    check_fields,
    content_of,
    key_of,
    read_name,
    read_room,
    read_size,
    scatter,
)
from envs.worlds.minigrid_rules import (
    ACTION_NAMES,
    CODES,
    COLORS,
    FLOOR,
    NAMES,
    THINGS,
    WALL,
    Actions,
    RoomState,
    act,
    cell_ahead,
    check_patch_size,
    mosaic,
    tiles,
    walled,
)

MIN_SIZE, MAX_SIZE = 5, 8
LONGEST_PLAN = 8
"""Farther things are not asked for: this many steps are what a dream has by default."""
LONGEST_SCRIPT = 6
"""More moves do not fit into a prompt."""
MOVES = (Actions.left, Actions.right, Actions.forward)
PLAN_TEXTS = (
    "Go to the {target}.",
    "Find the shortest way to the {target}.",
    "How does the agent get to the {target}?",
)
PREDICT_TEXTS = (
    "What does the agent face after {moves}?",
    "The agent does {moves}. What is ahead of it?",
    "What is ahead of the agent after {moves}?",
)
FACED_TEXT = {
    WALL: "the agent faces a wall",
    FLOOR: "the agent faces empty floor",
    **{code: f"the agent faces the {NAMES[code]}" for code in THING_CODES},
}
EXAMPLE = '{"size": 5, "agent": [1, 2, "right"], "objects": {"red ball": [3, 1]}, "target": "red ball"}'


class GoToScene(Scene):
    """One room, and the thing in it that is asked for, if any. States are :class:`RoomState`."""

    def __init__(self, size: int, start: RoomState, target: int | None, patch_size: int):
        """Args: ``size`` cells a side, ``start``, code of the ``target`` or None, ``patch_size`` pixels a cell."""
        self.size, self.start, self.target, self.patch_size = size, start, target, patch_size
        self.key = key_of(f"{content_of(size, start)}:{target}")
        self.grid = (size, size)
        self.things = [code for code in start.cells if code not in (WALL, FLOOR)]

    def aimed_at(self, target: int | None) -> GoToScene:
        """The same room with another thing asked for."""
        return self if target == self.target else GoToScene(self.size, self.start, target, self.patch_size)

    def faced(self, state: RoomState) -> int:
        """Code of what the agent faces."""
        return state.cells[cell_ahead(state, self.size)]

    def move(self, state: RoomState, action: int) -> RoomState:
        """The next state."""
        return act(state, MOVES[action], self.size)[0]

    def step(self, state, action):
        """See :meth:`Scene.step`."""
        after = self.move(state, action)
        return after, Outcome.SUCCESS if self.faced(after) == self.target else Outcome.CONTINUE

    def frame(self, state):
        """See :meth:`Scene.frame`."""
        return mosaic(tiles(state, self.size, self.patch_size), self.size)

    @functools.cached_property
    def distances(self) -> dict[RoomState, int | None]:
        """Of all states that can be reached."""
        return distance_table(self.start, range(len(MOVES)), self.move, lambda s: self.faced(s) == self.target)

    def distance(self, state):
        """See :meth:`Scene.distance`; None where nothing is asked for."""
        if self.target is None:
            return None
        if state not in self.distances:  # behind the end: the table stops there
            return distance_table(state, range(len(MOVES)), self.move, lambda s: self.faced(s) == self.target)[state]
        return self.distances[state]

    def expert(self, state):
        """See :meth:`Scene.expert`: BabyAI's bot, which sees only what is before the agent and may take detours."""
        if self.target is None:
            return None
        advised = advice(self.size, state, self.target)
        return MOVES.index(advised) if advised in MOVES else None


class MiniGrid(World):
    """Random rooms of 5 to 8 cells a side, walls included."""

    name = "minigrid"
    family = "spatial"
    exam_predict_share = 0.5
    actions = tuple(ACTION_NAMES[a] for a in MOVES)
    min_size, max_size, default_sizes = MIN_SIZE, MAX_SIZE, (5, 6)
    plan_texts = tuple(t.format(target=NAMES[code]) for t in PLAN_TEXTS for code in THING_CODES)
    predict_texts = PREDICT_TEXTS
    no_plan = "no dream gets there"

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels a cell (at least 8, below which things merge)."""
        self.patch_size = check_patch_size(patch_size)

    def scene(self, options):
        """See :meth:`World.scene`. Options: see ``EXAMPLE``; without a target the question must name it."""
        options = check_fields(options, ("size", "agent", "objects"), ("target",), EXAMPLE)
        size = read_size(options["size"], MIN_SIZE, MAX_SIZE)
        start = read_room(options, walled(size, size), size, THING_CODES)
        scene = GoToScene(size, start, None, self.patch_size)
        if not scene.things:
            raise WorldError('"objects" is empty; put something into the room, {"red ball": [3, 1]}')
        if "target" in options:
            target = read_name(options["target"], "target", scene.things)
            scene = scene.aimed_at(target)
            if scene.distance(start) is None:
                raise WorldError(f"the agent cannot get to the {NAMES[target]}; move what is in its way")
            if scene.distance(start) == 0:
                raise WorldError(f"the agent is at the {NAMES[target]} already; turn or move it")
        return scene

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`. The same room is in the same split whatever is asked for."""
        self.check_sizes([size])
        nearest = int(rng.integers(1, 6))  # else most things would be a turn or two away
        for _ in range(MAX_TRIES):
            things = rng.choice(THING_CODES, int(rng.integers(2, 5)), replace=False).tolist()
            start = scatter(rng, walled(size, size), size, things)
            if split_of(content_of(size, start)) is not split:
                continue
            scene = GoToScene(size, start, things[0], self.patch_size)
            if nearest <= (scene.distance(start) or 0) <= LONGEST_PLAN:
                return scene
        raise WorldError(f"no room of size {size} was found for {split.value} in {MAX_TRIES} tries")

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`. What is faced in the end is drawn first, then moves that lead to it."""
        if not predict:
            return self.ask(self._within(_own(scene), length), QuestionKind.PLAN, rng)
        free = _own(scene).aimed_at(None)
        answers = [WALL, FLOOR, *free.things]
        wanted = answers[rng.integers(len(answers))]
        longest = min(length, LONGEST_SCRIPT)
        for _ in range(50):
            script = random_actions(free, len(MOVES), int(rng.integers(1, longest + 1)), rng)
            if free.faced(roll(free, script).states[-1]) == wanted:
                return self.ask(free, QuestionKind.PREDICT, rng, script)
        direct = shortest_script(
            free.start, range(len(MOVES)), free.move, lambda state: free.faced(state) == wanted, longest, rng
        )
        return self.ask(free, QuestionKind.PREDICT, rng, direct or script)

    def _within(self, scene: GoToScene, length: int) -> GoToScene:
        """The scene, or with another thing asked for if its own is more than ``length`` actions away."""
        for target in (scene.target, *scene.things):
            aimed = scene.aimed_at(target)
            if target is not None and 1 <= (aimed.distance(aimed.start) or 0) <= length:
                return aimed
        return scene

    def ask(self, scene, kind, rng, script=()):
        """See :meth:`World.ask`. A scene without a thing asked for gets its first."""
        room = _own(scene)
        if kind is QuestionKind.PREDICT:
            return super().ask(room.aimed_at(None), kind, rng, script)
        target = room.things[0] if room.target is None else room.target
        text = PLAN_TEXTS[rng.integers(len(PLAN_TEXTS))].format(target=NAMES[target])
        return Question(kind=kind, text=text, scene=room.aimed_at(target))

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        return FACED_TEXT[_own(question.scene).faced(rollout.states[-1])]

    def interpret(self, text, scene):
        """See :meth:`World.interpret`: named moves make it a PREDICT question, a named thing a PLAN."""
        low = text.lower()
        moves = re.findall("|".join(self.actions), low)
        if moves:
            script = tuple(self.actions.index(m) for m in moves)
            free = scene if isinstance(scene, PictureScene) else _own(scene).aimed_at(None)
            return Question(kind=QuestionKind.PREDICT, text=text, scene=free, script=script)
        named = re.findall(rf"\b(?:{'|'.join(COLORS)}) (?:{'|'.join(THINGS)})\b", low)
        if len(named) != 1 or not re.search(r"\b(go|get|way|path|reach|find)\b", low):
            return None
        if isinstance(scene, PictureScene):
            return Question(kind=QuestionKind.PLAN, text=text, scene=scene)
        target, room = CODES[named[0]], _own(scene)
        if target not in room.things:
            return None
        return Question(kind=QuestionKind.PLAN, text=text, scene=room.aimed_at(target))

    def corpus(self):
        """See :meth:`World.corpus`."""
        return [*super().corpus(), *FACED_TEXT.values()]


def _own(scene: Scene) -> GoToScene:
    assert isinstance(scene, GoToScene), f"{type(scene).__name__} is no scene of minigrid"
    return scene
