"""The decision process on known boards: rewards by hand, who is heard when, and when it is over."""

import dataclasses

import numpy as np
import pytest
from steered import COHERENT, CONTINUE, DOWN, FAILURE, LEFT, MAZE, RIGHT, STOP, SUCCESS, UP, plan, predict

from dreamrl.config import RewardConfig
from dreamrl.dreaming_config import REWARD_COMPONENTS
from dreamrl.rewards import potential, progress
from envs.reasoning_batch import Phase
from envs.worlds.frozen_lake import NO_PLAN


def shaped(run, before, after):
    return run.reward.progress * progress(potential(before, 4), potential(after, 4), run.ppo.gamma)


def test_rewards_of_perfect_dreams_by_hand(loaded, play):
    run, weights = loaded.run, loaded.run.reward
    game = play(plan(), 2)
    rewards = game.perfect((RIGHT, RIGHT), (RIGHT, DOWN), (DOWN, DOWN), (DOWN, DOWN))
    cost = {a: weights.coherence * (COHERENT[a] - 1) / 4 for a in (DOWN, RIGHT)}
    # the first dream takes the shortest way, the second falls into the hole in its second step
    expected = np.array(
        [
            [shaped(run, 4, 3) + cost[RIGHT], shaped(run, 4, 3) + cost[RIGHT]],
            [shaped(run, 3, 2) + cost[RIGHT], shaped(run, 3, None) + cost[DOWN]],
            [shaped(run, 2, 1) + cost[DOWN], 0],
            [shaped(run, 1, 0) + cost[DOWN] + weights.correctness, 0],
        ]
    )
    expected[3] += weights.creativity * 0.75  # of four steps only the first is the same
    assert rewards == pytest.approx(expected, abs=1e-6)
    assert game.batch.lengths[0].tolist() == [4, 2]
    assert game.batch.phase[0] == Phase.ANSWER
    assert game.answer("right, right, down, down") == weights.correctness
    assert game.batch.phase[0] == Phase.OVER
    parts = game.batch.breakdown(0)
    assert parts["faithfulness"] == parts["exact_frame"] == parts["exact_match"] == parts["success"] == 1
    assert parts["correctness"] == 0.5 and parts["creativity"] == 0.75 and parts["dream_length"] == 3
    mean = [np.mean(COHERENT[[RIGHT, RIGHT, DOWN, DOWN]]), np.mean(COHERENT[[RIGHT, DOWN]])]
    assert parts["coherence"] == pytest.approx(np.mean(mean))


@pytest.mark.parametrize("left_out", REWARD_COMPONENTS)
def test_a_component_that_is_left_out_is_not_paid(loaded, play, left_out):
    """The same dreams and answer with one component less: the pay falls by what that component paid, no more."""

    def pay(run):
        game = play(plan(), 2, run)
        rewards = game.perfect((RIGHT, RIGHT), (RIGHT, DOWN), (DOWN, DOWN), (DOWN, DOWN))
        return rewards, game.answer("right, right, down, down"), game.batch.breakdown(0)

    rest = tuple(name for name in REWARD_COMPONENTS if name != left_out)
    less = dataclasses.replace(loaded.run, model=dataclasses.replace(loaded.run.model, reward_components=rest))
    (rewards, answer, parts), (fewer, answered, same) = pay(loaded.run), pay(less)
    assert parts == same  # it is measured all the same
    weights = loaded.run.reward
    assert answer - answered == (weights.correctness if left_out == "correctness" else 0)
    cost = {a: weights.coherence * (COHERENT[a] - 1) / 4 for a in (DOWN, RIGHT)}
    expected = {
        "faithfulness": np.zeros((4, 2)),
        "coherence": np.array([[cost[RIGHT]] * 2, [cost[RIGHT], cost[DOWN]], [cost[DOWN], 0], [cost[DOWN], 0]]),
        "correctness": np.array([[0, 0], [0, 0], [0, 0], [weights.correctness, 0]]),
        "creativity": np.array([[0, 0], [0, 0], [0, 0], [weights.creativity * 0.75] * 2]),
    }
    assert rewards - fewer == pytest.approx(expected[left_out], abs=1e-6)
    assert less.reward_weight(left_out) == 0 and loaded.run.reward_weight(left_out) > 0


def test_unfaithful_dreams_lose_nothing_when_faithfulness_is_left_out(loaded, play):
    rest = tuple(name for name in REWARD_COMPONENTS if name != "faithfulness")
    less = dataclasses.replace(loaded.run, model=dataclasses.replace(loaded.run.model, reward_components=rest))
    pays = []
    for run in (loaded.run, less):
        game = play(plan(), 1, run)
        first = game.batch.frames[0, 0, 0, :9].copy()
        pays.append(float(game.step((RIGHT, first, CONTINUE))[0]))
    assert pays[1] - pays[0] == pytest.approx(loaded.run.reward.faithfulness / 4, abs=1e-6)


def test_naive_shaping_pays_for_laps_and_potentials_do_not(loaded, play):
    """Right, left, right, left: 0.8 a lap with reward.shaping=naive; the default pays less than nothing."""
    pays = {}
    for shaping in ("naive", "potential"):
        reward = RewardConfig(faithfulness=0, coherence=0, correctness=0, creativity=0, progress=0.5, shaping=shaping)
        game = play(plan(), 1, dataclasses.replace(loaded.run, reward=reward))
        pays[shaping] = game.perfect((RIGHT,), (LEFT,), (RIGHT,), (LEFT,))[:, 0]
    assert pays["naive"] == pytest.approx([0.5, -0.1, 0.5, -0.1])
    phi, gamma = [potential(d, 4) for d in (4, 3, 4, 3, 4)], loaded.run.ppo.gamma
    assert pays["potential"] == pytest.approx([0.5 * (gamma * b - a) for a, b in zip(phi, phi[1:], strict=False)])
    assert pays["potential"].sum() <= 0


@pytest.mark.parametrize(
    "text, pay",
    [
        ("right, right, down, down", 1.0),
        ("right then right then down then down", 1.0),
        ("down, down, right, right", 1.0),
        ("right, left, right, right, down, down", 0.5),
        ("right, right, down", 0.0),
        ("left, right, right, down, down", 0.0),
        (NO_PLAN, 0.0),
        ("", 0.0),
    ],
)
def test_the_answer_is_paid_for_by_the_verifier_whatever_was_dreamed(loaded, play, text, pay):
    game = play(plan(), 1)
    game.step((UP, None, STOP))
    assert game.answer(text) == loaded.run.reward.correctness * pay
    assert game.batch.answers == [text]


def test_a_copying_dream_is_paid_for_nothing(loaded, play):
    run, weights = loaded.run, loaded.run.reward
    game = play(plan(), 1)
    first = game.batch.frames[0, 0, 0, :9].copy()
    rewards = [game.step((action, first, CONTINUE))[0] for action in (RIGHT, RIGHT, DOWN, DOWN)]
    way = [4, 3, 2, 1, 0]
    for t, action in enumerate((RIGHT, RIGHT, DOWN, DOWN)):
        pay = shaped(run, way[t], way[t + 1]) + weights.coherence * (COHERENT[action] - 1) / 4
        assert rewards[t] == pytest.approx(pay - weights.faithfulness / 4, abs=1e-6)
    scores = game.batch.scores[0][0]
    assert scores.faithful == [0, 0, 0, 0] and scores.correctness == 0 and scores.exact == [False] * 4


def test_noise_earns_no_creativity(play):
    game = play(plan(), 4)
    rng = np.random.default_rng(0)
    while game.batch.phase[0] == Phase.DREAM:
        game.step(*((RIGHT, rng.integers(10, 240, 9), CONTINUE) for _ in range(4)))
    assert [s.creativity for s in game.batch.scores[0]] == [0, 0, 0, 0]


def test_padding_earns_no_creativity(play):
    game = play(plan(), 2)
    codes, _ = game.truth(0, RIGHT)
    result = np.full((1, 2, 16), 240)
    result[:, :, :9] = codes
    result[:, 1, 9:] = 7  # past the picture of 3x3 cells
    game.batch.step({"action": np.full((1, 2), RIGHT), "result": result, "belief": np.full((1, 2), STOP)})
    assert (game.batch.frames[0, 0, 1, :9] == game.batch.frames[0, 1, 1, :9]).all()
    assert [s.mean_faithfulness() for s in game.batch.scores[0]] == [0, 0]  # STOP is a wrong belief
    game = play(plan(), 2)
    for move in (RIGHT, RIGHT, DOWN, DOWN):
        codes, belief = game.truth(0, move)
        result[:, :, :9] = codes
        game.batch.step({"action": np.full((1, 2), move), "result": result, "belief": np.full((1, 2), belief)})
    assert [s.creativity for s in game.batch.scores[0]] == [0, 0]


def test_bumping_into_a_wall_is_neither_faithful_nor_not(loaded, play):
    game = play(plan(), 1)
    reward = game.perfect((UP,))[0, 0]
    weights = loaded.run.reward
    pay = shaped(loaded.run, 4, 4) + weights.coherence * (COHERENT[UP] - 1) / 4
    assert reward == pytest.approx(pay, abs=1e-6)
    assert game.batch.scores[0][0].faithful == []
    game.step((UP, None, FAILURE))
    assert game.batch.scores[0][0].faithful == [0]  # a wrong belief is


@pytest.mark.parametrize("belief", [SUCCESS, FAILURE, STOP])
def test_a_belief_that_it_is_over_ends_a_dream_and_pays_only_if_true(play, belief):
    game = play(plan(), 2)
    game.step((RIGHT, None, belief), (RIGHT, None, CONTINUE))
    assert game.batch.active[0].tolist() == [0, 1] and game.batch.lengths[0].tolist() == [1, 1]
    before = game.batch.observation()
    game.step((DOWN, None, SUCCESS), (DOWN, None, None))  # what an ended dream says is not heard
    after = game.batch.observation()
    assert (after["frames"][0, 0] == before["frames"][0, 0]).all()
    assert (after["frames"][0, 0, 2:] == 240).all()
    assert after["lengths"][0].tolist() == [1, 2]
    assert game.batch.phase[0] == Phase.ANSWER
    assert game.batch.scores[0][0].correctness == 0
    assert game.batch.rollout(0, 0).actions == (RIGHT,)


def test_a_true_end_that_is_not_believed_pays_nothing(loaded, play):
    game = play(plan(["SG", "FF"]), 1)
    rewards = [game.step((RIGHT, None, CONTINUE))[0] for _ in range(4)]
    assert game.batch.scores[0][0].correctness == 0
    assert game.batch.scores[0][0].faithful == [0, 0, 0, 0]
    assert sum(rewards) < loaded.run.reward.progress


def test_a_prediction_must_follow_its_script(loaded, play):
    for moves, correct in (((RIGHT, DOWN), 1), ((RIGHT, RIGHT), 0), ((DOWN, DOWN), 0)):
        game = play(predict((RIGHT, DOWN)), 1)
        game.perfect(*((m,) for m in moves))
        assert game.batch.phase[0] == Phase.ANSWER  # STOP or FAILURE is the true belief after two moves
        assert game.batch.scores[0][0].correctness == correct
        answer = "the elf falls into a hole after 2 moves"
        assert game.answer(answer) == loaded.run.reward.correctness


def test_a_dream_goes_on_from_what_it_imagined(play):
    game = play(plan(), 2)
    seen = np.arange(9) + 20
    game.step((RIGHT, seen, CONTINUE), (RIGHT, None, CONTINUE))
    obs = game.batch.observation()
    step = int(obs["step"][0])
    assert obs["frames"][0, 0, step, :9].tolist() == seen.tolist()
    assert obs["frames"][0, 1, step, :9].tolist() == game.batch.judge.codes(game.question.scene, 1).tolist()
    game.step((RIGHT, seen, CONTINUE), (RIGHT, None, CONTINUE))
    info = game.batch.step_info(0, np.zeros((1, 2)), np.zeros(1))
    assert info["sound"].tolist() == [False, True]
    for n in range(2):
        assert info["true_result"][n, :9].tolist() == game.batch.judge.codes(game.question.scene, 2).tolist()
    assert info["true_belief"].tolist() == [CONTINUE, CONTINUE]


def test_nothing_of_the_truth_is_observed(play):
    """Two boards whose pictures are alike from the first look: the observation cannot tell them apart."""
    games = [play(plan(desc), 1) for desc in (MAZE, ["SFF", "FFF", "FFG"])]
    games[1].batch.frames[0, 0, 0] = games[0].batch.frames[0, 0, 0]
    for game in games:
        game.step((RIGHT, np.arange(9), CONTINUE))
        game.step((DOWN, np.arange(9), CONTINUE))
    first, second = (game.batch.observation() for game in games)
    assert games[0].batch.states[0][0] == games[1].batch.states[0][0]
    assert all((first[name] == second[name]).all() for name in first)


def test_larger_boards_get_longer_dreams_and_more_patches(play):
    game = play(plan(["SFFFFFF", "FFFFFFF", "FFFFFFF", "FFFFFFF", "FFFFFFF", "FFFFFFF", "FFFFFFG"]), 1)
    assert game.batch.length == 7 and game.batch.num_patches == 49  # 4 steps on boards of 4 cells a side
    assert game.batch.observation()["frames"].shape == (1, 1, 8, 49)
    game = play(plan(), 1)
    assert game.batch.length == 4 and game.batch.num_patches == 16
