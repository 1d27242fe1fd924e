"""The space of a search: which settings vary, over which values, and that every sample of it is a valid run.

A sample is a plain dictionary of dotted keys. It becomes a run by :func:`resolve`, which also holds a value below
that of another key (``at_most``), so that no sampler has to know of conditions.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dreamrl.config import RunConfig
from dreamrl.errors import UserError, nearest
from dreamrl.settings import field_types, from_dict

KINDS = ("choice", "grid", "uniform", "loguniform", "int", "logint")
LISTED = ("choice", "grid")
MOST_LISTED, MOST_COMBINATIONS = 33, 2000
"""Values of a range of whole numbers, and combinations of one section, up to which all are tried."""
GROUPS = {"curriculum": "model"}
"""Sections whose rules look at another section: their keys are tried together with the other's."""
WITHOUT_EFFECT = (
    "device",
    "compile",
    "eval.",
    "pretrain.num_workers",
    "pretrain.checkpoint_every",
    "ppo.checkpoint_every",
    "ppo.num_env_runners",
    "ppo.gpus_per_env_runner",
    "ppo.num_learners",
)
"""Settings that say where or how often something is done, not what is learned."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The values of one setting; ``Domain(key="ppo.lr", kind="loguniform", values=(1e-4, 1e-2))``."""

    key: str
    """Dotted name of the setting."""
    kind: str
    """One of ``KINDS``."""
    values: tuple[Any, ...]
    """The choices, or both ends (included). A choice that is a list is held as JSON text, as samplers want it."""
    at_most: str = ""
    """Key whose value this one never exceeds; empty: no such bound."""

    @property
    def listed(self) -> bool:
        """Whether ``values`` are all values."""
        return self.kind in LISTED

    def examples(self) -> list[Any]:
        """All values, or as many of a range as are tried: both ends, and of whole numbers some between."""
        if self.listed or self.kind.endswith("uniform"):
            return list(self.values)
        low, high = self.values
        step = max(1, (high - low) // (MOST_LISTED - 1))
        return sorted({*range(low, high + 1, step), high})

    def clip(self, value: Any) -> Any:
        """``value``, or the end of the range that it has passed."""
        return value if self.listed else min(max(value, self.values[0]), self.values[1])

    def below(self, value: Any, bound: float) -> Any:
        """``value``, or the largest one of the domain that does not exceed ``bound``; the smallest if all do."""
        if value <= bound:
            return value
        if self.listed:
            return max((v for v in self.values if v <= bound), default=min(self.values))
        return max(self.values[0], type(value)(bound))

    def as_dict(self) -> dict[str, Any]:
        """As the file says it."""
        return {self.kind: [decode(v) for v in self.values]} | ({"at_most": self.at_most} if self.at_most else {})


def encode(value: Any) -> Any:
    """A list as JSON text; anything else as it is."""
    return json.dumps(list(value)) if isinstance(value, list | tuple) else value


def decode(value: Any) -> Any:
    """Inverse of :func:`encode`; no setting that is a word begins with a bracket."""
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def flatten(settings: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Nested or dotted settings with dotted keys alone; keys and values are checked later."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        own = {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
        for name, item in own.items():
            if name in flat:
                raise UserError(f"{name} is given twice in {origin}; drop one of them")
            flat[str(name)] = item
    return flat


def read_space(data: Any, origin: str) -> tuple[Domain, ...]:
    """The domains that ``data`` describes, each by itself valid; a UserError names the field and the fix."""
    where = f"space in {origin}"
    if not isinstance(data, dict) or not data:
        raise UserError(f"{where} must hold at least one line like `ppo.lr: {{loguniform: [1e-4, 1e-2]}}`")
    flat: dict[str, Any] = {}
    known = field_types()
    sections = {key.split(".")[0] for key in known if "." in key}
    for key, value in data.items():  # a section may nest its keys, each of which is a dictionary again
        nested = value if key in sections and isinstance(value, dict) else {"": value}
        for name, item in nested.items():
            full = f"{key}.{name}" if name else str(key)
            if full not in known or full == "preset":
                raise UserError(f'unknown key "{full}" in {where}; {nearest(full, known)}')
            if full in flat:
                raise UserError(f"{full} is given twice in {where}; drop one of them")
            flat[full] = item
    for key in flat:
        if key.startswith(WITHOUT_EFFECT):
            raise UserError(f"{key} in {where} does not change what is learned; put it under settings")
    return tuple(_read_domain(key, item, known[key], where) for key, item in flat.items())


def _read_domain(key: str, data: Any, hint: Any, where: str) -> Domain:
    shapes = "{choice: [a, b]}, {grid: [a, b]}, {uniform: [low, high]}, {loguniform: ...}, {int: ...} or {logint: ...}"
    if not isinstance(data, dict):
        raise UserError(f"{key} in {where} ({_show(data)}) must be one of {shapes}")
    for word in data:
        if word not in (*KINDS, "at_most"):
            raise UserError(
                f'{key} in {where} has the unknown word "{word}"; {nearest(str(word), [*KINDS, "at_most"])}'
            )
    kinds = [word for word in data if word != "at_most"]
    if len(kinds) != 1:
        raise UserError(f"{key} in {where} must be exactly one of {shapes}")
    kind, values = kinds[0], data[kinds[0]]
    if not isinstance(values, list) or not values:
        raise UserError(f"{key} in {where}: {kind} ({_show(values)}) must be a list of values, such as [1, 2]")
    wanted = {"uniform": float, "loguniform": float, "int": int, "logint": int}.get(kind)
    if wanted and hint is not wanted:
        fits = {float: "uniform or loguniform", int: "int or logint"}.get(hint, "choice")
        raise UserError(f"{key} in {where}: {kind} does not fit this setting; use {fits}")
    values = tuple(_typed(key, kind, value, hint, where) for value in values)
    if len(set(values)) < len(values):
        raise UserError(f"{key} in {where}: {kind} ({_show(list(values))}) holds a value twice; drop one of them")
    if wanted:
        if len(values) != 2 or values[0] >= values[1]:
            rule = "must hold two numbers, the lower one first"
            raise UserError(f"{key} in {where}: {kind} ({_show(list(values))}) {rule}")
        if kind.startswith("log") and values[0] <= 0:
            raise UserError(f"{key} in {where}: {kind} ({_show(list(values))}) must begin above 0, or use {kind[3:]}")
    bound = data.get("at_most", "")
    if bound and (field_types().get(str(bound)) not in (int, float) or hint not in (int, float) or bound == key):
        raise UserError(f"{key} in {where}: at_most ({_show(bound)}) must name another setting, both being numbers")
    return Domain(key=key, kind=kind, values=values, at_most=str(bound))


def _typed(key: str, kind: str, value: Any, hint: Any, where: str) -> Any:
    """``value`` in the type of its setting, as samplers take it."""
    try:
        if hint is float and not isinstance(value, bool):  # YAML reads 1e-3 as text
            number = float(value)
            if math.isfinite(number):
                return number
        elif hint in (int, bool, str) and type(value) is hint:
            return value
        elif typing.get_origin(hint) is tuple and isinstance(value, list):
            return encode(value)
    except (TypeError, ValueError):
        pass
    name = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, "a list")
    raise UserError(f"{key} in {where}: {kind} holds {_show(value)}, which must be {name}")


def resolve(base: Mapping[str, Any], space: Iterable[Domain], sample: Mapping[str, Any]) -> dict[str, Any]:
    """What ``sample`` sets, values being held within their domains and at most what ``at_most`` names."""
    space = list(space)
    own = {domain.key: domain.clip(sample[domain.key]) for domain in space}
    values = dict(base) | own
    return {d.key: d.below(own[d.key], values[d.at_most]) if d.at_most else own[d.key] for d in space}


def run_of(base: Mapping[str, Any], resolved: Mapping[str, Any], origin: str = "the trial") -> RunConfig:
    """The run with ``base`` and what a sample sets."""
    return from_dict(dict(base) | {key: decode(value) for key, value in resolved.items()}, origin)


def check_space(base: Mapping[str, Any], space: tuple[Domain, ...], origin: str) -> None:
    """Raise unless every sample is accepted by the settings, the world included."""
    keys = [domain.key for domain in space]
    for domain in space:
        other = next((d for d in space if d.key == domain.at_most), None)
        if other is not None and other.at_most:
            raise UserError(
                f"{domain.key} in space in {origin}: at_most names {other.key}, which has an at_most itself"
            )
    scenes = any(key.startswith(("world.", "curriculum.")) for key in keys)
    run = run_of(base, {}, f"settings in {origin}")
    for number, (sample, alone) in enumerate(_combinations(space)):
        resolved = resolve(base, space, sample)
        try:
            made = run_of(base, resolved, f"space in {origin}") if alone else _varied(run, resolved)
            if scenes or number == 0:
                check_world(made)
        except ValueError as error:  # of the settings or of the world
            raise UserError(_explain(base, space, resolved, str(error), origin)) from error


def _varied(run: RunConfig, resolved: Mapping[str, Any]) -> RunConfig:
    """What :func:`run_of` makes, many times faster, of values whose types have been checked."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in resolved.items():
        section, _, name = key.rpartition(".")
        value = decode(value)
        sections.setdefault(section, {})[name] = tuple(value) if isinstance(value, list) else value
    top = sections.pop("", {})
    return dataclasses.replace(
        run, **top, **{name: dataclasses.replace(getattr(run, name), **own) for name, own in sections.items()}
    )


def check_world(run: RunConfig) -> None:
    """Raise unless the run's world exists and has the scenes that are asked for."""
    from dreamrl.curriculum import stages_of
    from envs.registry import world_of

    stages_of(run, world_of(run))


def _combinations(space: tuple[Domain, ...]) -> Iterator[tuple[dict[str, Any], bool]]:
    """Samples to try: rules hold within a section, so every section's combinations, the other keys at one value.

    Every value comes first with the others at one value; True with these.
    """
    first = {domain.key: domain.examples()[0] for domain in space}
    for domain in space:
        for value in domain.examples():
            yield first | {domain.key: value}, True
    groups: dict[str, list[Domain]] = {}
    for domain in space:
        section = domain.key.split(".")[0]
        groups.setdefault(GROUPS.get(section, section), []).append(domain)
    for members in groups.values():
        if math.prod(len(d.examples()) for d in members) <= MOST_COMBINATIONS:
            parts = [members]
        else:
            parts = [list(pair) for pair in itertools.combinations(members, 2)]
        for part in parts:
            for values in itertools.product(*(d.examples() for d in part)):
                yield first | {d.key: v for d, v in zip(part, values, strict=True)}, False


def _explain(
    base: Mapping[str, Any], space: tuple[Domain, ...], resolved: Mapping[str, Any], problem: str, origin: str
) -> str:
    """One line: the values of the sample that the problem names, and what to do."""
    named = [d for d in space if d.key in problem] or list(space)
    values = ", ".join(f"{d.key}={_show(decode(resolved[d.key]))}" for d in named)
    numbers = [d for d in named if isinstance(resolved[d.key], int | float) and not d.at_most]
    fix = "drop a value"
    for d in numbers:
        others = [k for k in (*resolved, *base) if k != d.key and k in problem and f"{d.key} (" in problem]
        if others and f"must be <= {others[0]} " in problem:
            fix = f"drop a value, or add `at_most: {others[0]}` to {d.key}"
    return f"the space in {origin} holds {values}, which is refused: {problem}; {fix}"


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
