"""Questions that answers are learned from: which they are, what is read of their dreams, what is correct."""

import numpy as np
import torch

from dreamrl.evaluate import held_out
from dreamrl.feedback.examples import Preference
from dreamrl.feedback.questions import Asked, correctness, read_questions, training_questions, write_answers
from dreamrl.imagine import answer, imagine
from dreamrl.rewards import answer_correctness
from envs.world import Question, QuestionKind, Split, split_of

BOARD = {"desc": ["SFF", "FHF", "FFG"]}


def test_answers_are_those_of_evaluation(loaded):
    """Also where chunks differ in their longest dream, and where no dream is read."""
    questions = [*held_out(loaded.world, (3, 4), 64, 0), *held_out(loaded.world, (5,), 3, 0)]
    found = read_questions(loaded, [Asked(question, True) for question in questions], 1)
    texts, focus = [], []
    for first in (0, 64):
        imagined = imagine(loaded, questions[first : first + 64], 3, 1, loaded.run.eval.temperature, first=first)
        answers = answer(loaded, imagined, 3)
        texts, focus = texts + answers.texts, focus + answers.focus.tolist()
    assert [loaded.text.decode(row) for row in write_answers(loaded.model, found, None).tolist()] == texts
    assert found.focus.tolist() == [int(f == 3) for f in focus]
    assert len(set(texts)) > 1


def test_half_of_the_questions_are_the_examples_own(loaded):
    records = [
        Preference(line=n, prompt=prompt, chosen="a", rejected="b", scene=scene)
        for n, (prompt, scene) in enumerate([("Which way?", BOARD), ("How far?", None), ("Which way?", BOARD)])
    ]
    asked = training_questions(loaded, records, 20, seed=0)
    assert all(checked and question.kind is QuestionKind.PLAN for question, checked in asked[::2])
    given = {(question.text, checked) for question, checked in asked[1::2]}
    assert given == {("Which way?", True), ("How far?", False)}
    for question, _ in asked:
        on_its_board = question.text == "Which way?"
        assert (question.scene.desc == tuple(BOARD["desc"])) == on_its_board
        assert on_its_board or split_of("/".join(question.scene.desc)) is Split.TRAIN
    assert len({question.scene.key for question, _ in asked}) > 12


def test_only_the_verifier_says_what_is_correct(loaded):
    plan, far = "right then right", "right then right then up then down"
    boards = [["SFG", "FFF", "FFF"], ["SHG", "FFF", "FFF"], ["FFF", "SFG", "FFF"]]
    scenes = [loaded.world.scene({"desc": desc}) for desc in boards]
    questions = [Question(kind=QuestionKind.PLAN, text="Which way?", scene=scene) for scene in scenes]
    asked = [Asked(question, True) for question in questions] * 2 + [Asked(questions[0], False)]
    texts = [plan] * 3 + [far] * 3 + [plan]
    tokens = torch.from_numpy(np.stack([loaded.text.encode(text, 12, end=True) for text in texts]))
    read = read_questions(loaded, asked, 0)
    found = correctness(loaded, read, tokens)
    verdicts = [loaded.world.verify(question, text) for (question, _), text in zip(asked, texts, strict=True)]
    assert found.tolist() == [answer_correctness(v.exact, v.success) for v in verdicts[:-1]] + [0.0]
    assert found.tolist()[:3] == [1.0, 0.0, 1.0]
