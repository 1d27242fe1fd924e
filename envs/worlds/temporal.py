"""Before and after: what happened between two pictures, what comes next, which came first.

Description: pictures of one small MiniGrid room on one canvas; see ``temporal_scenes``. Three things are asked.
``between`` (PLAN): which actions lead from picture 1 to picture 2; the dream acts on picture 1 until it is like
picture 2. ``order`` (PLAN): three pictures, one action apart, are to be swapped into the order in which they
happened; only one order is possible. ``next`` (PREDICT): which of three pictures named actions lead to; the dream
acts on the picture without a number.
Action Space: 7 actions: turn left, turn right, forward, pick up as in MiniGrid, and swap 12, swap 23, swap 13
for two of three pictures; the names are short so that eight of them fit into a prompt. Actions that do not belong
to what is asked change nothing.
Observation: an RGB frame of blocks of (size + 1) x (size + 1) patches: two side by side for ``between``, else four.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: picture 1 is like picture 2, or the pictures are in order (success); a ``next`` scene never ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from envs.search import shortest_script, within
from envs.world import PictureScene, Question, QuestionKind, Scene, World, WorldError, split_of
from envs.worlds.minigrid_layout import (
    MAX_TRIES,
    THING_CODES,
    check_fields,
    content_of,
    read_room,
    read_size,
    scatter,
)
from envs.worlds.minigrid_rules import ACTION_NAMES, FLOOR, NAMES, RoomState, check_patch_size, walled
from envs.worlds.temporal_scenes import (
    MOVES,
    ORDERED,
    SWAPS,
    BetweenScene,
    NextScene,
    OrderScene,
    TemporalScene,
    move,
    possible_orders,
)

MIN_SIZE, MAX_SIZE = 2, 3
FARTHEST = 3
"""Actions between two pictures, at most."""
BETWEEN_TEXTS = (
    "What happened between picture 1 and picture 2?",
    "Which actions lead from picture 1 to picture 2?",
    "How did picture 1 become picture 2?",
)
ORDER_TEXTS = (
    "The pictures are one action apart. Put them in order.",
    "The pictures are one action apart. Sort them by time.",
    "One action lies between two pictures. Which came first?",
)
NEXT_TEXTS = (
    "Which picture comes next after {moves}?",
    "The agent does {moves}. Which picture comes next?",
    "Which picture shows the room after {moves}?",
)
ANSWERS = ("picture 1", "picture 2", "picture 3")
ROOM_EXAMPLE = '{"agent": [1, 2, "right"], "objects": {"red ball": [2, 2]}}'
EXAMPLES = {
    "between": '{"topic": "between", "size": 3, "pictures": [BEFORE, AFTER]}',
    "order": '{"topic": "order", "size": 3, "pictures": [A, B, C]}',
    "next": '{"topic": "next", "size": 3, "now": NOW, "pictures": [A, B, C]}',
}
PICTURES = {"between": 2, "order": 3, "next": 3}


class Temporal(World):
    """Random rooms, 2 or 3 cells wide inside."""

    name = "temporal"
    family = "temporal"
    exam_predict_share = 1 / 3
    actions = (*(ACTION_NAMES[a] for a in MOVES), *(f"swap {a + 1}{b + 1}" for a, b in SWAPS))
    min_size, max_size, default_sizes = MIN_SIZE, MAX_SIZE, (3,)
    plan_texts = (*BETWEEN_TEXTS, *ORDER_TEXTS)
    predict_texts = NEXT_TEXTS

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels a cell (at least 8, below which things merge)."""
        self.patch_size = check_patch_size(patch_size)

    def grid_at(self, size):
        """See :meth:`World.grid_at`: two blocks each way."""
        return 2 * (size + 1), 2 * (size + 1)

    def scene(self, options):
        """See :meth:`World.scene`. Options: see ``EXAMPLES``; each picture is like ``ROOM_EXAMPLE``."""
        return read_scene(options, self.patch_size)

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`; half of the scenes are ``between``, half ``order``."""
        self.check_sizes([size])
        make = (_random_between, _random_order)[rng.integers(2)]
        wanted = int(rng.integers(3 * len(MOVES)))
        for _ in range(MAX_TRIES):
            things = rng.choice(THING_CODES, int(rng.integers(1, size)), replace=False).tolist()
            room = scatter(rng, walled(size + 2, size + 2), size + 2, things)
            if split_of(content_of(size, room)) is split:
                scene = make(room, size, wanted, self.patch_size, rng)
                if scene is not None:
                    return scene
        raise WorldError(f"no pictures of size {size} were found for {split.value} in {MAX_TRIES} tries")

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`; what comes next is asked of the room as it was in the beginning.

        A scene that a user gave with its candidates is always asked about one of them.
        """
        own = _own(scene)
        if isinstance(own, NextScene):
            wanted = own.candidates[rng.integers(len(own.candidates))]
            moves = shortest_script(
                own.start, own.legal, lambda s, a: own.step(s, a)[0], lambda s: s == wanted, length, rng
            )
            return self.ask(own, QuestionKind.PREDICT, rng, moves or [int(rng.integers(len(MOVES)))])
        if not predict:
            return self.ask(scene, QuestionKind.PLAN, rng)
        script = rng.integers(len(MOVES), size=rng.integers(1, min(length, FARTHEST) + 1)).tolist()
        return self.ask(scene, QuestionKind.PREDICT, rng, script)

    def ask(self, scene, kind, rng, script=()):
        """See :meth:`World.ask`. PREDICT is asked about a scene with three candidates, PLAN about all others."""
        own = _own(scene)
        if kind is QuestionKind.PREDICT:
            asked = own if isinstance(own, NextScene) else _random_next(own, script, self.patch_size, rng)
            text = NEXT_TEXTS[rng.integers(len(NEXT_TEXTS))].format(moves=self.plan_text(script))
            return Question(kind=kind, text=text, scene=asked, script=tuple(int(a) for a in script), topic="next")
        if isinstance(own, NextScene):
            raise WorldError('a scene of "next" can only be asked which picture named actions lead to')
        texts = BETWEEN_TEXTS if isinstance(own, BetweenScene) else ORDER_TEXTS
        return Question(kind=kind, text=texts[rng.integers(len(texts))], scene=own, topic=own.topic)

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        scene = _own(question.scene)
        assert isinstance(scene, NextScene), f"{scene.topic} scenes have no candidates"
        last = rollout.states[-1]
        return ANSWERS[scene.candidates.index(last)] if last in scene.candidates else "none of the pictures"

    def interpret(self, text, scene):
        """See :meth:`World.interpret`: named moves ask what comes next, if there are candidates."""
        low = text.lower()
        topic = None if isinstance(scene, PictureScene) else _own(scene).topic
        names = re.findall("|".join(self.actions), low)
        if names:
            if topic not in (None, "next"):
                return None
            script = tuple(self.actions.index(name) for name in names)
            return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=script, topic="next")
        asked = None
        if re.search(r"\b(order|sort|first)\b", low) and "picture" in low:
            asked = "order"
        elif len(re.findall(r"\bpicture [12]\b", low)) == 2:
            asked = "between"
        if asked is None or topic not in (None, asked):
            return None
        return Question(kind=QuestionKind.PLAN, text=text, scene=scene, topic=asked)

    def corpus(self):
        """See :meth:`World.corpus`."""
        return [*super().corpus(), *ANSWERS, "none of the pictures"]


def _own(scene: Scene) -> TemporalScene:
    assert isinstance(scene, TemporalScene), f"{type(scene).__name__} is no scene of temporal"
    return scene


def _random_between(room: RoomState, side: int, wanted: int, patch_size: int, rng: np.random.Generator):
    """``room`` and what it is after 1 to 3 actions; None if the action that is wanted first does nothing there."""
    distance, first = wanted % FARTHEST + 1, wanted // FARTHEST
    begun = move(room, first, side)
    if begun == room:
        return None
    levels = within(room, range(len(MOVES)), lambda s, a: move(s, a, side), distance)
    behind = within(begun, range(len(MOVES)), lambda s, a: move(s, a, side), distance - 1)
    ends = [state for state in behind[-1] if state in set(levels[-1])]
    return BetweenScene(side, room, ends[rng.integers(len(ends))], patch_size) if ends else None


def _random_order(room: RoomState, side: int, wanted: int, patch_size: int, rng: np.random.Generator):
    """Three pictures one random action apart; None if they could have happened in another order, too."""
    pictures = [room]
    for action in (wanted % len(MOVES), int(rng.integers(len(MOVES)))):
        pictures.append(move(pictures[-1], action, side))
    if len(set(pictures)) < len(pictures) or len(possible_orders(pictures, side)) != 1:
        return None
    places = list(ORDERED)
    while tuple(places) == ORDERED:
        places = rng.permutation(len(pictures)).tolist()
    return OrderScene(side, pictures, places, patch_size)


def _random_next(scene: TemporalScene, script: Sequence[int], patch_size: int, rng: np.random.Generator) -> NextScene:
    """The room of ``scene`` as it was in the beginning, the picture after ``script``, and two wrong ones."""
    side, right = scene.side, scene.first
    for action in script:
        right = move(right, action, side)
    near = within(scene.first, range(len(MOVES)), lambda s, a: move(s, a, side), len(script) + 1)
    wrong = [state for level in near for state in level if state != right]
    chosen = [wrong[i] for i in rng.choice(len(wrong), 2, replace=False)]
    chosen.insert(int(rng.integers(3)), right)
    return NextScene(side, scene.first, chosen, patch_size)


def read_scene(options: dict, patch_size: int) -> TemporalScene:
    """The scene that ``options`` describe."""
    topic = options.get("topic")
    if not isinstance(topic, str) or topic not in EXAMPLES:
        raise WorldError(f'"topic" ({json.dumps(topic)}) must be one of {", ".join(EXAMPLES)}')
    fields = ("topic", "size", "pictures", "now") if topic == "next" else ("topic", "size", "pictures")
    options = check_fields(options, fields, (), EXAMPLES[topic])
    side = read_size(options["size"], MIN_SIZE, MAX_SIZE)
    given = options["pictures"]
    if not isinstance(given, list | tuple) or len(given) != PICTURES[topic]:
        raise WorldError(f'"pictures" must be a list of {PICTURES[topic]} rooms like {ROOM_EXAMPLE}')
    given = [options["now"], *given] if topic == "next" else list(given)
    rooms = _carried([_read_picture(room, side) for room in given], side)
    if topic == "next":
        if len(set(rooms[1:])) < len(rooms) - 1:
            raise WorldError('"pictures" has two that are alike; only one can come next')
        return NextScene(side, rooms[0], rooms[1:], patch_size)
    if topic == "between":
        between = BetweenScene(side, rooms[0], rooms[1], patch_size)
        if not between.distance(rooms[0]):
            raise WorldError("picture 2 must differ from picture 1 and come of it by turning, walking and picking up")
        return between
    orders = possible_orders(rooms, side)
    if len(orders) != 1:
        raise WorldError(f"{len(orders)} orders of the pictures are one action apart; exactly one must be")
    order = orders[0]
    if order == ORDERED:
        raise WorldError("the pictures are in order already; give them in another one")
    return OrderScene(side, [rooms[i] for i in order], [order.index(i) for i in range(len(rooms))], patch_size)


def _read_picture(room: dict, side: int) -> RoomState:
    check_fields(room, ("agent", "objects"), (), ROOM_EXAMPLE)
    return read_room(room, walled(side + 2, side + 2), side + 2, THING_CODES)


def _carried(rooms: list[RoomState], side: int) -> list[RoomState]:
    """The same rooms, with the agent carrying what is in others only."""
    everything = {code for room in rooms for code in room.cells if code in THING_CODES}
    out = []
    for number, room in enumerate(rooms, 1):
        missing = sorted(everything - set(room.cells))
        if len(missing) > 1:
            names = " and the ".join(NAMES[code] for code in missing)
            raise WorldError(f"room {number} lacks the {names}; an agent carries one thing at most")
        out.append(room._replace(carrying=missing[0] if missing else FLOOR))
    return out
