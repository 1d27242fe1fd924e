"""What can be asked about a physics scene, in words, and what the answers are."""

from __future__ import annotations

import re
from typing import NamedTuple

from envs.worlds.physics_layout import COLOURS
from envs.worlds.physics_scene import PhysicsScene, Progress

TEXTS = {
    "rest": (
        "Where does the {0} ball come to rest?",
        "Where does the {0} ball end up?",
        "Where will the {0} ball lie in the end?",
    ),
    "drop": (
        "What happens when you drop the {0} ball?",
        "You drop the {0} ball. What happens?",
        "What does the {0} ball do when it is dropped?",
    ),
    "hit": ("Does {0} hit {1}?", "Will {0} hit {1}?", "Is {1} hit by {0}?"),
    "counterfactual": (
        "Would {0} still hit {1} without {2}?",
        "Would {0} hit {1} without {2}?",
        "Would {0} hit {1} if {2} were not there?",
        "Without {2}, would {0} hit {1}?",
    ),
}
"""Paraphrases by topic, with colours for the numbers."""
STILL = TEXTS["counterfactual"][0]
"""Only fits where the one does hit the other."""
BUCKETS = {
    "rest": ("in the left bin", "in the middle bin", "in the right bin", "on the platform", "on the block"),
    "drop": (
        "it falls to the floor",
        "it lands on the platform",
        "it hits the ball",
        "it hits the block",
        "it hits the ball and the ball",
        "it hits the ball and the block",
    ),
    "hit": ("yes", "no"),
    "counterfactual": ("yes, now yes", "yes, now no", "no, now yes", "no, now no"),
}
"""Answers without colours that sampled scenes have equally often, by topic; see :func:`bucket`."""
PLACES = (
    "in the left bin",
    "in the middle bin",
    "in the right bin",
    "on the platform",
    "on the ramp",
    "in the air",
    "in the clamp",
)
_FIELD = re.compile(r"\{(\d)\}")
_ANY = "|".join(COLOURS)
_PATTERNS = [
    (topic, re.compile(_FIELD.sub(rf"(?P<c\1>{_ANY})", re.escape(text).replace(r"\{", "{").replace(r"\}", "}"))))
    for topic, texts in TEXTS.items()
    for text in (t.lower().rstrip("?") for t in texts)
]


class Ask(NamedTuple):
    """A question without its wording: ``topic`` and the colours that it names, in the order of ``TEXTS``.

    Example:
        ``Ask("counterfactual", ("red", "blue", "green"))``: would red hit blue without green?
    """

    topic: str
    colours: tuple[str, ...]

    @property
    def without(self) -> str | None:
        """What is imagined away."""
        return self.colours[2] if self.topic == "counterfactual" else None

    def fits(self, scene: PhysicsScene) -> bool:
        """Whether ``scene`` has all that is named, in the roles that the question gives it."""
        present, first = scene.layout.coloured, self.colours[0]
        named = set(self.colours) <= set(present) and len(set(self.colours)) == len(self.colours)
        return named and (first == scene.dropped or self.topic == "rest" and present[first].kind == "ball")


def parse(text: str) -> Ask | None:
    """What ``text`` asks; None if it is no question of this world."""
    low = " ".join(text.lower().split()).rstrip("?!. ")
    for topic, pattern in _PATTERNS:
        found = pattern.fullmatch(low)
        if found:
            return Ask(topic, tuple(found[f"c{i}"] for i in range(len(found.groups()))))
    return None


def asks(scene: PhysicsScene, topic: str) -> list[Ask]:
    """All that ``topic`` can ask about ``scene``; of other balls only where those end up that move elsewhere."""
    held, end = scene.dropped, scene.end()
    others = [colour for colour in scene.layout.coloured if colour != held]
    if topic == "rest":
        balls = [c for c in others if scene.layout.coloured[c].kind == "ball"]
        pushed = [c for c in balls if scene.place(end, c) != scene.place(scene.start, c)]
        return [Ask(topic, (c,)) for c in (held, *pushed)]
    if topic == "drop":
        return [Ask(topic, (held,))]
    if topic == "hit":
        return [Ask(topic, (held, c)) for c in others]
    return [Ask(topic, (held, a, b)) for a in others for b in others if a != b]


def answer(scene: PhysicsScene, ask: Ask, state: Progress) -> str:
    """What ``state`` shows about ``ask``, in words."""
    touched = scene.touched(state)
    if ask.topic in ("hit", "counterfactual"):
        return "yes" if ask.colours[1] in touched else "no"
    where = scene.place(state, ask.colours[0])
    if ask.topic == "rest":
        return where
    if touched:
        return "it hits " + " and ".join(f"the {c} {scene.layout.coloured[c].kind}" for c in sorted(touched))
    return "it falls to the floor" if where.endswith("bin") else f"it lands {where}"


def bucket(scene: PhysicsScene, ask: Ask) -> str:
    """The answer without colours, and for a counterfactual what happens now."""
    found = answer(scene, ask, scene.end(ask.without))
    if ask.topic == "counterfactual":
        return f"{found}, now {answer(scene, ask, scene.end())}"
    words = [word for word in found.split() if word not in COLOURS]
    return " ".join(words).replace("the block and the ball", "the ball and the block")


def sentences() -> list[str]:
    """Every question and every answer there is."""
    found = ["yes", "no", "it falls to the floor"]
    for texts in TEXTS.values():
        for text in texts:
            found += [text.format(a, b, c) for a in COLOURS for b in COLOURS for c in COLOURS if len({a, b, c}) == 3]
    found += [p for place in PLACES for p in (place, f"it lands {place}")]
    found += [f"{verb}on the {c} {kind}" for verb in ("", "it lands ") for c in COLOURS for kind in ("ball", "block")]
    things = [f"the {c} {kind}" for c in COLOURS for kind in ("ball", "block")]
    found += [f"it hits {a}" for a in things]
    found += [f"it hits {a} and {b}" for a in things for b in things if a < b and a.split()[1] != b.split()[1]]
    return list(dict.fromkeys(found))
