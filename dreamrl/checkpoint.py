"""Models and training checkpoints on disk: weights in safetensors, the rest in JSON, never pickle.

A directory is published whole: it is written beside its place, flushed to the disk and renamed, so that a kill at
any moment leaves the old one or the new one. Reading checks SHA-256 digests: a damaged file is reported, not loaded.
One process writes a directory at a time; there is no lock.

Torch is imported when tensors are read or written, so that a command can check a model directory in no time.
"""

from __future__ import annotations

import contextlib
import glob
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamrl.errors import UserError
from dreamrl.files import sha256
from dreamrl.shipped import shipped

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 3
"""Raised when what is written changes: other versions then refuse it in one line."""
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
DIGESTS = {"weights_sha256": WEIGHTS, "tokenizer_sha256": TOKENIZER}
"""Field of config.json -> the file whose SHA-256 it holds."""
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"(?P<stage>[a-z_]+)-(?P<step>\d{8})")
_log = logging.getLogger(__name__)


def save_model(
    directory: Path, state: dict[str, Tensor], config: dict[str, Any], tokenizer_save: Callable[[Path], None]
) -> None:
    """Publish a model in ``directory``, in place of an older one.

    Args:
        directory: Gets config.json, model.safetensors and tokenizer.json.
        state: The module's ``state_dict()``; tensors may share memory and live on any device.
        config: JSON-able; what :func:`load_model_files` gives back.
        tokenizer_save: Writes the tokenizer to the path that it is called with.
    """
    with _published(directory) as partial:
        _write_tensors(state, partial / WEIGHTS)
        tokenizer_save(partial / TOKENIZER)
        digests = {field: sha256(partial / name) for field, name in DIGESTS.items()}
        header = {"format_version": FORMAT_VERSION, **digests}
        assert not header.keys() & config.keys(), f"config uses reserved keys: {sorted(config)}"
        _write_json({**header, **config}, partial / CONFIG)


def load_model_files(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The ``config`` and ``state`` (on the CPU) that :func:`save_model` was given, or a UserError with the fix."""
    config = check_model_files(directory)
    return config, _read_tensors(present(directory) / WEIGHTS)


def check_model_files(directory: Path) -> dict[str, Any]:
    """The config of the model in ``directory``, all files being there and undamaged; without importing torch."""
    directory = present(directory)
    if not directory.is_dir():
        problem = "is a file, not a model directory" if directory.exists() else "does not exist"
        known = "".join(f" or {name}" for name in shipped())
        raise UserError(f"model {directory} {problem}; give the model/ directory of a run{known}")
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (directory / name).is_file():
            raise UserError(f"{directory / name} is missing; give the model/ directory of a run, or train it again")
    config = _read_json(directory / CONFIG)
    _check_version(config, directory / CONFIG)
    for field, name in DIGESTS.items():
        digest = config.pop(field, None)
        if not isinstance(digest, str):
            raise UserError(f'{directory / CONFIG} has no "{field}"; it was not written by dreamrl: train it again')
        if sha256(directory / name) != digest:
            problem = f"was damaged or changed: its SHA-256 is not the one in {CONFIG}"
            raise UserError(f"{directory / name} {problem}; copy the directory again, or train it again")
    return config


def save_checkpoint(root: Path, name: str, tensors: dict[str, Tensor], state: dict[str, Any], keep: int = 2) -> Path:
    """Publish a training checkpoint and delete old ones of its stage.

    Args:
        root: Directory of the run's checkpoints; made if need be.
        name: ``<stage>-<step in 8 digits>``, such as "pretrain-00000300".
        tensors: As for :func:`save_model`.
        state: JSON-able: step, optimizer settings, random states; comes back as JSON has it (keys are strings).
        keep: Newest checkpoints of the stage that stay; a second one is what to fall back to.

    Returns:
        The directory, ``root / name``.
    """
    match = _NAME.fullmatch(name)
    assert match, f"checkpoint name ({name}) must be <stage>-<8 digits>"
    assert keep >= 1, f"keep ({keep}) must be >= 1"
    root.mkdir(parents=True, exist_ok=True)
    with _published(root / name) as partial:
        _write_tensors(tensors, partial / TENSORS)
        _write_json(state, partial / STATE)
        digests = {file: sha256(partial / file) for file in (TENSORS, STATE)}
        _write_json({"format_version": FORMAT_VERSION, "sha256": digests}, partial / MANIFEST)
    for old in _checkpoints(root, match["stage"])[keep:]:
        if old.is_symlink():  # somebody else's doing; what it leads to stays
            old.unlink()
        else:
            shutil.rmtree(old)
    return root / name


def newest_checkpoint(root: Path, stage: str) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """The newest undamaged checkpoint of ``stage`` as (directory, tensors, state); None when there is none.

    Damaged ones are skipped with a warning. What a killed write left behind is removed.
    """
    if not root.is_dir():
        return None
    for directory in sorted({_place(path) for path in root.glob(".*.old")}):
        if not directory.exists():  # killed between the two renames
            os.rename(_aside(directory), directory)
    for leftover in [*root.glob(".*.partial-*"), *root.glob(".*.old")]:
        shutil.rmtree(leftover, ignore_errors=True)
    for directory in _checkpoints(root, stage):
        try:
            return (directory, *_read_checkpoint(directory))
        except UserError as error:
            _log.warning("falling back to the checkpoint before %s: %s", directory.name, error)
    return None


def _read_checkpoint(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    for path in (directory, *(directory / file for file in (MANIFEST, TENSORS, STATE))):
        if path.is_symlink():  # a checkpoint is read where it was written, so nobody needs one
            raise UserError(f"{path} is a link, which dreamrl never writes")
    manifest = _read_json(directory / MANIFEST)
    _check_version(manifest, directory / MANIFEST)
    digests = manifest.get("sha256")
    if not isinstance(digests, dict) or set(digests) != {TENSORS, STATE}:
        raise UserError(f"{directory / MANIFEST} does not list the files")
    for file, digest in digests.items():
        if not (directory / file).is_file():
            raise UserError(f"{directory / file} is missing")
        if sha256(directory / file) != digest:
            raise UserError(f"{directory / file} was damaged or changed")
    return _read_tensors(directory / TENSORS), _read_json(directory / STATE)


def _checkpoints(root: Path, stage: str) -> list[Path]:
    """The published checkpoints of ``stage``, newest first."""
    matches = [match for match in map(_NAME.fullmatch, os.listdir(root)) if match and match["stage"] == stage]
    return [root / match[0] for match in sorted(matches, key=lambda match: int(match["step"]), reverse=True)]


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Safetensors wants dense tensors that share no memory: copy those that are not so."""
    from safetensors.torch import save_file

    dense, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        dense[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    save_file(dense, path)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a safetensors file or is cut short ({error}); copy or train it again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_complex() or tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise UserError(f'{path}: "{name}" holds more than finite real numbers; train it again')
    return tensors


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); copy it again, or train it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object; copy it again, or train it again")
    return value


def _check_version(config: dict[str, Any], path: Path) -> None:
    """Take ``format_version`` out of ``config`` and reject what this version cannot read."""
    version = config.pop("format_version", None)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f'{path} has no valid "format_version" ({version}); it was not written by dreamrl')
    if version > FORMAT_VERSION:
        raise UserError(f"{path} has format_version {version}, this dreamrl reads {FORMAT_VERSION}: upgrade dreamrl")
    if version < FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {version}, this dreamrl reads {FORMAT_VERSION}: it is older, train it again"
        )


@contextlib.contextmanager
def _published(directory: Path) -> Iterator[Path]:
    """A new directory to fill; on leaving it becomes ``directory``, on an exception it vanishes."""
    directory = Path(os.path.abspath(directory))  # "." has no name to put a temporary one beside
    directory.parent.mkdir(parents=True, exist_ok=True)
    for leftover in directory.parent.glob(f".{glob.escape(directory.name)}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = directory.with_name(f".{directory.name}.partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        for path in [*partial.iterdir(), partial]:
            _flush(path)
        if directory.exists():
            shutil.rmtree(_aside(directory), ignore_errors=True)
            os.rename(directory, _aside(directory))
        os.rename(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(directory.parent)
    shutil.rmtree(_aside(directory), ignore_errors=True)


def _aside(directory: Path) -> Path:
    """Where an older directory waits while the new one takes its place."""
    return directory.with_name(f".{directory.name}.old")


def _place(aside: Path) -> Path:
    return aside.with_name(aside.name.removeprefix(".").removesuffix(".old"))


def present(directory: Path) -> Path:
    """``directory``, or the older one that a kill between two renames left aside."""
    return _aside(directory) if not directory.exists() and _aside(directory).is_dir() else directory


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
