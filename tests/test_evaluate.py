"""Held-out evaluation against the simulator and against the same thing done one question at a time."""

import numpy as np
import pytest
import torch

from dreamrl import evaluate as evaluation
from dreamrl.evaluate import (
    Result,
    evaluate,
    evaluate_command,
    held_out,
    random_play_exact,
    right_pictures,
    side_name,
    summarise,
)
from dreamrl.imagine import answer, imagine
from dreamrl.judge import Judge
from dreamrl.saving import save_pretrained
from envs.questions import stream
from envs.world import Outcome, QuestionKind, Split, Verdict, random_play, split_of, verify_plan
from envs.worlds.frozen_lake import FrozenLake

SEED = 4


@pytest.fixture(scope="module")
def loaded(make_loaded):
    loaded = make_loaded(model={"stochastic_results": True})
    with torch.no_grad():
        loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 1.5  # dreams of several steps
    return loaded


@pytest.fixture(scope="module")
def questions(loaded):
    return held_out(loaded.world, (3, 4), 5, SEED)


@pytest.mark.parametrize("split", list(Split))
def test_boards_are_held_out_distinct_and_take_turns_in_size(split):
    found = held_out(FrozenLake(), (3, 4, 6), 60, SEED, split)
    assert [q.scene.grid[0] for q in found] == [3, 4, 6] * 20
    assert {split_of("/".join(q.scene.desc)) for q in found} == {split}
    assert len({q.scene.key for q in found}) == 60
    assert {q.kind for q in found} == {QuestionKind.PLAN}
    again = held_out(FrozenLake(), (3, 4, 6), 9, SEED, split)
    assert [(q.text, q.scene.desc) for q in again] == [(q.text, q.scene.desc) for q in found[:9]]
    other = held_out(FrozenLake(), (3, 4, 6), 9, SEED + 1, split)
    assert [q.scene.desc for q in other] != [q.scene.desc for q in again]


def test_there_may_be_fewer_small_boards_than_asked_for():
    found = held_out(FrozenLake(), (2,), 30, SEED)
    assert len(found) == 30 > len({q.scene.key for q in found})


def test_fewer_dreams_are_the_first_of_the_many_and_chunks_change_nothing(loaded, questions, monkeypatch):
    whole = evaluate(loaded, questions, (1, 3), SEED)
    monkeypatch.setattr(evaluation, "CHUNK", 2)
    seen, kept = [], []
    parts = evaluate(loaded, questions, (3, 1, 3), SEED, None, seen.append, lambda imagined, first: kept.append(first))
    alone = evaluate(loaded, questions, (1,), SEED)
    assert seen == [2, 4, 5] and kept == [0, 2, 4]
    assert set(whole) == set(parts) == {1, 3}
    for ours, theirs in ((whole[1], parts[1]), (whole[3], parts[3]), (whole[1], alone[1])):
        assert ours.verdicts == theirs.verdicts and ours.exact_frame == theirs.exact_frame
        assert ours.exact_picture == theirs.exact_picture
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-4)
    assert not np.allclose(whole[1].confidence, whole[3].confidence)


def test_exact_frames_are_counted_in_the_dreams_that_are_read(loaded, questions):
    """As if the first dream of each question were right in every step, the second in its first, the third never."""
    steps = np.zeros(3)

    def pretend(imagined, first):
        for scores in imagined.batch.scores:
            for n, dream in enumerate(scores):
                steps[n] += len(dream.exact)
                dream.exact = [n == 0 or (n == 1 and t == 0) for t in range(len(dream.exact))]

    results = evaluate(loaded, questions, (1, 2, 3), SEED, keep=pretend)
    assert results[1].exact_frame == 1
    assert results[2].exact_frame == pytest.approx((steps[0] + len(questions)) / steps[:2].sum())
    assert results[3].exact_frame == pytest.approx((steps[0] + len(questions)) / steps.sum())


def test_numbers_are_those_of_one_question_at_a_time(loaded, questions):
    result = evaluate(loaded, questions, (3,), SEED)[3]
    frames, drawn = [], []
    for number, question in enumerate(questions):
        imagined = imagine(loaded, [question], 3, SEED, loaded.run.eval.temperature, first=number)
        said = answer(loaded, imagined, 3)
        assert result.verdicts[number] == loaded.world.verify(question, said.texts[0])
        assert result.confidence[number] == pytest.approx(said.confidence[0], abs=1e-4)
        for n in range(3):
            state = question.scene.start
            for t in range(int(imagined.batch.lengths[0, n])):
                state, _ = question.scene.step(state, int(imagined.batch.actions[0, n, t]))
                truth = loaded.model.codec.encode(question.scene.frame(state))
                frames.append((imagined.batch.frames[0, n, t + 1, : len(truth)] == truth).all())
        drawn += right_pictures(imagined, said, Judge(loaded.model), 3)
    assert result.exact_frame == pytest.approx(np.mean(frames)) and len(frames) > 20
    assert result.exact_picture == pytest.approx(np.mean(drawn))


def test_a_picture_is_right_if_it_is_the_simulators_after_the_moves_of_the_dream(loaded, questions):
    """Answers painted by hand: the true last picture, one with a wrong patch, and one of another moment."""
    imagined = imagine(loaded, questions, 3, SEED, 1.0)
    said, judge, codec = answer(loaded, imagined, 3), Judge(loaded.model), loaded.model.codec
    said.focus = np.array([0, 1, 2, 3, 3])  # the last two read no dream
    for q, question in enumerate(questions):
        state = question.scene.start
        if said.focus[q] < 3:
            for action in imagined.batch.actions[q, said.focus[q], : imagined.batch.lengths[q, said.focus[q]]]:
                state, _ = question.scene.step(state, int(action))
        truth = codec.encode(question.scene.frame(state))
        said.pictures[q] = 7  # what stands past the picture does not matter
        said.pictures[q, : len(truth)] = truth
    assert right_pictures(imagined, said, judge, 3) == [True] * 5
    for q, question in enumerate(questions):
        kept, last = said.pictures[q].copy(), question.scene.grid[0] ** 2 - 1
        said.pictures[q, last] = (kept[last] + 1) % loaded.model.pad_code
        assert right_pictures(imagined, said, judge, 3) == [i != q for i in range(5)]
        said.pictures[q] = kept
    moved = [
        q for q in range(3) if imagined.batch.rollout(q, int(said.focus[q])).states[-1] != questions[q].scene.start
    ]
    assert moved
    for q in moved:
        start = codec.encode(questions[q].scene.frame(questions[q].scene.start))
        said.pictures[q, : len(start)] = start
    assert right_pictures(imagined, said, judge, 3) == [q not in moved for q in range(5)]


def test_random_play_is_what_the_verifier_says_of_one_random_plan():
    world = FrozenLake()
    asked = held_out(world, (2, 3), 80, SEED)
    found = random_play_exact(world, asked, 6, SEED)
    expected = []
    for index, question in enumerate(asked):
        actions = random_play(question.scene, 4, 6, stream(SEED, 9, index)).actions
        expected.append(float(verify_plan(question.scene, actions).exact))
    assert found.tolist() == expected and 0.02 < found.mean() < 0.5


def verdict(exact, progress, valid):
    return Verdict(exact=exact, progress=progress, valid=valid, success=exact)


def test_a_summary_by_hand(loaded):
    asked = [q for size in (3, 4) for q in held_out(loaded.world, (size,), 2, SEED)]
    result = Result(
        questions=asked,
        verdicts=[
            verdict(True, 1.0, True),
            verdict(False, 0.5, True),
            verdict(True, 1.0, True),
            verdict(True, 1.0, False),
        ],
        exact_frame=0.9,
        seconds=2.0,
        confidence=np.array([0.95, 0.45, 0.75, 0.85]),
        exact_picture=0.8,
    )
    found = summarise(result, 4, 500)
    low, high = found.pop("exact_match_ci")
    assert 0 <= low < 0.75 < high <= 1
    assert found.pop("ece") == pytest.approx((0.05 + 0.45 + 0.25 + 0.15) / 4)
    assert found == {
        "items": 4,
        "dreams": 4,
        "exact_match": 0.75,
        "progress_rate": 0.875,
        "valid": 0.75,
        "exact_frame": 0.9,
        "exact_picture": 0.8,
        "confidence": pytest.approx(0.75),
        "by_size": {"3": 0.5, "4": 1.0},
        "seconds": 2.0,
        "items_per_second": 2.0,
    }
    assert side_name(loaded.world.scene({"desc": ["SFF", "FFG"]})) == "2x3"


def test_the_command_reads_items_or_samples_boards(loaded, tmp_path):
    save_pretrained(loaded, tmp_path / "model")
    boards = [{"desc": ["SFF", "FHF", "FFG"]}, {"desc": ["SG", "FH"]}]
    found = evaluate_command(tmp_path / "model", "frozen_lake", boards, 600, 2, (3,), 2)
    assert found["items"] == 2 and set(found["by_size"]) == {"2", "3"} and found["dreams"] == 2
    sampled = evaluate_command(tmp_path / "model", "frozen_lake", None, 3, 2, (5,), 1)
    assert sampled["items"] == 3 and set(sampled["by_size"]) == {"5"}
    direct = evaluate(loaded, held_out(loaded.world, (5,), 3, 2), [1], 2)[1]
    assert sampled["confidence"] == pytest.approx(float(direct.confidence.mean()), abs=1e-4)
