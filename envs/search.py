"""Breadth-first search through the states of a scene, for distances and for scripts with a purpose."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

S = TypeVar("S", bound=Hashable)


def distance_table(
    start: S,
    actions: Sequence[int],
    move: Callable[[S, int], S],
    is_goal: Callable[[S], bool],
    limit: float = math.inf,
) -> dict[S, int | None]:
    """Fewest actions to a goal from ``start`` and all that can be reached from it; None where there is no way.

    Once ``limit`` states are known no further ones are looked for; distances are then of what is known.
    """
    before: dict[S, list[S]] = {start: []}
    queue, goals = deque[S](), []
    (goals if is_goal(start) else queue).append(start)
    while queue and len(before) < limit:
        state = queue.popleft()
        for action in actions:
            after = move(state, action)
            if after not in before:
                before[after] = []
                (goals if is_goal(after) else queue).append(after)  # what comes after the end is of no interest
            before[after].append(state)
    table: dict[S, int | None] = dict.fromkeys(before)
    table.update(dict.fromkeys(goals, 0))
    queue = deque(goals)
    while queue:
        state = queue.popleft()
        for previous in before[state]:
            if table[previous] is None:
                table[previous] = (table[state] or 0) + 1
                queue.append(previous)
    return table


def shortest_script(
    start: S,
    actions: Sequence[int],
    move: Callable[[S, int], S],
    is_goal: Callable[[S], bool],
    longest: int,
    rng: np.random.Generator | None = None,
) -> list[int] | None:
    """Fewest actions from ``start`` to a goal, None if that takes more than ``longest``.

    ``rng`` shuffles the actions, so that one of several shortest scripts is found; None takes them in order.
    """
    if is_goal(start):
        return []
    order = list(actions) if rng is None else rng.permutation(actions).tolist()
    came: dict[S, tuple[S, int] | None] = {start: None}
    level = [start]
    for _ in range(longest):
        wider = []
        for state in level:
            for action in order:
                after = move(state, action)
                if after in came:
                    continue
                came[after] = (state, action)
                if is_goal(after):
                    return _trace(came, after)
                wider.append(after)
        level = wider
    return None


def within(start: S, actions: Sequence[int], move: Callable[[S, int], S], depth: int) -> list[list[S]]:
    """States by their distance from ``start``: [[start], those one action away, ...], ``depth`` + 1 lists."""
    known, levels = {start}, [[start]]
    for _ in range(depth):
        wider = []
        for state in levels[-1]:
            for action in actions:
                after = move(state, action)
                if after not in known:
                    known.add(after)
                    wider.append(after)
        levels.append(wider)
    return levels


def _trace(came: dict[S, tuple[S, int] | None], end: S) -> list[int]:
    script, link = [], came[end]
    while link is not None:
        script.append(link[1])
        link = came[link[0]]
    return script[::-1]
