"""Checks before a run starts: each is a clear error while nothing is imported, started or written yet."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import yaml

from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.machine import gpus
from dreamrl.settings import parse_yaml

MIN_FREE_BYTES = 200 * 2**20
"""Room for a run of the nano preset, checkpoints and pictures included."""
CONNECT_SECONDS = 3.0
RUN_CONFIG = "config.yaml"
"""Every run directory holds one; it marks a directory as made by dreamrl."""
_HOST_PORT = re.compile(r"(?:ray://)?(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


def check_out(out: Path, overwrite: bool, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise unless a new run may be written to ``out``; changes nothing."""
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} is a link to nothing; remove it or choose another --out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            fix = f"pass --overwrite to replace it, --resume {out} to continue it, or another --out"
            raise UserError(f"{out} exists and is not empty; {fix}")
        _check_ours(out)
    check_writable(out, min_free_bytes)


def check_writable(path: Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise unless ``path`` can be created (or written to) and its disk has ``min_free_bytes`` left."""
    existing = path
    while not existing.exists():
        existing = existing.absolute().parent
    if not existing.is_dir():
        raise UserError(f"cannot create {path}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {existing}: permission denied; choose another place")
    free = shutil.disk_usage(existing).free
    if free < min_free_bytes:
        missing = f"only {free // 2**20} MB free at {existing}, {min_free_bytes // 2**20} MB needed"
        raise UserError(f"{missing}; free some or choose another disk")


def check_new_directory(path: Path) -> None:
    """Raise unless pictures may be written to ``path``: a new or an empty directory."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists and is not an empty directory; choose another --save")
    check_writable(path)


def check_image(path: Path) -> None:
    """Raise unless ``path`` is a picture that :mod:`dreamrl.picture_files` accepts."""
    from dreamrl.picture_files import opened

    with opened(path, f"--image {path}") as image:
        image.load()


def remove_run(out: Path) -> None:
    """Delete the run in ``out`` for --overwrite, having made sure once more that it is one."""
    if out.is_dir() and any(out.iterdir()):
        _check_ours(out)
        shutil.rmtree(out)


def check_address(address: str) -> None:
    """Raise unless ``address`` is ``local``, ``auto`` (Ray finds out) or a host and port that accepts connections."""
    if address in ("local", "auto"):
        return
    match = _HOST_PORT.fullmatch(address)
    if not match or not 1 <= int(match["port"]) <= 65535:
        raise UserError(f'--address ("{address}") must be local, auto, host:port or ray://host:port')
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), CONNECT_SECONDS).close()
    except OSError as error:
        reason = "timed out" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        raise UserError(
            f"cannot reach {address} ({reason}); start a cluster with `ray start --head` or use --address local"
        ) from error


def check_device(run: RunConfig, address: str, stages: Sequence[str]) -> None:
    """Raise unless this machine has the GPUs that ``stages`` of ``run`` insist on; on a cluster the workers find out.

    Ray would wait for a GPU that is not there.
    """
    if run.device != "cuda" or address != "local":
        return
    cards = gpus()
    if not cards:
        raise UserError("device (cuda): no NVIDIA GPU answers here (see nvidia-smi); use device=auto or device=cpu")
    ppo = run.ppo
    needs = {"pretrain": ("pretrain.num_workers", run.pretrain.num_workers)}
    needs["ppo"] = ("ppo.num_learners", ppo.num_learners)
    for stage in stages:
        key, count = needs.get(stage, ("", 0))
        shares = ppo.num_env_runners * ppo.gpus_per_env_runner if stage == "ppo" else 0.0
        if count + shares > len(cards):
            rule = f"each takes one of the {len(cards)} GPUs here" + (f", env runners {shares:g}" if shares else "")
            raise UserError(f"{key} ({count}) is too many for device=cuda: {rule}; lower it, or use device=cpu")
    if run.precision == "bfloat16" and not all(card.bf16 for card in cards):
        name = next(card.name for card in cards if not card.bf16)
        raise UserError(f"precision (bfloat16): {name} does not calculate in bfloat16; use precision=float32")


def _check_ours(out: Path) -> None:
    """--overwrite deletes a whole tree, so it must be one that dreamrl made and nothing that is in use."""
    if out.is_symlink():
        raise UserError(f"{out} is a link; --overwrite replaces directories only: choose another --out")
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the current directory; --overwrite would delete it: choose another --out")
    try:
        found = parse_yaml((out / RUN_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict) or "preset" not in found:
        fix = "delete it yourself or choose another --out"
        raise UserError(f"{out} was not made by dreamrl (no {RUN_CONFIG} of a run); {fix}")
