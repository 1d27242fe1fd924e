"""Reads the ``dreamrl`` command line. Other programs call it, so flags are added and never renamed.

What each command may be given stands beside the command, in ``dreamrl.commands``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from typing import NoReturn

from dreamrl.commands import COMMANDS
from dreamrl.commands.training import STAGES
from dreamrl.errors import EXIT_OK, UserError, nearest

__all__ = ["STAGES", "make_parser", "parse"]


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments of ``argv``, or a UserError that suggests the nearest name for a typo."""
    parser, commands = make_parser()
    if not argv:
        raise UserError(f"no command; try `dreamrl train`, or `dreamrl --help` (commands: {', '.join(commands)})")
    if argv[0] == "--version":
        print(f"dreamrl {importlib.metadata.version('dreamrl')}")
        raise SystemExit(EXIT_OK)
    if argv[0] in ("-h", "--help"):
        parser.print_help()
        raise SystemExit(EXIT_OK)
    if argv[0].startswith("-"):
        raise UserError(f'"{argv[0]}" stands before the command; write `dreamrl COMMAND {argv[0]} ...`')
    if argv[0] not in commands:
        raise UserError(f'unknown command "{argv[0]}"; {nearest(argv[0], commands)}')
    _check_flags(_before_job(argv), commands[argv[0]])
    # argparse stops taking key=value arguments at the first flag after one: it hands back the others as unknown.
    args, others = parser.parse_known_args(argv)
    args.argv = argv
    if "overrides" in args:
        args.overrides += others
    elif others:
        hint = "; put the whole prompt in quotes" if args.command == "generate" else ""
        raise UserError(f'unexpected argument "{others[0]}"{hint}')
    return args


def _before_job(argv: list[str]) -> list[str]:
    """``argv`` without the command that ``submit`` wraps, whose flags are checked as that command's."""
    if argv[0] == "submit":
        for index in range(1, len(argv)):
            if not argv[index].startswith("-") and argv[index - 1] not in ("--address", "--out"):
                return argv[:index]
    return argv


def _check_flags(argv: list[str], command: argparse.ArgumentParser) -> None:
    """Find a mistyped flag before argparse complains of what is missing because of it."""
    flags = ["-h", "--help", *re.findall("--[a-z][a-z-]*", command.format_usage())]
    for argument in argv[1:]:
        if argument == "--":
            return
        flag = argument.partition("=")[0]
        if flag.startswith("-") and flag not in flags and not re.fullmatch(r"-[\d.]+", flag):
            raise UserError(f'{command.prog} has no flag "{flag}"; {nearest(flag, flags)}')


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing the usage and exiting, so that all errors look alike."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see `{self.prog} --help`)")


def make_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The parser of the whole command line, and that of each command."""
    parser = _Parser(prog="dreamrl", description="Train models that reason in dreams.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        text = command.help
        command.arguments(commands.add_parser(name, help=text, description=text, allow_abbrev=False))
    return parser, commands.choices
