"""Searching the states of a scene, against relaxing every edge until nothing changes."""

import math

import numpy as np
import pytest

from envs.search import distance_table, shortest_script, within

ACTIONS = range(3)


def random_graph(seed, states=25):
    rng = np.random.default_rng(seed)
    return rng.integers(states, size=(states, len(ACTIONS))), set(rng.choice(states, 2, replace=False).tolist())


def relaxed(edges, zero, backwards):
    """Fewest edges from ``zero`` to each state, or from each state to ``zero``; infinite where there is no way."""
    found = [0.0 if state in zero else math.inf for state in range(len(edges))]
    for _ in range(len(edges)):
        for state, row in enumerate(edges):
            for after in row:
                here, there = (state, after) if backwards else (after, state)
                found[here] = min(found[here], found[there] + 1)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_searches_agree_with_relaxing_every_edge(seed):
    edges, goals = random_graph(seed)
    move, is_goal = (lambda state, action: int(edges[state, action])), goals.__contains__
    stops = edges.copy()
    stops[list(goals)] = np.array(list(goals))[:, None]  # nothing comes after a goal
    to_goal, from_start = relaxed(edges, goals, backwards=True), relaxed(stops, {0}, backwards=False)
    table = distance_table(0, ACTIONS, move, is_goal)
    assert table.keys() == {state for state, far in enumerate(from_start) if far < math.inf}
    assert all((math.inf if far is None else far) == to_goal[state] for state, far in table.items())
    for rng in (None, np.random.default_rng(seed)):
        script = shortest_script(0, ACTIONS, move, is_goal, 25, rng)
        assert (math.inf if script is None else len(script)) == to_goal[0]
        state = 0
        for action in script or []:
            state = move(state, action)
        assert script is None or is_goal(state)
    levels, far = within(0, ACTIONS, move, 3), relaxed(edges, {0}, backwards=False)
    assert [sorted(level) for level in levels] == [[s for s in range(25) if far[s] == d] for d in range(4)]


def test_there_are_graphs_with_and_without_a_way():
    ways = {relaxed(*random_graph(seed), backwards=True)[0] for seed in range(12)}
    assert len(ways) >= 3
    edges = np.zeros((3, 3), int)
    assert distance_table(0, ACTIONS, lambda s, a: int(edges[s, a]), lambda s: s == 2) == {0: None}
    assert shortest_script(0, ACTIONS, lambda s, a: int(edges[s, a]), lambda s: s == 2, 9) is None


@pytest.mark.parametrize("limit", range(1, 15))
def test_no_further_states_are_looked_for_than_the_limit(limit):
    """A line of cells with the goal in cell 9: it counts as soon as it is seen, and nothing behind it is."""
    moved = []

    def move(state, action):
        moved.append(state)
        return max(0, state + (1 if action else -1))

    table = distance_table(0, range(2), move, lambda state: state == 9, limit)
    known = min(limit, 10)
    assert list(table) == list(range(known)) and set(moved) == set(range(known - 1))
    assert table == {state: 9 - state if known == 10 else None for state in range(known)}


def test_a_start_that_is_a_goal_is_all_there_is():
    assert distance_table(4, range(2), lambda state, action: state + action, lambda state: state == 4) == {4: 0}
    assert shortest_script(4, range(2), lambda state, action: state + action, lambda state: state == 4, 3) == []


def test_a_longest_script_is_kept_to():
    for longest in range(6):
        script = shortest_script(0, range(2), lambda state, action: state + action, lambda state: state == 3, longest)
        assert script == (None if longest < 3 else [1, 1, 1])
