"""What this machine has: cores, memory, graphics cards, and how much of them a container may use.

Read from the operating system without importing anything that computes. Files are read below ``root``, so that
other machines can be looked at; what cannot be known is None.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BF16_CAPABILITY = 8.0
"""Compute capability of NVIDIA's first cards that calculate in bfloat16 (Ampere)."""
NVIDIA_SECONDS = 10
NO_LIMIT = 2**60
"""Memory limits above this are how the first version of cgroups says that there is none."""


@dataclass(frozen=True)
class Cores:
    """CPU cores: ``logical`` of the machine, ``physical``, those this process may run on, and a container's share.

    Example:
        >>> Cores(logical=8, physical=4, allowed=8, quota=2.5).usable
        2
    """

    logical: int
    physical: int | None
    allowed: int
    quota: float | None
    """Cores' worth of time that the container's cgroup gets; None without a limit."""

    @property
    def usable(self) -> int:
        """Whole cores that work at the same time."""
        return max(1, self.allowed if self.quota is None else min(self.allowed, int(self.quota)))


@dataclass(frozen=True)
class Memory:
    """Bytes: ``total`` of the machine, ``limit`` of the container, and what is still ``available`` within both."""

    total: int
    limit: int | None
    available: int


@dataclass(frozen=True)
class Gpu:
    """A graphics card, as nvidia-smi describes it."""

    name: str
    memory: int
    bf16: bool


def cores(root: Path = Path("/")) -> Cores:
    """The cores that can be used."""
    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    siblings = root.glob("sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
    physical = len({_text(path) for path in siblings}) or None
    quotas = []
    for group in _groups(root, "cpu"):
        share, _, period = (_text(group / "cpu.max") or "max").partition(" ")
        if share == "max":
            share, period = _text(group / "cpu.cfs_quota_us") or "-1", _text(group / "cpu.cfs_period_us") or "100000"
        if int(share) > 0:
            quotas.append(int(share) / int(period or 100_000))
    return Cores(logical, physical, allowed, min(quotas, default=None))


def memory(root: Path = Path("/")) -> Memory:
    """The memory that can be used; pages that the kernel only keeps as a cache count as free."""
    table = dict(line.split(":", 1) for line in (_text(root / "proc/meminfo") or "").splitlines())
    page = os.sysconf("SC_PAGE_SIZE")
    total = _kib(table["MemTotal"]) if "MemTotal" in table else page * os.sysconf("SC_PHYS_PAGES")
    available = _kib(table["MemAvailable"]) if "MemAvailable" in table else total
    limits = []
    for group in _groups(root, "memory"):
        limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes") or "max"
        if limit == "max" or int(limit) >= NO_LIMIT:
            continue
        limits.append(int(limit))
        used = int(_text(group / "memory.current") or _text(group / "memory.usage_in_bytes") or 0)
        available = min(available, int(limit) - max(0, used - _cached(group)))
    return Memory(total, min(limits, default=None), available)


def gpus() -> list[Gpu]:
    """NVIDIA cards that the driver sees; none where it is not installed or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ["--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=NVIDIA_SECONDS, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_gpus(done.stdout) if done.returncode == 0 else []


def parse_gpus(table: str) -> list[Gpu]:
    """The cards in nvidia-smi's answer.

    >>> parse_gpus("NVIDIA H100 80GB HBM3, 81559, 9.0")
    [Gpu(name='NVIDIA H100 80GB HBM3', memory=85520809984, bf16=True)]
    """
    found = []
    for line in table.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 2)]
        if len(parts) == 3:
            size = int(parts[1]) * 2**20 if parts[1].isdigit() else 0
            known = parts[2].replace(".", "", 1).isdigit()
            found.append(Gpu(parts[0], size, known and float(parts[2]) >= BF16_CAPABILITY))
    return found


def _groups(root: Path, controller: str) -> list[Path]:
    """Directories of this process's cgroup and all above it, where ``controller`` keeps its limits."""
    found = []
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            inner = Path(path.lstrip("/"))
            # In a container the path may be the host's, of which only the top is to be seen here.
            found += [place for place in (top / inner, *(top / p for p in inner.parents), top) if place.is_dir()]
    return list(dict.fromkeys(found))


def _cached(group: Path) -> int:
    """Bytes of files that the group's memory holds and can drop."""
    lines = [line.split() for line in (_text(group / "memory.stat") or "").splitlines()]
    return sum(int(value) for name, value in lines if name in ("inactive_file", "total_inactive_file"))


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
