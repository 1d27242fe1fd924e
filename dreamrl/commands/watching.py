"""``dreamrl watch``: a run that another process works on."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreamrl.errors import UserError

DEFAULT_EVERY = 2.0
LEAST_SECONDS, MOST_SECONDS = 0.1, 86400.0


def watch_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``watch`` may be given."""
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN", help="directory of a run that goes on, or is over")
    add("--once", action="store_true", help="show how far it is, and end")
    every = f"seconds between two looks (default: {DEFAULT_EVERY:g})"
    add("--every", type=float, default=DEFAULT_EVERY, metavar="S", help=every)
    add("--dead-after", type=float, metavar="S", help="seconds without news that seem its end (default: by its pace)")


def watch(args: argparse.Namespace) -> None:
    """Show a run until it is over."""
    every = _seconds("--every", args.every)
    patience = None if args.dead_after is None else _seconds("--dead-after", args.dead_after)
    from dreamrl.watch import watch as watch_run

    try:
        watch_run(args.run_dir, once=args.once, every=every, patience=patience)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("watching ends; the run itself is left alone") from None


def _seconds(flag: str, value: float) -> float:
    if not LEAST_SECONDS <= value <= MOST_SECONDS:
        raise UserError(f"{flag} ({value:g}) must be between {LEAST_SECONDS:g} and {MOST_SECONDS:g}")
    return value
