"""Questions drawn for training, and what a dream's true consequences are worth."""

import itertools

import numpy as np
import pytest

from dreamrl.rewards import answer_correctness
from envs.questions import draw_question, prompt_pictures, rollout_correctness, stream
from envs.world import Outcome, Question, QuestionKind, Split, roll
from envs.worlds.frozen_lake import FrozenLake, outcome_text

WORLD = FrozenLake()


def test_streams_repeat_and_differ():
    keys = [(0,), (1,), (0, 1), (1, 1), (0, 1, 1), (0, 2, 1), (7, 1, 2, 3), (7, 1, 2, 4)]
    drawn = {key: tuple(stream(*key).integers(0, 1000, 8)) for key in keys}
    assert len(set(drawn.values())) == len(keys)
    assert all(tuple(stream(*key).integers(0, 1000, 8)) == drawn[key] for key in keys)


def test_predictions_ask_about_moves_that_can_all_be_made():
    lengths, outcomes = set(), set()
    for index in range(200):
        rng = stream(3, index)
        scene = WORLD.sample_scene(rng, Split.TRAIN, 3)
        question = draw_question(WORLD, scene, True, 5, rng)
        rollout = roll(scene, question.script)
        assert question.kind is QuestionKind.PREDICT and rollout.actions == question.script
        lengths.add(len(question.script))
        outcomes.add(rollout.outcome)
        assert draw_question(WORLD, scene, False, 5, rng).kind is QuestionKind.PLAN
    assert lengths == {1, 2, 3, 4, 5}
    assert outcomes == {Outcome.CONTINUE, Outcome.SUCCESS, Outcome.FAILURE}


@pytest.mark.parametrize("desc", [["SG", "FF"], ["SFF", "FHF", "FFG"], ["SFH", "FFG", "HFF"]])
def test_a_dream_is_worth_what_the_verifier_pays_for_its_plan(desc):
    scene = WORLD.scene({"desc": desc})
    question = WORLD.ask(scene, QuestionKind.PLAN, stream(0))
    paid = set()
    for length in range(1, 6):
        for plan in itertools.product(range(4), repeat=length):
            rollout = roll(scene, plan)
            verdict = WORLD.verify(question, WORLD.plan_text(rollout.actions))
            expected = answer_correctness(verdict.exact, verdict.success)
            assert rollout_correctness(question, rollout) == expected, WORLD.plan_text(rollout.actions)
            paid.add(expected)
    assert paid >= {0.0, 1.0}


@pytest.mark.parametrize("script", [(2,), (2, 2), (2, 1), (2, 1, 0), (1, 1, 2, 2, 0)])
def test_a_prediction_is_worth_something_if_it_follows_the_script_to_its_end(script):
    scene = WORLD.scene({"desc": ["SFF", "FHF", "FFG"]})
    question = Question(kind=QuestionKind.PREDICT, text="", scene=scene, script=script)
    truth = roll(scene, script)  # the third and fifth script go on after the hole and the gift
    assert WORLD.verify(question, outcome_text(truth)).exact
    assert rollout_correctness(question, truth) == 1
    assert rollout_correctness(question, roll(scene, (3, *script))) == 0


def test_the_true_belief():
    scene = WORLD.scene({"desc": ["SFF", "FHF", "FFG"]})
    plan = Question(kind=QuestionKind.PLAN, text="", scene=scene)
    predict = Question(kind=QuestionKind.PREDICT, text="", scene=scene, script=(0, 1))
    for outcome in (Outcome.CONTINUE, Outcome.SUCCESS, Outcome.FAILURE):
        assert plan.belief(outcome, 1) is plan.belief(outcome, 9) is outcome
        assert predict.belief(outcome, 1) is outcome
    assert predict.belief(Outcome.CONTINUE, 2) is predict.belief(Outcome.CONTINUE, 3) is Outcome.STOP
    assert predict.belief(Outcome.FAILURE, 2) is Outcome.FAILURE


def test_pictures_of_prompts_are_stacked_with_their_sizes():
    rng = np.random.default_rng(0)
    sizes = [[(32, 48)], [(16, 16), (64, 32), (48, 48)], []]
    prompts = [[rng.integers(1, 256, (*size, 3), np.uint8) for size in row] for row in sizes]
    found = prompt_pictures(prompts, 40)
    pixels, size = found["pixels"], found["picture_size"]
    assert pixels.shape == (3, 3, 64, 48, 3) and pixels.dtype == np.uint8  # at least 40, more where a picture is larger
    for q in range(3):
        for k in range(3):
            if k >= len(sizes[q]):
                assert not pixels[q, k].any() and size[q, k].tolist() == [0, 0]
                continue
            height, width = sizes[q][k]
            assert size[q, k].tolist() == [height, width]
            assert (pixels[q, k, :height, :width] == prompts[q][k]).all()
            assert not pixels[q, k, height:].any() and not pixels[q, k, :, width:].any()
    assert prompt_pictures([[prompts[1][0]]], 40)["pixels"].shape == (1, 1, 40, 40, 3)
