"""Easy-VQA: questions about real pictures of one coloured shape, with the data set's own answers and split.

Description: a circle, rectangle or triangle in one of 8 colours stands somewhere on a pale background. What is it,
which colour does it have, is there a red shape, is there not?
Action Space: 1 action, "look": the shape is found and redrawn in the middle, in a standard size.
Observation: an RGB frame of 64 x 64 pixels, which is 4 x 4 patches of 16 pixels. The first one is the picture as it
comes with the package; its patches are of endlessly many kinds. After "look" it is one of 24: shape times colour.
Rewards: none of its own; see ``dreamrl.rewards``.
Termination: none; the question ends after the look.

Pictures, questions and answers are those of the ``easy-vqa`` package (4,000 + 1,000 pictures, 48,248 questions). Its
test pictures are our test split; of its training pictures a tenth is held out for validation. ``look`` separates the
shape from the background by colour and tells shapes apart by how much of their bounding box they fill; tests hold
the answers that follow equal to the package's. Yes-no questions are drawn so that what is asked for is there half of
the time: in the package a colour that is asked for is there once in 8 times, so a question answers itself.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections import defaultdict

import easy_vqa
import numpy as np
from PIL import Image

from envs.world import Outcome, Question, QuestionKind, Scene, Split, World, WorldError, split_of

ACTIONS = ("look",)
SIDE = 64
PATCH_SIZES = (8, 16, 32)
COLORS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}
SHAPES = ("circle", "rectangle", "triangle")
MOST_FILLED = {"triangle": 0.69, "circle": 0.93, "rectangle": 1.0}
"""Largest share of its bounding box that a shape fills; over the package's pictures 0.63, 0.91 and 1."""
UNSEEN = ("", "")
"""The state before the look; after it (shape, color)."""
COLOR, SHAPE, COLOR_THERE, SHAPE_THERE = "color", "shape", "color there", "shape there"
YES_NO = (COLOR_THERE, SHAPE_THERE)
A_COLOR, A_SHAPE = rf"({'|'.join(COLORS)}) shape", rf"({'|'.join(SHAPES)})"
QUESTIONS = (
    (COLOR, rf"what (is the color of|color is) the (shape|{'|'.join(SHAPES)})"),
    (SHAPE, rf"what shape (is in the image|does the image contain|is present)|what is the ({'|'.join(COLORS)}) shape"),
    *(
        (topic, pattern)
        for topic, thing in ((COLOR_THERE, A_COLOR), (SHAPE_THERE, A_SHAPE))
        for pattern in (
            rf"is (a|no) {thing} present",
            rf"is there (not )?a {thing}( in the image)?",
            rf"does the image (not )?contain a {thing}",
        )
    ),
)
"""The package's templates by topic."""


@functools.lru_cache(maxsize=1)
def package_questions() -> dict[str, dict[int, list[tuple[str, str]]]]:
    """The package's own (question, answer) pairs by "train" or "test" and picture."""
    found = {}
    for source, load in (("train", easy_vqa.get_train_questions), ("test", easy_vqa.get_test_questions)):
        found[source] = defaultdict(list)
        for text, answer, image in zip(*load(), strict=True):
            found[source][image].append((text, answer))
    return found


@functools.lru_cache(maxsize=1)
def package_paths() -> dict[str, dict[int, str]]:
    """Where the pictures are, by "train" or "test" and number."""
    return {"train": easy_vqa.get_train_image_paths(), "test": easy_vqa.get_test_image_paths()}


@functools.lru_cache(maxsize=3)
def pictures_of(split: Split) -> tuple[tuple[str, int], ...]:
    """("train" or "test", number) of the pictures of ``split`` that something can be asked about."""
    source = "test" if split is Split.TEST else "train"
    numbers = sorted(package_questions()[source])
    if split is not Split.TEST:
        numbers = [n for n in numbers if (split_of(f"train/{n}") is Split.VALIDATION) == (split is Split.VALIDATION)]
    return tuple((source, n) for n in numbers if askable(package_questions()[source][n]))


def askable(pairs: list[tuple[str, str]]) -> dict[tuple[str, bool], list[str]]:
    """The questions about one picture by (topic, whether what is asked for is there).

    Yes-no questions of a topic are kept only if there are both kinds, so that neither can be guessed from the question.
    """
    groups = defaultdict(list)
    for text, answer in pairs:
        topic, _ = understand(text)
        groups[topic, topic not in YES_NO or (answer == "yes") != negated(text)].append(text)
    return {
        (topic, there): texts
        for (topic, there), texts in groups.items()
        if topic not in YES_NO or (topic, not there) in groups
    }


def understand(text: str) -> tuple[str, str]:
    """Topic of a question and the shape or color that it names ("" for none); ("", "") for a foreign one."""
    plain = " ".join(text.lower().split()).rstrip(" ?")
    for topic, pattern in QUESTIONS:
        if re.fullmatch(pattern, plain):
            named = [word for word in plain.split() if word in SHAPES or word in COLORS]
            return topic, named[0] if named else ""
    return "", ""


def negated(text: str) -> bool:
    """Whether a yes-no question asks for absence."""
    return not {"not", "no"}.isdisjoint(text.lower().split())


def find_shape(picture: np.ndarray) -> tuple[str, str]:
    """(shape, color) of the one thing in ``picture``, uint8 (H, W, 3)."""
    pixels = picture.astype(np.int64)
    palette = np.array(list(COLORS.values()))
    color = (pixels[:, :, None] == palette).all(-1).sum((0, 1)).argmax()  # edges are blurred, the inside is pure
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    shades, counts = np.unique(edge, axis=0, return_counts=True)
    background = shades[counts.argmax()]
    inside = ((pixels - palette[color]) ** 2).sum(-1) < ((pixels - background) ** 2).sum(-1)
    rows, columns = np.nonzero(inside)
    filled = inside.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
    return next(shape for shape, most in MOST_FILLED.items() if filled <= most), list(COLORS)[color]


@functools.lru_cache(maxsize=32)
def redrawn(shape: str, color: str) -> np.ndarray:
    """What a look shows, uint8 (64, 64, 3): the shape in the middle, half as wide as the picture."""
    place = (np.arange(SIDE) + 0.5) / (SIDE / 4) - 2
    y, x = place[:, None], place[None, :]
    inside = {
        "circle": x**2 + y**2 < 1,
        "rectangle": (abs(x) < 1) & (abs(y) < 0.625),
        "triangle": (abs(y) < 1) & (abs(x) < (1.06 + y) / 2),
    }[shape]
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture[inside] = COLORS[color]
    return picture


class EasyVqaScene(Scene):
    """One picture of the package. States are ``UNSEEN`` or the (shape, color) that the look found."""

    start = UNSEEN

    def __init__(self, source: str, number: int, patch_size: int):
        """Args: ``source`` "train" or "test", ``number`` of the picture in it, ``patch_size`` pixels a patch."""
        self.source, self.number = source, number
        with Image.open(package_paths()[source][number]) as image:
            self.picture = np.array(image.convert("RGB"))
        self.key = hashlib.blake2b(self.picture.tobytes(), digest_size=16).hexdigest()
        self.grid = (SIDE // patch_size, SIDE // patch_size)
        self.found = find_shape(self.picture)

    def step(self, state, action):
        """See :meth:`Scene.step`. A second look shows the same."""
        return (self.found if action == 0 else state), Outcome.CONTINUE

    def frame(self, state):
        """See :meth:`Scene.frame`."""
        return self.picture if state == UNSEEN else redrawn(*state)

    def distance(self, state):
        """There is nothing to reach."""
        return None


class EasyVqa(World):
    """The package's pictures with its own questions about them."""

    name = "easy_vqa"
    family = "vqa"
    actions = ACTIONS
    kinds = (QuestionKind.PREDICT,)

    def __init__(self, patch_size: int = 16):
        """Args: ``patch_size`` pixels, one of ``PATCH_SIZES``."""
        if patch_size not in PATCH_SIZES:
            allowed = ", ".join(map(str, PATCH_SIZES))
            raise WorldError(
                f"world.patch_size ({patch_size}) must be one of {allowed}: the pictures have {SIDE} pixels"
            )
        self.patch_size = patch_size

    def grid_at(self, size):
        """See :meth:`World.grid_at`."""
        return SIDE // self.patch_size, SIDE // self.patch_size

    def scene(self, options):
        """See :meth:`World.scene`. Options: ``{"source": "test", "image": 12}``, a picture of the package."""
        for name in options:
            if name not in ("source", "image"):
                raise WorldError(f'unknown option {json.dumps(name)}; easy_vqa takes "source" and "image"')
        for name in ("source", "image"):
            if name not in options:
                raise WorldError(f'"{name}" is missing; easy_vqa takes {{"source": "test", "image": 12}}')
        source, number = options["source"], options["image"]
        if source not in ("train", "test"):
            raise WorldError(f'"source" must be "train" or "test", got {source!r}')
        last = len(package_paths()[source]) - 1
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= last:
            raise WorldError(f'"image" must be a whole number from 0 to {last}, got {number!r}')
        return EasyVqaScene(source, number, self.patch_size)

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`."""
        if size != 1:
            raise WorldError(f"size ({size}) must be 1: the pictures come in one size")
        known = pictures_of(split)
        return EasyVqaScene(*known[rng.integers(len(known))], self.patch_size)

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`. One of the package's questions about the picture: first its topic is chosen."""
        assert isinstance(scene, EasyVqaScene), f"{type(scene).__name__} is no scene of this world"
        groups = askable(package_questions()[scene.source][scene.number])
        if not groups:
            raise WorldError(f"the package asks nothing fair about picture {scene.number} of {scene.source}")
        topics = sorted({topic for topic, _ in groups})
        topic = topics[rng.integers(len(topics))]
        texts = groups[topic, topic not in YES_NO or bool(rng.integers(2))]
        text = texts[rng.integers(len(texts))]
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=(0,), topic=topic)

    def ask(self, scene, kind, rng, script=()):
        """See :meth:`World.ask`. The only thing to do is to look, and the package says what to ask."""
        return self.draw(scene, True, 1, rng)

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        shape, color = rollout.states[-1]
        topic, named = understand(question.text)
        if topic in YES_NO:
            return "yes" if (named in (shape, color)) != negated(question.text) else "no"
        return color if topic == COLOR else shape

    def interpret(self, text, scene):
        """See :meth:`World.interpret`. The color of a triangle is no question where there is none."""
        topic, named = understand(text)
        false = isinstance(scene, EasyVqaScene) and topic not in YES_NO and named not in ("", *scene.found)
        if not topic or false:
            return None
        return Question(kind=QuestionKind.PREDICT, text=text, scene=scene, script=(0,), topic=topic)

    def corpus(self):
        """See :meth:`World.corpus`."""
        texts = {text for pairs in package_questions()["train"].values() for text, _ in pairs}
        return [*sorted(texts), *easy_vqa.get_answers()]
