"""Several worlds as one, so that one model can be trained on all of them.

Actions are the union of the members' actions: "left" is the same action wherever it is known. In a scene of a
member that lacks an action nothing happens when it is taken; random play takes only those that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from envs.scene import Outcome, PictureScene, Question, Rollout, Scene, State, WorldError
from envs.world import World

NO_ACTION = -1
"""Stands for an action that a member does not have."""


class MemberScene(Scene):
    """A scene of a member, with the mixture's actions."""

    def __init__(self, inner: Scene, member: int, world: World, actions: Sequence[int]):
        """Args: a scene of ``member`` (its number), the member itself, the mixture's number of each own action."""
        self.inner, self.member = inner, member
        self.world, self.family = world.name, world.family
        self.key, self.grid, self.start = inner.key, inner.grid, inner.start
        self.to_inner = {outer: own for own, outer in enumerate(actions)}
        self.to_outer = tuple(actions)
        own = range(len(actions)) if inner.legal is None else inner.legal
        self.legal = tuple(actions[a] for a in own)

    def step(self, state: State, action: int) -> tuple[State, Outcome]:
        """See :meth:`Scene.step`."""
        own = self.to_inner.get(int(action))
        return (state, Outcome.CONTINUE) if own is None else self.inner.step(state, own)

    def frame(self, state: State) -> np.ndarray:
        """See :meth:`Scene.frame`."""
        return self.inner.frame(state)

    def distance(self, state: State) -> int | None:
        """See :meth:`Scene.distance`."""
        return self.inner.distance(state)

    def expert(self, state: State) -> int | None:
        """See :meth:`Scene.expert`."""
        own = self.inner.expert(state)
        return None if own is None else self.to_outer[own]


class Mixture(World):
    """Scenes of several worlds, drawn by weight, each in its own sizes; ``size`` arguments mean nothing here."""

    family = "mixture"

    def __init__(self, members: Sequence[tuple[World, float]]):
        """Args: ``members`` as (world, weight); weights need not sum to 1."""
        names = [world.name for world, _ in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise WorldError(f'world.worlds names "{twice[0]}" twice; give it one entry with a weight')
        self.members = [world for world, _ in members]
        self.weights = np.array([weight for _, weight in members]) / sum(weight for _, weight in members)
        self.name = "+".join(names)
        self.patch_size = self.members[0].patch_size
        self.actions = tuple(dict.fromkeys(action for world in self.members for action in world.actions))
        self.kinds = tuple(dict.fromkeys(kind for world in self.members for kind in world.kinds))
        self.own_actions = [[self.actions.index(a) for a in world.actions] for world in self.members]

    def only(self, name: str) -> Mixture:
        """The same actions, but scenes of the member ``name`` alone."""
        names = [world.name for world in self.members]
        if name not in names:
            raise WorldError(f'the model was trained on {", ".join(names)}, not on "{name}"')
        return _restricted(self, names.index(name))

    def grid_at(self, size):
        """See :meth:`World.grid_at`."""
        grids = [world.grid_at(s) for world in self.members for s in world.sizes]
        return max(g[0] for g in grids), max(g[1] for g in grids)

    @property
    def max_patches(self) -> int:
        """See :attr:`World.max_patches`."""
        return max(world.max_patches for world in self.members)

    def scene(self, options):
        """See :meth:`World.scene`. Options: ``{"world": NAME, ...}`` with those of that world."""
        names = [world.name for world in self.members]
        if options.get("world") not in names:
            raise WorldError(f'"world" ({options.get("world")!r}) must be one of {", ".join(names)}')
        index = names.index(options["world"])
        rest = {k: v for k, v in options.items() if k != "world"}
        return self._wrap(self.members[index].scene(rest), index)

    def sample_scene(self, rng, split, size):
        """See :meth:`World.sample_scene`."""
        index = int(rng.choice(len(self.members), p=self.weights))
        world = self.members[index]
        return self._wrap(world.sample_scene(rng, split, int(rng.choice(world.sizes))), index)

    def draw(self, scene, predict, length, rng):
        """See :meth:`World.draw`."""
        return self._outer(self.about(scene).draw(_member(scene).inner, predict, length, rng), scene)

    def ask(self, scene, kind, rng, script=()):
        """See :meth:`World.ask`."""
        own = _member(scene)
        return self._outer(self.about(scene).ask(own.inner, kind, rng, [own.to_inner[a] for a in script]), scene)

    def tell(self, question, rollout):
        """See :meth:`World.tell`."""
        return self.about(question.scene).tell(_inner(question), _inner_rollout(question.scene, rollout))

    def verify(self, question, answer):
        """See :meth:`World.verify`."""
        return self.about(question.scene).verify(_inner(question), answer)

    def true_answer(self, question, rollouts):
        """See :meth:`World.true_answer`."""
        own = [_inner_rollout(question.scene, rollout) for rollout in rollouts]
        return self.about(question.scene).true_answer(_inner(question), own)

    def wordings(self, answer):
        """See :meth:`World.wordings`: those of the first member that knows several."""
        return next((w for w in (world.wordings(answer) for world in self.members) if len(w) > 1), [answer])

    def interpret(self, text, scene):
        """See :meth:`World.interpret`. A bare picture belongs to no member: the first that understands it."""
        if isinstance(scene, PictureScene):
            for world, actions in zip(self.members, self.own_actions, strict=True):
                found = world.interpret(text, scene)
                if found is not None:
                    return replace(found, script=tuple(actions[a] for a in found.script))
            return None
        found = self.about(scene).interpret(text, _member(scene).inner)
        return None if found is None else self._outer(found, scene)

    def corpus(self):
        """See :meth:`World.corpus`."""
        return [text for world in self.members for text in world.corpus()]

    def about(self, scene: Scene) -> World:
        """The member that ``scene`` belongs to."""
        return self if isinstance(scene, PictureScene) else self.members[_member(scene).member]

    def _wrap(self, scene: Scene, index: int) -> MemberScene:
        return MemberScene(scene, index, self.members[index], self.own_actions[index])

    def _outer(self, question: Question, scene: Scene) -> Question:
        own = _member(scene)
        asked = scene
        if question.scene is not own.inner:
            asked = self._wrap(question.scene, own.member)
        return replace(question, scene=asked, script=tuple(own.to_outer[a] for a in question.script))


def _restricted(mixture: Mixture, index: int) -> Mixture:
    """``mixture`` with all weight on one member; actions and grids stay."""
    made: Any = object.__new__(Mixture)
    made.__dict__.update(mixture.__dict__)
    made.weights = np.eye(len(mixture.members))[index]
    made.name = mixture.members[index].name
    made.kinds = mixture.members[index].kinds
    return made


def _member(scene: Scene) -> MemberScene:
    assert isinstance(scene, MemberScene), f"{type(scene).__name__} is no scene of this mixture"
    return scene


def _inner(question: Question) -> Question:
    """``question`` as its member asks it."""
    scene = _member(question.scene)
    return replace(question, scene=scene.inner, script=tuple(scene.to_inner[a] for a in question.script))


def _inner_rollout(scene: Scene, rollout: Rollout) -> Rollout:
    own = _member(scene).to_inner
    return replace(rollout, actions=tuple(own.get(a, NO_ACTION) for a in rollout.actions))
