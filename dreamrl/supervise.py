"""Start a run again when its process is killed: by the kernel for want of memory, by a host, by ``kill -9``.

A process of its own waits for the one that works; what it starts anew goes on from the newest checkpoint.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dreamrl.preflight import RUN_CONFIG

PAUSE_SECONDS = 1.0
"""Before a new start: what the dead process left behind (Ray's own processes) ends by itself meanwhile."""


def supervise(command: str, arguments: Sequence[str], out: Path, resumed: Sequence[str], restarts: int) -> int:
    """Run ``dreamrl ARGUMENTS`` until it ends by itself, starting it again after a signal killed it.

    Args:
        command: of the run: train, pretrain or ppo.
        arguments: of the first start.
        out: the run's directory; once it holds a configuration, the run is resumed.
        resumed: what a resumed run gets besides ``--resume``, such as the address of Ray.
        restarts: how often it is started again.

    Returns:
        the exit code of the last process; 128 + the signal if that was killed too.
    """
    again = [command, "--resume", str(out), *resumed]
    for left in range(restarts, -1, -1):
        code = _run(again if (out / RUN_CONFIG).exists() else list(arguments))
        if code >= 0:
            return code
        name = signal.Signals(-code).name
        if not left:
            break
        print(f"{command}: its process was killed ({name}); starting again, {left - 1} more times", flush=True)
        time.sleep(PAUSE_SECONDS)
    print(f"{command}: its process was killed ({name}); --restarts is used up", file=sys.stderr, flush=True)
    return 128 - code


def _run(arguments: list[str]) -> int:
    """The exit code of ``dreamrl ARGUMENTS``; a terminal sends Ctrl-C to both processes, SIGTERM is handed on."""
    process = subprocess.Popen([sys.executable, "-m", "dreamrl", *arguments])
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
