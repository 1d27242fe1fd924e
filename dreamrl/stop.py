"""Ctrl-C that ends a run cleanly: the first one asks, the second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP_FILE = "stop"
"""In the run's directory while a stop is asked for; workers on other machines see it there."""


class StopRequest:
    """Whether the user asked to stop."""

    def __init__(self, out: Path):
        """Args: ``out``, the run's directory."""
        self.path = out / STOP_FILE

    @property
    def asked(self) -> bool:
        """True from the first Ctrl-C on."""
        return self.path.exists()


@contextmanager
def stoppable(out: Path) -> Iterator[StopRequest]:
    """While inside, the first Ctrl-C only asks to stop; work ends at the next safe point and is saved."""
    request = StopRequest(out)
    request.path.unlink(missing_ok=True)

    def ask(signum, frame):
        if request.asked:
            raise KeyboardInterrupt
        request.path.touch()

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, ask) if main else None
    try:
        yield request
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
        request.path.unlink(missing_ok=True)
