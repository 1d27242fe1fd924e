"""The built-in worlds by name."""

from __future__ import annotations

import difflib
from typing import Any

from envs.world import World, WorldError
from envs.worlds.frozen_lake import FrozenLake

WORLDS: dict[str, type[World]] = {world.name: world for world in (FrozenLake,)}


def make_world(name: str, **options: Any) -> World:
    """The world called ``name``, built with ``options``; a :class:`WorldError` suggests the nearest name."""
    if name not in WORLDS:
        close = difflib.get_close_matches(name, WORLDS, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"the worlds are {', '.join(sorted(WORLDS))}"
        raise WorldError(f'unknown world "{name}"; {hint}')
    return WORLDS[name](**options)
