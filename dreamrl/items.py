"""Evaluation items from a file: JSON Lines, one object of world options a line.

For FrozenLake that is Gymnasium's own form, ``{"desc": ["SFF", "FHF", "FFG"]}``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dreamrl.errors import UserError
from envs.registry import make_world
from envs.world import WorldError


def read_items(path: Path, world_name: str) -> list[dict[str, Any]]:
    """The items in ``path``, each accepted by the world's own check; empty lines are skipped.

    Raises:
        UserError: Naming the file, the line (counted from 1) and what is wrong with it.
        WorldError: For a world that does not exist.
    """
    world = make_world(world_name)
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read items {path}: {error.strerror}") from error
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = _parse(line)
            if not isinstance(item, dict):
                raise WorldError(f"must be an object of world options, not {line.decode().strip()[:40]}")
            world.scene(item)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} line {number}: not UTF-8 text; save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not valid JSON ({error.msg}, column {error.colno})") from error
        except RecursionError as error:
            raise UserError(f"{path} line {number}: not valid JSON (nested too deeply)") from error
        except WorldError as error:
            raise UserError(f"{path} line {number}: {error}") from error
        items.append(item)
    if not items:
        raise UserError(f"{path} holds no items; put one JSON object of world options on each line")
    return items


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise
    except ValueError as error:  # a number of thousands of digits
        raise WorldError(f"not valid JSON ({error})") from error
