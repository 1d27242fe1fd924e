"""Reads the settings of a run: defaults < preset < file < ``key=value`` < ``--seed``.

Keys are dotted (``ppo.lr``). The YAML of a preset or file may nest them; it lists only what differs. Ranges and
contradictions are checked by the dataclasses of ``dreamrl.config``; this module checks keys and types, so that
a typo is an error before anything slow is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.resources
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from dreamrl.config import ConfigError, RunConfig
from dreamrl.errors import nearest
from dreamrl.files import write_atomically

DEFAULT_PRESET = "nano"
HEADER = "# Settings of a dreamrl run. To repeat it: dreamrl train --config THIS_FILE\n"


def load_settings(
    preset: str | None = None, file: Path | None = None, overrides: typing.Sequence[str] = (), seed: int | None = None
) -> RunConfig:
    """The settings that a command line asks for.

    Args:
        preset: Name of a file in ``dreamrl/presets``; None takes the one that ``file`` names, else ``nano``.
        file: YAML file of settings.
        overrides: ``key=value`` strings; the value is YAML, and a list may go without its brackets.
        seed: Replaces the key ``seed``.

    Raises:
        ConfigError: In one line, with the fix.
    """
    from_file = {} if file is None else _flatten(_read_yaml(file), str(file))
    named = from_file.get("preset")
    if preset is not None and named is not None and named != preset:
        raise ConfigError(f'--preset {preset} contradicts preset "{named}" in {file}; drop one of them')
    values = _flatten(_preset(preset or named or DEFAULT_PRESET), "preset")
    values.update(from_file)
    given = _parse_overrides(overrides)
    if seed is not None and given.get("seed", seed) != seed:
        raise ConfigError(f"--seed {seed} contradicts seed={given['seed']}; drop one of them")
    values.update(given)
    if seed is not None:
        values["seed"] = seed
    return _build(values)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """``config`` in plain types, as YAML and JSON can hold it: ``{"seed": 0, "ppo": {"lr": 0.001, ...}, ...}``."""
    return _plain(dataclasses.asdict(config))


def from_dict(data: dict[str, Any], origin: str) -> RunConfig:
    """The settings in ``data`` (nested or dotted keys), defaults where it is silent; errors name ``origin``."""
    return _build(_flatten(data, origin))


def completed(data: dict[str, Any], origin: str) -> dict[str, Any]:
    """Settings that were stored, perhaps by an older version, with the defaults of what it did not know."""
    return to_dict(from_dict(data, origin))


def read_yaml(path: Path) -> RunConfig:
    """The settings that :func:`write_yaml` wrote; presets play no part, so that later ones change nothing."""
    return from_dict(_read_yaml(path), str(path))


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write every setting of ``config``, or nothing when that fails half-way."""
    write_atomically(path, HEADER + yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False))


def presets() -> list[str]:
    """Names that ``--preset`` takes."""
    files = (importlib.resources.files("dreamrl") / "presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


class _Loader(yaml.SafeLoader):
    """Plain data without aliases: with them, a file of ten lines can stand for more than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"an alias (*{event.anchor}) is not read; write out what it stands for"
            raise ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """The data in ``text``; yaml.YAMLError, ValueError or RecursionError if it cannot be read."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line: ``sizes: [3, 4]``."""


_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _preset(name: str) -> Any:
    if name not in presets():
        raise ConfigError(f'unknown preset "{name}"; {nearest(name, presets())}')
    return yaml.safe_load((importlib.resources.files("dreamrl") / "presets" / f"{name}.yaml").read_text("utf-8"))


def _read_yaml(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path} line {line}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


@functools.lru_cache(maxsize=1)
def field_types() -> dict[str, Any]:
    """The type of every dotted key, in the order of the dataclasses."""

    def walk(section: Any, prefix: str) -> dict[str, Any]:
        hints, found = typing.get_type_hints(section), {}
        for field in dataclasses.fields(section):
            hint = hints[field.name]
            nested = dataclasses.is_dataclass(hint)
            found |= walk(hint, f"{prefix}{field.name}.") if nested else {prefix + field.name: hint}
        return found

    return walk(RunConfig, "")


def _sections() -> list[str]:
    return list(dict.fromkeys(key.split(".")[0] for key in field_types() if "." in key))


def _flatten(data: Any, origin: str) -> dict[str, Any]:
    """``{"ppo": {"lr": "1e-3"}}`` as ``{"ppo.lr": 0.001}``; keys and types are right afterwards."""
    if data is None:  # an empty file
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{origin} must hold lines like `seed: 0`, not {_show(data)}")
    flat: dict[str, Any] = {}

    def put(key: str, value: Any) -> None:
        _check_key(key, origin)
        if key in _sections():
            if value is not None and not isinstance(value, dict):  # None: all its keys are commented out
                raise ConfigError(f"{key} ({_show(value)}) in {origin} is a section; set keys like {_members(key)[0]}")
            for name, item in (value or {}).items():
                put(f"{key}.{name}", item)
        elif key in flat:
            raise ConfigError(f"{key} is given twice in {origin}; drop one of them")
        else:
            flat[key] = _convert(key, value, field_types()[key])

    for name, item in data.items():
        put(str(name), item)
    return flat


def _parse_overrides(overrides: typing.Sequence[str]) -> dict[str, Any]:
    values = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals:
            raise ConfigError(f'"{text}" is not a setting; write key=value, for example ppo.lr=1e-3')
        _check_key(key, "the command line")
        if key in _sections():
            raise ConfigError(f"{key} is a section; set one of its keys, for example {_members(key)[0]}=...")
        if key == "preset":
            raise ConfigError(f"a preset is chosen with --preset {value}, not preset={value}")
        values[key] = _convert(key, _parse_value(value, field_types()[key]), field_types()[key])
    return values


def _parse_value(text: str, hint: Any) -> Any:
    """What ``text`` means for a key of type ``hint``; text that is not YAML stands for itself."""
    if hint is str:  # as it is typed: YAML would read `on` as true
        return text
    if typing.get_origin(hint) is tuple and not text.strip().startswith("["):
        text = f"[{text}]"
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text


def _check_key(key: str, origin: str) -> None:
    if key not in field_types() and key not in _sections():
        raise ConfigError(f'unknown key "{key}" in {origin}; {_suggest(key)}')


def _members(section: str) -> list[str]:
    return [key for key in field_types() if key.startswith(f"{section}.")]


def _suggest(key: str) -> str:
    """``did you mean "ppo.lr"?``: by spelling, by the last part alone, or by initials (learning_rate, lr)."""
    section, _, last = key.rpartition(".")
    initials = "".join(word[0] for word in last.split("_") if word)

    def likeness(known: str) -> float:
        known_section, _, known_last = known.rpartition(".")
        if known_last == last or (known_last == initials and len(initials) > 1):
            return 1.0 if known_section == section else 0.9
        own = difflib.SequenceMatcher(None, known_last, last).ratio()
        return max(difflib.SequenceMatcher(None, known, key).ratio(), 0.9 * own)

    scores = {known: likeness(known) for known in field_types()}
    best = max(scores.values())
    if best < 0.6:
        return f"the sections are {', '.join(_sections())}"
    close = [f'"{known}"' for known, score in scores.items() if score == best]
    return f"did you mean {' or '.join(close[:3])}?"


def _convert(key: str, value: Any, hint: Any) -> Any:
    try:
        return _coerce(value, hint)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key} ({_show(value)}) must be {_rule(hint)}") from None


def _coerce(value: Any, hint: Any) -> Any:
    """``value`` as a ``hint``, where that does not change what the user meant (1.5 or true as a whole number)."""
    if isinstance(hint, types.UnionType):  # X | None
        return None if value is None else _coerce(value, typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        return tuple(_coerce(item, typing.get_args(hint)[0]) for item in value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as text: its floats need a dot
        value = float(value)
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or isinstance(value, bool) != (hint is bool):
        raise TypeError
    if hint is float and not math.isfinite(value) or hint is int and value.bit_length() > 63:
        raise ValueError
    return hint(value)


def _rule(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return f"{_rule(typing.get_args(hint)[0])} or null"
    if typing.get_origin(hint) is tuple:
        return f"a list, each item {_rule(typing.get_args(hint)[0])}, like [3, 4]"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]


def _show(value: Any) -> str:
    try:
        text = json.dumps(value, default=str)
    except ValueError:  # thousands of digits
        text = "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _build(values: dict[str, Any]) -> RunConfig:
    """The dataclasses from flat values; what they find contradictory is a ConfigError."""
    hints = typing.get_type_hints(RunConfig)
    sections = {
        name: hints[name](
            **{key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
        )
        for name in _sections()
    }
    return RunConfig(**{key: value for key, value in values.items() if "." not in key}, **sections)
