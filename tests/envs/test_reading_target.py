"""What should be read and answered, given dreams that the simulator has checked."""

import numpy as np
from steered import CONTINUE, DOWN, FAILURE, RIGHT, STOP, SUCCESS, plan, predict

from envs.questions import stream
from envs.world import Question, QuestionKind, Split
from envs.worlds.frozen_lake import NO_PLAN, FrozenLake


def words(game):
    focus, tokens = game.batch.reading_target(0, game.batch.dreams)
    return focus.tolist(), game.text.decode(tokens)


def test_the_shortest_confirmed_dream_is_to_be_read(play):
    game = play(plan(), 3)
    game.perfect((DOWN, RIGHT, RIGHT), (DOWN, RIGHT, DOWN), (RIGHT, DOWN, DOWN), (RIGHT, DOWN, DOWN))
    assert words(game) == ([True, True, False, False], "down, down, right, right")


def test_a_board_has_its_wording_and_both_are_taught(play):
    seen = set()
    for index in range(12):
        scene = FrozenLake().sample_scene(stream(3, index), Split.TRAIN, 3)
        way = shortest_way(scene)
        texts = []
        for _ in range(2):
            game = play(Question(kind=QuestionKind.PLAN, text="Find the way to the gift.", scene=scene), 1)
            for action in way[:4]:
                game.perfect((action,))
            texts.append(words(game)[1])
        assert texts[0] == texts[1]
        if 1 < len(way) <= 4:
            assert game.batch.world.verify(game.question, texts[0]).exact
            seen.add("then" if " then " in texts[0] else "comma")
    assert seen == {"then", "comma"}


def shortest_way(scene):
    """Actions that each lead one step nearer to the gift."""
    state, way = scene.start, []
    while scene.distance(state):
        nearer = [a for a in range(4) if scene.distance(scene.step(state, a)[0]) == scene.distance(state) - 1]
        way.append(nearer[0])
        state, _ = scene.step(state, nearer[0])
    return way


def test_a_dream_with_a_wrong_picture_or_belief_is_not_to_be_read(play):
    way = (RIGHT, RIGHT, DOWN, DOWN)
    for wrong in range(4):
        game = play(plan(), 2)
        for t, move in enumerate(way):
            painted = np.arange(9) if t == wrong else None
            game.step((move, painted, None), (move, None, None))
        assert words(game) == ([False, True, False], "right, right, down, down")
    for belief in (CONTINUE, FAILURE, STOP):
        game = play(plan(), 1)
        for t, move in enumerate(way):
            game.step((move, None, belief if t == 3 else None))
        assert words(game) == ([False, True], NO_PLAN)
        assert game.batch.scores[0][0].correctness == 0
    game = play(plan(), 1)
    game.perfect(*((move,) for move in way))
    assert game.batch.scores[0][0].correctness == 1


def test_a_dream_that_went_on_after_the_goal_is_not_to_be_read(play):
    game = play(plan(["SG", "FF"]), 1)
    game.step((RIGHT, None, CONTINUE))  # it is over, but the dream does not believe so
    game.step((RIGHT, None, SUCCESS))
    focus, text = words(game)
    assert (focus, text) == ([False, True], NO_PLAN)


def test_a_confirmed_prediction_is_to_be_read(play):
    game = play(predict((RIGHT, DOWN)), 2)
    game.perfect((RIGHT, RIGHT), (RIGHT, DOWN))
    assert words(game) == ([False, True, False], "the elf falls into a hole after 2 moves")
