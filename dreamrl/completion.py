"""Scripts with which a shell completes ``dreamrl``: commands, flags, settings, worlds, presets, files.

shtab turns the parser into a script that starts no Python at every Tab. What argparse does not know (which argument is
a directory, a world, a setting) is told here, on a parser that nothing else uses.
"""

from __future__ import annotations

import argparse
from typing import Any

import shtab

from dreamrl import settings
from dreamrl.bench.run import BENCHMARKS
from dreamrl.shipped import shipped
from dreamrl.submit import CLUSTER_COMMANDS
from envs.registry import WORLDS

SETTINGS = "_dreamrl_settings"
"""Shell function that completes the keys of settings, each with the = that follows."""
DIRECTORIES = ("out", "resume", "data", "save", "export", "runs", "run_dir")
FILES = ("config", "file", "items", "image", "token_file")
NO_SPACE_IN_BASH = """
_dreamrl() {
  _shtab_dreamrl "$@"
  if [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
complete -o bashdefault -F _dreamrl dreamrl
"""
"""A value comes right behind the = of a setting."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for ``shell``: bash, zsh or fish. ``parser`` is spoilt for parsing."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                for argument in command._actions:
                    _describe(argument)
    text = shtab.complete(parser, shell)
    if shell == "zsh":  # shtab completes the first of several settings only
        text = text.replace('"(*)::', '"*:')
    return text + NO_SPACE_IN_BASH if shell == "bash" else text


def _describe(argument: Any) -> None:
    """Tell shtab what ``argument`` may be."""
    words = {
        "preset": settings.presets(),
        "world": WORLDS,
        "name": BENCHMARKS,
        "job": CLUSTER_COMMANDS,
    }
    if argument.dest in words:
        argument.choices = list(words[argument.dest])
    elif argument.dest == "address" and argument.default == "local":
        argument.choices = ["local", "auto"]
    elif argument.dest == "overrides":
        argument.complete = _keys()
    elif argument.dest in DIRECTORIES:
        argument.complete = shtab.DIRECTORY
    elif argument.dest in ("model", "model_dir"):
        argument.complete = _models()
    elif argument.dest in FILES:
        argument.complete = shtab.FILE


def _keys() -> dict[str, Any]:
    words = " ".join(f"{key}=" for key in settings.field_types() if key != "preset")
    return {
        "bash": SETTINGS,
        "zsh": SETTINGS,
        "fish": f"({SETTINGS})",
        "preamble": {
            "bash": f'{SETTINGS}() {{ compgen -W "{words}" -- "$1"; }}',
            "zsh": f"{SETTINGS}() {{ compadd -S '' -- {words} }}",
            "fish": f"function {SETTINGS}; printf '%s\\n' {words}; end",
        },
    }


def _models() -> dict[str, Any]:
    """Directories, and the models that come along."""
    words = " ".join(shipped())
    return {
        "bash": "_dreamrl_model_dirs",
        "zsh": "_dreamrl_model_dirs",
        "fish": "(_dreamrl_model_dirs)",
        "preamble": {
            "bash": f'_dreamrl_model_dirs() {{ compgen -W "{words}" -- "$1"; compgen -d -- "$1"; }}',
            "zsh": f"_dreamrl_model_dirs() {{ compadd -- {words}; _files -/ }}",
            "fish": f"function _dreamrl_model_dirs; printf '%s\\n' {words}; __fish_complete_directories; end",
        },
    }
