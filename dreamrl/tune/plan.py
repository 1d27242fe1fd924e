"""The file of a search: read, checked whole before anything is started, and written back as it was understood.

Every mistake is one line that names the field, its value and the fix. Ray and torch are not imported here.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dreamrl.config import ConfigError, RunConfig
from dreamrl.errors import UserError, nearest
from dreamrl.files import write_atomically
from dreamrl.settings import DEFAULT_PRESET, from_dict, load_settings, parse_yaml, to_dict
from dreamrl.tune.checks import STAGES, check_plan
from dreamrl.tune.space import Domain, check_space, check_world, flatten, read_space


@dataclass(frozen=True, kw_only=True)
class Search:
    """How samples of the space are drawn."""

    algorithm: str = "random"
    """random (and every value of what is a grid) or optuna (tree-structured Parzen estimators, arXiv:1907.10902)."""
    trials: int = 8
    """Samples; a space with grids is gone through so many times. With pbt: members of the population."""
    seed: int = 0
    """Seed of the samples."""


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Which trials go on."""

    name: str = "none"
    """none, asha (successive halving, arXiv:1810.05934) or pbt (population-based training, arXiv:1711.09846)."""
    grace: int = 4
    """asha: PPO iterations that every trial gets."""
    reduction: float = 3.0
    """asha: one in so many trials goes on from a rung to the next, which is so many times as far."""
    interval: int = 4
    """pbt: PPO iterations between two comparisons."""
    quantile: float = 0.25
    """pbt: share of the worst trials that go on from the best ones."""
    resample: float = 0.25
    """pbt: probability that a value is drawn anew instead of shifted."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial occupies."""

    cpus: float = 1.0
    """CPUs reserved for a trial."""
    gpus: float = 0.0
    """GPUs reserved for a trial; 0.25 lets four trials share one."""
    concurrent: int = 2
    """Most trials at a time."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a trial is measured while it learns; the boards are of the validation split, never of the test split."""

    boards: int = 100
    """Held-out boards."""
    every: int = 2
    """PPO iterations between two measurements, each of which is a checkpoint as well."""
    dreams: int = 4
    """Dreams per answer, the same for all trials."""


@dataclass(frozen=True, kw_only=True)
class TunePlan:
    """A whole search."""

    base: dict[str, Any]
    """Every setting of a run that does not vary, by its dotted key."""
    space: tuple[Domain, ...]
    """What varies."""
    search: Search = field(default_factory=Search)
    """How samples are drawn."""
    scheduler: Scheduler = field(default_factory=Scheduler)
    """Which trials go on."""
    trial: Trial = field(default_factory=Trial)
    """What a trial occupies."""
    measure: Measure = field(default_factory=Measure)
    """How a trial is measured."""
    stages: str = STAGES[0]
    """pretrain-and-ppo (each trial does both) or shared (PPO from one pretrained model)."""
    metric: str = "exact_match"
    """What is maximised: a key of ``dreamrl.tune.checks.METRICS``."""

    @property
    def run(self) -> RunConfig:
        """The run that the trials vary."""
        return from_dict(self.base, "settings")

    @property
    def samples(self) -> int:
        """Trials in all."""
        return self.search.trials * math.prod(len(d.values) for d in self.space if d.kind == "grid")

    def as_dict(self) -> dict[str, Any]:
        """What :func:`plan_from` reads back as the same plan."""
        settings = {key: value for key, value in self.base.items() if key != "preset"}
        sections = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        space = {domain.key: domain.as_dict() for domain in self.space}
        head = {"preset": self.base["preset"], "stages": self.stages, "metric": self.metric}
        return head | sections | {"space": space, "settings": settings}


SECTIONS = {"search": Search, "scheduler": Scheduler, "trial": Trial, "measure": Measure}
PLAN_FILE = "tune.yaml"
"""The checked file in the directory of a search."""
KEYS = ("preset", "settings", "space", *SECTIONS, "stages", "metric")


def shipped_searches() -> list[str]:
    """Names of the files in ``tune_configs``."""
    names = (entry.name for entry in importlib.resources.files("tune_configs").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_plan(file: Path) -> TunePlan:
    """The search that ``file`` describes; a name of :func:`shipped_searches` stands for its file."""
    name = file.name.removesuffix(".yaml")
    if not file.exists() and name in shipped_searches() and file.parent.name in ("", "tune_configs"):
        text = (importlib.resources.files("tune_configs") / f"{name}.yaml").read_text("utf-8")
    else:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            known = ", ".join(shipped_searches())
            raise UserError(f"cannot read {file}: {error.strerror}; give a YAML file or one of {known}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    try:
        data = parse_yaml(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    return plan_from(data, str(file))


def write_plan(plan: TunePlan, file: Path) -> None:
    """Write ``plan`` with all that its file left to the defaults."""
    text = yaml.safe_dump(plan.as_dict(), sort_keys=False, default_flow_style=None, width=120)
    write_atomically(file, f"# A search of dreamrl. To repeat it: dreamrl tune THIS_FILE --out NEW_DIR\n{text}")


def plan_from(data: Any, origin: str) -> TunePlan:
    """The search that ``data`` describes, checked; a UserError says what to change in ``origin``."""
    if not isinstance(data, dict):
        raise UserError(f"{origin} must hold lines like `preset: nano`, with a section `space`")
    for key in data:
        if key not in KEYS:
            raise UserError(f'unknown key "{key}" in {origin}; {nearest(str(key), KEYS)}')
    settings = data.get("settings") or {}
    if not isinstance(settings, dict):
        raise UserError(f"settings in {origin} ({settings!r}) must hold lines like `ppo.iterations: 8`")
    base = flatten(to_dict(load_settings(str(data.get("preset") or DEFAULT_PRESET))), origin)
    try:
        base = flatten(
            to_dict(from_dict(base | flatten(settings, f"settings in {origin}"), f"settings in {origin}")), origin
        )
    except ConfigError as error:
        raise UserError(f"{error} (settings in {origin})") from error
    plan = TunePlan(
        base=base,
        space=read_space(data.get("space"), origin),
        **{name: _section(kind, data.get(name), f"{name} in {origin}") for name, kind in SECTIONS.items()},
        **{name: data[name] for name in ("stages", "metric") if name in data},
    )
    check_plan(plan, origin)
    try:
        check_world(plan.run)
    except ValueError as error:
        raise UserError(f"{error} (settings in {origin})") from error
    check_space(plan.base, plan.space, origin)
    return plan


def _section(kind: type, data: Any, where: str) -> Any:
    """A dataclass of this file from its part of the YAML."""
    if data is None:
        return kind()
    if not isinstance(data, dict):
        raise UserError(f"{where} ({data!r}) must hold lines like `{dataclasses.fields(kind)[0].name}: ...`")
    hints, values = typing.get_type_hints(kind), {}
    for key, value in data.items():
        if key not in hints:
            raise UserError(f'unknown key "{key}" in {where}; {nearest(str(key), hints)}')
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (number if hints[key] is float else type(value) is hints[key]):
            name = {int: "a whole number", float: "a number", str: "text"}[hints[key]]
            raise UserError(f"{key} ({value!r}) in {where} must be {name}")
        values[key] = hints[key](value)
    return kind(**values)
