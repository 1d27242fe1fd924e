"""A run directory as it is read for a report: settings, metrics, summary. All checks, without importing torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamrl import preflight
from dreamrl.checkpoint import check_model_files
from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.settings import read_yaml

METRICS, SUMMARY, MODEL, PRETRAINED = "metrics.jsonl", "summary.json", "model", "pretrained"
ROOM_BYTES = 50 * 2**20
"""Disk that a report, its pictures and GIFs may need."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run wrote down.

    Example:
        ``record.series("ppo/exact_match")`` is ``([1, 2, 3], [0.34, 0.36, 0.41])``.
    """

    directory: Path
    name: str
    """How it is called in the report."""
    config: RunConfig
    config_text: str
    """``config.yaml`` as it stands there."""
    records: tuple[dict[str, Any], ...]
    """Lines of ``metrics.jsonl``, by stage and step."""
    summary: dict[str, Any] | None
    """``summary.json``; None before the evaluation at the end of a run."""

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric; steps at which it was not logged, or not finite, are left out."""
        stage = name.partition("/")[0]
        found = [(r["step"], float(r[name])) for r in self.records if r["stage"] == stage and r.get(name) is not None]
        return [step for step, _ in found], [value for _, value in found]

    def names(self) -> list[str]:
        """Every metric that was logged, in the order of its first appearance."""
        return list(dict.fromkeys(key for r in self.records for key in r if key not in ("stage", "step")))

    def questions_at(self) -> dict[int, int]:
        """PPO update -> questions that were answered in it."""
        steps, episodes = self.series("ppo/episodes")
        before = [0.0, *episodes[:-1]]
        return {step: round(now - old) for step, now, old in zip(steps, episodes, before, strict=True) if now > old}


def read_run(directory: Path) -> RunRecord:
    """Read and check the run in ``directory``; every way in which it can be wrong is one :class:`UserError`."""
    if not directory.is_dir():
        problem = "is a file" if directory.exists() else "does not exist"
        raise UserError(f"run {directory} {problem}; give the directory of a run, such as runs/train-nano-seed0")
    config = directory / preflight.RUN_CONFIG
    if not config.is_file():
        if (directory / "model.safetensors").is_file():
            raise UserError(f"{directory} is a model; give the run that it belongs to, which has {config.name}")
        raise UserError(f"{config} is missing; give the directory of a run, such as runs/train-nano-seed0")
    settings = read_yaml(config)
    records = _read_metrics(directory / METRICS)
    if not (directory / MODEL).is_dir():
        fix = f"the run is not finished; go on with `dreamrl train --resume {directory}`"
        raise UserError(f"{directory / MODEL} is missing: {fix}")
    check_model_files(directory / MODEL)
    return RunRecord(
        directory=directory,
        name=directory.resolve().name,
        config=settings,
        config_text=config.read_text(encoding="utf-8"),
        records=tuple(records),
        summary=_read_summary(directory / SUMMARY),
    )


def check_output(file: Path, overwrite: bool) -> None:
    """Raise unless ``file`` may be written."""
    if file.is_dir():
        raise UserError(f"{file} is a directory; give the name of a file, such as {file / 'report.html'}")
    if file.exists() and not overwrite:
        raise UserError(f"{file} exists; pass --overwrite to replace it, or another --out")
    preflight.check_writable(file.parent, ROOM_BYTES)


def check_export(directory: Path) -> None:
    """Raise unless the exported files may be written to ``directory``: a new or an empty one."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not an empty directory; choose another --export")
    preflight.check_writable(directory, ROOM_BYTES)


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records by stage and step; a last line without its end, cut off by a kill, is left out."""
    if not path.is_file():
        raise UserError(f"{path} is missing; give the directory of a run that has learned something")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); copy it again") from error
    records = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if line.endswith("\n") and line.strip():
            records.append(_record(line, f"{path} line {number}"))
    order = {"pretrain": 0, "ppo": 1}
    return sorted(records, key=lambda r: (order.get(r["stage"], len(order)), r["step"]))


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place} is not JSON; remove that line, or copy the file again") from error
    keys = isinstance(record, dict) and isinstance(record.get("stage"), str) and isinstance(record.get("step"), int)
    if not keys or not all(v is None or isinstance(v, int | float) for k, v in record.items() if k != "stage"):
        raise UserError(f'{place} must hold "stage", "step" and numbers, as `dreamrl train` writes them')
    return record


def _read_summary(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON; delete it, or copy it again") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("details"), dict):
        raise UserError(f'{path} has no "details"; delete it, and the report measures what it needs')
    return summary
