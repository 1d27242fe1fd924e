"""What FrozenLake reads and writes: plans in words, true answers, questions in free text."""

import itertools
from collections import Counter

import pytest

from envs.questions import stream
from envs.world import Outcome, QuestionKind, Split, roll
from envs.worlds.frozen_lake import NO_PLAN, FrozenLake, parse_plan

WORLD = FrozenLake()
MAZE = ["SFF", "FHF", "FFG"]


def board(size):
    return WORLD.sample_scene(stream(4, size, 0), Split.TRAIN, size)


@pytest.mark.parametrize(
    "text",
    ["", " ", "forward", "rightdown", "right/down", "right, 2", "rechts", "right; drop", "upp", "then", "<eos>", "→"],
)
def test_what_is_no_plan(text):
    assert parse_plan(text) == []


@pytest.mark.parametrize("length", [1, 2, 3])
def test_plans_survive_being_written_down(length):
    for plan in itertools.product(range(4), repeat=length):
        assert parse_plan(WORLD.plan_text(plan)) == list(plan)


def test_outcomes_of_predictions_are_balanced():
    """Uniform random play of 1 to 8 moves leaves the elf on the ice in 0.6 of cases."""
    told = Counter()
    for index in range(600):
        rng = stream(9, index)
        scene = WORLD.sample_scene(rng, Split.TRAIN, int(rng.choice([3, 4])))
        question = WORLD.draw(scene, True, 8, rng)
        assert 1 <= len(question.script) <= 8
        told[roll(scene, question.script).outcome] += 1
    assert all(0.22 < told[outcome] / 600 < 0.46 for outcome in (Outcome.CONTINUE, Outcome.SUCCESS, Outcome.FAILURE))


def test_true_answers():
    scene = WORLD.scene({"desc": MAZE})
    question = WORLD.ask(scene, QuestionKind.PLAN, stream(0))
    detour = roll(scene, (2, 0, 2, 2, 1, 1))
    shortest, other = roll(scene, (2, 2, 1, 1)), roll(scene, (1, 1, 2, 2))
    dead, wandering = roll(scene, (2, 1)), roll(scene, (2, 0, 2, 0))
    assert WORLD.true_answer(question, [dead, wandering]) == ([], NO_PLAN)
    assert WORLD.true_answer(question, []) == ([], NO_PLAN)
    assert WORLD.true_answer(question, [dead, detour]) == ([1], "right, left, right, right, down, down")
    assert WORLD.true_answer(question, [detour, other, dead, shortest]) == ([1, 3], "down, down, right, right")
    predict = WORLD.ask(scene, QuestionKind.PREDICT, stream(0), (2, 1))
    assert WORLD.true_answer(predict, [wandering, dead, dead]) == ([1, 2], "the elf falls into a hole after 2 moves")
    assert WORLD.true_answer(predict, [wandering]) == ([], "the elf falls into a hole after 2 moves")


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_wording_of_a_plan_states_that_plan(length):
    for plan in itertools.product(range(4), repeat=length):
        text = WORLD.plan_text(plan)
        wordings = WORLD.wordings(text)
        assert wordings[0] == text
        assert all(parse_plan(wording) == list(plan) for wording in wordings)
        assert len(set(wordings)) == (1 if length == 1 else 2)


def test_what_is_no_plan_has_one_wording():
    for text in (NO_PLAN, "the elf is still on the ice", "the elf reaches the gift after 2 moves"):
        assert WORLD.wordings(text) == [text]


@pytest.mark.parametrize(
    "text, script",
    [
        ("What happens if the elf moves right, right, down?", (2, 2, 1)),
        ("UP then Left", (3, 0)),
        ("The elf goes down.", (1,)),
        ("Find the shortest safe path to the gift.", ()),
        ("which WAY?", ()),
        ("How do I reach the gift", ()),
    ],
)
def test_free_text_is_understood(text, script):
    scene = board(3)
    question = WORLD.interpret(text, scene)
    kind = QuestionKind.PREDICT if script else QuestionKind.PLAN
    assert (question.kind, question.script, question.text, question.scene) == (kind, script, text, scene)


@pytest.mark.parametrize("text", ["", "Who are you?", "What is upright?", "42", "日本"])
def test_free_text_that_asks_nothing(text):
    assert WORLD.interpret(text, board(3)) is None


def test_what_the_world_asks_is_what_it_understands():
    for index in range(20):
        rng = stream(6, index)
        for kind, script in ((QuestionKind.PLAN, ()), (QuestionKind.PREDICT, tuple(rng.integers(0, 4, 3).tolist()))):
            asked = WORLD.ask(board(3), kind, rng, script)
            understood = WORLD.interpret(asked.text, asked.scene)
            assert (understood.kind, understood.script) == (kind, script)
