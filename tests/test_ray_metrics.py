"""What a run measures, as Prometheus reads it from a node of Ray, and the dashboard that draws it."""

import doctest
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from ray_nodes import cluster, free_ports, wait_until

from dreamrl import metrics, ray_metrics
from dreamrl.metrics import GLOSSARY
from dreamrl.ray_metrics import GPU_IDLE, OVERVIEW, RAY_PREFIX, gauge_name, grafana_dashboard, grafana_json

ASSET = Path(ray_metrics.__file__).parent / "assets" / "grafana.json"
WRITES = """
import sys
import ray
from dreamrl.metrics import MetricsWriter

ray.init(address=sys.argv[1], log_to_driver=False)
writer = MetricsWriter(sys.argv[2], resume=False)
writer.write(1, "ppo", {"ppo/exact_match": 0.25, "ppo/value_loss": 2.5})
sys.stdin.readline()
writer.write(2, "ppo", {
    "ppo/exact_match": 0.625, "ppo/exact_match/spatial.minigrid": 0.5, "ppo/expert_usage/0": 0.75,
    "ppo/expert_usage/1": 0.25, "ppo/env_steps_per_second": 1234.5, "ppo/value_loss": float("nan"),
})
sys.stdin.readline()
writer.close()
sys.stdin.readline()
"""


def test_every_metric_has_a_gauge_of_its_own():
    names = [gauge_name(pattern) for pattern in GLOSSARY]
    assert len(set(names)) == len(GLOSSARY)
    assert all(re.fullmatch(r"dreamrl_[a-z0-9_]+[a-z0-9]", name) for name in names)
    assert gauge_name("ppo/exact_match") == "dreamrl_ppo_exact_match"
    result = doctest.testmod(ray_metrics)
    assert result.attempted >= 1 and result.failed == 0


def test_the_dashboard_that_comes_along_is_the_one_that_is_made():
    """If not: ``python -m dreamrl.ray_metrics > dreamrl/assets/grafana.json``."""
    assert ASSET.read_text(encoding="utf-8") == grafana_json()


def test_the_dashboard_draws_every_metric_of_training_once():
    panels = {p["title"]: p for p in grafana_dashboard()["panels"] if p["type"] != "row"}
    drawn = [p["title"] for p in grafana_dashboard()["panels"] if p["type"] != "row"]
    trained = [name for name in GLOSSARY if not name.startswith("eval/")]
    assert sorted(drawn) == sorted([*trained, GPU_IDLE])
    assert drawn[: len(OVERVIEW) + 1] == [*OVERVIEW, GPU_IDLE]
    for name in trained:
        (target,) = panels[name]["targets"]
        assert re.fullmatch(rf'{RAY_PREFIX}{gauge_name(name)}\{{run=~"\$run"\}}', target["expr"])
        assert panels[name]["description"] == GLOSSARY[name]
        assert ("{{part}}" in target["legendFormat"]) == name.endswith("*")


def test_no_panel_lies_on_another():
    panels = grafana_dashboard()["panels"]
    covered = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24 and not covered & cells
        covered |= cells
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))


def test_without_ray_metrics_are_written_and_ray_is_not_imported(tmp_path):
    code = (
        "import sys; from dreamrl.metrics import MetricsWriter\n"
        "writer = MetricsWriter(sys.argv[1], resume=False); writer.write(1, 'ppo', {'ppo/lr': 0.5}); writer.close()\n"
        "print({'ray', 'dreamrl.ray_metrics'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["ppo/lr"] == 0.5


def test_where_ray_is_there_but_does_not_run_nothing_is_sent(tmp_path):
    import ray

    assert not ray.is_initialized()
    before = dict(ray_metrics._gauges)
    writer = metrics.MetricsWriter(tmp_path, resume=False)
    writer.write(1, "ppo", {"ppo/lr": 0.5})
    writer.close()
    assert ray_metrics._gauges == before


def exported(port):
    """The gauges of dreamrl on a metrics port, ``{(name, run, part): value}``; none while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    found = {}
    for name, labels, value in re.findall(r"^(ray_dreamrl_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[name, labels["run"], labels.get("part")] = float(value)
    return found


@pytest.mark.ray
def test_what_a_run_writes_can_be_read_from_the_metrics_port_as_long_as_it_runs():
    (port,) = free_ports(1)
    often = {"RAY_metrics_report_interval_ms": "1000"}  # what was not sent again is then gone after 2 s
    first = {("ray_dreamrl_ppo_exact_match", "first", None): 0.25, ("ray_dreamrl_ppo_value_loss", "first", None): 2.5}
    second = {
        ("ray_dreamrl_ppo_exact_match", "first", None): 0.625,
        ("ray_dreamrl_ppo_exact_match_each", "first", "spatial.minigrid"): 0.5,
        ("ray_dreamrl_ppo_expert_usage_each", "first", "0"): 0.75,
        ("ray_dreamrl_ppo_expert_usage_each", "first", "1"): 0.25,
        ("ray_dreamrl_ppo_env_steps_per_second", "first", None): 1234.5,
    }
    with cluster() as ray:
        ray.start_head(environment=often, metrics_export_port=port)
        writer = ray.python(WRITES, ray.address, str(ray.root / "runs" / "first"), **often)
        for shown in (first, second, {}):
            wait_until(lambda shown=shown: exported(port) == shown, lambda: writer.poll() is None)
            if shown == first:
                time.sleep(6)
                assert exported(port) == shown
            writer.stdin.write("\n")
            writer.stdin.flush()
