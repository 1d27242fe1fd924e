"""Edits of dreams: what is shown then, what it says, and that the answer is read from it."""

import dataclasses

import numpy as np
import pytest
from asked import BOARD, PLAN

from dreamrl.generate import question_about
from dreamrl.judge import Judge
from dreamrl.serving.edits import edit_dreams, edited_result
from dreamrl.serving.limits import Refused
from dreamrl.serving.requests import Edit
from dreamrl.serving.together import Wish, answer_together, imagine_together
from dreamrl.told_dreams import tell
from envs.world import Outcome, PictureScene, roll


@pytest.fixture(scope="module")
def imagined(loaded):
    """Two true dreams of one question (both right, right, down), and one that goes down."""
    from dreamrl.intervene import rewrite

    question, _ = question_about(loaded, PLAN, loaded.world.scene(BOARD), None, 0)
    wish = Wish(question=question, seed=0, dreams=3, temperature=3.0)
    imagined = imagine_together(loaded, [wish], Judge(loaded.model))
    told = [tell(question, roll(question.scene, script), imagined.batch.judge.codes) for script in SCRIPTS]
    return rewrite(imagined, {0: told})


SCRIPTS = ([2, 2, 1], [2, 2, 1], [1, 1])


def actions(imagined):
    return [imagined.batch.actions[0, n, :t].tolist() for n, t in enumerate(imagined.batch.lengths[0])]


def test_a_label_changes_the_action_and_no_picture_in_the_dream_and_its_twin(loaded, imagined):
    edited, says, changed = edit_dreams(imagined, loaded.world, [Edit(dream=1, step=1, action="up")], 0)
    assert actions(edited) == [[2, 3, 1], [2, 3, 1], [1, 1]] and changed == [0, 1]
    assert np.array_equal(edited.batch.frames, imagined.batch.frames)
    assert actions(imagined) == list(SCRIPTS)
    assert says == [loaded.world.no_plan]


def test_a_replayed_action_shows_what_the_simulator_does(loaded, imagined):
    edits = [Edit(dream=2, step=1, action="right", mode="replay")]
    edited, _, changed = edit_dreams(imagined, loaded.world, edits, 4)
    assert changed == [2] and actions(edited)[2][:2] == [1, 2]
    scene, state = imagined.batch.questions[0].scene, imagined.batch.questions[0].scene.start
    for step, action in enumerate(actions(edited)[2]):
        state, outcome = scene.step(state, action)
        codes = imagined.batch.judge.codes(scene, state)
        assert np.array_equal(edited.batch.frames[0, 2, step + 1, : len(codes)], codes)
    assert edited.batch.beliefs[0, 2, step] == outcome
    again, *_ = edit_dreams(imagined, loaded.world, edits, 4)
    assert actions(again) == actions(edited)


def test_a_belief_alone_makes_a_dream_a_plan(loaded, imagined):
    edited, says, changed = edit_dreams(imagined, loaded.world, [Edit(dream=0, mode="belief", belief="success")], 0)
    assert changed == [0, 1] and edited.batch.beliefs[0, :2, 2].tolist() == [Outcome.SUCCESS] * 2
    assert "right, right, down" in says
    both = [Edit(dream=0, mode="belief", belief="success"), Edit(dream=2, mode="belief", belief="success")]
    assert "down, down" in edit_dreams(imagined, loaded.world, both, 0)[1]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"dream": 3, "action": "up"}, r"edits\[0\].dream \(3\) must be below 3"),
        ({"dream": 2, "step": 2, "action": "up"}, r"edits\[0\].step \(2\) must be below 2"),
        ({"dream": 0, "action": "jump"}, "must be one of left, down, right, up"),
        ({"dream": 0}, "must be one of left, down, right, up"),
        ({"dream": 0, "mode": "belief"}, "belief is missing"),
    ],
)
def test_edits_that_mean_nothing_are_refused(loaded, imagined, edit, reason):
    with pytest.raises(Refused, match=reason):
        edit_dreams(imagined, loaded.world, [Edit(**edit)], 0)


def test_a_bare_picture_has_no_simulator_to_replay_in(loaded):
    board = loaded.world.scene(BOARD)
    question, _ = question_about(loaded, PLAN, board, None, 0)
    question = dataclasses.replace(question, scene=PictureScene(board.frame(board.start), 16))
    wish = Wish(question=question, seed=0, dreams=2, temperature=3.0)
    imagined = imagine_together(loaded, [wish], Judge(loaded.model))
    with pytest.raises(Refused, match="needs a simulator"):
        edit_dreams(imagined, loaded.world, [Edit(dream=0, action="up", mode="replay")], 0)
    first = loaded.world.actions[int(imagined.batch.actions[0, 0, 0])]
    other = next(name for name in loaded.world.actions if name != first)
    edited, says, _ = edit_dreams(imagined, loaded.world, [Edit(dream=0, action=other)], 0)
    assert says == [] and answer_together(loaded, edited, [wish])


@pytest.mark.parametrize(("says", "text", "follows"), [([], "up", None), (["up"], "up", True), (["up"], "down", False)])
def test_whether_the_answer_follows_is_only_said_where_it_is_known(says, text, follows):
    assert edited_result({"text": "left"}, {"text": text}, says, [0])["follows"] is follows
