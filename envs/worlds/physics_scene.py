"""A physics scene as a pure function of (state, action), and what its end means in words."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import NamedTuple

from envs.world import Outcome, Scene
from envs.worlds.physics_layout import COLOURS, RADIUS, THICKNESS, UNIT, Layout
from envs.worlds.physics_picture import at, ball_sprite, block_sprite, cell, draw_ball, draw_fixtures, draw_trail
from envs.worlds.physics_simulation import SUBSTEPS, Ball, Fall, Moment, Removals, distance

MAX_TICKS = 7
"""A fall is over after so many ticks at the latest."""
FINE_SUBSTEPS = 2 * SUBSTEPS
"""Of the simulation that must give the same answers."""
AFTER = 2
"""Ticks after the end in which nothing that matters may change."""
NUDGE = 0.5
"""Units by which the held ball may be off without changing any answer: far less than a picture shows."""
NEAR = 1.5
"""Units within which a ball counts as lying on something."""


class Action(IntEnum):
    """What can be done. Removals come in the order of ``COLOURS``."""

    WAIT = 0
    DROP = 1
    REMOVE_RED = 2
    REMOVE_GREEN = 3
    REMOVE_BLUE = 4


class Progress(NamedTuple):
    """A state: ticks since the ball was let go, 0 before that, and what was removed at which tick.

    The two determine where everything is, bit for bit.
    """

    tick: int
    removals: Removals


class PhysicsScene(Scene):
    """One layout. Falls are simulated on demand and kept, since dreams about a scene share them."""

    def __init__(self, layout: Layout, patch_size: int, intended: object = None):
        """Args: a ``layout`` without problems, ``patch_size``, the question it was ``intended`` for, if any."""
        self.layout, self.patch_size, self.intended = layout, patch_size, intended
        self.key = hashlib.blake2b(layout.content().encode(), digest_size=16).hexdigest()
        self.grid = (layout.size, layout.size)
        self.start = Progress(0, ())
        self.dropped = layout.held.colour
        removable = [c for c in COLOURS if c in layout.coloured and c != self.dropped]
        self.can_do = (int(Action.WAIT), int(Action.DROP), *(int(removal(c)) for c in removable))
        self.legal = self.can_do
        self.falls: dict[Removals, Fall] = {}
        self.ends: dict[str | None, Progress] = {}
        self.fixtures = draw_fixtures(layout, patch_size)

    def __getstate__(self) -> dict:
        """Everything but the falls, which hold spaces of pymunk and can be simulated again."""
        return self.__dict__ | {"falls": {}}

    def fall(self, removals: Removals) -> Fall:
        """The fall in which things are removed as ``removals`` says."""
        if removals not in self.falls:
            self.falls[removals] = Fall(self.layout, removals)
        return self.falls[removals]

    def step(self, state, action):
        """See :meth:`Scene.step`. Nothing can be done after the end."""
        if self.over(state):
            return state, Outcome.SUCCESS
        if action == (Action.WAIT if state.tick else Action.DROP):
            state = Progress(state.tick + 1, state.removals)
        elif action > Action.DROP and action in self.can_do:
            colour = COLOURS[action - Action.REMOVE_RED]
            if colour not in removed(state):
                state = Progress(state.tick, tuple(sorted((*state.removals, (state.tick, colour)))))
        return state, Outcome.SUCCESS if self.over(state) else Outcome.CONTINUE

    def over(self, state: Progress) -> bool:
        """Whether no ball is drawn elsewhere than a tick before, or time is up."""
        if state.tick < 2 or state.tick >= MAX_TICKS:
            return state.tick >= MAX_TICKS
        disturbed = any(tick == state.tick for tick, _ in state.removals)
        return not disturbed and self._idle(self.fall(state.removals), state.tick)

    def frame(self, state):
        """See :meth:`Scene.frame`."""
        picture, gone = self.fixtures.copy(), removed(state)
        balls, touched = self.fall(state.removals).after(state.tick)
        for colour, piece in self.layout.coloured.items():
            if piece.kind == "block" and colour not in gone:
                at(picture, piece, self.patch_size)[:] = block_sprite(self.patch_size, colour, colour in touched)
        for colour in COLOURS:
            if colour in balls and colour not in gone:
                held = colour == self.dropped and state.tick == 0
                sprite = ball_sprite(self.patch_size, colour, colour in touched, held)
                draw_ball(picture, cell(balls[colour], self.layout.size), sprite)
        for place in self._left(state, gone) if state.tick else ():
            draw_trail(picture, place, self.patch_size)
        return picture

    def distance(self, state):
        """See :meth:`Scene.distance`: unknown, there is nothing to plan."""
        return None

    def script(self, without: str | None = None) -> tuple[int, ...]:
        """The actions from the start to the end of the fall, perhaps after a removal."""
        first = () if without is None else (int(removal(without)),)
        return *first, int(Action.DROP), *[int(Action.WAIT)] * (self.end(without).tick - 1)

    def end(self, without: str | None = None) -> Progress:
        """The state that :meth:`script` leads to."""
        if without not in self.ends:
            removals = () if without is None else ((0, without),)
            ticks = (Progress(tick, removals) for tick in range(2, MAX_TICKS + 1))
            self.ends[without] = next(state for state in ticks if self.over(state))
        return self.ends[without]

    def touched(self, state: Progress) -> frozenset[str]:
        """Colours of what the dropped ball has touched by now and is still there."""
        return self.fall(state.removals).after(state.tick).touched - removed(state)

    def place(self, state: Progress, colour: str) -> str:
        """Where the ball of ``colour`` is, in words."""
        if colour == self.dropped and state.tick == 0:
            return "in the clamp"
        balls = self.fall(state.removals).after(state.tick).balls
        return place(self.layout, {c: b for c, b in balls.items() if c not in removed(state)}, colour)

    def reliable(self, without: str | None = None) -> bool:
        """Whether the picture at the end tells the truth for good.

        The fall must end in time, nothing that answers are made of may change afterwards, and all of it must be the
        same with a finer time step or the held ball slightly elsewhere.
        """
        end = self.end(without)
        fall = self.fall(end.removals)
        if not self._idle(fall, end.tick):
            return False
        variants = ((SUBSTEPS, NUDGE), (SUBSTEPS, -NUDGE), (FINE_SUBSTEPS, 0.0))
        others = [fall, *(Fall(self.layout, end.removals, *variant) for variant in variants)]
        expected = self._digest(fall, end.tick)
        return all(self._digest(other, end.tick + AFTER) == expected for other in others)

    def _cells(self, moment: Moment) -> dict[str, tuple[int, int]]:
        """Where each ball is drawn."""
        return {colour: cell(ball, self.layout.size) for colour, ball in moment.balls.items()}

    def _idle(self, fall: Fall, tick: int) -> bool:
        """Whether the tick that ended at ``tick`` moved no ball in the picture."""
        return self._cells(fall.after(tick)) == self._cells(fall.after(tick - 1))

    def _left(self, state: Progress, gone: set[str]) -> list[tuple[int, int]]:
        """Where the balls were drawn a tick ago that are drawn elsewhere now."""
        fall = self.fall(state.removals)
        now, before = (self._cells(fall.after(tick)) for tick in (state.tick, state.tick - 1))
        return [before[c] for c in now if now[c] != before[c] and c not in gone]

    def _digest(self, fall: Fall, tick: int) -> tuple:
        """All that answers are made of."""
        balls, touched = fall.after(tick)
        return touched, [place(self.layout, balls, colour) for colour in sorted(balls)]


def removal(colour: str) -> Action:
    """The action that takes the thing of ``colour`` away."""
    return Action(Action.REMOVE_RED + COLOURS.index(colour))


def removed(state: Progress) -> set[str]:
    """Colours of what is gone."""
    return {colour for _, colour in state.removals}


def place(layout: Layout, balls: dict[str, Ball], colour: str) -> str:
    """Where the ball of ``colour`` lies, in words, judged by what is right below it."""
    ball, floor = balls[colour], layout.size * UNIT
    if ball.y > floor - UNIT:
        return f"in the {('left', 'middle', 'right')[sum(ball.x > post * UNIT for post in layout.posts)]} bin"
    foot = ball.y + RADIUS
    for piece in layout.pieces:
        below = piece.column * UNIT <= ball.x <= (piece.column + 1) * UNIT
        top = (piece.row + 1) * UNIT - THICKNESS if piece.kind == "platform" else piece.row * UNIT
        if below and abs(foot - top) < NEAR and piece.kind in ("platform", "block"):
            return f"on the {piece.colour} block" if piece.colour else "on the platform"
    for other, it in balls.items():
        if other != colour and it.y > ball.y and distance(ball, it) < 2 * RADIUS + NEAR:
            return f"on the {other} ball"
    for piece in layout.pieces:
        if piece.kind == "ramp":
            middle = (piece.column + 0.5) * UNIT, (piece.row + 0.5) * UNIT
            if abs(ball.x - middle[0]) < UNIT and abs(ball.y - middle[1]) < UNIT + NEAR:
                return "on the ramp"
    return "in the air"
