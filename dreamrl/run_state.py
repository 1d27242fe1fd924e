"""How far a run is, read from its files alone: another process is writing them, or did before it ended or died.

Nothing is written and no torch is needed. The clock of the files is trusted: on a network file system whose clock is
wrong, ages are wrong with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamrl import preflight
from dreamrl.config import RunConfig
from dreamrl.dream_record import NEWEST
from dreamrl.errors import UserError
from dreamrl.files import LOCK
from dreamrl.settings import read_yaml
from dreamrl.stop import STOP_FILE

METRICS, SUMMARY, SECONDS = "metrics.jsonl", "summary.json", "seconds.json"
STAGES = ("pretrain", "ppo", "eval")
RECENT = 8
"""Latest lines from which the pace is taken."""
PATIENCE_LINES, LEAST_PATIENCE, EVAL_PATIENCE = 10.0, 180.0, 600.0
"""A run seems dead after the time in which so many lines should have come, but not before so many seconds; evaluation
writes nothing before its end."""
_CHECKPOINT = re.compile(r"(pretrain|ppo)-\d{8}")


def check_run(directory: Path) -> RunConfig:
    """The settings of the run in ``directory``, or a UserError if it is none."""
    if not directory.is_dir():
        problem = "is a file" if directory.exists() else "does not exist"
        raise UserError(f"run {directory} {problem}; give the directory of a run, such as runs/train-nano-seed0")
    config = directory / preflight.RUN_CONFIG
    if not config.is_file():
        raise UserError(f"{config} is missing; give the directory of a run, such as runs/train-nano-seed0")
    return read_yaml(config)


class MetricsTail:
    """The records of a ``metrics.jsonl`` that grows; only what is new is read.

    A resumed run replaces the file by a shorter one: then it is read from its beginning.

    Args:
        path: of the file, which need not exist yet.
    """

    def __init__(self, path: Path):
        """See the class."""
        self.path = path
        self.records: list[dict[str, Any]] = []
        self._inode, self._place = -1, 0

    def read(self) -> bool:
        """Take in what came since the last call; whether anything changed."""
        try:
            file = self.path.open("rb")
        except OSError:
            changed = bool(self.records)
            self.records, self._inode, self._place = [], -1, 0
            return changed
        with file:
            state = os.fstat(file.fileno())
            changed = self._inode != state.st_ino or state.st_size < self._place
            if changed:
                self.records, self._inode, self._place = [], state.st_ino, 0
            file.seek(self._place)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # a line may be half-written
        self._place += len(whole)
        found = [record for record in map(_parsed, whole.splitlines()) if record is not None]
        self.records += found
        return changed or bool(found)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None for one that is damaged, which is the report's business and not the watcher's."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    good = isinstance(record, dict) and record.get("stage") in STAGES and isinstance(record.get("step"), int)
    return record if good else None


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How far a run is at one moment.

    Example:
        >>> state = RunState(
        ...     stage="ppo", learned="ppo", status="running", step=12, total=26, pace=7.5, silent=3.0, records=(),
        ...     results={}, checkpoint=None, took={"pretrain": 171.6},
        ... )
        >>> state.eta
        105.0
    """

    stage: str
    """What is worked on, or was last: pretrain, ppo or eval."""
    learned: str
    """What was learned in last, and ``records`` are of: pretrain or ppo."""
    status: str
    """starting (no line yet), running, stopping (it was asked to), dead (as it seems) or over."""
    step: int
    """Updates done in the stage."""
    total: int
    """Updates of the stage; 0 where nobody knows, in eval."""
    pace: float | None
    """Seconds an update takes; None before it is known."""
    silent: float
    """Seconds since anything was written."""
    records: tuple[dict[str, Any], ...]
    """Lines of ``metrics.jsonl`` of the stage ``learned``, in order."""
    results: dict[str, float]
    """Exact match in the evaluation at the end, by model and dreams such as ppo_4; empty before."""
    checkpoint: tuple[str, float] | None
    """Name of the newest checkpoint, and its age in seconds."""
    took: dict[str, float]
    """Seconds that each stage has taken so far; a stage is added when it ends or is interrupted."""

    @property
    def eta(self) -> float | None:
        """Seconds to the end of the stage; None where nobody knows."""
        return None if self.pace is None else max(0, self.total - self.step) * self.pace

    def series(self, name: str) -> list[float]:
        """Values of a metric of ``learned``; those that were not logged, or not finite, are left out."""
        return [float(record[name]) for record in self.records if record.get(name) is not None]


def look(
    directory: Path, run: RunConfig, records: Sequence[dict[str, Any]], now: float, patience: float | None = None
) -> RunState:
    """The :class:`RunState` at ``now`` (seconds since the epoch).

    Args:
        directory: of the run.
        run: its settings.
        records: lines of its ``metrics.jsonl``, in order.
        now: what the clock says.
        patience: seconds without anything new after which a run seems dead; None: by its pace.
    """
    totals = {"pretrain": run.pretrain.steps, "ppo": run.ppo.iterations, "eval": 0}
    learning = [record for record in records if record["stage"] != "eval"]
    learned = learning[-1]["stage"] if learning else "pretrain"
    own = tuple(record for record in learning if record["stage"] == learned)
    step = int(own[-1]["step"]) if own else 0
    stage = _stage(directory, learned, step >= totals[learned])
    pace = _pace(run, learned, own) if stage == learned else None
    silent = max(0.0, now - _last_sign(directory))
    if patience is None:
        patience = EVAL_PATIENCE if stage == "eval" else max(LEAST_PATIENCE, PATIENCE_LINES * _line_seconds(own, pace))
    if _over(directory, stage, step >= totals[learned]):
        status = "over"
    elif silent > patience and not lock_held(directory):
        status = "dead"
    elif (directory / STOP_FILE).exists():
        status = "stopping"
    else:
        status = "running" if own and stage == learned or stage == "eval" else "starting"
    return RunState(
        stage=stage,
        learned=learned,
        status=status,
        step=step if stage == learned else 0,
        total=totals[stage],
        pace=pace,
        silent=silent,
        records=own,
        results=_results(records),
        checkpoint=_newest_checkpoint(directory, now),
        took=_took(directory),
    )


def lock_held(directory: Path) -> bool:
    """Whether a process holds the run's lock, see :func:`dreamrl.files.locked`; False where there is none.

    The question is asked with a shared lock, given back at once. It is asked of silent runs only: a command that wants
    the lock at this very moment would be turned away.
    """
    try:
        file = (directory / LOCK).open("rb")
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _stage(directory: Path, learned: str, done: bool) -> str:
    """What is worked on: after the last update of a stage its model is written, and then the next stage begins."""
    if learned == "pretrain":
        return "ppo" if (directory / "pretrained").is_dir() and not (directory / "model").is_dir() else "pretrain"
    return "eval" if done and (directory / "model").is_dir() else learned


def _over(directory: Path, stage: str, done: bool) -> bool:
    """Whether nothing more will come: everything was evaluated, or all that was asked for was pretraining."""
    if stage == "pretrain":
        return done and (directory / "model").is_dir()
    return stage == "eval" and (directory / SUMMARY).is_file()


def _results(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    found = {key: value for record in records if record["stage"] == "eval" for key, value in record.items()}
    prefix = "eval/exact_match/"
    return {k.removeprefix(prefix): float(v) for k, v in found.items() if k.startswith(prefix) and v is not None}


def _pace(run: RunConfig, stage: str, own: Sequence[dict[str, Any]]) -> float | None:
    """Seconds an update takes, the median over the latest lines, from what they say of their speed."""
    if stage == "pretrain":
        speeds = [r.get("pretrain/scenes_per_second") for r in own[-RECENT:]]
        found = [run.pretrain.scenes_per_step / speed for speed in speeds if speed]
    else:
        found, latest = [], own[-RECENT - 1 :]
        for before, line in zip(latest, latest[1:], strict=False):
            speed, taken, had = (
                line.get("ppo/env_steps_per_second"),
                line.get("ppo/env_steps"),
                before.get("ppo/env_steps"),
            )
            if speed and taken is not None and had is not None and line["step"] > before["step"]:
                found.append((taken - had) / speed / (line["step"] - before["step"]))
    return statistics.median(found) if found else None


def _line_seconds(own: Sequence[dict[str, Any]], pace: float | None) -> float:
    """Seconds between two lines; 0 before they are known."""
    latest = own[-RECENT:]
    apart = [b["step"] - a["step"] for a, b in zip(latest, latest[1:], strict=False)]
    return statistics.median(apart) * pace if apart and pace else 0.0


def _last_sign(directory: Path) -> float:
    """When anything was written last."""
    checkpoints = directory / "checkpoints"
    names = (preflight.RUN_CONFIG, METRICS, "checkpoints", str(NEWEST), "dreams", "pretrained", "model", SUMMARY)
    return max(_time(directory / name) for name in (*names, *_checkpoints(checkpoints)))


def _newest_checkpoint(directory: Path, now: float) -> tuple[str, float] | None:
    paths = _checkpoints(directory / "checkpoints")
    if not paths:
        return None
    newest = max(paths, key=lambda path: (STAGES.index(path.name[:-9]), path.name))
    return newest.name, max(0.0, now - _time(newest))


def _checkpoints(root: Path) -> list[Path]:
    try:
        return [root / name for name in os.listdir(root) if _CHECKPOINT.fullmatch(name)]
    except OSError:
        return []


def _time(path: Path) -> float:
    """When ``path`` was changed; 0 if it is not there, or not any more."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _took(directory: Path) -> dict[str, float]:
    try:
        told = json.loads((directory / SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {stage: float(told[stage]) for stage in STAGES if stage in told} if isinstance(told, dict) else {}
