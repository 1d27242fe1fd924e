"""Physics: balls that fall, bounce, roll and push, simulated by pymunk, as a world of pictures.

Description: a side view. A clamp at the top holds a ball over ramps, platforms, coloured blocks and other balls; the
floor is parted into a left, a middle and a right bin. What happens when the ball is dropped, and what would happen
without one of the other things? Edges of the picture are walls.
Action Space: 5 actions: "wait" lets a quarter of a second pass; "drop" opens the clamp, and the same time passes;
"remove red", "remove green", "remove blue" take a block or a ball away, in no time. The ball of the clamp cannot be
removed; before the drop time stands still.
Observation: an RGB frame of ``patch_size`` pixels a cell, 6 x 6 to 8 x 8 cells. Motion is continuous, but balls are
drawn on the lattice of half cells, which keeps the number of different patches small. A dark dot shows where a moving
ball was a tick ago, so that the picture tells how fast it goes and where to. A white dot marks what the dropped ball
has touched, so that whether it hit something can be read from the last picture alone.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: no ball is drawn elsewhere than a tick before (success), at the latest after 7 ticks. All questions are
predictions about that end. Success says that the end is reached and nothing about the answer, which is to be read
from the pictures; that nothing moves any more can be seen: there is no dark dot.

Scenes are drawn such that the answers do not hang on rounding: they are the same with a finer time step and with the
ball half a pixel further left or right. Left out are springs, joints and spin: a picture could not show them.
"""

from __future__ import annotations

import numpy as np

from envs.world import Question, QuestionKind, World, WorldError
from envs.worlds.physics_layout import MAX_SIZE, MIN_SIZE, UNIT, parse_layout
from envs.worlds.physics_questions import BUCKETS, STILL, TEXTS, Ask, answer, asks, bucket, parse, sentences
from envs.worlds.physics_sampling import AIMS, propose
from envs.worlds.physics_scene import MAX_TICKS, Action, PhysicsScene, removal

MAX_TRIES = 20_000
MIN_TICKS = 3
"""Shorter falls are not asked about: the ball lies still before anything can happen."""
LEAST_SHIFT = UNIT / 2
"""Units that a ball must have come to the side where the answer is a bin."""


class Physics(World):
    """Random scenes with a held ball and two other coloured things; questions about where it ends and what it hits."""

    name = "physics"
    family = "causal"
    actions = tuple(action.name.lower().replace("_", " ") for action in Action)
    kinds = (QuestionKind.PREDICT,)
    min_size, max_size, default_sizes = MIN_SIZE, MAX_SIZE, (6,)

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels a cell, even and at least 8, because balls stand on half cells."""
        if patch_size < 8 or patch_size % 2:
            raise WorldError(f"world.patch_size ({patch_size}) must be even and >= 8: balls stand on half patches")
        self.patch_size = patch_size

    def scene(self, options):
        """See :meth:`World.scene`.

        Options: ``{"size": 6, "objects": [{"kind": "ball", "colour": "red", "row": 0, "column": 2.5}, ...]}``: balls
        and blocks (kind, colour, row, column), platforms (kind, row, column), ramps (kind, row, column, slope: the
        side they lead down to, "left" or "right"). The ball in row 0 is the one that is dropped.
        """
        scene = PhysicsScene(parse_layout(options), self.patch_size)
        if not scene.reliable():
            raise WorldError(
                f"the {scene.dropped} ball's fall hangs on less than a pixel or lasts more than {MAX_TICKS} ticks; "
                "move something by half a column"
            )
        return scene

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`.

        The topic and the answer (its colours aside) are drawn first, then a scene to which they apply; :meth:`draw`
        asks that question, so that no answer is right more often than another.
        """
        if not MIN_SIZE <= size <= MAX_SIZE:
            raise WorldError(f"size ({size}) must be between {MIN_SIZE} and {MAX_SIZE}")
        topic = tuple(TEXTS)[rng.integers(len(TEXTS))]
        wanted = BUCKETS[topic][rng.integers(len(BUCKETS[topic]))]
        for _ in range(MAX_TRIES):
            layout = propose(rng, split, size, AIMS[wanted])
            if layout is None:
                continue
            scene = PhysicsScene(layout, self.patch_size)
            if scene.end().tick < MIN_TICKS:
                continue
            fitting = [ask for ask in asks(scene, topic) if bucket(scene, ask) == wanted and worth_asking(scene, ask)]
            if fitting:
                scene.intended = fitting[rng.integers(len(fitting))]
                return scene
        raise WorldError(f"no physics scene of size {size} with answer {wanted!r} found in {MAX_TRIES} tries")

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`: what a sampled scene was made for, else anything that can be asked about it."""
        assert isinstance(scene, PhysicsScene)
        if isinstance(scene.intended, Ask):
            possible = [scene.intended]
        else:
            possible = [a for topic in TEXTS for a in asks(scene, topic) if not a.without or scene.reliable(a.without)]
        short = [ask for ask in possible if len(scene.script(ask.without)) <= length]
        possible = short or possible
        return self.question(scene, possible[rng.integers(len(possible))], rng)

    def question(self, scene: PhysicsScene, ask: Ask, rng: np.random.Generator) -> Question:
        """``ask`` in one of its wordings."""
        texts = TEXTS[ask.topic]
        if ask.without and answer(scene, ask, scene.end()) == "no":
            texts = tuple(text for text in texts if text != STILL)
        text = texts[rng.integers(len(texts))].format(*ask.colours)
        return Question(
            kind=QuestionKind.PREDICT, text=text, scene=scene, script=scene.script(ask.without), topic=ask.topic
        )

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        ask = parse(question.text)
        assert ask is not None, question.text
        assert isinstance(question.scene, PhysicsScene)
        return answer(question.scene, ask, rollout.states[-1])

    def interpret(self, text, scene):
        """See :meth:`World.interpret`. About a bare picture the script is as long as any fall."""
        ask = parse(text)
        if ask is None or isinstance(scene, PhysicsScene) and not ask.fits(scene):
            return None
        if isinstance(scene, PhysicsScene):
            script = scene.script(ask.without)
        else:
            first = [] if ask.without is None else [removal(ask.without)]
            script = tuple(int(a) for a in (*first, Action.DROP, *[Action.WAIT] * (MAX_TICKS - 1)))
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=script, topic=ask.topic)

    def corpus(self):
        """See :meth:`World.corpus`."""
        return super().corpus() + sentences()


def worth_asking(scene: PhysicsScene, ask: Ask) -> bool:
    """Whether the answer can be relied on, and is not just the bin right below the clamp."""
    if ask.topic == "rest" and ask.colours[0] == scene.dropped:
        start, end = (scene.fall(()).after(tick).balls[scene.dropped] for tick in (0, scene.end().tick))
        if abs(start.x - end.x) < LEAST_SHIFT and scene.place(scene.end(), scene.dropped).endswith("bin"):
            return False
    return scene.reliable() and (ask.without is None or scene.reliable(ask.without))
