"""`dreamrl completion`: a shell with the script loaded, and Tab pressed in it."""

import os
import pty
import select
import shutil
import subprocess
import time

import pytest

from dreamrl.arguments import make_parser
from dreamrl.cli import main
from dreamrl.commands import COMMANDS
from dreamrl.settings import field_types, presets

TYPED = {
    "dreamrl tr\t": "train",
    "dreamrl train --pres\tna\t": "train --preset nano",
    "dreamrl train ppo.ite\t7": "train ppo.iterations=7",
    "dreamrl train model.moe_to\t2 ppo.gam\t1": "train model.moe_top_k=2 ppo.gamma=1",
    "dreamrl generate froz\tWhy": "generate frozen-lake Why",
    "dreamrl eval ru\t": "eval runs",
    "dreamrl train --out ru\t": "train --out runs",
    "dreamrl watch ru\t": "watch runs",
    "dreamrl worlds ch\tphy\t": "worlds check physics",
    "dreamrl submit --wait tu\t": "submit --wait tune",
    "dreamrl tune se\t": "tune search.yaml",
    "dreamrl completion z\t": "completion zsh",
}
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
PREPARE = {"bash": "source ./script", "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(<script)"'}


@pytest.fixture
def script(capsys, tmp_path):
    """The script for a shell, in a directory with some files to complete."""

    def make(shell):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        assert main(["completion", shell]) == 0
        (tmp_path / "script").write_text(capsys.readouterr().out)
        (tmp_path / "runs").mkdir()
        (tmp_path / "search.yaml").touch()
        return tmp_path

    return make


def typed(shell, directory, lines):
    """What `dreamrl` is called with after each of ``lines`` was typed, Tabs included, into an interactive shell."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execvpe(shell, SHELLS[shell], {"PATH": os.environ["PATH"], "HOME": str(directory), "TERM": "dumb"})
    seen = ""

    def wait_for(mark):
        nonlocal seen
        deadline = time.monotonic() + 30
        while mark not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 4096).decode()

    try:
        # The quotes keep the echo of this line from looking like what it prints.
        os.write(terminal, f"{PREPARE[shell]}; dreamrl() {{ echo \"<$*\"'>'; }}; PS1='rea''dy: '\n".encode())
        wait_for("ready: ")
        found = []
        for line in lines:
            seen = ""
            os.write(terminal, f"{line}\n".encode())
            wait_for(">")
            wait_for("ready: ")
            found.append(" ".join(seen[seen.rindex("<") + 1 : seen.rindex(">")].split()))
        return found
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes(script, shell):
    found = typed(shell, script(shell), TYPED)
    assert [line.rstrip("/") for line in found] == list(TYPED.values())  # zsh takes the / back


def test_fish_completes(script):
    """fish says what it would complete without being typed into."""
    directory = script("fish")
    asked = [line for line in TYPED if line.index("\t") == len(line) - 1]
    code = "source ./script; for line in $argv; complete -C (string trim $line) | head -n 1; end"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code, *asked], capture_output=True, text=True, cwd=directory, check=True
    )
    assert [line.split("\t")[0].rstrip("/") for line in done.stdout.splitlines()] == [
        TYPED[line].split()[-1] for line in asked
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_flag_and_setting_is_in_the_script(capsys, shell):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    _, parsers = make_parser()
    flags = {flag for parser in parsers.values() for flag in parser._option_string_actions if flag.startswith("--")}
    shown = [flag.removeprefix("--") if shell == "fish" else flag for flag in flags]
    keys = [f"{key}=" for key in field_types() if key != "preset"]
    missing = [word for word in [*COMMANDS, *shown, *keys, *presets()] if word not in text]
    assert missing == []


def test_a_shell_that_is_not_known(refused):
    assert "invalid choice: 'tcsh'" in refused("completion", "tcsh")
    assert "required: shell" in refused("completion")
