"""Runs of ``dreamrl`` as processes that a benchmark starts, watches and kills."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from dreamrl.checkpoint import WEIGHTS

POLL_SECONDS = 0.02


class Job:
    """``dreamrl ARGUMENTS`` in a session of its own, so that all it starts can be killed with it.

    Args:
        arguments: of the command line.
        log: file that its output is appended to.
    """

    def __init__(self, arguments: list[str], log: Path):
        """See the class."""
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dreamrl", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the first process lives."""
        return self.process.poll() is None

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Whether ``until()`` came true before the process ended and ``seconds`` were over."""
        deadline = time.monotonic() + seconds
        while not until():
            if not self.running or time.monotonic() > deadline:
                return until()
            time.sleep(POLL_SECONDS)
        return True

    def kill(self) -> None:
        """SIGKILL to the whole session, and wait until nothing of it is left."""
        below: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(below, timeout=10)
        self.process.wait()

    def finish(self, seconds: float) -> int:
        """Its exit code; killed if it takes longer."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


def ray_processes(pid: int, title: str) -> list[int]:
    """Ids of the Ray processes that process ``pid`` started and whose title, as ``ps`` shows it, holds ``title``."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                command = " ".join(process.cmdline())
                if command.startswith("ray::") and title in command:
                    found.append(process.pid)
    return sorted(found)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's ``metrics.jsonl``."""
    path = out / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def reached(out: Path, stage: str) -> int:
    """The newest step of ``stage`` in the metrics; 0 before the first."""
    steps = [int(record["step"]) for record in metrics(out) if record["stage"] == stage]
    return steps[-1] if steps else 0


def weight_hash(model: Path) -> str:
    """SHA-256 of the weights in a model directory."""
    return hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest()
