"""Ctrl-C and SIGTERM end a run cleanly: the first one asks, the second one insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal, and what a scheduler or a cloud that wants its machine back, sends."""
STOP_FILE = "stop"
"""In the run's directory while a stop is asked for; workers on other machines see it there."""


class StopRequest:
    """Whether the user asked to stop."""

    def __init__(self, out: Path):
        """Args: ``out``, the run's directory."""
        self.path = out / STOP_FILE

    @property
    def asked(self) -> bool:
        """True from the first signal on."""
        return self.path.exists()

    def ask(self, signum: int | None = None, frame: FrameType | None = None) -> None:
        """Ask to stop; as a handler of signals: the second one raises KeyboardInterrupt."""
        if self.asked:
            raise KeyboardInterrupt
        self.path.touch()

    def listen(self) -> dict[int, Any]:
        """Handle the signals from now on; Ray takes SIGTERM for itself when it starts. Returns what did before."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self.ask) for number in SIGNALS}


@contextmanager
def stoppable(out: Path) -> Iterator[StopRequest]:
    """While inside, the first Ctrl-C or SIGTERM only asks to stop; work ends at the next safe point and is saved."""
    request = StopRequest(out)
    request.path.unlink(missing_ok=True)
    before = request.listen()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        request.path.unlink(missing_ok=True)
