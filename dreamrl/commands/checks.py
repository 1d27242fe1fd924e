"""What several commands check before they start, and arguments that they share."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dreamrl import preflight
from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.shipped import shipped

MAX_DREAMS = 1024
MAX_SEED = 2**31 - 1
MODEL_HELP = " or ".join(["model/ directory of a run", *shipped()])


def add_address(parser: argparse.ArgumentParser) -> None:
    """``--address``, which :func:`check_address` checks."""
    text = "local, auto, host:port or ray://host:port of a Ray cluster (default: local)"
    parser.add_argument("--address", default="local", help=text)


def sizes(text: str) -> tuple[int, ...]:
    """``3,4`` as (3, 4)."""
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'"{text}" must be whole numbers with commas, such as 3,4') from error


def check_world(name: str, sizes: tuple[int, ...] | None = None) -> None:
    """Raise unless ``name`` is a world, or a mixture as in "a+b", with scenes of ``sizes``."""
    from envs.registry import make_world

    parts = [make_world(part) for part in name.split("+")]
    if len(parts) == 1 and sizes is not None:
        parts[0].check_sizes(sizes)


def check_world_of(run: RunConfig) -> None:
    """Raise unless the world and the curriculum that ``run`` names can be made."""
    from dreamrl.curriculum import stages_of
    from envs.registry import world_of

    stages_of(run, world_of(run))


def check_address(address: str) -> None:
    """Raise unless ``address`` can be reached, and has a token if it is another machine's."""
    from dreamrl.addresses import require_token

    preflight.check_address(address)
    require_token(address)


def check_model(directory: Path) -> None:
    """Raise unless ``directory`` holds a model whose files are whole."""
    from dreamrl.checkpoint import check_model_files

    check_model_files(directory)


def scene_options(world: str, text: str | None) -> dict[str, Any] | None:
    """The scene that --options describes, accepted by the world; None leaves the choice to the seed."""
    from envs.registry import make_world

    made = make_world(world)
    if text is None:
        return None
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--options is not valid JSON ({error}); put it in single quotes") from error
    if not isinstance(options, dict):
        raise UserError(f"--options ({text}) must be a JSON object")
    made.scene(options)
    return options


def in_range(flag: str, value: int, low: int, high: int) -> int:
    """``value``, which lies between ``low`` and ``high``, or an error that names ``flag``."""
    if not low <= value <= high:
        raise UserError(f"{flag} ({value}) must be between {low} and {high}")
    return value


def share(flag: str, value: float, high: float) -> float:
    """``value``, which lies between 0 and ``high``, or an error that names ``flag``."""
    if not 0 <= value <= high:
        raise UserError(f"{flag} ({value:g}) must be between 0 and {high:g}")
    return value
