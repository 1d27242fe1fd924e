"""Edits on a known board: what is shown instead, and which answers follow, worked out by hand or by brute force."""

from dataclasses import replace

import pytest

from dreamrl.edits import INTERVENTIONS, Case, attempt, nearest, right_answers
from dreamrl.nn.codec import FrameCodes
from dreamrl.told_dreams import tell
from envs.questions import stream
from envs.world import Outcome, Question, QuestionKind, roll
from envs.worlds.frozen_lake import NO_PLAN, FrozenLake

LEFT, DOWN, RIGHT, UP = range(4)
NAMES = ("left", "down", "right", "up")
WORLD = FrozenLake()
MAZE = ["SFF", "FHF", "FFG"]
EAST, SOUTH = (RIGHT, RIGHT, DOWN, DOWN), (DOWN, DOWN, RIGHT, RIGHT)
HOLE, WANDER = (RIGHT, DOWN), (RIGHT, LEFT, RIGHT, LEFT, UP, UP, RIGHT, RIGHT)
LONG = (DOWN, UP, *EAST)


def words(actions):
    plan = [NAMES[a] for a in actions]
    return {", ".join(plan), " then ".join(plan)}


def plan(desc=MAZE):
    return Question(kind=QuestionKind.PLAN, text="Which way?", scene=WORLD.scene({"desc": desc}))


def predict(*script, desc=MAZE):
    scene = WORLD.scene({"desc": desc})
    return Question(kind=QuestionKind.PREDICT, text="What happens?", scene=scene, script=script)


@pytest.fixture
def make(tile_codec):
    """Makes a case whose dreams are true, from their actions."""

    def case(question, *plays, focus=0, answer="", foreign=()):
        codes = FrameCodes(tile_codec)
        dreams = [tell(question, roll(question.scene, play), codes) for play in plays]
        strangers = [tell(q, roll(q.scene, play), codes) for q, play in foreign]
        return Case(
            world=WORLD,
            question=question,
            codes=codes,
            horizon=8,
            dreams=dreams,
            confirmed=[True] * len(dreams),
            focus=focus,
            answer=answer,
            foreign=strangers,
        )

    return case


def edits_of(name, case, seeds=60):
    found = [attempt(INTERVENTIONS[name], case, stream(0, seed)) for seed in range(seeds)]
    assert not any(isinstance(edit, str) for edit in found), set(map(str, found))
    return found


def elf_at(case, frame, state):
    return (frame == case.codes(case.question.scene, state)).all()


def test_an_action_is_replaced_and_nothing_else(make):
    case = make(plan(), WANDER, EAST, HOLE, EAST, focus=1, answer="right, right, down, down")
    seen = set()
    for edit in edits_of("action", case):
        told = edit.dreams[1]
        [changed] = [t for t in range(4) if told.actions[t] != EAST[t]]
        seen.add((changed, told.actions[changed]))
        assert edit.right == words(told.actions)
        assert told.beliefs == case.told.beliefs and (told.frames == case.told.frames).all()
        assert edit.home == [1, 3] and edit.dreams[3].actions == told.actions
        assert edit.dreams[0] is case.dreams[0] and edit.dreams[2] is case.dreams[2]
    assert seen == {(t, a) for t in range(4) for a in range(4) if a != EAST[t]}


def brute_force(scene, plays):
    """The right answers to true dreams, by following every action."""
    best = {}
    for actions in plays:
        state, outcome, legal = scene.start, Outcome.CONTINUE, True
        for action in actions:
            after, outcome = scene.step(state, action)
            legal &= after != state
            state = after
        if legal and outcome is Outcome.SUCCESS:
            best.setdefault(len(actions), set()).update(words(actions))
    return best[min(best)] if best else {NO_PLAN}


def test_a_step_is_replaced_with_all_that_follows(make):
    question = plan(["SFF", "FFF", "FFG"])
    others = [(RIGHT, LEFT, *SOUTH), (UP, LEFT, UP)]
    case = make(question, LONG, *others, answer=", ".join(NAMES[a] for a in LONG))
    answers = set()
    for edit in edits_of("step", case, 200):
        told = edit.dreams[0]
        changed = next(t for t in range(6) if told.actions[t] != LONG[t])
        assert told.actions[changed + 1 : 6] == LONG[changed + 1 : len(told.actions)]
        state = question.scene.start
        for t, action in enumerate(told.actions):
            state, outcome = question.scene.step(state, action)
            assert elf_at(case, told.frames[t + 1], state) and told.beliefs[t] == outcome
        assert outcome is not Outcome.CONTINUE or len(told.actions) == 8
        assert edit.right == brute_force(question.scene, [told.actions, *others])
        own, other = (words(actions) <= edit.right for actions in (told.actions, others[0]))
        answers.add((own, other))
    assert answers == {(True, False), (False, True)}


def test_without_another_way_a_changed_step_leaves_none(make):
    edits = edits_of("step", make(plan(), EAST, WANDER, answer="right, right, down, down"), 100)
    assert {NO_PLAN} in [edit.right for edit in edits]
    assert all(edit.right == brute_force(plan().scene, [edit.dreams[0].actions]) for edit in edits)


@pytest.mark.parametrize(
    ("others", "right"),
    [([WANDER], {NO_PLAN}), ([LONG, WANDER], words(LONG)), ([LONG, SOUTH], words(SOUTH)), ([EAST], {NO_PLAN})],
)
def test_a_result_becomes_a_failure(make, others, right):
    case = make(plan(), EAST, *others, answer="right, right, down, down")
    for edit in edits_of("result", case, 3):
        told = edit.dreams[0]
        assert told.actions == EAST and told.beliefs == (0, 0, 0, Outcome.FAILURE)
        assert (told.frames[:-1] == case.told.frames[:-1]).all()
        assert elf_at(case, told.frames[-1], 4)  # the only hole
        assert edit.right == right


def test_a_foreign_dream_is_followed_or_rejected(make):
    other = plan(["SFG", "FFF", "FHF"])
    case = make(
        plan(), EAST, LONG, answer="right, right, down, down", foreign=[(other, (RIGHT, RIGHT)), (plan(), EAST)]
    )
    for edit in edits_of("swap", case, 10):
        assert edit.dreams[0] is case.foreign[0]  # the other one takes the actions that were there already
        assert edit.right == words((RIGHT, RIGHT)) | words(LONG)
    longer = replace(case, foreign=make(other, (RIGHT, LEFT, DOWN, RIGHT, UP, UP, RIGHT)).dreams)
    assert all(edit.right == words(LONG) for edit in edits_of("swap", longer, 3))


@pytest.mark.parametrize(
    ("script", "sentences"),
    [
        ((RIGHT, RIGHT, DOWN), {"the elf reaches the gift after 3 moves", "the elf falls into a hole after 3 moves"}),
        (EAST, {"the elf is still on the ice", "the elf falls into a hole after 4 moves"}),
        (HOLE, {"the elf is still on the ice", "the elf reaches the gift after 2 moves"}),
        ((*HOLE, UP), {"the elf reaches the gift after 2 moves"}),  # on the ice, the third move would come
    ],
)
def test_an_outcome_becomes_another(make, script, sentences):
    case = make(predict(*script), WANDER, script, HOLE[:1], focus=1)
    found = set()
    for edit in edits_of("outcome", case):
        told, [sentence] = edit.dreams[1], edit.right
        found.add(sentence)
        assert told.actions == case.told.actions and (told.frames[:-1] == case.told.frames[:-1]).all()
        ice, gift = "ice" in sentence, "gift" in sentence
        assert told.beliefs[-1] == (Outcome.STOP if ice else Outcome.SUCCESS if gift else Outcome.FAILURE)
        where = [s for s in range(9) if elf_at(case, told.frames[-1], s)]
        assert where == [8] if gift else where == [4] if not ice else where[0] not in (4, 8)
    assert found == sentences


def test_a_step_that_was_taken_before_cannot_end_otherwise(make):
    """Whoever walks into the wall twice cannot reach the gift by the second time only."""
    case = make(predict(LEFT, LEFT), (LEFT, LEFT))
    assert attempt(INTERVENTIONS["outcome"], case, stream(0, 0)) == "no_edit"


@pytest.mark.parametrize("focus", [1, 4])
def test_controls_change_nothing_that_matters(make, focus):
    case = make(plan(), WANDER, EAST, HOLE, EAST, focus=focus, answer="right, right, down, down")
    for edit in edits_of("order", case):
        assert sorted(map(id, edit.dreams)) == sorted(map(id, case.dreams)) and edit.dreams != case.dreams
        assert edit.right == {case.answer}
        assert sorted(edit.home) == ([4] if focus == 4 else [n for n in range(4) if edit.dreams[n].actions == EAST])
    for edit in edits_of("copy", case):
        [place] = [n for n in range(4) if edit.dreams[n] is not case.dreams[n]]
        assert edit.dreams[place].actions != case.dreams[place].actions
        assert focus == 4 or (place in (0, 2) and edit.dreams[place] in (case.dreams[0], case.dreams[2]))
        assert edit.right == {case.answer}


def test_who_is_left_out(make):
    def why(name, case):
        return attempt(INTERVENTIONS[name], case, stream(0, 0))

    good = make(plan(), EAST, LONG, answer="right, right, down, down")
    assert why("action", replace(good, focus=2)) == "no_dream"
    assert why("action", replace(good, confirmed=[False, True])) == "false_dream"
    assert why("action", make(plan(), WANDER)) == "no_answer"
    assert why("outcome", make(predict(*EAST), HOLE)) == "no_answer"
    assert why("result", make(plan(["SFF", "FFF", "FFG"]), EAST)) == "no_edit"
    assert why("swap", good) == "no_edit"
    assert why("order", make(plan(), EAST, EAST)) == why("copy", make(plan(), EAST, LONG)) == "no_edit"
    assert why("result", replace(good, confirmed=[True, False])) == "uncertain"
    assert why("result", replace(good, answer=", ".join(NAMES[a] for a in LONG))) == "same_answer"
    assert why("result", replace(good, answer=" then ".join(NAMES[a] for a in LONG))) == "same_answer"


def test_dreams_are_taken_by_what_they_show(make):
    """A false picture of success counts as one; a picture that stands still is a move into a wall."""
    case = make(plan(), EAST, HOLE)
    liar = replace(case.dreams[1], beliefs=(0, Outcome.SUCCESS))
    assert right_answers(WORLD, case.question, [case.dreams[0], liar]) == words(HOLE)
    frames = case.dreams[0].frames.copy()
    frames[2] = frames[1]
    still = replace(case.dreams[0], frames=frames)
    assert right_answers(WORLD, case.question, [still]) == {NO_PLAN}


def test_nearest_state():
    scene = WORLD.scene({"desc": ["SFFH", "HHFF", "FGFF"]})
    assert nearest(scene, 0, Outcome.FAILURE, 4) == 4
    assert nearest(scene, 2, Outcome.FAILURE, 4) == 3
    assert nearest(scene, 0, Outcome.SUCCESS, 4) == 9
    assert nearest(WORLD.scene({"desc": ["SF", "FG"]}), 0, Outcome.FAILURE, 4) is None
    assert nearest(scene, 1, Outcome.CONTINUE, 4) in (0, 1, 2)
