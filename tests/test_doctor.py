"""`dreamrl doctor`: what it says of machines that lack something, and of this one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ray_tokens import without_token, write_token

from dreamrl import machine
from dreamrl.cli import main
from dreamrl.doctor import Finding, disk, examine, token, versions
from dreamrl.doctor import cluster as cluster_at

ROOT = Path(__file__).parent.parent
LIGHT = """
import sys
from dreamrl.cli import main
code = main(["doctor", "--json"])
sys.exit(code or 10 * any(module in sys.modules for module in ("torch", "ray")))
"""


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home without a token, and nowhere a cluster."""
    for name in ("RAY_TMPDIR", "TMPDIR"):  # a path of pytest's would be too long for Ray
        monkeypatch.delenv(name, raising=False)
    return without_token(monkeypatch, tmp_path / "home")


def levels(findings):
    return {finding.check: finding.level for finding in findings}


# --- this machine


def test_this_machine_can_train_and_the_answer_needs_neither_torch_nor_ray(home, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIGHT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    assert printed["ok"] and {"level", "check", "found", "fix"} == set(printed["findings"][0])
    found = {finding["check"]: finding["found"] for finding in printed["findings"]}
    import torch

    assert found["torch"] == torch.__version__
    assert f"{os.cpu_count()} logical" in found["cpu"]
    assert found["defaults"].startswith("preset nano, 2 pretraining workers, then 2 learners")
    assert list(tmp_path.iterdir()) == [home]  # it looks and writes nothing


def test_a_line_for_each_finding(home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "warn"}
    assert lines[-1].startswith("`dreamrl train` can start: 0 failed,")


def test_what_would_stop_training_exits_with_1(home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file where the directory of all runs should be")
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("fail")]
    assert line.split(maxsplit=2)[1:] == ["disk", "cannot create runs: runs is a file"]
    assert lines[-1].startswith("`dreamrl train` would stop: 1 failed,")
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.slow
@pytest.mark.ray
def test_deep_starts_ray_and_imports_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dreamrl", "doctor", "--deep", "--json"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["check"]: finding["found"] for finding in json.loads(done.stdout)["findings"]}
    assert found["ray works"] == "started and stopped" and found["torch works"].startswith("torch 2.")


# --- packages


def test_packages_that_are_missing_or_other_than_wanted(monkeypatch):
    import importlib.metadata

    wanted = ["numpy<1", "ray[train]==2.60.0", "no-such-package>=1", "only-when-asked>=1; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    (found,) = [finding for finding in versions() if finding.check == "requirements"]
    assert (found.level, found.found) == ("fail", "not installed: no-such-package")
    wanted.remove("no-such-package>=1")
    (found,) = [finding for finding in versions() if finding.check == "requirements"]
    assert found.level == "warn" and found.found.startswith("another version: numpy ") and "(<1 wanted)" in found.found
    wanted.remove("numpy<1")
    (found,) = [finding for finding in versions() if finding.check == "requirements"]
    assert (found.level, found.found) == ("ok", "all installed")


# --- cores, memory and cards


def write(root, **files):
    """Files below ``root``; their names with __ for /."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_hyperthreads_are_not_cores(tmp_path):
    for cpu, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        path = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        path.mkdir(parents=True)
        (path / "thread_siblings_list").write_text(siblings + "\n")
    assert machine.cores(tmp_path).physical == 2
    assert machine.cores(tmp_path / "nothing").physical is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc__self__cgroup": "0::/box", "sys__fs__cgroup__box__cpu.max": "150000 100000"}, 1.5),
        ({"proc__self__cgroup": "0::/a/b", "sys__fs__cgroup__a__cpu.max": "50000 100000",
          "sys__fs__cgroup__a__b__cpu.max": "max 100000"}, 0.5),  # the group above has the limit
        ({"proc__self__cgroup": "0::/hidden/by/the/host", "sys__fs__cgroup__cpu.max": "400000 100000"}, 4.0),
        ({"proc__self__cgroup": "3:cpu,cpuacct:/box", "sys__fs__cgroup__cpu__box__cpu.cfs_quota_us": "250000",
          "sys__fs__cgroup__cpu__box__cpu.cfs_period_us": "100000"}, 2.5),
        ({"proc__self__cgroup": "3:cpu,cpuacct:/box", "sys__fs__cgroup__cpu__box__cpu.cfs_quota_us": "-1"}, None),
        ({"proc__self__cgroup": "0::/", "sys__fs__cgroup__cpu.max": "max 100000"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_cores_of_a_container(tmp_path, files, quota):
    write(tmp_path, **files)
    found = machine.cores(tmp_path)
    assert found.quota == quota and found.logical == os.cpu_count()
    assert found.usable == min(found.allowed, max(1, int(quota))) if quota else found.usable == found.allowed


MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    9000 kB"


@pytest.mark.parametrize(
    ("files", "limit", "available"),
    [
        ({}, None, 9000 * 1024),
        ({"proc__self__cgroup": "0::/", "sys__fs__cgroup__memory.max": "max"}, None, 9000 * 1024),
        ({"proc__self__cgroup": "0::/b", "sys__fs__cgroup__b__memory.max": "4096000",
          "sys__fs__cgroup__b__memory.current": "3000000",
          "sys__fs__cgroup__b__memory.stat": "anon 2\ninactive_file 1000000\nactive_file 7"}, 4096000, 2096000),
        ({"proc__self__cgroup": "2:memory:/b", "sys__fs__cgroup__memory__b__memory.limit_in_bytes": "5000000",
          "sys__fs__cgroup__memory__b__memory.usage_in_bytes": "1000000"}, 5000000, 4000000),
        ({"proc__self__cgroup": "2:memory:/b",
          "sys__fs__cgroup__memory__b__memory.limit_in_bytes": "9223372036854771712"}, None, 9000 * 1024),
    ],
)  # fmt: skip
def test_the_memory_of_a_container(tmp_path, files, limit, available):
    write(tmp_path, proc__meminfo=MEMINFO, **files)
    assert machine.memory(tmp_path) == machine.Memory(16000 * 1024, limit, available)


def test_cards_as_nvidia_smi_lists_them(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 9.0'\necho 'Tesla T4, 15360, 7.5'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [(gpu.name, gpu.memory // 2**20, gpu.bf16) for gpu in machine.gpus()] == [
        ("NVIDIA H100 80GB HBM3", 81559, True),
        ("Tesla T4", 15360, False),
    ]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert machine.gpus() == []
    assert machine.parse_gpus("NVIDIA GB10, [N/A], [N/A]") == [machine.Gpu("NVIDIA GB10", 0, False)]


def test_no_room_for_a_run(tmp_path, monkeypatch):
    assert levels(disk(tmp_path / "runs")) == {"disk": "ok"}
    monkeypatch.setattr("dreamrl.preflight.shutil.disk_usage", lambda path: Usage())
    (found,) = disk(tmp_path / "runs")
    assert found.level == "fail" and "only 0 MB free" in found.found


class Usage:
    """A disk without room."""

    total, free = 100, 0


# --- Ray and its token


def test_a_token_that_others_may_read(home):
    (found,) = token("local")
    assert found.level == "ok" and "is made by the first run" in found.found
    write_token(home)
    path = home / ".ray" / "auth_token"
    path.chmod(0o644)
    assert list(token("local")) == [
        Finding("warn", "token", f"{path} has mode 644: others may read it", f"chmod 600 {path}")
    ]
    path.chmod(0o600)
    assert list(token("local")) == [Finding("ok", "token", f"{path}, mode 600")]
    path.write_text("")
    assert levels(token("local")) == {"token": "warn"}


def test_the_token_itself_is_never_shown(home, monkeypatch):
    from ray_tokens import TOKEN

    write_token(home)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert TOKEN not in str(list(token("local")))


def test_tokens_turned_off(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert levels(token("local")) == {"token": "warn"}


def test_sockets_need_a_short_path(home, monkeypatch, tmp_path):
    assert levels(cluster_at("local")) in ({"ray": "ok"}, {"ray": "warn"})
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    (found,) = cluster_at("local")
    assert found.level == "fail" and found.fix == "set RAY_TMPDIR to a shorter path, such as /tmp"


@pytest.fixture
def listening():
    """The address of something on this machine that takes connections."""
    with socket.create_server(("", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_that_answers(home, listening):
    assert list(cluster_at(listening)) == [Finding("ok", "ray cluster", f"{listening} takes connections")]


def test_a_cluster_that_auto_finds(home, listening, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (found,) = cluster_at("auto")
    assert found.level == "warn" and "none was started" in found.found
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(listening)
    assert levels(cluster_at("auto")) == {"ray cluster": "ok"}


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "cannot reach 127.0.0.1:1"),
        ("nonsense", "must be local, auto, host:port or ray://host:port"),
    ],
)
def test_a_cluster_that_cannot_be_used(home, capsys, monkeypatch, tmp_path, address, told):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--address", address]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fail")]
    assert told in line


def test_what_other_machines_reach_wants_a_token(home, listening, monkeypatch):
    address = listening.replace("127.0.0.1", "0.0.0.0")
    (found,) = cluster_at(address)
    assert found.level == "fail" and "turn Ray's authentication on: export RAY_AUTH_MODE=token" in found.found
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (found,) = cluster_at(address)
    assert found.level == "fail" and "no token was found" in found.found
    write_token(home)
    assert levels(cluster_at(address)) == {"ray cluster": "ok"}


def test_the_findings_hold_every_check(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert {finding.check for finding in examine()} >= {
        "python", "dreamrl", "torch", "ray", "gymnasium", "torch-geometric", "numpy", "requirements", "cpu", "memory",
        "gpu", "disk", "token", "defaults",
    }  # fmt: skip
