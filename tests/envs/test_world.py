"""What worlds share: names of actions, and shortest plans against trying every plan."""

import itertools
from collections import Counter

import pytest

from envs.questions import stream
from envs.world import PictureScene, Split, WorldError, action_problem, roll, shortest_plan, verify_plan
from envs.worlds.frozen_lake import FrozenLake, FrozenLakeScene, tileset

WORLD = FrozenLake()


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["left"], ""),
        (("turn left", "x2"), ""),
        ([], "there are no actions"),
        (["left", ""], 'action name "" must be small letters without commas'),
        (["left", "Right"], 'action name "Right" must be small letters without commas'),
        (["left,right"], 'action name "left,right" must be small letters without commas'),
        (["left "], 'action name "left " must be small letters without commas'),
        (["turn  left"], 'action name "turn  left" must be small letters without commas'),
        (("up", "down", "up"), "action names must differ: ['up', 'down', 'up']"),
    ],
)
def test_names_of_actions(names, problem):
    assert action_problem(names) == problem


def all_shortest(scene):
    """Every shortest plan, by trying all plans of one move, of two moves, ..."""
    for length in itertools.count(1):
        found = [p for p in itertools.product(range(4), repeat=length) if verify_plan(scene, p).success]
        if found:
            return found


@pytest.mark.parametrize("seed", range(6))
def test_shortest_plans_are_those_that_trying_all_finds(seed):
    scene = WORLD.sample_scene(stream(7, seed), Split.TRAIN, 3)
    best = all_shortest(scene)
    assert tuple(shortest_plan(scene, 4)) == min(best)
    rng = stream(8, seed)
    drawn = Counter(tuple(shortest_plan(scene, 4, rng)) for _ in range(60 * len(best)))
    assert set(drawn) == set(best) and min(drawn.values()) >= 10


def test_the_first_plan_needs_no_random_numbers_and_a_drawn_one_follows_from_them():
    scene = WORLD.scene({"desc": ["SFFF", "FFFF", "FFFF", "FFFG"]})
    assert shortest_plan(scene, 4) == [1, 1, 1, 2, 2, 2]
    drawn = [shortest_plan(scene, 4, stream(1, i)) for i in range(5)]
    assert drawn == [shortest_plan(scene, 4, stream(1, i)) for i in range(5)]
    assert all(roll(scene, plan).outcome == 1 and len(plan) == 6 for plan in drawn) and len(set(map(tuple, drawn))) > 1


def test_there_is_no_plan_where_the_distance_is_unknown_or_nothing_is_left_to_do():
    assert shortest_plan(PictureScene(tileset(16)[0, 0], 16), 4) == []
    blocked = FrozenLakeScene(["SH", "HG"], 16)
    assert blocked.distance(blocked.start) is None and shortest_plan(blocked, 4) == []
    there = FrozenLakeScene(["SG", "FF"], 16)
    there.start = 1
    assert there.distance(there.start) == 0 and shortest_plan(there, 4) == []


def test_distances_that_contradict_the_steps_are_named():
    class Farther(FrozenLakeScene):
        def distance(self, state):
            return 3

    with pytest.raises(WorldError, match="distance says 3, but no action leads to 2"):
        shortest_plan(Farther(["SF", "FG"], 16), 4)
