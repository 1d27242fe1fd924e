"""Told dreams: what the simulator says of them is what it says while they are dreamed, and corruptions are wrong."""

import dataclasses

import numpy as np
import pytest

from dreamrl.nn.codec import FrameCodes
from dreamrl.told_dreams import Corruption, ToldDream, corrupt, creativities, tell, verify
from envs.questions import draw_question, stream
from envs.reasoning_batch import ReasoningBatch
from envs.world import Outcome, PictureScene, Question, QuestionKind, Split, random_play, roll
from envs.worlds.frozen_lake import tileset

ACTIONS, CODES, HORIZON = 4, 240, 4


@pytest.fixture(scope="module")
def codes(tile_codec):
    return FrameCodes(tile_codec)


@pytest.fixture(scope="module")
def told(loaded, codes):
    """120 true dreams of random play, of plans and of scripts."""
    dreams = []
    for index in range(120):
        rng = stream(5, index)
        scene = loaded.world.sample_scene(rng, Split.TRAIN, 3 + index % 2)
        question = draw_question(loaded.world, scene, index % 3 == 0, HORIZON, rng)
        length = len(question.script) or HORIZON
        moves = question.script if question.script and index % 2 else rng.integers(ACTIONS, size=length).tolist()
        dreams.append(tell(question, roll(scene, moves), codes))
    return dreams


def wrong(dream, kind, codes, index=0):
    return corrupt(dream, kind, stream(6, index), codes, ACTIONS, CODES, HORIZON)


def confirmed(dream, codes):
    """Whether the simulator shows every picture and belief of the dream: a replay by itself."""
    state, scene = dream.question.scene.start, dream.question.scene
    for t, action in enumerate(dream.actions):
        state, outcome = scene.step(state, action)
        used_up = len(dream.question.script) > 0 and t + 1 >= len(dream.question.script)
        belief = Outcome.STOP if outcome is Outcome.CONTINUE and used_up else outcome
        if dream.beliefs[t] != belief or dream.frames[t + 1].tolist() != codes(scene, state).tolist():
            return False
    return dream.frames[0].tolist() == codes(scene, scene.start).tolist()


def test_true_dreams_are_confirmed(told, codes):
    for dream in told:
        found = verify(dream, codes, ACTIONS)
        assert confirmed(dream, codes) and found.true and found.coherent.all()
        moved = any((a != b).any() for a, b in zip(dream.frames, dream.frames[1:], strict=False))
        assert found.faithfulness == float(moved)


@pytest.mark.parametrize("kind", list(Corruption))
def test_a_corrupted_dream_is_really_wrong(told, codes, kind):
    made = 0
    for index, dream in enumerate(told):
        told_wrong = wrong(dream, kind, codes, index)
        if told_wrong is not None:
            made += 1
            assert not confirmed(told_wrong, codes)
            assert not verify(told_wrong, codes, ACTIONS).true
            if kind is not Corruption.BELIEF:
                assert not verify(told_wrong, codes, ACTIONS).coherent.all()
    assert made > 80


def equal(a, b, *names):
    for name in names:
        assert np.array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name))), name


@pytest.mark.parametrize("index", range(0, 40))
def test_a_corruption_changes_what_its_name_says_and_nothing_else(told, codes, index):
    dream = told[index]
    scene = dream.question.scene
    if action := wrong(dream, Corruption.ACTION, codes, index):
        equal(action, dream, "frames", "beliefs", "shown")
        [t] = np.flatnonzero(np.array(action.actions) != np.array(dream.actions))
        assert (codes(scene, scene.step(dream.shown[t], action.actions[t])[0]) != dream.frames[t + 1]).any()
    if order := wrong(dream, Corruption.ORDER, codes, index):
        steps = [(d.actions[t], d.frames[t + 1].tobytes()) for d in (order, dream) for t in range(dream.steps)]
        assert sorted(steps[: dream.steps]) == sorted(steps[dream.steps :])
        equal(order, dream, "beliefs")
        assert (order.frames[0] == dream.frames[0]).all()
    if paint := wrong(dream, Corruption.PAINT, codes, index):
        equal(paint, dream, "actions", "beliefs")
        assert (paint.frames != dream.frames).sum() == 1 and (paint.frames[0] == dream.frames[0]).all()
        [t] = np.flatnonzero((paint.frames != dream.frames).any(1))
        assert paint.shown == (*dream.shown[:t], None, *dream.shown[t + 1 :])
        known = [codes(scene, s).tolist() for s in range(scene.grid[0] * scene.grid[1])]
        assert paint.frames[t].tolist() not in known
    if result := wrong(dream, Corruption.RESULT, codes, index):
        equal(result, dream, "actions", "beliefs")
        [t] = np.flatnonzero((result.frames != dream.frames).any(1))
        assert result.frames[t].tolist() in [
            codes(scene, scene.step(dream.shown[t - 1], a)[0]).tolist() for a in range(4)
        ]
        assert result.frames[t].tolist() == codes(scene, result.shown[t]).tolist()
    if belief := wrong(dream, Corruption.BELIEF, codes, index):
        end = belief.steps
        assert belief.actions == dream.actions[:end] and belief.beliefs[:-1] == dream.beliefs[: end - 1]
        assert (belief.frames == dream.frames[: end + 1]).all()
        assert belief.beliefs[-1] != Outcome.CONTINUE or end == HORIZON


def test_what_cannot_be_made_wrong_is_left_out(loaded, codes):
    """A picture in which nothing ever happens: every action and every order is as good as another."""
    scene = PictureScene(np.tile(tileset(16)[0, 0], (2, 2, 1)), 16)
    dream = tell(Question(kind=QuestionKind.PLAN, text="?", scene=scene), roll(scene, [0, 1, 2, 3]), codes)
    for kind in Corruption:
        harmless = kind in (Corruption.ACTION, Corruption.ORDER, Corruption.RESULT)
        assert (wrong(dream, kind, codes) is None) == harmless


class SimulatorOnly:
    """Stands in for the judge: codes of true pictures, and no opinion about actions."""

    def __init__(self, codes):
        self.codes = codes

    def action_probs(self, what, result, grid):
        return np.full((len(what), ACTIONS + 1), 1 / (ACTIONS + 1))


@pytest.mark.parametrize("kind", [None, *Corruption])
def test_findings_are_those_of_the_environment(loaded, told, codes, kind):
    """The same dreams, dreamed step by step in the batched environment."""
    seen = {"faithfulness": set(), "correctness": set()}
    for index in range(len(told)):
        question, number = told[index].question, 3
        rng = stream(7, index)
        dreams = [told[index]]
        for _ in range(number - 1):
            moves = random_play(question.scene, ACTIONS, len(question.script) or HORIZON, rng).actions
            dreams.append(tell(question, roll(question.scene, moves), codes))
        if kind is not None:
            dreams = [wrong(dream, kind, codes, n) or dream for n, dream in enumerate(dreams)]
        batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, SimulatorOnly(codes), number)
        batch.reset([question])
        for t in range(HORIZON):
            if not batch.active.any():
                break
            action = {"action": np.zeros((1, number), int), "belief": np.zeros((1, number), int)}
            action["result"] = np.zeros((1, number, batch.num_patches), int)
            for n, dream in enumerate(dreams):
                if t < dream.steps:
                    action["action"][0, n], action["belief"][0, n] = dream.actions[t], dream.beliefs[t]
                    action["result"][0, n, : dream.frames.shape[1]] = dream.frames[t + 1]
            batch.step(action)
        findings = [verify(dream, codes, ACTIONS) for dream in dreams]
        for n, (dream, found) in enumerate(zip(dreams, findings, strict=True)):
            scores = batch.scores[0][n]
            assert batch.lengths[0, n] == dream.steps
            assert found.faithfulness == pytest.approx(scores.mean_faithfulness())
            assert found.correctness == scores.correctness
            assert found.true == (all(scores.exact) and all(scores.believed))
            seen["faithfulness"].add(found.faithfulness)
            seen["correctness"].add(found.correctness)
        assert creativities(dreams, findings) == pytest.approx([s.creativity for s in batch.scores[0]])
    assert len(seen["faithfulness"]) > 1
    assert (len(seen["correctness"]) > 1) == (kind is not Corruption.BELIEF)  # who ends on a lie is paid nothing


def test_makers_are_all_actions_that_lead_from_the_picture_to_the_result(told, codes):
    several, none = 0, 0
    for index, dream in enumerate(told):
        for kind in (None, Corruption.RESULT, Corruption.PAINT):
            made = dream if kind is None else wrong(dream, kind, codes, index) or dream
            found, scene = verify(made, codes, ACTIONS), made.question.scene
            places = {codes(scene, s).tobytes(): s for s in range(scene.grid[0] * scene.grid[1])}
            for t in range(made.steps):
                state = places.get(made.frames[t].tobytes())
                results = [] if state is None else [codes(scene, scene.step(state, a)[0]) for a in range(ACTIONS)]
                expected = [bool((r == made.frames[t + 1]).all()) for r in results] or [False] * ACTIONS
                assert found.makers[t].tolist() == expected
                assert found.coherent[t] == expected[made.actions[t]]
                several, none = several + (sum(expected) > 1), none + (sum(expected) == 0)
    assert several > 10 and none > 10


def test_a_dream_that_only_looks_right_in_the_end_is_not_true(told, codes):
    dream = next(d for d in told if d.steps == HORIZON and len(set(d.shown)) > 3)
    frames = dream.frames.copy()
    frames[1] = frames[0]
    late = dataclasses.replace(dream, frames=frames, shown=(dream.shown[0], *dream.shown[:1], *dream.shown[2:]))
    assert isinstance(late, ToldDream) and not verify(late, codes, ACTIONS).true
