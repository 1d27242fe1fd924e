"""Runs a benchmark by its name: what ``dreamrl bench`` does.

A benchmark is a module of this package with a function ``bench`` whose keyword arguments are its settings and
whose result is plain JSON values.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dreamrl.errors import UserError, nearest

BENCHMARKS = {
    "moe": "wall time of the best 2 of 4 experts against all 4, at the base size",
    "graph": "time of reading dreams against their number and length",
    "decode": "writing with the key-value cache against without",
    "rollout": "env steps per second while sampling: a bare loop, ours, and RLlib's own env runner",
    "ppo": "a whole PPO iteration: ours, RLlib's own, Stable-Baselines3; and where the time goes",
    "gpu": "training steps on a GPU: speed, FLOP/s, MFU and idle share of each preset (needs no Ray)",
    "pretrain": "Ray Train against the plain loop, two workers against one, and waiting for data",
    "generate": "dreams per second, and how time grows with T, N, board size and length of the text",
    "context": "loss and retrieval at 512 to 4096 tokens, for every kind of positions",
    "reward": "how well the reward model tells true dreams from corrupted ones on held-out boards",
    "data": "pretraining on collected records against random play on the fly: speed and memory",
    "curriculum": "steps in the simulator until held-out boards are answered, with and without the curriculum",
    "frozen-lake": "the published task: train on 3x3 to 6x6 boards, measure by size up to 8x8 (hours)",
    "families": "one model for worlds of four families: accuracy, and what its experts are for (an hour)",
    "serve": "answers per second and latency of one client and of 32, and with a replica killed",
    "resume": "a run that is killed 20 times against one that is left alone: weights and curves (minutes)",
    "chaos": "something is killed every 5 updates of a whole run: does it finish, as good and nearly as fast?",
    "feedback": "how far feedback moves a style, and what it costs (model_dir=DIR)",
}
"""Name -> what it measures."""


def run_bench(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """The result of benchmark ``name`` with ``key=value`` settings; a wrong one is a UserError."""
    if name not in BENCHMARKS:
        raise UserError(f'unknown benchmark "{name}"; {nearest(name, BENCHMARKS)}')
    function = importlib.import_module(f"dreamrl.bench.{name.replace('-', '_')}").bench
    known = inspect.signature(function).parameters
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in known:
            raise UserError(f'"{setting}" is no setting of bench {name}; {nearest(key, known)}')
        given[key] = _value(text, str(known[key].annotation))
    missing = [k for k, p in known.items() if p.default is inspect.Parameter.empty and k not in given]
    if missing:
        raise UserError(f"bench {name} needs {missing[0]}=...")
    return function(**given)


def at_least_one(**counts: int) -> None:
    """Raise unless every one of ``counts``, settings of a benchmark, is at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} ({value}) must be >= 1")


def _value(text: str, annotation: str) -> Any:
    """``text`` as what the argument takes: paths stay text, lists become tuples."""
    if "Path" in annotation:
        return Path(text)
    value = yaml.safe_load(f"[{text}]" if "," in text and not text.startswith("[") else text)
    if "tuple" in annotation or "Sequence" in annotation:
        return tuple(value) if isinstance(value, list) else (value,)
    return value
