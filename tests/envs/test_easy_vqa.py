"""Easy-VQA: what the world sees in the pictures against all that the package says about them."""

import itertools
from collections import Counter, defaultdict

import easy_vqa
import numpy as np
import pytest
from PIL import Image

from envs.questions import stream
from envs.world import Outcome, PictureScene, Question, QuestionKind, Split, WorldError, roll
from envs.worlds.easy_vqa import COLORS, SHAPES, EasyVqa, askable, pictures_of, redrawn

WORLD = EasyVqa()
PACKAGE = {
    "train": (easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()),
    "test": (easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()),
}


def sampled(index, split=Split.TRAIN, world=WORLD):
    rng = stream(7, index)
    scene = world.sample_scene(rng, split, 1)
    return scene, world.draw(scene, True, 8, rng)


@pytest.mark.parametrize("source, every", [("train", 5), ("test", 2)])
def test_every_answer_is_the_packages(source, every):
    """Pictures 0, ``every``, 2 * ``every`` ... with all of their questions."""
    checked = Counter()
    scenes = {n: WORLD.scene({"source": source, "image": n}) for n in range(0, len(PACKAGE[source][1]), every)}
    for text, answer, number in zip(*PACKAGE[source][0], strict=True):
        if number in scenes:
            question = WORLD.interpret(text, scenes[number])
            assert question is not None and question.script == (0,)
            assert WORLD.verify(question, answer).exact
            checked[answer] += 1
    assert set(checked) == set(easy_vqa.get_answers()) and checked.total() > 4000


def test_the_verifier_rejects_every_other_answer():
    for index in range(40):
        scene, question = sampled(index)
        truth = WORLD.tell(question, roll(scene, question.script))
        right = [answer for answer in easy_vqa.get_answers() if WORLD.verify(question, answer).exact]
        assert right == [truth]


def test_the_first_picture_is_the_packages_and_the_second_shows_the_same_thing():
    for index in range(60):
        scene, question = sampled(index)
        path = PACKAGE[scene.source][1][scene.number]
        assert (scene.frame(scene.start) == np.array(Image.open(path).convert("RGB"))).all()
        rollout = roll(scene, question.script)
        assert question.belief(rollout.outcome, 1) is Outcome.STOP
        shape, color = rollout.states[-1]
        looked = scene.frame(rollout.states[-1])
        shades = {tuple(p) for p in looked.reshape(-1, 3).tolist()}
        assert shades == {(255, 255, 255), COLORS[color]}
        assert scene.step(rollout.states[-1], 0)[0] == (shape, color)


def test_the_redrawn_shapes_are_seen_as_what_they_are():
    pictures = {}
    for shape, color in itertools.product(SHAPES, COLORS):
        picture = redrawn(shape, color)
        pictures[picture.tobytes()] = (shape, color)
        inside = (picture != 255).any(-1)
        rows, columns = np.nonzero(inside)
        assert rows.min() + rows.max() == columns.min() + columns.max() == 63  # in the middle
        filled = inside.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
        assert filled == pytest.approx({"circle": np.pi / 4, "rectangle": 1, "triangle": 0.5}[shape], abs=0.04)
    assert len(pictures) == 24


@pytest.mark.parametrize("size, most", [(8, 300), (16, 120), (32, 97)])
def test_few_different_patches_after_the_look(size, most):
    world, patches, side = EasyVqa(size), set(), 64 // size
    for shape, color in itertools.product(SHAPES, COLORS):
        picture = redrawn(shape, color)
        patches |= {p.tobytes() for row in np.split(picture, side) for p in np.split(row, side, axis=1)}
    assert len(patches) <= most
    assert sampled(0, world=world)[0].grid == world.grid_at(1) == (side, side)


def test_splits_follow_the_package_and_share_no_picture():
    chosen = {split: set(pictures_of(split)) for split in Split}
    assert {source for source, _ in chosen[Split.TEST]} == {"test"}
    assert {source for source, _ in chosen[Split.TRAIN] | chosen[Split.VALIDATION]} == {"train"}
    assert not chosen[Split.TRAIN] & chosen[Split.VALIDATION]
    assert len(chosen[Split.TRAIN]) > 3500 and len(chosen[Split.TEST]) > 950
    assert len(chosen[Split.VALIDATION]) == pytest.approx(400, abs=40)
    keys = {split: {sampled(index, split)[0].key for index in range(200)} for split in Split}
    assert not any(keys[a] & keys[b] for a, b in itertools.combinations(Split, 2))
    for split in Split:
        first, second = ([sampled(i, split) for i in range(20)] for _ in range(2))
        assert [(s.key, q.text) for s, q in first] == [(s.key, q.text) for s, q in second]


def test_neither_a_constant_answer_nor_the_question_alone_is_right_often():
    answers, by_text = defaultdict(Counter), defaultdict(Counter)
    for index in range(1500):
        scene, question = sampled(index)
        answer = WORLD.tell(question, roll(scene, question.script))
        answers[question.topic][answer] += 1
        if question.topic.endswith("there"):
            by_text[question.text][answer] += 1
    best = {topic: max(found.values()) / found.total() for topic, found in answers.items()}
    assert best["color"] < 0.2 and best["shape"] < 0.42 and max(best["color there"], best["shape there"]) < 0.56
    blind = sum(max(found.values()) for found in by_text.values()) / sum(found.total() for found in by_text.values())
    assert blind < 0.67  # some questions were drawn a few times only


def test_questions_are_the_packages_and_are_understood():
    corpus, templates = set(WORLD.corpus()), {text for source in PACKAGE for text in PACKAGE[source][0][0]}
    assert templates | set(easy_vqa.get_answers()) == corpus and len(templates) == 107
    for index in range(60):
        scene, question = sampled(index)
        assert question.text in templates and question.kind is QuestionKind.PREDICT
        assert WORLD.interpret(question.text, scene) == question
        assert WORLD.interpret(f"  {question.text.upper()} ", scene).topic == question.topic
    picture = PictureScene(redrawn("circle", "red"), 16)
    for text in templates:
        assert WORLD.interpret(text, picture).script == (0,)
    for text in (
        "",
        "what is the shape?",
        "is there a pink shape?",
        "is the circle red?",
        "look",
        "is there a red dog?",
    ):
        assert WORLD.interpret(text, picture) is None


def test_a_question_that_supposes_something_false_is_not_answered():
    numbers = range(40)
    scene = next(s for s in (WORLD.scene({"source": "test", "image": n}) for n in numbers) if s.found[0] == "triangle")
    assert WORLD.interpret("what color is the triangle?", scene) is not None
    assert WORLD.interpret("what color is the circle?", scene) is None
    yes_no = Question(kind=QuestionKind.PREDICT, text="is no circle present?", scene=scene, script=(0,))
    assert WORLD.interpret(yes_no.text, scene).topic == "shape there"
    assert WORLD.verify(yes_no, "yes").exact and not WORLD.verify(yes_no, "no").exact


def test_yes_no_questions_are_asked_only_where_both_kinds_exist():
    there, absent = ("is a red shape present?", "yes"), ("is there not a green shape?", "yes")
    assert set(askable([there, absent])) == {("color there", True), ("color there", False)}
    assert askable([there]) == {} == askable([absent]) == askable([there, ("is a circle present?", "no")])
    assert set(askable([there, ("what color is the shape?", "red")])) == {("color", True)}


def test_a_picture_about_which_nothing_fair_is_asked():
    known = {number for split in (Split.TRAIN, Split.VALIDATION) for _, number in pictures_of(split)}
    number = min(set(PACKAGE["train"][1]) - known)
    with pytest.raises(WorldError, match=f"nothing fair about picture {number} of train"):
        WORLD.draw(WORLD.scene({"source": "train", "image": number}), True, 8, stream(0))


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, '"source" is missing'),
        ({"source": "test"}, '"image" is missing'),
        ({"source": "test", "image": 1, "question": "?"}, 'unknown option "question"'),
        ({"source": "validation", "image": 1}, '"source" must be "train" or "test"'),
        ({"source": ["test"], "image": 1}, '"source" must be "train" or "test"'),
        ({"source": "test", "image": 1000}, '"image" must be a whole number from 0 to 999, got 1000'),
        ({"source": "train", "image": -1}, "from 0 to 3999"),
        ({"source": "train", "image": "1"}, "must be a whole number"),
        ({"source": "train", "image": True}, "must be a whole number"),
        ({"source": "train", "image": 1.0}, "must be a whole number"),
    ],
)
def test_a_bad_scene_is_one_clear_line(options, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(options)
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_exist():
    with pytest.raises(WorldError, match=r"size \(2\) must be 1"):
        WORLD.sample_scene(stream(0), Split.TRAIN, 2)
    with pytest.raises(WorldError, match=r"patch_size \(12\) must be one of 8, 16, 32"):
        EasyVqa(12)
