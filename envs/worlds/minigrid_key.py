"""MiniGrid's key and door: what opens a door, and what would happen if there were no key.

Description: a wall divides the room; its door is shut, either locked or merely closed. A key of the door's colour
opens a locked door, a closed one needs none. The green goal is behind it.
Action Space: 6 actions: turn left, turn right, forward, pick up, toggle as in MiniGrid, and "remove keys", which is
an intervention and not the agent's: every key is gone, from the floor and from the agent.
Observation: the whole room from above, ``patch_size`` pixels a cell; a black row below it shows what is carried.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: the agent is on the goal (success), as in MiniGrid's DoorKey.

Three things are asked about named moves. ``happens``: what they lead to. ``opens``: whether the door is open after
them. ``without``: whether it would be, had there been no key; the dream then starts with the intervention. The
moves of a ``without`` question open the door as things are, so it asks whether the key was needed.
"""

from __future__ import annotations

import re

import numpy as np

from envs.world import (
    Question,
    QuestionKind,
    Rollout,
    Scene,
    World,
    WorldError,
    random_actions,
    roll,
    split_of,
)
from envs.worlds.minigrid_key_scene import (
    KEYS,
    MAX_SIZE,
    MIN_SIZE,
    MOVES,
    NOTHING,
    REMOVE_KEYS,
    KeyScene,
    random_start,
    read_scene,
)
from envs.worlds.minigrid_layout import MAX_TRIES, content_of
from envs.worlds.minigrid_rules import ACTION_NAMES, Actions, check_patch_size

LONGEST_PLAN = 8
"""Goals farther away are not drawn: this many steps are what a dream has by default."""
LONGEST_SCRIPT = 6
"""More moves do not fit into a prompt."""
TOPICS = ("happens", "opens", "without")
PLAN_TEXTS = (
    "Use the key to open the door and then get to the goal.",
    "Find the shortest way to the green goal.",
    "How does the agent get to the goal?",
)
TEXTS = {
    "happens": ("What happens after {moves}?", "The agent does {moves}. What happens?"),
    "opens": ("Is the door open after {moves}?", "The agent does {moves}. Is the door open?"),
    "without": (
        "Would the door be open without keys after {moves}?",
        "If there were no key, would {moves} open the door?",
    ),
}
HAPPENS = ("the agent reaches the goal", "the door opens", "the agent takes a key", "the door stays shut")
WEIGHTS = (0.42, 0.13, 0.37, 0.08)
"""How often each is tried first; the first and the third are not possible in every room."""
OPENS = ("yes, it is open", "no, it is shut")
MISTAKEN = (MOVES.index(Actions.pickup), MOVES.index(Actions.toggle))
"""A script that leaves these out fails in a way that looks like success."""


class MiniGridKey(World):
    """Random rooms of 5 to 7 cells a side, walls included."""

    name = "minigrid_key"
    family = "causal"
    exam_predict_share = 0.5
    actions = (*(ACTION_NAMES[a] for a in MOVES), "remove keys")
    min_size, max_size, default_sizes = MIN_SIZE, MAX_SIZE, (5,)
    plan_texts = PLAN_TEXTS
    predict_texts = tuple(text for texts in TEXTS.values() for text in texts)

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels a cell (at least 8, below which things merge)."""
        self.patch_size = check_patch_size(patch_size)

    def grid_at(self, size):
        """See :meth:`World.grid_at`: one row more, for what is carried."""
        return size + 1, size

    def scene(self, options):
        """See :meth:`World.scene`. Options: see ``EXAMPLE`` in ``minigrid_key_scene``."""
        return read_scene(options, self.patch_size)

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`. Half of the doors are locked, half of the agents carry a key that fits."""
        self.check_sizes([size])
        locked, carries = (bool(n) for n in rng.integers(2, size=2))
        for _ in range(MAX_TRIES):
            start = random_start(rng, size, locked, carries)
            if split_of(content_of(size, start)) is not split:
                continue
            scene = KeyScene(size, start, self.patch_size)
            if scene.script_to(scene.at_goal, LONGEST_PLAN) is not None:
                return scene
        raise WorldError(f"no room of size {size} was found for {split.value} in {MAX_TRIES} tries")

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`. Topic and answer are drawn first, then moves that lead to it."""
        if not predict:
            return self.ask(scene, QuestionKind.PLAN, rng)
        room, longest = _own(scene), min(length, LONGEST_SCRIPT)
        for topic in rng.permutation(TOPICS).tolist():
            script = _script(room, topic, longest, rng)
            if script is not None:
                return self.ask(scene, QuestionKind.PREDICT, rng, script, topic)
        script = random_actions(scene, len(MOVES), int(rng.integers(1, longest + 1)), rng)
        return self.ask(scene, QuestionKind.PREDICT, rng, roll(scene, script).actions, "happens")

    def ask(self, scene, kind, rng, script=(), topic=""):
        """See :meth:`World.ask`; a script that starts with the intervention is of the topic ``without``."""
        if kind is QuestionKind.PLAN:
            return super().ask(scene, kind, rng)
        topic = topic or ("without" if script and script[0] == REMOVE_KEYS else "happens")
        moves = self.plan_text(script[1:] if topic == "without" else script)
        text = TEXTS[topic][rng.integers(len(TEXTS[topic]))].format(moves=moves)
        return Question(kind=kind, text=text, scene=scene, script=tuple(int(a) for a in script), topic=topic)

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        return answer(_own(question.scene), question.topic, rollout)

    def interpret(self, text, scene):
        """See :meth:`World.interpret`: named moves make it a PREDICT question, "goal" a PLAN."""
        low = text.lower()
        script = tuple(self.actions.index(name) for name in re.findall("|".join(self.actions), low))
        if not script:
            asks = re.search(r"\bgoal\b", low) and re.search(r"\b(get|way|path|reach|go)\b", low)
            return Question(kind=QuestionKind.PLAN, text=text, scene=scene) if asks else None
        topic = "happens"
        if re.search(r"\b(without|no) (the |any |a )?keys?\b", low):
            topic, script = "without", (REMOVE_KEYS, *script)
        elif re.search(r"\bdoor (be )?open\b", low):
            topic = "opens"
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=script, topic=topic)

    def corpus(self):
        """See :meth:`World.corpus`."""
        return [*super().corpus(), *HAPPENS, *OPENS]


def answer(scene: KeyScene, topic: str, rollout: Rollout) -> str:
    """What the first and the last picture of ``rollout`` tell."""
    first, last = rollout.states[0], rollout.states[-1]
    opened = scene.is_open(last)
    if topic != "happens":
        return OPENS[not opened]
    if scene.at_goal(last):
        return HAPPENS[0]
    if opened:
        return HAPPENS[1]
    return HAPPENS[2 if first.carrying == NOTHING and last.carrying in KEYS else 3]


def _own(scene: Scene) -> KeyScene:
    assert isinstance(scene, KeyScene), f"{type(scene).__name__} is no scene of minigrid_key"
    return scene


def _script(scene: KeyScene, topic: str, longest: int, rng: np.random.Generator) -> list[int] | None:
    """Moves for a question of ``topic`` with an answer that was drawn before; None if the room has none."""
    if topic == "without":
        moves = scene.script_to(scene.is_open, longest - 1, rng)
        return None if moves is None else [REMOVE_KEYS, *moves]
    answers, weights = (HAPPENS, WEIGHTS) if topic == "happens" else (OPENS, None)
    for wanted in rng.choice(answers, len(answers), replace=False, p=weights).tolist():
        for _ in range(8):
            moves = _attempt(scene, wanted, longest, rng)
            if moves is None:
                break
            rollout = roll(scene, moves)
            if len(rollout.actions) == len(moves) and answer(scene, topic, rollout) == wanted:
                return moves
    return None


def _attempt(scene: KeyScene, wanted: str, longest: int, rng: np.random.Generator) -> list[int] | None:
    """Moves that are likely to make ``wanted`` true; None where no moves do."""
    goals = {
        HAPPENS[0]: scene.at_goal,
        HAPPENS[1]: scene.is_open,
        HAPPENS[2]: lambda state: state.carrying in KEYS,
        OPENS[0]: scene.is_open,
    }
    if wanted in goals:
        moves = scene.script_to(goals[wanted], longest, rng)
        spare = 0 if moves is None or wanted == HAPPENS[0] else longest - len(moves)
        return None if moves is None else moves + rng.integers(3, size=rng.integers(min(spare, 2) + 1)).tolist()
    return _failure(scene, longest, rng)


def _failure(scene: KeyScene, longest: int, rng: np.random.Generator) -> list[int]:
    """Moves to the door or past it with a mistake in them; random ones where that is too far."""
    moves = scene.script_to(scene.is_open, longest, rng)
    if not moves or rng.random() < 0.2:
        return rng.integers(len(MOVES), size=rng.integers(1, longest + 1)).tolist()
    places = [i for i, a in enumerate(moves) if a in MISTAKEN]
    if len(places) == 1 or rng.random() < 0.5:
        place = int(rng.integers(len(moves)))
        moves[place] = int(rng.integers(len(MOVES)))
    else:
        del moves[places[0]]
    return moves
