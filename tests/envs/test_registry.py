"""Worlds by name, a user's own among them; nothing foreign is imported unless the user asked for it."""

import sys

import pytest

from envs.registry import WORLDS, make_world
from envs.world import WorldError

MODULE = """
from envs import GymnasiumWorld
from envs.worlds.frozen_lake import FrozenLake

print("imported")
cliff = GymnasiumWorld(
    "CliffWalking-v1",
    actions=["up", "right", "down", "left"],
    question="Find the shortest way to the cookie.",
    success=lambda env, observation, reward, terminated: terminated,
    warm_up=8,
)

class Pond(FrozenLake):
    name = "pond"

def build():
    return Pond(patch_size=8)

def broken():
    raise RuntimeError("no luck\\ntoday")

number = 3

def nothing():
    return None
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch, request):
    """The user's module in the current directory; its name is new for each test."""
    name = f"own_{request.node.name.partition('[')[0]}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield name
    sys.path[:] = path
    sys.modules.pop(name, None)


def test_an_instance_a_class_and_a_function(own_module):
    assert make_world(f"{own_module}:cliff", patch_size=16).name == "cliffwalking-v1"
    assert make_world(f"{own_module}:Pond", patch_size=8).patch_size == 8
    assert make_world(f"{own_module}:build").name == "pond"
    assert make_world(f"{own_module}:Pond", sizes=[3]).sizes == (3,)


def test_a_module_that_is_not_trusted_is_not_imported(own_module, capsys):
    with pytest.raises(WorldError, match="is code that is not loaded yet; if you trust it, pass --world"):
        make_world(f"{own_module}:cliff", trusted=False)
    assert capsys.readouterr().out == "" and own_module not in sys.modules
    make_world(f"{own_module}:cliff")
    assert make_world(f"{own_module}:cliff", trusted=False).name == "cliffwalking-v1"  # now it is loaded already


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("clif", 'has no "clif"; did you mean "cliff"?'),
        ("number", "is no World, class or function but int"),
        ("nothing", "made NoneType, not a World"),
        ("broken", "could not be made: RuntimeError: no luck today"),
        ("build", "has patches of 8 pixels, the model 16; set model.patch_size=8"),
    ],
)
def test_wrong_names(own_module, attribute, words):
    with pytest.raises(WorldError) as caught:
        make_world(f"{own_module}:{attribute}", patch_size=16)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_modules_that_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half_written.py").write_text("x = (")
    path = list(sys.path)
    with pytest.raises(WorldError, match='no module "no_such_module"'):
        make_world("no_such_module:World")
    with pytest.raises(WorldError, match="importing half_written failed: SyntaxError"):
        make_world("half_written:World")
    sys.path[:] = path


def test_every_built_in_world_says_what_it_is_about():
    for name, (place, text) in WORLDS.items():
        family, _, rest = text.partition(": ")
        assert place.startswith("envs.worlds.") and family.isalpha() and rest, name


@pytest.mark.parametrize("name", [name for name in WORLDS if name != "scene_graph"])
def test_built_in_worlds_fit_together(name):
    """One patch size, so that they can be mixed; names, families and sizes as registered."""
    world = make_world(name, patch_size=16)
    assert (world.name, world.family) == (name, WORLDS[name][1].partition(":")[0])
    assert world.patch_size == 16 and world.sizes == world.default_sizes
    world.check_sizes(world.default_sizes)
    with pytest.raises(WorldError, match=rf"world.sizes \(\[{world.max_size + 1}\]\) must hold"):
        world.sizes = (world.max_size + 1,)
