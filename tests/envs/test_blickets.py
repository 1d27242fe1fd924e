"""Blickets against the package's own answers and against a search that writes the causal rule once more."""

import itertools
from collections import Counter

import numpy as np
import pytest
from reasoning_gym.induction.acre.acre import ACREDataset, ACREDatasetConfig

from envs.questions import stream
from envs.world import Outcome, PictureScene, QuestionKind, Split, WorldError, roll, split_of
from envs.worlds.blickets import ANSWERS, COLORS, MATERIALS, PREDICT_TEXTS, SHAPES, Blickets, content, infer

WORLD = Blickets()
RED, BLUE, GRAY = "red metal cube", "blue rubber sphere", "gray metal cylinder"


def sampled(index, split=Split.TRAIN, world=WORLD):
    rng = stream(6, index)
    scene = world.sample_scene(rng, split, 1)
    return scene, world.draw(scene, True, 8, rng)


def by_search(trials, query):
    """Every subset of the objects as the set of blickets, one by one."""
    objects = sorted({name for row, _ in trials for name in row} | set(query))
    seen = set()
    for size in range(len(objects) + 1):
        for blickets in map(set, itertools.combinations(objects, size)):
            if all(bool(blickets & set(row)) == (light == "on") for row, light in trials):
                seen.add(bool(blickets & set(query)))
    return {(): "", (True,): "on", (False,): "off", (False, True): "undetermined"}[tuple(sorted(seen))]


def test_the_answers_are_the_packages_and_those_of_a_plain_search():
    found = Counter()
    for seed in range(60):
        entries = ACREDataset(ACREDatasetConfig(train=seed % 2, size=10, seed=seed))
        for index, puzzle in enumerate(entries.questions):
            trials = [(tuple(" ".join(w) for w in t["input"]), t["output"]) for t in puzzle["examples"]]
            query = tuple(" ".join(w) for w in puzzle["question"]["input"])
            answer = infer(trials, query)
            assert answer == puzzle["question"]["output"]
            if index < 3:
                entry = entries[index]
                assert answer == by_search(trials, query) == entry["answer"]
                for other in ANSWERS:
                    assert entries.score_answer(other, entry) == (1 if other == answer else 0)
            found[answer] += 1
    assert found.total() > 1000 and min(found.values()) > 200


@pytest.mark.parametrize(
    "trials, query, answer",
    [
        ([((RED,), "on")], (RED,), "on"),
        ([((RED,), "off")], (RED,), "off"),
        ([((RED, BLUE), "on"), ((BLUE,), "off")], (RED,), "on"),  # an indirect proof
        ([((RED, BLUE), "on"), ((RED,), "on")], (BLUE,), "undetermined"),  # blocking
        ([((RED, BLUE), "on")], (RED,), "undetermined"),
        ([((RED, BLUE), "on")], (RED, BLUE), "on"),  # one of them is a blicket, whichever it is
        ([((RED, BLUE), "on")], (RED, GRAY), "undetermined"),
        ([((RED,), "off")], (GRAY,), "undetermined"),  # never seen
        ([((RED, BLUE), "on"), ((BLUE,), "off")], (BLUE,), "off"),  # screened off
        ([((RED, BLUE), "off"), ((RED,), "on")], (BLUE,), ""),  # contradictory
    ],
)
def test_what_follows_from_trials(trials, query, answer):
    assert infer(trials, query) == answer == by_search(trials, query)


def test_the_machine_shows_the_answer_after_the_test():
    for index in range(60):
        scene, question = sampled(index)
        rollout = roll(scene, question.script)
        assert question.kind is QuestionKind.PREDICT and question.script == (0,)
        assert question.belief(rollout.outcome, 1) is Outcome.STOP
        truth = WORLD.tell(question, rollout)
        assert truth == by_search(scene.trials, scene.query)
        assert [WORLD.verify(question, answer).exact for answer in ANSWERS] == [a == truth for a in ANSWERS]
        before, after = scene.frame(scene.start), scene.frame(rollout.states[-1])
        changed = (before != after).any(-1)
        assert changed[-16:, :16].any() and not changed[:-16].any() and not changed[:, 16:].any()
        assert scene.step(rollout.states[-1], 0)[0] == rollout.states[-1]


def read(frame, size):
    """The scene that a frame shows, read patch by patch with pictures of single objects."""
    known = {}
    for words in itertools.product(COLORS, MATERIALS, SHAPES):
        name = " ".join(words)
        alone = WORLD.scene({"trials": [{"objects": [name], "light": "off"}], "query": [name]})
        known[alone.frame(alone.start)[-size:, size : 2 * size].tobytes()] = name
    assert len(known) == len(COLORS) * len(MATERIALS) * len(SHAPES)
    rows = []
    for top in range(0, len(frame), size):
        patches = [frame[top : top + size, left : left + size] for left in range(size, frame.shape[1], size)]
        rows.append(tuple(known[p.tobytes()] for p in patches if p.tobytes() in known))
    lamps = [tuple(frame[top + 4, 4].tolist()) for top in range(0, len(frame), size)]
    return rows, ["on" if lamp == (255, 225, 40) else "off" for lamp in lamps[:-1]]


def test_the_picture_shows_every_trial():
    for index in range(10):
        scene, _ = sampled(index)
        rows, lamps = read(scene.frame(scene.start), 16)
        assert rows == [row for row, _ in scene.trials] + [scene.query]
        assert lamps == [light for _, light in scene.trials]


@pytest.mark.parametrize("size", [8, 16, 32])
def test_few_different_patches_in_many_frames(size):
    world, patches = Blickets(size), set()
    for index in range(100):
        scene, _ = sampled(index, world=world)
        for state in (scene.start, scene.step(scene.start, 0)[0]):
            frame = scene.frame(state)
            assert frame.shape == (7 * size, 7 * size, 3) and frame.dtype == np.uint8
            assert scene.grid == world.grid_at(1) == (7, 7)
            patches |= {p.tobytes() for row in np.split(frame, 7) for p in np.split(row, 7, axis=1)}
    assert 40 < len(patches) <= 48 + 4 + 2


def test_splits_are_disjoint_and_scenes_reproducible():
    keys = {}
    for split in Split:
        scenes = [sampled(index, split)[0] for index in range(60)]
        assert {split_of(content(s.trials, s.query)) for s in scenes} == {split}
        keys[split] = {s.key for s in scenes}
        assert len(keys[split]) == 60
        assert [s.key for s in scenes] == [sampled(index, split)[0].key for index in range(60)]
    assert not any(keys[a] & keys[b] for a, b in itertools.combinations(Split, 2))


def test_no_constant_answer_is_right_often():
    answers = Counter(sampled(index)[0].answer for index in range(600))
    assert set(answers) == set(ANSWERS) and max(answers.values()) < 0.4 * 600


def test_questions_are_understood():
    scene, _ = sampled(0)
    texts = set()
    for index in range(30):
        _, question = sampled(index)
        found = WORLD.interpret(question.text, question.scene)
        assert found == question
        texts.add(question.text)
        assert question.text in WORLD.corpus()
    assert texts == set(PREDICT_TEXTS) and set(ANSWERS) <= set(WORLD.corpus())
    picture = PictureScene(scene.frame(scene.start), 16)
    assert WORLD.interpret(PREDICT_TEXTS[0].upper(), picture).script == (0,)
    for text in ("", "What happens if the elf moves right?", "What is in the last row?", "test"):
        assert WORLD.interpret(text, scene) is None


def test_a_scene_of_ones_own():
    options = {
        "trials": [{"objects": [RED, BLUE], "light": "on"}, {"objects": [BLUE], "light": "off"}],
        "query": [RED],
    }
    scene = WORLD.scene(options)
    assert scene.answer == "on" and scene.key == WORLD.scene(options).key
    assert (scene.frame(scene.start)[: 4 * 16] == 250).all()  # the four trials that are not there


TRIAL = {"objects": [RED], "light": "on"}


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"trials": [TRIAL]}, '"query" is missing'),
        ({"query": [RED]}, '"trials" is missing'),
        ({"trials": [TRIAL], "query": [RED], "answer": "on"}, 'unknown option "answer"'),
        ({"trials": [], "query": [RED]}, "list of 1 to 6 trials"),
        ({"trials": [TRIAL] * 7, "query": [RED]}, "list of 1 to 6 trials"),
        ({"trials": "on", "query": [RED]}, "list of 1 to 6 trials"),
        ({"trials": [TRIAL, [RED]], "query": [RED]}, "trial 2 must be like"),
        ({"trials": [{"objects": [RED]}], "query": [RED]}, "trial 1 must be like"),
        ({"trials": [{"objects": [RED], "light": True}], "query": [RED]}, '"light" of trial 1 must be "on" or "off"'),
        ({"trials": [{"objects": RED, "light": "on"}], "query": [RED]}, '"objects" of trial 1 must be a list'),
        ({"trials": [TRIAL], "query": []}, '"query" must be a list of 1 to 6 names'),
        ({"trials": [TRIAL], "query": [1]}, '"query" must be a list of 1 to 6 names'),
        ({"trials": [TRIAL], "query": ["pink metal cube"]}, '"query" has "pink metal cube"; an object is a color'),
        ({"trials": [TRIAL], "query": ["red cube"]}, '"query" has "red cube"'),
        ({"trials": [TRIAL], "query": ["red  cube"]}, "has"),
        ({"trials": [TRIAL], "query": [RED, RED]}, "twice; name it once"),
        ({"trials": [TRIAL, {"objects": [RED, BLUE], "light": "off"}], "query": [RED]}, "contradict each other"),
    ],
)
def test_a_bad_scene_is_one_clear_line(options, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(options)
    assert "\n" not in str(caught.value)


def test_too_many_objects_sizes_and_patches():
    names = [f"{c} {m} cube" for c in COLORS for m in MATERIALS]
    trials = [{"objects": names[i : i + 5], "light": "on"} for i in (0, 5, 10)]
    with pytest.raises(WorldError, match="15 different objects; use at most 14"):
        WORLD.scene({"trials": trials, "query": [names[0]]})
    with pytest.raises(WorldError, match=r"size \(2\) must be 1"):
        WORLD.sample_scene(stream(0), Split.TRAIN, 2)
    with pytest.raises(WorldError, match=r"patch_size \(7\) must be >= 8"):
        Blickets(7)
