"""Worlds by name: the built-in ones, a user's own as ``package.module:Name``, and mixtures of several.

Modules are imported when their world is asked for, so a world's simulator costs nothing until it is used.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from envs.world import World, WorldError

if TYPE_CHECKING:
    from dreamrl.config import RunConfig

WORLDS: dict[str, tuple[str, str]] = {
    "frozen_lake": ("envs.worlds.frozen_lake:FrozenLake", "spatial: walk on a frozen lake to the gift"),
    "minigrid": ("envs.worlds.minigrid:MiniGrid", "spatial: go to a thing in a room"),
    "temporal": ("envs.worlds.temporal:Temporal", "temporal: what happened, what is next, what came first"),
    "minigrid_key": ("envs.worlds.minigrid_key:MiniGridKey", "causal: which door opens, and would it without a key"),
    "physics": ("envs.worlds.physics:Physics", "causal: drop a ball, and what if one thing were not there"),
    "blickets": ("envs.worlds.blickets:Blickets", "causal: which objects switch a machine on"),
    "patterns": ("envs.worlds.patterns:Patterns", "abstract: turn a grid, play life, find a hidden rule"),
    "scene_graph": ("envs.worlds.scene_graphs:SceneGraph", "relational: follow relations in annotated photographs"),
    "easy_vqa": ("envs.worlds.easy_vqa:EasyVqa", "vqa: shape and color in real pictures"),
}
"""Name -> where its class is, and what it is about (family first)."""
_asked_for: set[str] = set()
"""Names of users' own worlds that this process was asked for, not told by a file."""
LARGEST = 1000
"""Of the sizes in an entry of a mixture; more than any world has."""
_ENTRY = re.compile(r"(?P<name>[^@*]+)(@(?P<low>\d+)(-(?P<high>\d+))?)?(\*(?P<weight>\d*\.?\d+))?")


def make_world(
    name: str,
    *,
    patch_size: int | None = None,
    sizes: Sequence[int] = (),
    worlds: Sequence[str] = (),
    trusted: bool = True,
) -> World:
    """The world called ``name``, or the mixture of ``worlds`` if any are given.

    Args:
        name: of a built-in world, or ``package.module:Name`` of a user's own: a :class:`World`, a class of worlds,
            or a function that makes one.
        patch_size: side of an image patch in pixels; None: the world's own choice.
        sizes: of the scenes that are trained on; empty: the world's own choice.
        worlds: entries ``NAME[@LOW-HIGH][*WEIGHT]``: several worlds at once, drawn by weight (1 unless given), each
            with its sizes.
        trusted: whether a user's own module may be imported; False if the name comes from a file that somebody else
            may have written. A world, or a class of worlds, that is imported already is used in any case.

    Raises:
        WorldError: With the nearest names, or what is wrong with the user's own.
    """
    if worlds:
        if sizes:
            raise WorldError("world.sizes contradicts world.worlds; write sizes behind each name, such as NAME@3-6")
        from envs.mixture import Mixture

        members = []
        for entry in worlds:
            member, own_sizes, weight = parse_entry(entry)
            members.append((make_world(member, patch_size=patch_size, sizes=own_sizes, trusted=trusted), weight))
        return Mixture(members)
    world = _custom(name, patch_size, trusted) if ":" in name else _built_in(name, patch_size)
    if sizes:
        world.sizes = tuple(sizes)
    return world


def world_of(run: RunConfig, trusted: bool = True) -> World:
    """The world that ``run`` is about."""
    world = run.world
    return make_world(
        world.name, patch_size=run.model.patch_size, sizes=world.sizes, worlds=world.worlds, trusted=trusted
    )


def parse_entry(entry: str) -> tuple[str, tuple[int, ...], float]:
    """``frozen_lake@3-6*2`` as ("frozen_lake", (3, 4, 5, 6), 2.0)."""
    match = _ENTRY.fullmatch(entry.strip())
    low, high = (int(match[k]) if match and match[k] else None for k in ("low", "high"))
    weight = float(match["weight"]) if match and match["weight"] else 1.0
    if not match or weight <= 0 or (low is not None and high is not None and high < low):
        rule = "must be NAME[@LOW-HIGH][*WEIGHT], such as frozen_lake@3-6*2"
        raise WorldError(f'world.worlds ("{entry}") {rule}')
    high = low if high is None else high
    if high is not None and high > LARGEST:
        raise WorldError(f'world.worlds ("{entry}") has sizes above {LARGEST}, which no world has')
    sizes = () if low is None or high is None else tuple(range(low, high + 1))
    return match["name"], sizes, weight


def _built_in(name: str, patch_size: int | None) -> World:
    if name not in WORLDS:
        close = difflib.get_close_matches(name, WORLDS, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"the worlds are {', '.join(sorted(WORLDS))}"
        raise WorldError(f'unknown world "{name}"; {hint}')
    module, _, attribute = WORLDS[name][0].partition(":")
    try:
        world = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        fix = "install them with `pip install 'dreamrl[worlds]'`"
        raise WorldError(f'world "{name}" needs packages that are not installed ({error.name}); {fix}') from error
    return world() if patch_size is None else world(patch_size=patch_size)


def _custom(name: str, patch_size: int | None, trusted: bool) -> World:
    """The user's own world; importing runs its code."""
    module_name, _, attribute = name.partition(":")
    if trusted:
        _asked_for.add(name)
    elif name not in _asked_for and not _is_loaded(module_name, attribute):
        raise WorldError(f'the world "{name}" is code that is not loaded yet; if you trust it, pass --world {name}')
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script does not
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        fix = "write --world package.module:Name, with the module in the current directory or on PYTHONPATH"
        raise WorldError(f'world "{name}": no module "{error.name}"; {fix}') from error
    except Exception as error:  # whatever the user's module raises
        raise WorldError(f'world "{name}": importing {module_name} failed: {_line(error)}') from error
    if not hasattr(module, attribute):
        own = [k for k in vars(module) if not k.startswith("_")]
        close = difflib.get_close_matches(attribute, own, n=1)
        hint = f'did you mean "{close[0]}"?' if close else "check the name after the colon"
        raise WorldError(f'world "{name}": {module_name} has no "{attribute}"; {hint}')
    found: Any = getattr(module, attribute)
    if not isinstance(found, World):
        found = _call(found, name, patch_size)
    if patch_size is not None and found.patch_size != patch_size:
        raise WorldError(
            f"{name} has patches of {found.patch_size} pixels, the model {patch_size}; set "
            f"model.patch_size={found.patch_size}"
        )
    return found


def _is_loaded(module_name: str, attribute: str) -> bool:
    """Whether it is a world or a class of worlds already; all else would be called, and ``os:abort`` is a name, too."""
    found = vars(sys.modules[module_name]).get(attribute) if module_name in sys.modules else None
    return isinstance(found, World) or (isinstance(found, type) and issubclass(found, World))


def _call(found: Any, name: str, patch_size: int | None) -> World:
    if not callable(found):
        raise WorldError(f'world "{name}" is no World, class or function but {type(found).__name__}')
    try:
        takes_patches = patch_size is not None and "patch_size" in inspect.signature(found).parameters
        made = found(patch_size=patch_size) if takes_patches else found()
    except WorldError:
        raise
    except Exception as error:
        raise WorldError(f'world "{name}" could not be made: {_line(error)}') from error
    if not isinstance(made, World):
        raise WorldError(f'world "{name}" made {type(made).__name__}, not a World; see envs.GymnasiumWorld')
    return made


def _line(error: Exception) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
