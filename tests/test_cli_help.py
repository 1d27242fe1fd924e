"""The help screens: they fit a terminal, explain every argument, and come at once."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dreamrl.arguments import make_parser
from dreamrl.cli import main
from dreamrl.commands import COMMANDS

ROOT = Path(__file__).parent.parent
SCREENS = [["--help"], *([name, "--help"] for name in COMMANDS)]
LINES = 40


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("argv", SCREENS, ids=" ".join)
def test_it_fits_a_screen(argv, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= columns


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained(name):
    _, parsers = make_parser()
    assert [action.dest for action in parsers[name]._actions if not action.help] == []
    assert len(COMMANDS[name].help) <= 66 and COMMANDS[name].help[0].islower()


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    words = capsys.readouterr().out.split()
    assert set(COMMANDS) <= set(words)


CHILD = """
import sys
from dreamrl.cli import main
for argv in {screens}:
    assert main(argv) == 0
heavy = {{"torch", "ray", "torch_geometric", "transformers", "matplotlib", "scipy", "gymnasium"}} & set(sys.modules)
assert not heavy, heavy
"""


def test_no_help_imports_anything_heavy():
    code = CHILD.format(screens=SCREENS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_help_comes_within_a_second():
    """Of CPU time: what else the machine does is not ours."""
    best = 9.0
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "dreamrl", "train", "--help"], stdout=subprocess.DEVNULL, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert best < 1
