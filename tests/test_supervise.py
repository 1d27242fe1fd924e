"""A run whose process is killed is started again, as often as was asked; one that ends by itself is not."""

import os
import signal
import subprocess
import sys

import pytest

CHILD = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import subprocess
from dreamrl import supervise
log, out = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
script = f'''
import os, pathlib, signal, sys
log, out, deaths = pathlib.Path({str(log)!r}), pathlib.Path({str(out)!r}), {int(sys.argv[4])}
lines = log.read_text().splitlines() if log.exists() else []
log.write_text("\\\\n".join([*lines, " ".join(sys.argv[1:])]))
out.mkdir(exist_ok=True)
if len(lines) > 0:
    (out / "config.yaml").touch()
if len(lines) < deaths:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit({int(sys.argv[5])})
'''
real = subprocess.Popen
subprocess.Popen = lambda command: real([sys.executable, "-c", script, *command[3:]])
supervise.PAUSE_SECONDS = 0
sys.exit(supervise.supervise("train", ["train", "--seed", "1"], out, ["--address", "auto"], int(sys.argv[6])))
"""


@pytest.fixture
def supervised(tmp_path):
    def run(deaths, code, restarts):
        log, out = tmp_path / "log", tmp_path / "out"
        root = os.path.dirname(os.path.dirname(__file__))
        command = [sys.executable, "-c", CHILD, root, str(log), str(out), str(deaths), str(code), str(restarts)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done, log.read_text().replace(str(out), "OUT").splitlines()

    return run


def test_started_again_until_it_ends(supervised):
    done, started = supervised(deaths=3, code=0, restarts=5)
    first, again = "train --seed 1", "train --resume OUT --address auto"
    assert done.returncode == 0 and started == [first, first, again, again]  # the first left nothing to resume
    assert "killed (SIGKILL); starting again, 4 more times" in done.stdout and not done.stderr


def test_an_end_of_its_own_is_the_end(supervised):
    done, started = supervised(deaths=0, code=2, restarts=5)
    assert done.returncode == 2 and len(started) == 1 and not done.stdout


def test_it_gives_up(supervised):
    done, started = supervised(deaths=9, code=0, restarts=2)
    assert done.returncode == 128 + signal.SIGKILL and len(started) == 3
    assert "--restarts is used up" in done.stderr
