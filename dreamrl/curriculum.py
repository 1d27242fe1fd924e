"""The curriculum of PPO: stages from easy to hard questions, each left when it is mastered.

A stage says what is asked about (worlds and sizes), how many dreams a question gets, how long they are and how many
rounds of messages they are read with. It ends when the exact match of the latest training questions reaches its
target, or else after its most iterations, which is logged as such. Stages are never gone back to.

Whatever the settings leave open grows evenly from stage to stage: dreams, length and hops from half of the model's
own up to all of it; a world's sizes from the smallest up to all. Of a mixture, the families of ``FAMILIES`` join in
turn. Shapes stay those of the whole model: dreams that a stage lacks are there, but take no step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dreamrl.config import ConfigError, RunConfig
from envs.mixture import Mixture
from envs.registry import parse_entry
from envs.world import World, WorldError

FAMILIES = (("spatial", "abstract"), ("temporal", "relational"), ("causal",))
"""Families of worlds that join a mixture in the first stages; all others join in the one after these."""


class Share(NamedTuple):
    """What a stage takes of one world: ``sizes``, and ``weight`` among the worlds of a mixture; 0 for nothing.

    Example: ``Share((3, 4), 1.0)``.
    """

    sizes: tuple[int, ...]
    weight: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, ready to be used.

    Example: of FrozenLake on 3-6 with 4 dreams of 8 steps, the first stage is ``Stage(name="core reasoning", number=0,
    world=<sizes 3>, replay=<sizes 3>, dream_length=4, dreams=2, hops=1, target=0.8, least=2, most=7)``.
    """

    name: str
    number: int
    """Place among the stages, from 0."""
    world: World
    """The run's world, restricted to what is asked about."""
    replay: World
    """The run's world, restricted to what this stage and those before it ask about."""
    dream_length: int
    dreams: int
    hops: int
    target: float
    """Exact match that masters it."""
    least: int
    """Fewest iterations."""
    most: int | None
    """Most iterations; None for the last stage, which nothing follows."""


def stages_of(run: RunConfig, world: World) -> list[Stage]:
    """The stages of ``run`` about its ``world``; none if it has no curriculum.

    Raises:
        ConfigError: When a stage asks about what the run does not train on.
    """
    settings, model = run.curriculum, run.model
    if not settings.enabled:
        return []
    count = len(settings.stages)
    shares = _shares(run, world)
    lengths = settings.dream_length or grow(model.dream_length, count)
    dreams = settings.dreams or grow(model.num_dream_sequences, count)
    hops = settings.hops or grow(model.graph_reasoning_hops, count)
    share = -(-run.ppo.iterations // count)
    stages = []
    for number, name in enumerate(settings.stages):
        least = settings.of_stage(settings.min_iterations, number)
        most = settings.of_stage(settings.max_iterations or (max(share, least),), number)
        stages.append(
            Stage(
                name=name,
                number=number,
                world=restricted(world, shares[number]),
                replay=restricted(world, _union(shares[: number + 1])),
                dream_length=lengths[number],
                dreams=dreams[number],
                hops=hops[number],
                target=settings.of_stage(settings.targets, number),
                least=least,
                most=most if number + 1 < count else None,
            )
        )
    return stages


def grow(most: int, count: int) -> tuple[int, ...]:
    """``count`` numbers from half of ``most`` up to ``most``, evenly and rounded up.

    Example:
        >>> grow(8, 4)
        (4, 6, 7, 8)
    """
    if count == 1:
        return (most,)
    return tuple(-(-most * (count - 1 + k) // (2 * (count - 1))) for k in range(count))


class Curriculum:
    """Decides from what was measured in each iteration whether the next one belongs to the next stage.

    Args:
        run: settings; its curriculum must be enabled.
        world: the run's world.
    """

    def __init__(self, run: RunConfig, world: World):
        """See the class."""
        self.stages = stages_of(run, world)
        assert self.stages, "curriculum.enabled is false"
        self.kept = -(-run.curriculum.window // run.ppo.questions_per_iteration)
        """Latest iterations that hold ``window`` questions."""
        self.number = 0
        self.iterations = 0
        """In the present stage."""
        self.recent: list[float] = []
        """Exact match of its latest iterations."""
        self.mastered = self.forced = 0
        """Stages left because they were mastered, and because their iterations were used up."""
        self.news = ""
        """A line for people if the latest iteration ended a stage."""

    @property
    def stage(self) -> Stage:
        """The stage of the next iteration."""
        return self.stages[self.number]

    @property
    def success(self) -> float:
        """Exact match over the latest questions of the stage; NaN before the first."""
        return float(np.mean(self.recent)) if self.recent else float("nan")

    def record(self, exact_match: float) -> dict[str, float]:
        """Take in the share of one iteration's questions answered exactly; go on to the next stage if it is time.

        Returns:
            metrics of the stage that the iteration belonged to, by name after ``ppo/``.
        """
        stage = self.stage
        # Rounded: the order in which samplers report must not decide.
        self.recent = [*self.recent, round(float(exact_match), 6)][-self.kept :]
        self.iterations += 1
        values = {"stage": stage.number + 1, "success": self.success, "iterations": self.iterations}
        self.news = ""
        enough = self.iterations >= stage.least and len(self.recent) == self.kept
        if stage.most is not None and enough and self.success >= stage.target:
            self.mastered += 1
            self._next("mastered")
        elif stage.most is not None and self.iterations >= stage.most:
            self.forced += 1
            self._next("NOT mastered, but its iterations are used up")
        values |= {"mastered": self.mastered, "forced": self.forced}
        return {f"curriculum/{name}": float(value) for name, value in values.items()}

    def _next(self, why: str) -> None:
        left, reached = self.stage, f"exact match {self.success:.2f}, target {self.stage.target:.2f}"
        self.number, self.iterations, self.recent = self.number + 1, 0, []
        self.news = f'curriculum: "{left.name}" {why} ({reached}); now "{self.stage.name}"'

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as JSON can hold it."""
        return {name: getattr(self, name) for name in STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        for name in STATE:
            setattr(self, name, state[name])


STATE = ("number", "iterations", "recent", "mastered", "forced")


def restricted(world: World, shares: Sequence[Share]) -> World:
    """A copy of ``world`` that is sampled from as ``shares`` say: one of the world, or one of each mixture member.

    Actions, pictures and answers stay those of ``world``.
    """
    made: Any = copy.copy(world)
    if isinstance(world, Mixture):
        pairs = zip(world.members, shares, strict=True)
        made.members = [restricted(member, [share]) if share.weight else member for member, share in pairs]
        made.weights = np.array([share.weight for share in shares]) / sum(share.weight for share in shares)
    else:
        made.sizes = shares[0].sizes
    return made


def check_worlds(run: RunConfig) -> None:
    """A :class:`ConfigError` if ``curriculum.worlds`` names what the run does not; no world is made for that."""
    if ":" in run.world.name and not run.world.worlds:
        return  # a user's own world may be a mixture
    entries = [parse_entry(entry) for entry in run.world.worlds] or [(run.world.name, run.world.sizes, 1.0)]
    for text in run.curriculum.worlds:
        _read(text, [name for name, _, _ in entries], [sizes for _, sizes, _ in entries])


def _read(text: str, names: Sequence[str], sizes: Sequence[tuple[int, ...]]) -> list[Share]:
    """One stage's worlds, as shares of the run's ``names`` with ``sizes`` (empty: not known)."""
    shares = [Share(own, 0.0) for own in sizes]

    def reject(rule: str) -> None:
        raise ConfigError(f'curriculum.worlds ("{text}") must {rule}')

    for entry in text.split("+"):
        try:
            name, own, weight = parse_entry(entry)
        except WorldError:
            reject("be NAME[@LOW-HIGH][*WEIGHT], several joined by +, such as frozen_lake@3-4")
            raise
        if name not in names:
            reject(f"name worlds of the run ({', '.join(names)}), not {name}")
        index = names.index(name)
        if shares[index].weight:
            reject(f"name {name} once, with a weight")
        outside = sorted(set(own) - set(sizes[index])) if sizes[index] else []
        if outside:
            known = ", ".join(map(str, sizes[index]))
            reject(f"keep to the sizes that the run trains on ({known}); add size {outside[0]} to those of the world")
        shares[index] = Share(own or sizes[index], weight)
    return shares


def _shares(run: RunConfig, world: World) -> list[list[Share]]:
    """What each stage takes of the world, or of each member of the mixture."""
    members = world.members if isinstance(world, Mixture) else [world]
    count, sizes = len(run.curriculum.stages), [tuple(member.sizes) for member in members]
    if run.curriculum.worlds:
        names = [parse_entry(entry)[0] for entry in run.world.worlds]
        names = names or ([m.name for m in members] if isinstance(world, Mixture) else [run.world.name])
        return [_read(text, names, sizes) for text in run.curriculum.worlds]
    if not isinstance(world, Mixture):
        own = sorted(sizes[0])
        return [[Share(tuple(own[: -(-len(own) * (k + 1) // count)]), 1.0)] for k in range(count)]
    joins = [_joins(member.family) for member in members]
    first = min(joins)  # the first stage must ask about something
    return [
        [
            Share(own, float(weight) if join <= max(k, first) or k + 1 == count else 0.0)
            for own, weight, join in zip(sizes, world.weights, joins, strict=True)
        ]
        for k in range(count)
    ]


def _joins(family: str) -> int:
    """Number of the stage in which worlds of ``family`` join a mixture."""
    return next((stage for stage, families in enumerate(FAMILIES) if family in families), len(FAMILIES))


def _union(shares: Sequence[Sequence[Share]]) -> list[Share]:
    """All that the stages ask about together; a world's weight is its latest."""
    together = []
    for own in zip(*shares, strict=True):
        asked = [share for share in own if share.weight]
        sizes = sorted({size for share in asked for size in share.sizes})
        together.append(Share(tuple(sizes), asked[-1].weight) if asked else own[-1])
    return together
