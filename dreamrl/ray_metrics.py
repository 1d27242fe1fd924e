"""The metrics of a run as gauges of Ray, and the Grafana dashboard that draws them.

``MetricsWriter`` sends what it writes here whenever Ray runs. Ray collects the gauges of all processes of a node and
shows them on the node's metrics port, for Prometheus to fetch. What Ray measures itself is not measured again: how
busy the GPUs are is ``ray_node_gpus_utilization``, sampled on every node that has one.

``python -m dreamrl.ray_metrics`` prints the dashboard; ``dreamrl/assets/grafana.json`` is what it printed. It is made
from the glossary, so a new metric has a panel as soon as it is printed again.
"""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from dreamrl.metrics import GLOSSARY, pattern_of

RAY_PREFIX = "ray_"
"""Ray puts it before the name of every gauge that Prometheus sees."""
RUN, PART = "run", "part"
"""Labels: the name of the run's directory; what stands for ``*`` in the metric's name."""
GPU_IDLE = "GPU idle"
OVERVIEW = (
    "ppo/exact_match", "ppo/exact_match/*", "ppo/exact_frame", "ppo/success", "ppo/faithfulness", "ppo/coherence",
    "ppo/correctness", "ppo/creativity", "ppo/progress", "ppo/expert_usage/*", "ppo/env_steps_per_second",
)  # fmt: skip
"""Metrics that are drawn first, followed by how idle the GPUs are."""
STAGES = {"ppo": "PPO", "pretrain": "Pretraining"}
"""Stages that run on Ray, with their headings; the evaluation comes when Ray has ended."""
COLUMNS, WIDTH, HEIGHT = 3, 8, 7
"""Panels side by side, and the size of one in Grafana's grid, which is 24 wide."""

AGAIN_SECONDS = 1.0
"""Ray exports every 10 s unless told otherwise, and never more often than this."""

_gauges: dict[str, Any] = {}
_shown: dict[tuple[str, str], float] = {}
_sender: dict[str, threading.Thread] = {}
_lock = threading.Lock()
"""Of what is shown, by name and run, and the thread that keeps it so, while there is one."""


def gauge_name(pattern: str) -> str:
    """The gauge of a key of the glossary, without Ray's prefix.

    >>> gauge_name("ppo/time/learn"), gauge_name("ppo/expert_usage/*")
    ('dreamrl_ppo_time_learn', 'dreamrl_ppo_expert_usage_each')
    """
    return "dreamrl_" + re.sub(r"[^a-zA-Z0-9]+", "_", pattern.replace("/*", "_each"))


def show(values: Mapping[str, float], run: str) -> None:
    """Show ``values``, by their names in the glossary, until they change or :func:`forget`; without Ray do nothing.

    A value that is not finite is taken away instead: Ray drops it, and the last good one would hide that a run has
    diverged.
    """
    import ray

    if not ray.is_initialized():
        return
    with _lock:
        for name, value in values.items():
            if math.isfinite(value):
                _shown[name, run] = float(value)
            else:
                _shown.pop((name, run), None)
        if "thread" not in _sender:
            _sender["thread"] = threading.Thread(target=_send_again_and_again, name="ray-metrics", daemon=True)
            _sender["thread"].start()
        _send()


def forget(run: str) -> None:
    """Show nothing of ``run`` any more."""
    with _lock:
        for key in [key for key in _shown if key[1] == run]:
            del _shown[key]


def _send_again_and_again() -> None:
    """Ray exports a gauge once for each time that it is set, and takes it away when two exports went without it."""
    import ray

    while True:
        time.sleep(AGAIN_SECONDS)
        with _lock:
            if not (_shown and ray.is_initialized()):
                _shown.clear()
                del _sender["thread"]
                return
            _send()


def _send() -> None:
    from ray.util.metrics import Gauge

    for (name, run), value in _shown.items():
        pattern = pattern_of(name)
        labels = {RUN: run} | ({PART: name.rpartition("/")[2]} if pattern.endswith("*") else {})
        gauge = gauge_name(pattern)
        if gauge not in _gauges:
            _gauges[gauge] = Gauge(gauge, GLOSSARY[pattern], tuple(labels))
        _gauges[gauge].set(value, labels)


def grafana_dashboard() -> dict[str, Any]:
    """A dashboard with one panel for every metric of pretraining and PPO, as Grafana imports it."""
    rows = {"Overview": [*map(_metric_panel, OVERVIEW), _gpu_panel()]}
    for stage, heading in STAGES.items():
        own = [name for name in GLOSSARY if name.startswith(f"{stage}/") and name not in OVERVIEW]
        rows[heading] = [*map(_metric_panel, own)]
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0},
        {
            "name": RUN,
            "type": "query",
            "label": "run",
            "datasource": _SOURCE,
            "query": f'label_values({{__name__=~"{RAY_PREFIX}dreamrl_.+"}}, {RUN})',
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    return {
        "title": "dreamrl",
        "uid": "dreamrl",
        "tags": ["dreamrl", "ray"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables},
        "panels": _placed(rows),
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _metric_panel(pattern: str) -> dict[str, Any]:
    meaning = GLOSSARY[pattern]
    unit = "percentunit" if meaning.startswith("share") else "s" if meaning.startswith("seconds") else "short"
    legend = "{{run}} {{part}}" if pattern.endswith("*") else "{{run}}"
    return _panel(pattern, meaning, f'{RAY_PREFIX}{gauge_name(pattern)}{{{RUN}=~"${RUN}"}}', legend, unit)


def _gpu_panel() -> dict[str, Any]:
    meaning = "share of time in which a GPU had nothing to run, by node; empty where there is none"
    legend = "{{instance}} GPU {{GpuIndex}}"
    return _panel(GPU_IDLE, meaning, f"1 - {RAY_PREFIX}node_gpus_utilization / 100", legend, "percentunit")


def _panel(title: str, meaning: str, query: str, legend: str, unit: str) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "description": meaning,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "datasource": _SOURCE, "expr": query, "legendFormat": legend}],
    }


def _placed(rows: Mapping[str, Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """All panels with numbers and places, each row under its heading."""
    placed: list[dict[str, Any]] = []
    top = 0
    for heading, panels in rows.items():
        place = {"x": 0, "y": top, "w": COLUMNS * WIDTH, "h": 1}
        placed.append({"type": "row", "title": heading, "collapsed": False, "panels": [], "gridPos": place})
        top += 1
        panels = list(panels)
        for index, panel in enumerate(panels):
            line, column = divmod(index, COLUMNS)
            place = {"x": WIDTH * column, "y": top + HEIGHT * line, "w": WIDTH, "h": HEIGHT}
            placed.append({**panel, "gridPos": place})
        top += HEIGHT * -(-len(panels) // COLUMNS)
    return [{"id": number, **panel} for number, panel in enumerate(placed, start=1)]


def grafana_json() -> str:
    """The text of ``dreamrl/assets/grafana.json``."""
    return json.dumps(grafana_dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(grafana_json())
