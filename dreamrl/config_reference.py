"""Writes docs/CONFIG.md and docs/METRICS.md: every setting and every metric, from where they are defined.

    python -m dreamrl.config_reference [DIRECTORY]

Nothing in these two documents is typed twice. What a setting does is the line under its field; what it may be is what
the error says that its dataclass raises for a wrong value.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

from dreamrl import settings
from dreamrl.config import ConfigError, RunConfig
from dreamrl.files import write_atomically
from dreamrl.metrics import GLOSSARY, PICTURES

WRITTEN_BY = "<!-- Written by `python -m dreamrl.config_reference`; edit the docstrings instead. -->\n\n"
CONFIG_INTRO = """# Settings

Every setting of a run. On the command line it is `section.key=value` (`ppo.lr=5e-4`, `world.sizes=[3,4,5]`), in a file
for `--config` the same keys, nested or dotted. Later ones win: default, preset (`--preset`), file, command line. The
defaults here are the preset `nano`; what other presets change stands at the end. Values that are not allowed and
mistyped keys are errors with exit code 2, before anything starts. Some settings bound each other; the error says how.

"""
METRICS_INTRO = """# Metrics

Every metric that a run logs, in `metrics.jsonl` (a line reads `{"stage": "ppo", "step": 3, "ppo/success": 0.4}`) and in
`tensorboard/`. A name that is not here cannot be logged. `*` stands for one part of a name. See them with
`tensorboard --logdir runs/NAME/tensorboard` (TensorBoard itself is not installed).

"""
STAGES = {
    "pretrain": "Pretraining on random play: a value every few updates, steps are updates.",
    "ppo": "PPO in dreams: a value an update. Means are over the questions (or dreams, or their steps) of that update.",
    "eval": "Evaluation on held-out boards at the end.",
}
INFINITY = float("inf")
PROBES: dict[Any, tuple] = {
    int: (INFINITY, -INFINITY),
    float: (INFINITY, -INFINITY),
    bool: (),
    str: ("?",),
    tuple[int, ...]: ((), (-1,), (10**10,)),
    tuple[float, ...]: ((), (-1.0,), (INFINITY,)),
    tuple[str, ...]: ((), ("",), ("?", "?")),
}
"""Type of a setting -> values that a check refuses, if there is one."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the reference.

    Example:
        >>> row = settings_of("ppo")[0]
        >>> row.key, row.type, row.default, row.range
        ('ppo.iterations', 'whole number', '`26`', '0 to 1e7')
    """

    key: str
    type: str
    default: str
    range: str
    text: str


def settings_of(section: str) -> list[Setting]:
    """Every setting of ``section`` ("ppo"); of "" those that stand outside of all sections."""
    owner = typing.get_type_hints(RunConfig)[section] if section else RunConfig
    texts, rows = _texts(owner), []
    for field in dataclasses.fields(owner):
        key = f"{section}.{field.name}" if section else field.name
        hint = settings.field_types().get(key)
        if hint is None:  # a section
            continue
        rule = _rule(owner, field.name, hint)
        rows.append(Setting(key, _type(hint), _default(field.default), rule, texts[field.name]))
    return rows


def config_markdown() -> str:
    """docs/CONFIG.md."""
    parts = [CONFIG_INTRO + WRITTEN_BY]
    hints = typing.get_type_hints(RunConfig)
    names = [field.name for field in dataclasses.fields(RunConfig) if dataclasses.is_dataclass(hints[field.name])]
    for section in ["", *names]:
        about = _summary(hints[section]) if section else "What belongs to the whole run."
        parts.append(f"## {section or 'The run'}\n\n{about}\n\n{_table(settings_of(section))}\n")
    parts.append("## Presets\n\n" + "\n".join(_preset(name) for name in settings.presets()) + "\n")
    return "".join(parts)


def metrics_markdown() -> str:
    """docs/METRICS.md."""
    unknown = {name.partition("/")[0] for name in GLOSSARY} - set(STAGES)
    assert not unknown, f"stages without a heading: {unknown}"
    parts = [METRICS_INTRO + WRITTEN_BY.replace("the docstrings", "`GLOSSARY` in `dreamrl/metrics.py`")]
    for stage, about in STAGES.items():
        rows = [(f"`{name}`", text) for name, text in GLOSSARY.items() if name.startswith(f"{stage}/")]
        parts.append(f"## {stage}\n\n{about}\n\n{_markdown(('metric', 'meaning'), rows)}\n")
    shown = "".join(f"- `STAGE/{name}`: {text}\n" for name, text in PICTURES.items())
    parts.append(f"## Pictures\n\nIn TensorBoard only, in pretrain and ppo.\n\n{shown}")
    return "".join(parts).rstrip("\n") + "\n"


DOCUMENTS = {"CONFIG.md": config_markdown, "METRICS.md": metrics_markdown}


def write(directory: Path) -> None:
    """Write both documents."""
    for name, make in DOCUMENTS.items():
        write_atomically(directory / name, make())


def _table(rows: list[Setting]) -> str:
    head = ("setting", "type", "default", "allowed", "what it does")
    return _markdown(head, [(f"`{r.key}`", r.type, r.default, r.range, r.text) for r in rows])


def _markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _preset(name: str) -> str:
    run, plain = settings.load_settings(name), RunConfig()
    changed = []
    for key in settings.field_types():
        value, default = (functools.reduce(getattr, key.split("."), config) for config in (run, plain))
        if value != default and key != "preset":
            changed.append(f"`{key}={_plain(value)}`")
    return f"- **{name}**: {', '.join(changed) or 'the defaults above'}"


def _summary(owner: type) -> str:
    """The first paragraph of a class's docstring, on one line, without Sphinx's roles."""
    text = inspect.getdoc(owner) or ""
    return " ".join(text.partition("\n\n")[0].replace(":class:", "").split())


def _texts(owner: type) -> dict[str, str]:
    """The string under each field of a dataclass."""
    (tree,), texts = ast.parse(textwrap.dedent(inspect.getsource(owner))).body, {}
    assert isinstance(tree, ast.ClassDef)
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            text = " ".join(str(below.value.value).replace("``", "`").split())
            texts[field.target.id] = text.replace("*", r"\*")  # two of them would be emphasis
    return texts


def _rule(owner: type, name: str, hint: Any) -> str:
    """What the errors say that the field raises for wrong values."""
    rules = []
    for probe in PROBES[hint]:
        try:
            owner(**{name: probe})
        except ConfigError as error:
            subject, _, rule = str(error).partition(") must ")
            if subject.partition(" (")[0].rpartition(".")[2] == name:
                rules.append(rule)
    text = "; ".join(dict.fromkeys(rules)).removeprefix("be one of ")
    text = re.sub(r"^be between (\S+) and (\S+)$", r"\1 to \2", text)
    return re.sub(r"e([+-])0?(\d)", lambda power: f"e{power[1].strip('+')}{power[2]}", text)


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"list of {_type(typing.get_args(hint)[0])}s".replace("texts", "names")
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}[hint]


def _default(value: Any) -> str:
    return f"`{_plain(value)}`" if value not in ("", ()) else "none"


def _plain(value: Any) -> str:
    """``value`` as it may be typed."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs")
