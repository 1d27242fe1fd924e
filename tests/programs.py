"""The command line as a user runs it: real processes, waited for, killed and interrupted."""

import os
import signal
import subprocess
import sys
import time


def start(*arguments):
    """``dreamrl ARGUMENTS`` in a session of its own, so that :func:`kill` reaches all that it starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "dreamrl", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(found, process, seconds=300):
    """Until ``found()`` is true; fails if ``process`` ends before."""
    deadline = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def kill(process):
    """As the kernel would: no warning, and its children with it. What it had printed."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def finish(process, code=0, seconds=580):
    """What it printed, once it has ended with exit status ``code``."""
    output = process.communicate(timeout=seconds)[0]
    assert process.returncode == code, output
    return output
