"""Has the pieces of an ablation done, each by a process of its own (:mod:`dreamrl.ablation.work`), and reports.

A finished piece is one JSON file. What is there is never done again, so a second call goes on where the first was
stopped, whatever stopped it. No torch here: that belongs to the processes that compute.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamrl.ablation.report import read_results, result_line, write_report
from dreamrl.ablation.variants import DEFAULT, VARIANTS, Piece, plan
from dreamrl.errors import UserError
from dreamrl.files import locked, write_atomically
from dreamrl.preflight import check_writable
from dreamrl.settings import completed, to_dict
from dreamrl.terminal import format_seconds

PLAN, PIECES, LOGS, PRETRAINED = "plan.json", "pieces", "logs", "pretrained"
MAX_WORKERS = 256
COMMAND = (sys.executable, "-m", "dreamrl.ablation.work")
"""Does one piece of work: reads its job as one line of JSON, and ends when its input does."""
POLL_SECONDS, STOP_SECONDS = 0.05, 10


def ablate(
    out: Path,
    variants: Sequence[str] = (),
    seeds: int = 3,
    workers: int = 2,
    budget: float = 1.0,
    overrides: Sequence[str] = (),
    command: Sequence[str] = COMMAND,
) -> None:
    """Do all pieces that are not done yet, and report.

    Args:
        out: directory of the results; made if need be.
        variants: names in ``VARIANTS``; none: all.
        seeds: how many, from 0 on.
        workers: processes that work at a time.
        budget: see :func:`at_budget`.
        overrides: ``key=value`` settings of all variants.
        command: the program that does one piece.
    """
    pieces = plan(variants or list(VARIANTS), seeds, budget, overrides)
    if not 1 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers ({workers}) must be between 1 and {MAX_WORKERS}")
    record = {"budget": budget, "settings": to_dict(plan([DEFAULT], 1, budget, overrides)[0].run)}
    check_out(out, record)
    check_finished(out, pieces)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "ablate"):
        if not (out / PLAN).exists():
            write_atomically(out / PLAN, json.dumps(record, indent=1))
        for directory in (PIECES, LOGS):
            (out / directory).mkdir(exist_ok=True)
        todo = [piece for piece in pieces if not (out / PIECES / f"{piece.name}.json").exists()]
        before = f", {len(pieces) - len(todo)} finished before" if len(todo) < len(pieces) else ""
        print(f"{len(pieces)} pieces of work{before}; {len(todo)} to do, {workers} at a time, in {out}", flush=True)
        write_report(out, VARIANTS)
        failed = _work(out, todo, workers, budget, command)
    if failed:
        raise UserError(f"{len(failed)} pieces failed ({', '.join(failed)}): see {out / LOGS}; call again to retry")
    print(f"results in {out}: ablation.md, ablation.json, models/", flush=True)


def check_out(out: Path, record: dict[str, Any]) -> None:
    """Raise unless ``out`` is new, or an ablation with the same ``record``."""
    check_writable(out)
    if not out.exists() or all(path.name.startswith(".") for path in out.iterdir()):
        return
    try:
        found = json.loads((out / PLAN).read_text(encoding="utf-8"))
        budget, settings = float(found["budget"]), completed(found["settings"], str(out / PLAN))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{out} is not empty and was not made by `dreamrl ablate`; choose another --out") from None
    if budget != record["budget"]:
        fix = f"pass --budget {budget:g} to go on with it, or choose another --out"
        raise UserError(f"{out} was made with --budget {budget:g}, not {record['budget']:g}; {fix}")
    if settings != record["settings"]:
        raise UserError(f"{out} was made with {differences(settings, record['settings'])}; choose another --out")


def check_finished(out: Path, pieces: Sequence[Piece]) -> None:
    """Raise unless the ``pieces`` that are finished were made with the settings that they have now."""
    for piece in pieces:
        path = out / PIECES / f"{piece.name}.json"
        if path.exists():
            (found,) = read_results([path])
            if (settings := completed(found["settings"], str(path))) != to_dict(piece.run):
                what = differences(settings, to_dict(piece.run))
                raise UserError(f"{path} was made with {what}; delete it or choose another --out")


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first setting in which two runs differ: ``ppo.lr 0.001, not 0.0005``."""

    def flat(settings: dict[str, Any]) -> dict[str, Any]:
        sections = {k: v if isinstance(v, dict) else {"": v} for k, v in settings.items()}
        return {f"{k}.{name}".rstrip("."): value for k, own in sections.items() for name, value in own.items()}

    first, second = flat(old), flat(new)
    key = next(k for k in [*second, *first] if first.get(k) != second.get(k))
    return f"{key} {json.dumps(first.get(key))}, not {json.dumps(second.get(key))}"


def _work(out: Path, todo: list[Piece], workers: int, budget: float, command: Sequence[str]) -> list[str]:
    """Do ``todo``, ``workers`` pieces at a time, and report after each; returns the names of those that failed."""
    waiting, running, failed = list(todo), dict[Piece, subprocess.Popen](), []
    began = time.monotonic()
    try:
        while waiting or running:
            while len(running) < workers and (piece := _next(out, waiting, list(running))):
                waiting.remove(piece)
                running[piece] = _start(out, piece, budget, command)
            for piece in [piece for piece, process in running.items() if process.poll() is not None]:
                process = running.pop(piece)
                assert process.stdin is not None
                process.stdin.close()
                done = len(todo) - len(waiting) - len(running)
                path = out / PIECES / f"{piece.name}.json"
                if process.returncode == 0 and path.exists():
                    write_report(out, VARIANTS)
                    text = result_line(read_results([path])[0])
                else:
                    failed.append(piece.name)
                    text = f"failed: {_last_line(out / LOGS / f'{piece.name}.log')}"
                left = (time.monotonic() - began) / done * (len(todo) - done)
                eta = f", eta {format_seconds(left)}" if done < len(todo) else ""
                print(f"{piece.variant} seed {piece.seed}: {text}  [{done}/{len(todo)}{eta}]", flush=True)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on where it stopped") from None
    finally:
        _stop(list(running.values()))
    return failed


def _next(out: Path, waiting: Sequence[Piece], running: Sequence[Piece]) -> Piece | None:
    """The first piece whose pretrained model nobody else is making right now."""
    busy = {piece.pretraining for piece in running}
    busy = {key for key in busy if not (out / PRETRAINED / key / "pretrained").exists()}
    return next((piece for piece in waiting if piece.pretraining not in busy), None)


def _start(out: Path, piece: Piece, budget: float, command: Sequence[str]) -> subprocess.Popen:
    """A process for ``piece``; it ends with its input, so it cannot outlive this one."""
    with (out / LOGS / f"{piece.name}.log").open("a") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for this process alone
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once: its log says why
        process.stdin.write(json.dumps(piece.job(out, budget)) + "\n")
        process.stdin.flush()
    return process


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(STOP_SECONDS)
        assert process.stdin is not None
        process.stdin.close()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no word of why"
