"""Errors that are the user's to fix: the command line prints them as one line and exits with code 2.

``ConfigError`` (settings) and ``WorldError`` (worlds and items) live beside what they are about and are
treated alike. Everything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended (128 + SIGINT)."""


class UserError(ValueError):
    """Something that the user gave is wrong; the message is one line that names it and the fix."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint that ends an error message: ``did you mean "train"?``, or what is known if nothing is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known)}"
