"""Before and after, next, order: against the simulator stepped by hand and against every order there is."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from minigrid_reference import Room, seen_in

from dreamrl.nn.codec import to_patches
from envs.questions import stream
from envs.world import Outcome, QuestionKind, Split, WorldError, random_play, roll, verify_plan
from envs.worlds.minigrid_rules import NAMES
from envs.worlds.temporal import ANSWERS, Temporal
from envs.worlds.temporal_scenes import BetweenScene, NextScene, OrderScene

WORLD = Temporal()
A = {"agent": [1, 2, "right"], "objects": {"red ball": [2, 2]}}
TAKEN = {"agent": [1, 2, "right"], "objects": {}}
WALKED = {"agent": [2, 2, "right"], "objects": {}}
TURNED = {"agent": [1, 2, "up"], "objects": {"red ball": [2, 2]}}


def drawn(index, size=3, split=Split.TRAIN, world=WORLD):
    return world.sample_scene(stream(16, size, index), split, size)


def many(topic, count=40, size=3):
    return [s for s in (drawn(i, size) for i in range(3 * count)) if s.topic == topic][:count]


def asked(count, predict):
    return [WORLD.draw(drawn(i, 2 + i % 2), predict, 8, stream(6, i)) for i in range(count)]


def after(state, names, side):
    """What the real simulator makes of a room."""
    env = Room(state, side + 2)
    for name in names:
        env.do(name)
    return env.seen()


def inside(picture, side, patch_size):
    """A room as the simulator renders it, without its right and its lower wall."""
    cut = (side + 1) * patch_size
    return picture[:cut, :cut]


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize("size", [2, 3])
def test_pictures_are_what_minigrid_renders(size, patch_size):
    world = Temporal(patch_size)
    for index in range(6):
        base = drawn(index, size, world=world)
        for scene in (base, world.draw(base, True, 8, stream(1, index)).scene):
            frame = scene.frame(scene.start)
            block = (size + 1) * patch_size
            assert frame.shape == (scene.grid[0] * patch_size, scene.grid[1] * patch_size, 3)
            assert scene.grid[0] <= world.grid_at(size)[0] and scene.grid[1] <= world.grid_at(size)[1]
            for place, (room, number) in enumerate(scene.blocks(scene.start)):
                top, left = place // 2 * block, place % 2 * block
                shown = frame[top : top + block, left : left + block].copy()
                if room is None:
                    assert (shown == 100).all()
                    continue
                truth = inside(Room(room, size + 2).picture(patch_size), size, patch_size)
                assert (shown[:patch_size, :patch_size] != 100).any() == (number is not None)
                shown[:patch_size, :patch_size] = truth[:patch_size, :patch_size]
                assert (shown == truth).all()


def test_numbers_differ():
    scene = many("order", 1)[0]
    corners = {patch.tobytes() for patch in to_patches(scene.frame(scene.start), 16) if patch.max() == 255}
    frame = scene.frame(scene.start)
    numbers = [frame[y : y + 16, x : x + 16].tobytes() for y, x in ((0, 0), (0, 64), (64, 0))]
    assert len(set(numbers)) == 3 and len(corners) >= 3


def test_between_is_solved_by_what_happened():
    """Every list of up to three actions is judged as the simulator does."""
    for scene in many("between", 8):
        goal, best = seen_in(scene.after), None
        for length in (1, 2, 3):
            for plan in itertools.product(range(4), repeat=length):
                reached = [after(scene.start, [WORLD.actions[a] for a in plan[: i + 1]], 3) for i in range(length)]
                first = reached.index(goal) + 1 if goal in reached else None
                best = best or first
                verdict = verify_plan(scene, plan)
                assert verdict.exact == (first == length == best)
                assert not verdict.success or first == length
        assert best == scene.distance(scene.start)
        assert seen_in(scene.start) != goal


def test_only_one_order_is_possible():
    """Brute force over all orders, in the real simulator."""
    names = WORLD.actions[:4]
    for scene in many("order", 12):
        rooms = [room for room, _ in scene.blocks(scene.start)[:3]]
        possible = [
            order
            for order in itertools.permutations(range(3))
            if all(
                any(after(rooms[a], [name], 3) == seen_in(rooms[b]) for name in names)
                for a, b in itertools.pairwise(order)
            )
        ]
        assert [tuple(rooms[i] for i in order) for order in possible] == [scene.pictures]


def test_order_is_restored_by_the_fewest_swaps():
    for scene in many("order", 20):
        good = []
        for length in (1, 2):
            for plan in itertools.product((4, 5, 6), repeat=length):
                places = list(scene.start)
                for action in plan:
                    a, b = {4: (0, 1), 5: (1, 2), 6: (0, 2)}[action]
                    places[a], places[b] = places[b], places[a]
                if places == [0, 1, 2] and (not good or len(good[0]) == length):
                    good.append(plan)
        assert len(good[0]) == scene.distance(scene.start)
        for length in (1, 2):
            for plan in itertools.product((4, 5, 6), repeat=length):
                assert WORLD.verify(WORLD.ask(scene, QuestionKind.PLAN, stream(0)), WORLD.plan_text(plan)).exact == (
                    plan in good
                )


def test_exactly_one_picture_comes_next():
    places = Counter()
    for question in asked(150, True):
        scene = question.scene
        names = [WORLD.actions[a] for a in question.script]
        truth = after(scene.start, names, scene.side)
        right = [i for i, room in enumerate(scene.candidates) if seen_in(room) == truth]
        assert len(right) == 1 and len(set(scene.candidates)) == 3
        said = WORLD.tell(question, roll(scene, question.script))
        assert said == ANSWERS[right[0]]
        assert [a for a in (*ANSWERS, "none of the pictures") if WORLD.verify(question, a).exact] == [said]
        places[right[0]] += 1
        last = scene.frame(roll(scene, question.script).states[-1])
        side = (scene.side + 1) * 16
        shown = [last[y : y + side, x : x + side][16:, 16:] for y, x in ((0, 0), (0, side), (side, 0), (side, side))]
        assert [i for i in range(3) if (shown[0] == shown[i + 1]).all()] == right
    assert max(places.values()) < 0.45 * places.total()


def test_actions_that_do_not_belong_change_nothing():
    between, order = many("between", 1)[0], many("order", 1)[0]
    assert [between.step(between.start, a) for a in (4, 5, 6)] == [(between.start, Outcome.CONTINUE)] * 3
    assert [order.step(order.start, a) for a in range(4)] == [(order.start, Outcome.CONTINUE)] * 4
    assert {a for i in range(20) for a in random_play(order, 7, 8, stream(i)).actions} <= {4, 5, 6}
    assert {a for i in range(20) for a in random_play(between, 7, 8, stream(i)).actions} <= {0, 1, 2, 3}


def test_distances_fall_by_one_along_the_best_way():
    for index in range(40):
        scene = drawn(index)
        for state in random_play(scene, 7, 8, stream(2, index)).states:
            distance = scene.distance(state)
            steps = [scene.distance(scene.step(state, a)[0]) for a in range(7)]
            if distance:
                assert min(d for d in steps if d is not None) == distance - 1
            elif distance is None:
                assert set(steps) == {None}


@pytest.mark.parametrize("predict", [False, True])
def test_what_is_asked_is_what_is_understood(predict):
    topics = Counter()
    for question in asked(150, predict):
        found = WORLD.interpret(question.text, question.scene)
        assert found == question
        topics[question.topic] += 1
        assert len(question.script) <= 3
    assert set(topics) == ({"next"} if predict else {"between", "order"})


def test_a_question_must_fit_the_pictures():
    between, order = many("between", 1)[0], many("order", 1)[0]
    assert WORLD.interpret("Sort the pictures.", between) is None
    assert WORLD.interpret("How did picture 1 become picture 2?", order) is None
    assert WORLD.interpret("Which picture comes next after forward?", order) is None
    for text in ("", "Who are you?", "picture", "Which picture is red?", "日本"):
        assert WORLD.interpret(text, between) is None and WORLD.interpret(text, order) is None
    with pytest.raises(WorldError, match="can only be asked which picture"):
        WORLD.ask(WORLD.draw(between, True, 8, stream(0)).scene, QuestionKind.PLAN, stream(0))


def test_answers_are_balanced():
    scenes = [drawn(i) for i in range(900)]
    best = {"between": Counter(), "order": Counter()}
    totals = Counter(scene.topic for scene in scenes)
    moves = {"between": range(4), "order": (4, 5, 6)}
    for scene in scenes:
        for length in (1, 2):
            for plan in itertools.product(moves[scene.topic], repeat=length):
                best[scene.topic][plan] += verify_plan(scene, plan).exact
    assert max(best["between"].values()) / totals["between"] < 0.14
    assert max(best["order"].values()) / totals["order"] < 0.3
    assert 0.4 < totals["order"] / len(scenes) < 0.6


def test_frames_are_made_of_few_patches():
    seen = set()
    for index in range(200):
        base = drawn(index, 2 + index % 2)
        for scene in (base, WORLD.draw(base, True, 8, stream(1, index)).scene):
            for state in random_play(scene, 7, 4, stream(5, index)).states:
                seen |= {patch.tobytes() for patch in to_patches(scene.frame(state), 16)}
    assert 20 <= len(seen) <= 2 + 4 + 18 + 3


def test_splits_are_disjoint_and_scenes_reproducible():
    found = {split: [drawn(i, 3, split) for i in range(60)] for split in Split}
    starts = {split: {scene.first for scene in scenes} for split, scenes in found.items()}
    for a, b in itertools.combinations(Split, 2):
        assert not starts[a] & starts[b]
    assert [s.key for s in found[Split.TEST]] == [drawn(i, 3, Split.TEST).key for i in range(60)]
    for scene in found[Split.TEST]:
        assert WORLD.draw(scene, True, 8, stream(0)).scene.first == scene.first
    assert (
        WORLD.scene({"topic": "between", "size": 3, "pictures": [A, TAKEN]}).key == "e22425607db07a6542a24514e0b9e3d6"
    )


def test_scenes_from_options():
    between = WORLD.scene({"topic": "between", "size": 3, "pictures": [A, WALKED]})
    assert isinstance(between, BetweenScene) and between.distance(between.start) == 2
    assert WORLD.verify(WORLD.ask(between, QuestionKind.PLAN, stream(0)), "pick up, forward").exact
    assert NAMES[between.after.carrying] == "red ball"
    order = WORLD.scene({"topic": "order", "size": 3, "pictures": [WALKED, TAKEN, A]})
    assert isinstance(order, OrderScene) and order.start == (2, 1, 0)
    assert WORLD.verify(WORLD.ask(order, QuestionKind.PLAN, stream(0)), "swap 13").exact
    options = {"topic": "next", "size": 3, "now": A, "pictures": [TURNED, WALKED, TAKEN]}
    scene = WORLD.scene(options)
    assert isinstance(scene, NextScene)
    for moves, truth in (("turn left", 0), ("pick up", 2), ("pick up, forward", 1)):
        question = WORLD.interpret(f"Which picture comes next after {moves}?", scene)
        assert WORLD.verify(question, ANSWERS[truth]).exact
    for seed in range(20):
        question = WORLD.draw(scene, bool(seed % 2), 8, stream(seed))
        assert question.scene is scene and WORLD.tell(question, roll(scene, question.script)) in ANSWERS
    question = WORLD.interpret("Which picture comes next after turn right?", scene)
    assert WORLD.verify(question, "none of the pictures").exact


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, r'"topic" \(null\) must be one of between, order, next'),
        ({"topic": ["order"]}, r'"topic" \(\["order"\]\) must be one of'),
        ({"topic": "order", "size": 3}, '"pictures" is missing'),
        ({"topic": "order", "size": 3, "pictures": [A, A]}, '"pictures" must be a list of 3 rooms'),
        ({"topic": "order", "size": 3, "pictures": [A, A, 3]}, "a scene must be an object like"),
        ({"topic": "order", "size": 4, "pictures": [A, A, A]}, '"size" must be a whole number from 2 to 3'),
        ({"topic": "order", "size": 3, "pictures": [A, TAKEN, WALKED]}, "in order already"),
        ({"topic": "order", "size": 3, "pictures": [A, TURNED, WALKED]}, "0 orders of the pictures"),
        ({"topic": "between", "size": 3, "pictures": [A, A]}, "picture 2 must differ from picture 1"),
        ({"topic": "between", "size": 3, "pictures": [TAKEN, A]}, "picture 2 must differ from picture 1"),
        ({"topic": "between", "size": 3, "pictures": [A, A], "now": A}, 'unknown option "now"'),
        ({"topic": "next", "size": 3, "now": A, "pictures": [A, A, TAKEN]}, "two that are alike"),
        (
            {
                "topic": "between",
                "size": 3,
                "pictures": [A | {"objects": {"red ball": [2, 2], "red key": [3, 3]}}, TAKEN],
            },
            "room 2 lacks the red ball and the red key",
        ),
    ],
)
def test_bad_pictures_are_one_clear_line(options, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        WORLD.scene(options)
    assert "\n" not in str(caught.value)


def test_all_words_are_in_the_corpus():
    words = set(re.findall(r"\w+", " ".join(WORLD.corpus()).lower()))
    for question in asked(40, True) + asked(40, False):
        assert set(re.findall(r"\w+", question.text.lower())) <= words


def test_steps_leave_their_state_as_it_was():
    scene = many("between", 1)[0]
    before, frame = tuple(scene.start), scene.frame(scene.start)
    for action in range(7):
        assert scene.step(scene.start, action) == scene.step(scene.start, action)
    assert tuple(scene.start) == before and np.array_equal(frame, scene.frame(scene.start))
