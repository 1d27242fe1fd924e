"""The conformance suite finds each way in which a world can break the interface."""

import itertools

import numpy as np
import pytest

from envs.conformance import check_world, print_findings
from envs.registry import WORLDS, make_world
from envs.world import Verdict
from envs.worlds.frozen_lake import FrozenLake, FrozenLakeScene


def failed(world):
    return {finding.check: finding.message for finding in check_world(world) if not finding.ok}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WORLDS if name != "scene_graph"])
def test_built_in_worlds_hold_to_the_interface(name):
    assert failed(make_world(name)) == {}


def test_findings_are_printed_a_line_each(capsys):
    world = FrozenLake()
    findings = check_world(world)
    print_findings(world, findings)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "frozen_lake (family spatial)" and len(lines) == 1 + len(findings)
    assert all(line.startswith("  ok  ") for line in lines[1:])
    assert any("7 distinct patches" in line for line in lines)


class Lenient(FrozenLake):
    """Takes any answer."""

    def verify(self, question, answer):
        return Verdict(exact=True, progress=1.0, valid=True, success=True)


class Strict(FrozenLake):
    """Takes no answer."""

    def verify(self, question, answer):
        return Verdict(exact=False, progress=0.0, valid=True, success=False)


class Greedy(FrozenLake):
    """Understands everything as the same question."""

    def interpret(self, text, scene):
        return super().interpret("path", scene)


class Crashing(FrozenLake):
    def verify(self, question, answer):
        raise ZeroDivisionError("division\nby zero")


class Shouting(FrozenLake):
    actions = ("LEFT", "down", "right", "up")


class Twins(FrozenLake):
    """One scene in all splits."""

    def sample_scene(self, rng, split, size):
        return self.scene({"desc": ["SF", "FG"]})


class Drifting(FrozenLake):
    """Its boards do not follow from the random numbers."""

    count = itertools.count()

    def sample_scene(self, rng, split, size):
        rng.random(next(self.count) % 5)
        return super().sample_scene(rng, split, size)


class Forgetful(FrozenLakeScene):
    """Steps depend on what was stepped before."""

    steps = 0

    def step(self, state, action):
        self.steps += 1
        return super().step(state, (action + self.steps // 7) % 4)


class Stateful(FrozenLake):
    def sample_scene(self, rng, split, size):
        scene = super().sample_scene(rng, split, size)
        return Forgetful(scene.desc, self.patch_size)


class Grey(FrozenLakeScene):
    def frame(self, state):
        return super().frame(state)[:, :, 0]


class Colourless(FrozenLake):
    def sample_scene(self, rng, split, size):
        return Grey(super().sample_scene(rng, split, size).desc, self.patch_size)


class Listing(FrozenLakeScene):
    """States are lists, which have an order but no hash."""

    def __init__(self, desc, patch_size):
        super().__init__(desc, patch_size)
        self.start = self.wrapped(self.start)

    def wrapped(self, state):
        return [state]

    def unwrapped(self, state):
        return state[0]

    def step(self, state, action):
        after, outcome = super().step(self.unwrapped(state), action)
        return self.wrapped(after), outcome

    def frame(self, state):
        return super().frame(self.unwrapped(state))

    def distance(self, state):
        return super().distance(self.unwrapped(state))


class Unhashable(FrozenLake):
    def sample_scene(self, rng, split, size):
        return Listing(super().sample_scene(rng, split, size).desc, self.patch_size)


class Complex(Listing):
    """States are complex numbers, which have a hash but no order."""

    def wrapped(self, state):
        return complex(state)

    def unwrapped(self, state):
        return int(state.real)


class Unsortable(FrozenLake):
    def sample_scene(self, rng, split, size):
        return Complex(super().sample_scene(rng, split, size).desc, self.patch_size)


class Farther(FrozenLakeScene):
    """Says that everything is as far as the start."""

    def distance(self, state):
        return super().distance(self.start)


class Misled(FrozenLake):
    def sample_scene(self, rng, split, size):
        return Farther(super().sample_scene(rng, split, size).desc, self.patch_size)


class Larger(FrozenLake):
    """Frames are larger than it says."""

    def grid_at(self, size):
        return 2, 2


@pytest.mark.parametrize(
    ("world", "check", "words"),
    [
        (Lenient, "verifier", "is accepted"),
        (Strict, "verifier", "is rejected"),
        (Greedy, "questions", "takes"),
        (Crashing, "verifier", "ZeroDivisionError: division by zero"),
        (Shouting, "actions", '"LEFT" must be small letters'),
        (Twins, "splits", "share a scene"),
        (Drifting, "determinism", "two different scenes"),
        (Stateful, "restore", "led elsewhere"),
        (Colourless, "frames", "uint8 ("),
        (Larger, "frames", "more patches than grid_at says"),
        (Unhashable, "restore", "unhashable type: 'list'"),
        (Unsortable, "restore", "'<' not supported between instances of 'complex'"),
        (Misled, "verifier", "but no action leads to"),
    ],
)
def test_what_is_broken_is_found(world, check, words):
    found = failed(world())
    assert words in found[check], found
    assert "\n" not in found[check]


def test_constant_answers_are_counted():
    """All boards one move from the gift: the best constant plan is right as often as its move is asked for."""

    class Short(FrozenLake):
        def sample_scene(self, rng, split, size):
            scene = super().sample_scene(rng, split, size)
            while scene.distance(scene.start) != 1:
                scene = super().sample_scene(rng, split, size)
            return scene

    message = next(f.message for f in check_world(Short()) if f.check == "balance")
    share = float(message.partition("plan ")[2].partition(" ")[0])
    assert 0.25 <= share <= 0.4 and "4 answers" in message
    assert np.isclose(share, round(share * 100) / 100)
