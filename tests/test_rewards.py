"""Every reward component against brute force, and every known way to game it."""

import numpy as np
import pytest

from dreamrl.config import PPOConfig
from dreamrl.rewards import (
    answer_correctness,
    coherence,
    creativity,
    faithfulness,
    naive_progress,
    potential,
    progress,
)
from envs.questions import potentials, stream
from envs.world import Question, QuestionKind, Split, random_play, roll
from envs.worlds.frozen_lake import FrozenLake

CODES = 240
GAMMAS = (1.0, PPOConfig().gamma)


def pictures(seed, patches=16):
    """True what and result of a step that changes two patches, as codes."""
    rng = np.random.default_rng(seed)
    what = rng.integers(0, 6, patches)
    result = what.copy()
    places = rng.choice(patches, 2, replace=False)
    result[places] = [7, 8]
    return what, result


def slow_faithfulness(what, true_result, result):
    """Of a dream that started from the true picture."""
    right = total = 0
    for i in range(len(what)):
        if what[i] != true_result[i] or what[i] != result[i]:
            total += 1
            right += result[i] == true_result[i]
    return right / total if total else None


@pytest.mark.parametrize("seed", range(20))
def test_faithfulness_equals_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    what, true_result, result = rng.integers(0, 3, (3, 12))
    found = faithfulness(what, true_result, what, result, True)
    assert found == pytest.approx(slow_faithfulness(what, true_result, result))
    assert faithfulness(what, true_result, what, result, False) == 0
    assert faithfulness(what, true_result, what, true_result, True) == 1
    lost = rng.integers(0, 3, 12)  # a dream whose picture was wrong before this step
    assert 0 <= faithfulness(what, true_result, lost, result, True) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_dream_that_copies_its_picture_is_not_faithful(seed):
    what, result = pictures(seed)
    assert faithfulness(what, result, what, what, True) == 0


def test_copying_the_first_picture_of_a_walk_is_never_faithful():
    ice, elf = 0, 7
    walk = np.full((4, 9), ice)
    walk[np.arange(4), [0, 1, 2, 5]] = elf
    found = [faithfulness(walk[t], walk[t + 1], walk[0], walk[0], True) for t in range(3)]
    assert found == [0, 0, 0]


def test_a_bump_is_neither_good_nor_bad_but_a_wrong_belief_is():
    what, _ = pictures(0)
    assert faithfulness(what, what, what, what, True) is None
    assert faithfulness(what, what, what, what, False) == 0


@pytest.mark.parametrize("seed", range(5))
def test_repainting_more_than_the_truth_costs(seed):
    what, result = pictures(seed)
    for extra in range(1, 10):
        painted = result.copy()
        spare = np.flatnonzero(what == result)[:extra]
        painted[spare] = 100
        assert faithfulness(what, result, what, painted, True) == pytest.approx(2 / (2 + extra))
    half = what.copy()
    half[np.flatnonzero(what != result)[0]] = result[np.flatnonzero(what != result)[0]]
    assert faithfulness(what, result, what, half, True) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_coherence_is_relative_to_the_most_likely_action(seed):
    probs = np.random.default_rng(seed).dirichlet(np.ones(5))
    found = [coherence(probs, action) for action in range(4)]
    assert found == pytest.approx([probs[a] / max(probs) for a in range(4)])
    assert all(0 <= value <= 1 for value in found)


def test_a_teleport_is_incoherent_whatever_action_it_claims():
    probs = np.array([0.002, 0.001, 0.003, 0.001, 0.993])  # the last class: no single action does this
    assert max(coherence(probs, action) for action in range(4)) < 0.01


def test_two_actions_that_do_the_same_are_both_coherent():
    probs = np.array([0.49, 0.49, 0.01, 0.005, 0.005])  # in a corner, left and up
    assert coherence(probs, 0) == coherence(probs, 1) == 1


def boards(count, size=4):
    world = FrozenLake()
    return [world.sample_scene(stream(9, i), Split.TRAIN, size) for i in range(count)]


def shaping(scene, actions, gamma, length=8):
    """Progress of each step of a dream that takes ``actions``."""
    question = Question(kind=QuestionKind.PLAN, text="", scene=scene)
    phi = potentials(question, roll(scene, actions), length)
    return [progress(before, after, gamma) for before, after in zip(phi, phi[1:], strict=False)]


def test_potential_falls_with_the_share_of_the_way_left():
    assert [potential(0, 8) - potential(d, 8) for d in (0, 2, 8, 20, None)] == [0, 0.25, 1, 1, 1]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_discounted_progress_telescopes(gamma):
    for index, scene in enumerate(boards(20)):
        actions = random_play(scene, 4, 8, stream(1, index)).actions
        steps = shaping(scene, actions, gamma)
        question = Question(kind=QuestionKind.PLAN, text="", scene=scene)
        phi = potentials(question, roll(scene, actions), 8)
        total = sum(gamma**t * step for t, step in enumerate(steps))
        assert total == pytest.approx(gamma ** len(steps) * phi[-1] - phi[0], abs=1e-12)


def closed_walks(scene):
    """Walks of 2, 4, 6 and 8 moves back and forth, and into a wall, that end where they began."""
    there_and_back = [(0, 2), (2, 0), (1, 3), (3, 1)]
    walks = [pair * times for pair in there_and_back for times in (1, 2, 3, 4)] + [(a,) * 8 for a in range(4)]
    for walk in walks:
        rollout = roll(scene, walk)
        if rollout.states[-1] == scene.start and len(rollout.actions) == len(walk):
            yield walk


@pytest.mark.parametrize("gamma", GAMMAS)
def test_walking_back_and_forth_earns_no_progress(gamma):
    walked = 0
    for scene in boards(10):
        for walk in closed_walks(scene):
            steps = shaping(scene, walk, gamma)
            walked += 1
            assert sum(steps) <= 1e-12, f"{walk} earns {sum(steps):.3f}"
            assert sum(gamma**t * step for t, step in enumerate(steps)) <= 1e-12
    assert walked > 50


def test_a_closed_walk_earns_exactly_nothing_without_discount():
    for scene in boards(10):
        for walk in closed_walks(scene):
            assert sum(shaping(scene, walk, 1.0)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("laps", [1, 2, 4])
def test_the_naive_progress_pays_for_walking_back_and_forth(laps):
    """0.8 a lap: why it is not the default. The potential-based one pays nothing for the same walks."""
    scene = FrozenLake().scene({"desc": ["SFF", "FFF", "FFG"]})
    question = Question(kind=QuestionKind.PLAN, text="", scene=scene)
    phi = potentials(question, roll(scene, (2, 0) * laps), 8)
    steps = list(zip(phi, phi[1:], strict=False))
    assert [naive_progress(*step) for step in steps] == [1.0, -0.2] * laps
    assert sum(naive_progress(*step) for step in steps) == pytest.approx(0.8 * laps)
    assert sum(progress(*step, 1.0) for step in steps) == pytest.approx(0)
    assert sum(progress(*step, 0.95) for step in steps) <= 0
    arrived = potentials(question, roll(scene, (2, 2, 1, 1)), 8)
    straight = sum(naive_progress(*step) for step in zip(arrived, arrived[1:], strict=False))
    assert straight == 4 and naive_progress(0.5, 0.5) == 0  # five laps pay as much as arriving


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("distance", [1, 2, 5, 8, 12])
def test_dying_earns_no_progress(gamma, distance):
    assert progress(potential(distance, 8), potential(None, 8), gamma) <= 1e-12


@pytest.mark.parametrize("gamma", GAMMAS)
def test_staying_dead_earns_no_progress(gamma):
    assert progress(potential(None, 8), potential(None, 8), gamma) <= 1e-12


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("distance", [1, 2, 5, 8])
def test_every_move_nearer_to_the_goal_earns(gamma, distance):
    earned = [progress(potential(d, 8), potential(d - 1, 8), gamma) for d in range(distance, 0, -1)]
    assert min(earned) > 0
    wasted = progress(potential(distance, 8), potential(distance, 8), gamma)
    assert wasted < min(earned)


def test_progress_of_a_prediction_follows_the_script():
    scene = FrozenLake().scene({"desc": ["SFF", "FFF", "FFG"]})
    question = Question(kind=QuestionKind.PREDICT, text="", scene=scene, script=(2, 2, 0))
    on, off = potentials(question, roll(scene, (2, 2, 0)), 4), potentials(question, roll(scene, (2, 0, 0)), 4)
    assert np.diff(on) == pytest.approx([1 / 4] * 3)
    assert off[:2] == on[:2]
    assert off[2:] == [potential(None, 4)] * 2


def test_answers_pay_for_what_the_verifier_found():
    assert [answer_correctness(e, s) for e, s in ((True, True), (False, True), (False, False))] == [1, 0.5, 0]


def slow_creativity(dreams, faithful):
    out = []
    for i, mine in enumerate(dreams):
        total = 0.0
        for j, other in enumerate(dreams):
            longest = max(len(mine), len(other))
            if j != i and longest:
                differ = 0
                for t in range(longest):
                    differ += t >= len(mine) or t >= len(other) or mine[t] != other[t]
                total += differ / longest * faithful[i] * faithful[j]
        out.append(total / max(1, len(dreams) - 1))
    return out


@pytest.mark.parametrize("seed", range(10))
def test_creativity_equals_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    dreams = [[bytes([rng.integers(3)]) for _ in range(rng.integers(0, 6))] for _ in range(rng.integers(1, 6))]
    faithful = rng.random(len(dreams)).tolist()
    found = creativity(dreams, faithful)
    assert found == pytest.approx(slow_creativity(dreams, faithful))
    assert ((found >= 0) & (found <= 1)).all()


def test_creativity_of_equal_and_of_single_dreams_is_0_and_of_different_ones_1():
    assert creativity([[b"a", b"b"]] * 3, [1.0] * 3).tolist() == [0, 0, 0]
    assert creativity([[b"a", b"b"]], [1.0]).tolist() == [0]
    assert creativity([[b"a"], [b"b"], [b"c"]], [1.0] * 3).tolist() == [1, 1, 1]


def test_noise_earns_no_creativity():
    what, result = pictures(0)
    noisy = np.random.default_rng(1).integers(0, CODES, (4, 3, len(what)))
    faithful = [np.mean([faithfulness(what, result, what, frame, True) for frame in dream]) for dream in noisy]
    dreams = [[frame.tobytes() for frame in dream] for dream in noisy]
    assert creativity(dreams, [1.0] * 4).min() == 1  # noise is as different as can be
    assert creativity(dreams, faithful).max() < 0.01
    honest = creativity([[b"left"], [b"right"], [b"up"], dreams[3]], [1.0, 1.0, 1.0, faithful[3]])
    assert honest[:3].min() > 0.6 and honest[3] < 0.1
