"""``dreamrl worlds``, ``doctor`` and ``completion``: what helps to use the others."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from dreamrl.commands.checks import add_address
from dreamrl.errors import EXIT_OK, UserError
from dreamrl.printing import quiet_stdout

EXIT_CANNOT_TRAIN = 1
"""Of ``dreamrl doctor``; 2 stays what it is everywhere, a mistake in the command line."""


def worlds_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``worlds`` may be given."""
    add = parser.add_argument
    add("action", nargs="?", choices=("list", "check"), default="list", help="what to do (default: list)")
    add("world", nargs="?", metavar="WORLD", help="which to check: a name of the list or package.module:Name")
    add("--json", action="store_true", help="print JSON")


def worlds(args: argparse.Namespace) -> None:
    """List the worlds, or check one."""
    from envs.registry import WORLDS, make_world

    if args.action == "list":
        if args.world:
            raise UserError("`dreamrl worlds list` takes no world; use `dreamrl worlds check WORLD`")
        if args.json:
            print(json.dumps({name: text for name, (_, text) in WORLDS.items()}))
            return
        width = max(map(len, WORLDS))
        print("\n".join(f"{name:<{width}}  {text}" for name, (_, text) in WORLDS.items()))
        return
    if not args.world:
        raise UserError(
            "which world? `dreamrl worlds check WORLD`, by a name of `dreamrl worlds` or package.module:Name"
        )
    world = make_world(args.world)
    with quiet_stdout(args.json):
        from envs.conformance import check_world, print_findings

        findings = check_world(world)
        if not args.json:
            print_findings(world, findings)
    if args.json:
        print(json.dumps([finding.as_dict() for finding in findings]))
    failed = sum(not finding.ok for finding in findings)
    if failed:
        raise UserError(f"{world.name} fails {failed} of {len(findings)} checks")


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``doctor`` may be given."""
    add_address(parser)
    add = parser.add_argument
    add("--deep", action="store_true", help="also import torch, and start or join Ray for real (ten seconds or more)")
    add("--json", action="store_true", help="print one JSON object")


def doctor(args: argparse.Namespace) -> None:
    """Print what was found; exits with 1 if something would stop ``dreamrl train``."""
    from dreamrl.doctor import examine, print_findings

    with quiet_stdout(args.json):
        findings = examine(args.address, args.deep)
    stops = any(finding.level == "fail" for finding in findings)
    if args.json:
        print(json.dumps({"ok": not stops, "findings": [asdict(finding) for finding in findings]}))
    else:
        print_findings(findings)
    raise SystemExit(EXIT_CANNOT_TRAIN if stops else EXIT_OK)


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``completion`` may be given."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell the script is for")


def completion(args: argparse.Namespace) -> None:
    """Print the script that a shell completes ``dreamrl`` with."""
    from dreamrl.arguments import make_parser
    from dreamrl.completion import script

    print(script(make_parser()[0], args.shell))
