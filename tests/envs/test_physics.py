"""Physics against closed forms, scenes rebuilt without a thing, finer time steps, and a reader of the pictures."""

import itertools
import pickle
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from falling import BLUE, GREEN, RAMP, RED, UNDER_BLUE, WORLD, scene

from envs.questions import stream
from envs.world import Outcome, PictureScene, QuestionKind, Split, random_actions, roll
from envs.worlds.physics import Physics
from envs.worlds.physics_layout import COLOURS, make_layout
from envs.worlds.physics_picture import MARK, PAINT, TRAIL
from envs.worlds.physics_questions import BUCKETS, TEXTS, Ask, answer, bucket, parse, sentences
from envs.worlds.physics_scene import MAX_TICKS, Action, PhysicsScene, Progress, removal
from envs.worlds.physics_simulation import GRAVITY, SUBSTEPS, TICK, Fall


def sampled(index, split=Split.TRAIN, size=6, world=WORLD):
    rng = stream(11, index)
    made = world.sample_scene(rng, split, size)
    return world.draw(made, True, 8, rng)


@pytest.fixture(scope="module")
def questions():
    return [sampled(index) for index in range(240)]


def end_of(question):
    return roll(question.scene, question.script).states[-1]


def test_a_ball_falls_as_the_closed_form_says():
    fall = scene(RED).fall(())
    start = fall.after(0).balls["red"]
    for tick in (1, 2):
        found, time = fall.after(tick).balls["red"], tick * TICK
        steps, dt = tick * SUBSTEPS, TICK / SUBSTEPS
        assert found.x == start.x
        assert found.y - start.y == pytest.approx(GRAVITY * dt**2 * steps * (steps - 1) / 2, rel=1e-9)
        assert found.y - start.y == pytest.approx(GRAVITY * time**2 / 2, abs=GRAVITY * dt * time)


def test_a_platform_a_block_a_ramp_and_the_floor_stop_it_where_they_should():
    def ends(*objects):
        made = scene({**RED, "column": 2}, *objects)
        return made.place(made.end(), "red")

    assert ends() == "in the middle bin"
    assert ends({"kind": "platform", "row": 4, "column": 2}) == "on the platform"
    assert ends({**GREEN, "column": 2}) == "on the green block"
    assert ends({**RAMP, "slope": "left"}) == "in the left bin"
    assert ends(RAMP, {**GREEN, "row": 2, "column": 5}) == "in the right bin"
    assert ends({**RAMP, "row": 4}, {**GREEN, "row": 4, "column": 3}) == "on the ramp"
    under = {"kind": "platform", "row": 2, "column": 2}
    assert ends({**BLUE, "row": 2, "column": 2}, under, {**under, "column": 1}) == "on the blue ball"
    assert WORLD.scene({"objects": [{**RED, "column": 0}]}).script() == (1, 0, 0, 0)


def test_time_stands_still_before_the_drop_and_after_the_end():
    made = scene(RED, BLUE, UNDER_BLUE, RAMP, GREEN)
    assert made.legal == (0, 1, 3, 4) and made.start == Progress(0, ())
    for action in (Action.WAIT, Action.REMOVE_RED):
        assert made.step(made.start, action) == (made.start, Outcome.CONTINUE)
    first, _ = made.step(made.start, Action.DROP)
    assert made.step(first, Action.DROP) == (first, Outcome.CONTINUE)
    both = [roll(made, order).states[-1] for order in ((3, 4), (4, 3), (4, 3, 3, 0))]
    assert len(set(both)) == 1
    rollout = roll(made, made.script())
    assert rollout.outcome is Outcome.SUCCESS and len(rollout.actions) == len(made.script())
    for action in range(5):
        assert made.step(rollout.states[-1], action) == (rollout.states[-1], Outcome.SUCCESS)
    assert sorted(rollout.states) == list(rollout.states) and len(set(rollout.states)) == len(rollout.states)


def test_everything_is_the_same_in_every_run(questions):
    for index, question in enumerate(questions[:12]):
        again = sampled(index)
        assert again.text == question.text and again.script == question.script
        assert again.scene.key == question.scene.key
        frames = [[q.scene.frame(s) for s in roll(q.scene, q.script).states] for q in (question, again)]
        assert np.array_equal(*frames)
        state = end_of(question)
        copy = pickle.loads(pickle.dumps(question.scene))
        assert copy.falls == {} and copy.step(state, 0) == (state, Outcome.SUCCESS)
        falls = [made.fall(state.removals).after(MAX_TICKS) for made in (question.scene, again.scene, copy)]
        assert falls[0] == falls[1] == falls[2]  # bit for bit


def test_a_removal_is_the_scene_rebuilt_without_the_thing(questions):
    changed = 0
    for question in questions[:60]:
        made = question.scene
        for colour in set(made.layout.coloured) - {made.dropped}:
            rest = [p for p in made.layout.pieces if p.colour != colour]
            other = PhysicsScene(make_layout(made.layout.size, rest), 16)
            without, plain = roll(made, made.script(colour)), roll(other, other.script())
            assert without.actions == (removal(colour), *plain.actions) and without.outcome is plain.outcome
            for a, b in zip(without.states[1:], plain.states, strict=True):
                assert np.array_equal(made.frame(a), other.frame(b))
                assert made.touched(a) == other.touched(b)
            changed += made.touched(made.end()) - {colour} != made.touched(made.end(colour))
    assert changed > 10


def test_a_thing_can_be_removed_during_the_fall():
    made = scene({**RED, "column": 2}, {**GREEN, "column": 2})
    on_block, after = roll(made, (1, 0)).states[-1], Action.REMOVE_GREEN
    assert made.place(on_block, "red") == "on the green block" and made.touched(on_block) == {"green"}
    gone, outcome = made.step(on_block, after)
    assert outcome is Outcome.CONTINUE and made.touched(gone) == set()
    rollout = roll(made, (1, 0, after, 0, 0, 0, 0, 0))
    assert made.place(rollout.states[-1], "red") == "in the middle bin"
    before, later = made.fall(()), made.fall(((2, "green"),))
    assert [before.after(t) for t in range(3)] == [later.after(t) for t in range(3)]
    assert later.after(3).balls["red"].y > before.after(3).balls["red"].y + 2


def test_answers_do_not_hang_on_the_time_step(questions):
    agree = []
    for question in questions[:120]:
        made, ask, state = question.scene, parse(question.text), end_of(question)
        truth = answer(made, ask, state)
        fine = PhysicsScene(made.layout, 16)
        fine.falls[state.removals] = Fall(made.layout, state.removals, substeps=8 * SUBSTEPS)
        agree.append(answer(fine, ask, state) == truth)
    assert np.mean(agree) >= 0.97


def test_a_mirrored_scene_has_mirrored_answers(questions):
    sides = str.maketrans({"L": "right", "R": "left"})
    agree = []
    for question in questions[:60]:
        made = question.scene
        slopes = {"left": "right", "right": "left", "": ""}
        pieces = [replace(p, column=5 - p.column, slope=slopes[p.slope]) for p in made.layout.pieces]
        other = PhysicsScene(make_layout(6, pieces), 16)
        place = other.place(other.end(), made.dropped).replace("left", "L").replace("right", "R").translate(sides)
        agree.append(
            (place, other.touched(other.end())) == (made.place(made.end(), made.dropped), made.touched(made.end()))
        )
    assert np.mean(agree) >= 0.97


def reads(frame, colour):
    """Middle of what is painted in ``colour`` in patches (row, column), whether it is a ball, whether it is marked."""
    rows, columns = np.nonzero((frame == PAINT[colour]).all(-1))
    top, left = rows.min(), columns.min()
    box = frame[top : rows.max() + 1, left : columns.max() + 1]
    ball = not (box[0, 0] == PAINT[colour]).all()
    middle = (box.shape[0] // 2, box.shape[1] // 2)
    return (top + middle[0]) / 16, (left + middle[1]) / 16, ball, bool((box[middle] == MARK).all())


def test_the_last_picture_shows_the_answer(questions):
    """Read with eyes for pixels only, where no ball covers another."""
    read = Counter()
    for question in questions:
        made, ask, state = question.scene, parse(question.text), end_of(question)
        frame, truth = made.frame(state), answer(made, ask, state)
        seen = {c: reads(frame, c) for c in made.layout.coloured if c != ask.without}
        cells = [np.array(s[:2]) for s in seen.values()]
        if any(abs(a - b).max() < 1 for a, b in itertools.combinations(cells, 2)):
            continue
        read[ask.topic] += 1
        if ask.topic in ("hit", "counterfactual"):
            assert truth == ("yes" if seen[ask.colours[1]][3] else "no")
        elif ask.topic == "rest" and seen[ask.colours[0]][0] > 5:
            side = ("left", "middle", "right")[int(seen[ask.colours[0]][1] // 2)]
            assert truth == f"in the {side} bin"
        elif ask.topic == "drop":
            hit = [f"the {c} {'ball' if s[2] else 'block'}" for c, s in sorted(seen.items()) if s[3]]
            assert not hit or truth == "it hits " + " and ".join(hit)
    assert all(read[topic] >= 15 for topic in TEXTS)


def test_a_dark_dot_shows_that_something_moves(questions):
    """Away from the clamp, whose jaws are as dark."""
    for question in questions[:100]:
        rollout = roll(question.scene, question.script)
        for state in rollout.states[1:]:
            dark = (question.scene.frame(state) == TRAIL).all(-1).any()
            moving = state.tick > 0 and state != rollout.states[-1]
            assert dark == (moving or state.tick == 0)


def test_pictures_are_made_of_few_patches(questions):
    patches, frames = set(), 0
    for index, question in enumerate(questions):
        made, rng = question.scene, stream(12, index)
        for _ in range(3):
            for state in roll(made, random_actions(made, 5, 8, rng)).states:
                frame = made.frame(state)
                assert frame.shape == (96, 96, 3) and frame.dtype == np.uint8
                patches |= {p.tobytes() for p in frame.reshape(6, 16, 6, 16, 3).swapaxes(1, 2).reshape(36, -1)}
                frames += 1
    assert frames > 3000 and len(patches) < 400


def test_no_constant_answer_is_right_often(questions):
    answers, buckets = defaultdict(Counter), defaultdict(Counter)
    for question in questions:
        answers[question.topic][WORLD.tell(question, roll(question.scene, question.script))] += 1
        buckets[question.topic][bucket(question.scene, parse(question.text))] += 1
    for topic, most in {"rest": 0.32, "drop": 0.3, "hit": 0.62, "counterfactual": 0.62}.items():
        assert set(buckets[topic]) == set(BUCKETS[topic])
        assert answers[topic].total() > 40
        assert max(answers[topic].values()) / answers[topic].total() < most
    changes = sum(n for name, n in buckets["counterfactual"].items() if name in ("yes, now no", "no, now yes"))
    assert 0.35 < changes / buckets["counterfactual"].total() < 0.65


def test_scripts_are_short_and_questions_are_recognised(questions):
    seen = defaultdict(set)
    for question in questions:
        assert question.kind is QuestionKind.PREDICT and 3 <= len(question.script) <= 8
        assert WORLD.interpret(question.text, question.scene) == question
        seen[question.topic].add(question.text.split()[0])
        picture = WORLD.interpret(question.text, PictureScene(question.scene.frame(question.scene.start), 16))
        assert picture.topic == question.topic and len(picture.script) <= MAX_TICKS + 1
        assert picture.script[: len(question.script)] == question.script
    made = scene(RED, BLUE, UNDER_BLUE, RAMP, GREEN)
    for topic, texts in TEXTS.items():
        for text in texts:
            assert parse(text.format(*COLOURS).upper()) == Ask(
                topic, COLOURS[: 1 + text.count("{1}") + text.count("{2}")]
            )
    for foreign in ("", "Where is the ball?", "Does red hit yellow?", "Find the way.", "Does red hit red?"):
        assert WORLD.interpret(foreign, made) is None
    for absent in (
        "Does blue hit red?",
        "What happens when you drop the blue ball?",
        "Where does the green ball end up?",
    ):
        assert WORLD.interpret(absent, made) is None


def test_the_verifier_takes_the_truth_and_nothing_else(questions):
    everything = sentences()
    for question in questions[:60]:
        truth = WORLD.tell(question, roll(question.scene, question.script))
        assert truth in everything and question.text in everything
        assert WORLD.verify(question, truth).exact and WORLD.verify(question, f" {truth}. ").exact
        assert [text for text in everything if WORLD.verify(question, text).exact] == [truth]
    assert set(everything) <= set(WORLD.corpus())


def test_users_scenes_are_asked_about_everything():
    made = scene(RED, BLUE, UNDER_BLUE, {**RAMP}, {**GREEN, "row": 4, "column": 5})
    drawn = [WORLD.draw(made, True, 8, stream(13, i)) for i in range(60)]
    assert {q.topic for q in drawn} == set(TEXTS)
    short = len(made.script())
    assert all(len(WORLD.draw(made, True, short, stream(13, i)).script) <= short for i in range(20))
    assert any(len(q.script) > short for q in drawn)
    alone = scene(RED)
    assert {WORLD.draw(alone, True, 8, stream(13, i)).topic for i in range(20)} == {"rest", "drop"}


def test_splits_are_disjoint_and_larger_canvases_work():
    keys = {split: {sampled(i, split).scene.key for i in range(12)} for split in Split}
    for a, b in itertools.combinations(Split, 2):
        assert not keys[a] & keys[b]
    for size in (7, 8):
        question = sampled(0, Split.TEST, size)
        assert question.scene.grid == (size, size)
        assert question.scene.frame(question.scene.start).shape == (16 * size, 16 * size, 3)


@pytest.mark.parametrize("patch_size", [8, 10, 32])
def test_the_size_of_patches_changes_pictures_only(patch_size):
    small, large = (scene(RED, BLUE, UNDER_BLUE, RAMP, GREEN, world=Physics(p)) for p in (16, patch_size))
    assert small.key == large.key and small.script() == large.script()
    pictures = {large.frame(s).tobytes() for s in roll(large, large.script()).states}
    assert len(pictures) >= len({small.frame(s).tobytes() for s in roll(small, small.script()).states}) - 1
    assert large.frame(large.start).shape == (6 * patch_size, 6 * patch_size, 3)
