"""The ``dreamrl`` command: reads the command line, checks everything that can be checked, then starts the work.

Nothing slow (torch, Ray) is imported before the checks have passed, so that help and errors come at once. Every
mistake of the user is one line on stderr and exit code 2; Ctrl-C is exit code 130.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from dreamrl.arguments import parse
from dreamrl.commands import COMMANDS
from dreamrl.config import ConfigError
from dreamrl.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USER_ERROR, UserError

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
"""Failures of the user's disk rather than of the program."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    try:
        args = parse(sys.argv[1:] if argv is None else list(argv))
        COMMANDS[args.command](args)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except KeyboardInterrupt as stopped:
        print(f"dreamrl: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError) as error:
        if not _is_users(error):
            raise
        print(f"dreamrl: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def _is_users(error: Exception) -> bool:
    """Whether the user can fix ``error``; envs is imported late because it brings numpy."""
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    from envs.world import WorldError

    return isinstance(error, ConfigError | UserError | WorldError)


def _one_line(error: Exception) -> str:
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    return " ".join(text.split())
