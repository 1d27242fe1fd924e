"""The fall: pymunk's rigid bodies from the moment in which the held ball is let go.

A :class:`Fall` is a pure function of the layout and of what is removed when: it always starts from a new space and
runs on without a break, because pymunk keeps impulses of the last step that a restored snapshot would lack.
"""

from __future__ import annotations

from typing import NamedTuple

import pymunk
from pymunk.constraints import SimpleMotor

from envs.worlds.physics_layout import RADIUS, THICKNESS, UNIT, Layout, Piece

GRAVITY = 284.0
"""Units per second squared: five patches take three ticks."""
TICK = 0.25
"""Seconds that pass in one action."""
SUBSTEPS = 32
"""Simulation steps in a tick."""
FRICTION = 0.7
ROLLING_RESISTANCE = 600.0
"""Largest torque that brakes the turning of a ball; without it a ball rolls in its bin for ever."""
BALL_ELASTICITY, FIXTURE_ELASTICITY = 0.4, 0.4
"""pymunk multiplies those of the two shapes that touch."""
OTHER, DROPPED = 1, 2
WALL_HEIGHT = 4 * UNIT
"""How far the picture's edges go on, as walls, above the picture."""


class Ball(NamedTuple):
    """Where a ball is, in units; ``y`` grows downwards."""

    x: float
    y: float


class Moment(NamedTuple):
    """The balls by colour, and the colours that the dropped ball has touched so far."""

    balls: dict[str, Ball]
    touched: frozenset[str]


Removals = tuple[tuple[int, str], ...]
"""(tick, colour) of everything that was taken away, sorted."""


class Fall:
    """The moments after 0, 1, 2 ... ticks, simulated when they are first asked for."""

    def __init__(self, layout: Layout, removals: Removals = (), substeps: int = SUBSTEPS, shift: float = 0.0):
        """Args: ``layout``, ``removals``, ``substeps`` a tick, and a ``shift`` of the held ball to the right."""
        self.removals, self.substeps = removals, substeps
        self.space = pymunk.Space()
        self.space.gravity = (0, GRAVITY)
        self.touched: set[str] = set()
        self.bodies: dict[str, pymunk.Body] = {}
        self.shapes: dict[str, pymunk.Shape] = {}
        self._add_edges(layout)
        for piece in layout.pieces:
            if (0, piece.colour) not in removals:
                self._add(piece, layout)
        dropped = self.bodies[layout.held.colour]
        dropped.position = dropped.position.x + shift, dropped.position.y
        self.shapes[layout.held.colour].collision_type = DROPPED
        self.colours = {shape: colour for colour, shape in self.shapes.items()}
        self.space.on_collision(DROPPED, OTHER, begin=self._touch)
        self.moments = [self._moment()]

    def after(self, tick: int) -> Moment:
        """What is where after ``tick`` ticks."""
        while len(self.moments) <= tick:
            now = len(self.moments) - 1
            for when, colour in self.removals:
                if when == now > 0:
                    self._remove(colour)
            for _ in range(self.substeps):
                self.space.step(TICK / self.substeps)
            self.moments.append(self._moment())
        return self.moments[tick]

    def _moment(self) -> Moment:
        balls = {colour: Ball(*body.position) for colour, body in self.bodies.items()}
        return Moment(balls, frozenset(self.touched))

    def _touch(self, arbiter: pymunk.Arbiter, space: pymunk.Space, data: object) -> None:
        self.touched |= {self.colours[shape] for shape in arbiter.shapes if shape.collision_type == OTHER}

    def _remove(self, colour: str) -> None:
        self.space.remove(self.shapes[colour])
        body = self.bodies.pop(colour, None)
        if body is not None:
            self.space.remove(body, *body.constraints)

    def _add_edges(self, layout: Layout) -> None:
        """The picture's edges, the floor and the posts."""
        side = layout.size * UNIT
        floor = pymunk.Segment(self.space.static_body, (0, side), (side, side), THICKNESS)
        walls = [pymunk.Segment(self.space.static_body, (x, -WALL_HEIGHT), (x, side), 0) for x in (0, side)]
        tops = [((column * UNIT, side - UNIT + 1), (column * UNIT, side)) for column in layout.posts]
        posts = [pymunk.Segment(self.space.static_body, top, foot, 1) for top, foot in tops]
        for shape in (floor, *walls, *posts):
            self._fix(shape)

    def _add(self, piece: Piece, layout: Layout) -> None:
        left, top = piece.column * UNIT, piece.row * UNIT
        right, bottom = left + UNIT, top + UNIT
        if piece.kind == "ball":
            self._add_ball(piece, left, bottom, layout)
            return
        corners = {
            "block": [(left, top), (right, top), (right, bottom), (left, bottom)],
            "platform": [(left, bottom - THICKNESS), (right, bottom - THICKNESS), (right, bottom), (left, bottom)],
            "ramp": [(left if piece.slope == "right" else right, top), (left, bottom), (right, bottom)],
        }[piece.kind]
        shape = pymunk.Poly(self.space.static_body, corners)
        self._fix(shape)
        if piece.colour:
            shape.collision_type = OTHER
            self.shapes[piece.colour] = shape

    def _fix(self, shape: pymunk.Shape) -> None:
        shape.friction, shape.elasticity = FRICTION, FIXTURE_ELASTICITY
        self.space.add(shape)

    def _add_ball(self, piece: Piece, left: float, bottom: float, layout: Layout) -> None:
        body = pymunk.Body(1, pymunk.moment_for_circle(1, 0, RADIUS))
        on_strip = piece.row in (0, layout.size - 1) or (piece.row, int(piece.column)) in layout.strips
        body.position = left + UNIT / 2, bottom - RADIUS - (THICKNESS if on_strip else 0)
        shape = pymunk.Circle(body, RADIUS)
        shape.friction, shape.elasticity, shape.collision_type = FRICTION, BALL_ELASTICITY, OTHER
        brake = SimpleMotor(self.space.static_body, body, 0)
        brake.max_force = ROLLING_RESISTANCE
        self.space.add(body, shape, brake)
        self.bodies[piece.colour], self.shapes[piece.colour] = body, shape


def distance(a: Ball, b: Ball) -> float:
    """Between two centres, in units."""
    return ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5
