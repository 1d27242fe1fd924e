"""``dreamrl doctor``: whether this machine can train, and what to mend if it cannot.

Versions are read from the packages' metadata and the card from nvidia-smi, so that the answer comes at once and also
where torch or Ray does not even import. ``deep`` imports torch and starts (or joins) Ray for real. Nothing is written
but what Ray itself writes then.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from dreamrl import addresses, machine, preflight, settings
from dreamrl.cluster import OBJECT_STORE_BYTES, check_found, cpus_needed
from dreamrl.commands.checks import check_address
from dreamrl.config import RunConfig
from dreamrl.errors import UserError

PACKAGES = ("dreamrl", "torch", "ray", "gymnasium", "torch-geometric", "numpy")
RUNS = Path("runs")
TRAIN_BYTES = 4.5 * 2**30
"""Memory of ``dreamrl train`` with the nano preset: 4.1 GiB were measured at the peak (docs/RESULTS.md)."""
SESSION = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""As long as what Ray appends to its temporary directory to name a socket."""
MAX_SOCKET = 107
"""Longest path of a Unix socket, in bytes."""
FULL = 0.95
"""Ray creates no objects once this share of its disk is used."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Example:
        >>> finding = Finding("warn", "token", "/root/.ray/auth_token has mode 644", "chmod 600 /root/.ray/auth_token")
        >>> finding.line(5)
        'warn  token  /root/.ray/auth_token has mode 644; chmod 600 /root/.ray/auth_token'
    """

    level: str
    """ok; warn: training works, but not as it should; fail: ``dreamrl train`` would stop."""
    check: str
    found: str
    fix: str = ""

    def line(self, width: int) -> str:
        """The finding on one line, its name padded to ``width``."""
        return f"{self.level:<4}  {self.check:<{width}}  {self.found}{f'; {self.fix}' if self.fix else ''}"


def examine(address: str = "local", deep: bool = False) -> list[Finding]:
    """Everything that ``dreamrl train --address ADDRESS`` with the default settings depends on."""
    run = settings.load_settings()
    findings = [*versions(), *hardware(run), *disk(RUNS), *token(address), *cluster(address), defaults(run)]
    return findings + ([torch_works(), ray_works(run, address)] if deep else [])


def print_findings(findings: list[Finding]) -> None:
    """A line for each finding, and what they come to."""
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        print(finding.line(width))
    count = {level: sum(finding.level == level for finding in findings) for level in ("warn", "fail")}
    verdict = "`dreamrl train` would stop" if count["fail"] else "`dreamrl train` can start"
    print(f"{verdict}: {count['fail']} failed, {count['warn']} warnings")


def versions() -> Iterator[Finding]:
    """Python, the packages that matter most, and whether all that dreamrl requires is there."""
    found = ".".join(map(str, sys.version_info[:3]))
    known = (3, 10) <= sys.version_info[:2] <= (3, 12)
    yield Finding("ok" if known else "fail", "python", found, "" if known else "use Python 3.10 to 3.12")
    for name in PACKAGES:
        version = _version(name)
        yield Finding("ok" if version else "fail", name, version or "not installed", "" if version else _install())
    missing, other = [], []
    for text in importlib.metadata.requires("dreamrl") or [] if _version("dreamrl") else []:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        if version is None:
            missing.append(wanted.name)
        elif not wanted.specifier.contains(version, prereleases=True):
            other.append(f"{wanted.name} {version} ({wanted.specifier} wanted)")
    if missing:
        yield Finding("fail", "requirements", f"not installed: {', '.join(missing)}", _install())
    elif other:
        yield Finding("warn", "requirements", f"another version: {', '.join(other)}", _install())
    else:
        yield Finding("ok", "requirements", "all installed")


def hardware(run: RunConfig) -> Iterator[Finding]:
    """Cores, memory and graphics cards."""
    cores, needed = machine.cores(), cpus_needed(run)
    parts = [f"{cores.logical} logical", f"{cores.physical or 'unknown number of'} physical"]
    parts += [f"{cores.allowed} allowed to this process"] if cores.allowed != cores.logical else []
    parts += [f"{cores.quota:g} cores' time for this container"] if cores.quota is not None else []
    enough = cores.usable >= needed
    fix = f"the default settings keep {needed} busy: expect it to take longer"
    yield Finding("ok" if enough else "warn", "cpu", ", ".join(parts), "" if enough else fix)
    memory = machine.memory()
    text = f"{_gib(memory.available)} free of {_gib(min(memory.total, memory.limit or memory.total))}"
    enough = memory.available >= TRAIN_BYTES
    fix = f"the default settings use up to {_gib(TRAIN_BYTES)}: close other programs, or fewer workers and learners"
    yield Finding("ok" if enough else "warn", "memory", text, "" if enough else fix)
    cards = machine.gpus()
    if not cards:
        yield Finding("ok", "gpu", "none found; everything runs on the CPU")
    for card in cards:
        kinds = "bf16" if card.bf16 else "no bf16"
        yield Finding("ok", "gpu", f"{card.name}, {_gib(card.memory)}, {kinds}; `dreamrl train` computes on the CPU")


def disk(runs: Path) -> Iterator[Finding]:
    """Whether a run can be written."""
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    try:
        preflight.check_writable(runs)
    except UserError as error:
        yield Finding("fail", "disk", str(error))
    else:
        yield Finding("ok", "disk", f"{_gib(shutil.disk_usage(place).free)} free at {runs}/")


def token(address: str) -> Iterator[Finding]:
    """Ray's token: where it is, and who can read it."""
    path, mode = addresses.token_file(), os.environ.get(addresses.AUTH_MODE, "token").lower()
    if mode != "token":
        yield Finding("warn", "token", f"{addresses.AUTH_MODE}={mode}: Ray asks nobody for a token", "unset it")
    elif os.environ.get(addresses.TOKEN):
        yield Finding("ok", "token", f"in {addresses.TOKEN}")
    elif path.is_file():
        rights = stat.S_IMODE(path.stat().st_mode)
        if rights & 0o077:
            yield Finding("warn", "token", f"{path} has mode {rights:o}: others may read it", f"chmod 600 {path}")
        elif addresses.has_token():
            yield Finding("ok", "token", f"{path}, mode {rights:o}")
        else:
            yield Finding("warn", "token", f"{path} is empty or cannot be read", "remove it, or put the token there")
    elif address == "local":
        try:
            preflight.check_writable(path.parent, 0)
        except UserError as error:
            yield Finding("fail", "token", str(error), f"or set {addresses.TOKEN}")
        else:
            yield Finding("ok", "token", f"none yet; {path} is made by the first run")
    else:
        yield Finding("ok", "token", "none")


def cluster(address: str) -> Iterator[Finding]:
    """Whether Ray can start here, or answers at ``address``."""
    if address == "local":
        yield from _can_start()
        return
    try:
        where = _found_by_ray() if address == "auto" else address
        if where is None:
            fix = "start one with `ray start --head`, or use --address local"
            yield Finding("warn", "ray cluster", "--address auto: none was started on this machine", fix)
            return
        check_address(where)
        if address == "auto":
            check_found(where)
    except UserError as error:
        yield Finding("fail", "ray cluster", str(error))
    else:
        yield Finding("ok", "ray cluster", f"{where} takes connections")


def defaults(run: RunConfig) -> Finding:
    """What ``dreamrl train`` uses when nothing else is said."""
    samplers = f"{run.ppo.num_env_runners} env runners" if run.ppo.num_env_runners else "sampling in the driver"
    parts = [f"preset {run.preset}", f"{run.pretrain.num_workers} pretraining workers"]
    parts += [f"then {run.ppo.num_learners} learners and {samplers}", "1 thread each"]
    return Finding("ok", "defaults", ", ".join(parts))


def torch_works() -> Finding:
    """Import torch and let it calculate."""
    try:
        import torch

        (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item()
        found = [f"torch {torch.__version__}"]
        for index in range(torch.cuda.device_count()):
            torch.ones(2, 2, device=f"cuda:{index}").sum().item()
            bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
            found.append(f"{torch.cuda.get_device_name(index)} ({bf16})")
    except (ImportError, OSError, RuntimeError) as error:  # a library that is missing, a driver that is too old
        return Finding("fail", "torch works", " ".join(str(error).split())[:200], _install())
    return Finding("ok", "torch works", ", ".join(found))


def ray_works(run: RunConfig, address: str) -> Finding:
    """Start Ray as ``dreamrl train`` does, or join the cluster."""
    from dreamrl.cluster import ray_session

    try:
        with tempfile.TemporaryDirectory() as folder, ray_session(run, Path(folder), address):
            pass
    except Exception as error:  # Ray raises bare ones, such as when it takes too long to start
        return Finding("fail", "ray works", " ".join(str(error).split())[:200])
    return Finding("ok", "ray works", "started and stopped" if address == "local" else f"joined {address}")


def _can_start() -> Iterator[Finding]:
    """What Ray needs to start on this machine; whether it does start only ``deep`` tells."""
    base, shm = _ray_directory(), Path("/dev/shm")
    try:
        preflight.check_writable(base / "ray")
        socket.create_server(("127.0.0.1", 0)).close()
    except UserError as error:
        yield Finding("fail", "ray", str(error), "set RAY_TMPDIR to a directory on a disk with room")
        return
    except OSError as error:
        yield Finding("fail", "ray", f"no port can be opened on 127.0.0.1 ({error.strerror})", "Ray needs some")
        return
    usage = shutil.disk_usage(base)
    if len(os.fsencode(base)) + len(SESSION) > MAX_SOCKET:
        fix = "set RAY_TMPDIR to a shorter path, such as /tmp"
        yield Finding("fail", "ray", f"{base} is too long a path for Ray's sockets", fix)
    elif 1 - usage.free / usage.total > FULL:
        yield Finding("warn", "ray", f"the disk of {base} is {1 - usage.free / usage.total:.0%} full", "free some")
    elif shm.is_dir() and shutil.disk_usage(shm).free < OBJECT_STORE_BYTES:
        free = shutil.disk_usage(shm).free // 2**20
        fix = f"give it {OBJECT_STORE_BYTES // 2**20} MB (docker run --shm-size=1g); Ray takes {base} until then"
        yield Finding("warn", "ray", f"/dev/shm has {free} MB free", fix)
    else:
        yield Finding("ok", "ray", f"can start here, files in {base / 'ray'}")


def _found_by_ray() -> str | None:
    """The cluster that ``--address auto`` leads to: what RAY_ADDRESS says, else the one last started here."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    try:
        return (_ray_directory() / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _ray_directory() -> Path:
    """Where Ray keeps its files: it looks at the same variables."""
    own = os.environ.get("TMPDIR") if sys.platform == "linux" else None
    return Path(os.environ.get("RAY_TMPDIR") or own or "/tmp")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install() -> str:
    return "run `make venv` in a clone, or `pip install --upgrade dreamrl`"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
