"""What a directory of collected records holds, and whether a run can be trained on it.

``manifest.json`` names the settings that decided the records, and the size and SHA-256 of every finished shard.
Nothing here needs torch or Ray, so that every mistake is found before they start.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.files import sha256, write_atomically
from dreamrl.shards import Span
from envs.registry import world_of

FORMAT_VERSION = 1
"""Raised when what is written changes: other versions then refuse it in one line."""
MANIFEST, PATCHES, REMEMBERED = "manifest.json", "patches.parquet", "data.json"
FIX = "collect it again with `dreamrl collect`"
MAX_SHARDS = 100_000
"""Most files of records in a directory."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """Size in bytes and SHA-256 of a finished file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A directory of ``num`` records in shards of ``shard_size``, as far as it is finished.

    Example:
        ``Manifest(settings={"seed": 0, ...}, num=1000, shard_size=512)`` has shards of 512 and 488 records;
        ``files`` names patches.parquet, shard-00000.parquet and shard-00001.parquet once they are written.
    """

    settings: dict[str, Any]
    """What decides the records, see :func:`data_settings`."""
    num: int
    shard_size: int
    files: dict[str, StoredFile] = field(default_factory=dict)

    @property
    def num_shards(self) -> int:
        """Shards of the finished directory."""
        return -(-self.num // self.shard_size)

    @property
    def contents(self) -> dict[str, int]:
        """Every file of the finished directory, and how many records are in it."""
        spans = map(self.span_of, range(self.num_shards))
        return {PATCHES: 0, **{shard_name(i): end - begin for i, (begin, end) in enumerate(spans)}}

    def span_of(self, index: int) -> tuple[int, int]:
        """Number of the first record of shard ``index``, and of its last plus 1."""
        return index * self.shard_size, min(self.num, (index + 1) * self.shard_size)


def shard_name(index: int) -> str:
    """Name of the file of shard ``index``."""
    return f"shard-{index:05d}.parquet"


def data_settings(run: RunConfig) -> dict[str, Any]:
    """The settings that decide which records ``run`` learns from, with what it leaves to the world filled in."""
    world = world_of(run)
    mixed = bool(run.world.worlds)
    return {
        "seed": run.seed,
        "world.worlds": list(run.world.worlds),
        "world.name": "" if mixed else run.world.name,
        "world.sizes": [] if mixed else list(world.sizes),
        "actions": list(world.actions),
        "model.patch_size": run.model.patch_size,
        "model.code_levels": list(run.model.code_levels),
        "model.num_dream_sequences": run.model.num_dream_sequences,
        "model.dream_length": run.model.dream_length,
        "pretrain.scenes_per_step": run.pretrain.scenes_per_step,
        "pretrain.predict_share": run.pretrain.predict_share,
    }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, or nothing when that fails half-way."""
    data = {
        "format_version": FORMAT_VERSION,
        "settings": manifest.settings,
        "num": manifest.num,
        "shard_size": manifest.shard_size,
        "files": {
            name: {"records": records, "bytes": manifest.files[name].bytes, "sha256": manifest.files[name].sha256}
            for name, records in manifest.contents.items()
            if name in manifest.files
        },
    }
    write_atomically(directory / MANIFEST, json.dumps(data, indent=1))


def read_manifest(directory: Path) -> Manifest:
    """The manifest of ``directory``, or a UserError that says what is wrong with it."""
    path = directory / MANIFEST
    if not directory.is_dir():
        problem = "is a file, not a directory" if directory.exists() else "does not exist"
        raise UserError(f"data {directory} {problem}; give the directory that `dreamrl collect --out` wrote")
    if not path.is_file():
        raise UserError(f"{path} is missing; give the directory that `dreamrl collect --out` wrote")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {FIX}") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has format version {version}, this dreamrl reads {FORMAT_VERSION}; {FIX}")
    try:
        files = {
            name: StoredFile(bytes=int(f["bytes"]), sha256=str(f["sha256"])) for name, f in dict(data["files"]).items()
        }
        manifest = Manifest(
            settings=dict(data["settings"]), num=int(data["num"]), shard_size=int(data["shard_size"]), files=files
        )
        sound = manifest.num > 0 and manifest.shard_size > 0 and manifest.num_shards <= MAX_SHARDS
        sound = sound and set(files) <= set(manifest.contents)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} was edited or is damaged ({error!r}); {FIX}") from error
    if not sound:
        raise UserError(f"{path} was edited or is damaged (its numbers and its files do not fit); {FIX}")
    return manifest


def fitting_manifest(directory: Path, run: RunConfig) -> Manifest:
    """The manifest of ``directory`` if ``run`` can learn from it; does not look at the shards."""
    manifest = read_manifest(directory)
    for key, wanted in data_settings(run).items():
        found = manifest.settings.get(key)
        if not _fits(key, found, wanted):
            fix = "collect again" if key == "actions" else f"set {key}={_plain(found)} or collect again"
            raise UserError(
                f"{directory} was collected with {key}={_plain(found)}, the run has {_plain(wanted)}; {fix}"
            )
    if manifest.num < run.pretrain.scenes_per_step:
        fix = "collect more or set it lower"
        raise UserError(
            f"{directory} holds {manifest.num} records, fewer than pretrain.scenes_per_step "
            f"({run.pretrain.scenes_per_step}); {fix}"
        )
    return manifest


def check_data(directory: Path, run: RunConfig, progress: Callable[[int], None] = lambda count: None) -> None:
    """Raise unless ``directory`` is finished, undamaged and fits ``run``; every file is read once, in pieces.

    Args:
        directory: what ``dreamrl collect`` wrote.
        run: the settings.
        progress: told the bytes of each file that is checked.
    """
    manifest = fitting_manifest(directory, run)
    missing = manifest.contents.keys() - manifest.files.keys()
    if missing:
        done = f"{len(manifest.files)} of {len(manifest.contents)} files"
        raise UserError(f"{directory} is not finished ({done}); run the `dreamrl collect` that began it once more")
    for name, file in manifest.files.items():  # all sizes first: that costs nothing
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing; copy the directory again, or run its `dreamrl collect` once more")
        if path.stat().st_size != file.bytes:
            raise UserError(f"{path} has {path.stat().st_size} bytes instead of {file.bytes}; {_REPAIR}")
    for name, file in manifest.files.items():
        if sha256(directory / name) != file.sha256:
            raise UserError(f"{directory / name} was damaged: its SHA-256 is not the one in {MANIFEST}; {_REPAIR}")
        progress(file.bytes)


_REPAIR = "copy it again, or run the `dreamrl collect` that wrote it once more"


def spans(
    manifest: Manifest, directory: Path, first_update: int, scenes: int, rank: int, workers: int
) -> Iterator[Span]:
    """What worker ``rank`` reads from update ``first_update`` on, without end: after the last record, the first again.

    An epoch consists of whole updates of ``scenes`` records; up to ``scenes`` - 1 records at the end are not used.
    """
    updates = manifest.num // scenes
    begin, usable = first_update % updates * scenes, updates * scenes
    while True:
        for index in range(begin // manifest.shard_size, manifest.num_shards):
            first, end = manifest.span_of(index)
            if first < usable:
                yield Span(
                    path=str(directory / shard_name(index)),
                    first=first,
                    begin=max(first, begin),
                    end=min(end, usable),
                    scenes=scenes,
                    rank=rank,
                    workers=workers,
                )
        begin = 0


def data_for(run: RunConfig, out: Path, given: Path | None, resume: bool, overwrite: bool) -> Path | None:
    """The collected records that ``run`` is to learn from, found whole and fitting; None: it plays on the fly.

    Args:
        run: the settings.
        out: the run's directory; one that is resumed knows what it learns from.
        given: what --data says.
        resume: whether the run goes on.
        overwrite: whether what is in ``out`` is going to be deleted.
    """
    if resume:
        given = None if (out / "pretrained").exists() else remembered_data(out)
    if given is None:
        return None
    if overwrite and given.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--data {given} is inside --out {out}, which --overwrite deletes; choose another --out")
    check_data(given, run)
    return given


def remember_data(out: Path, directory: Path) -> None:
    """Note in the run directory ``out`` that it learns from ``directory``, for when it is resumed."""
    data = {"directory": str(directory.resolve()), "manifest_sha256": sha256(directory / MANIFEST)}
    write_atomically(out / REMEMBERED, json.dumps(data))


def remembered_data(out: Path) -> Path | None:
    """The directory that the run in ``out`` learns from, unchanged since it began; None if it plays on the fly."""
    path = out / REMEMBERED
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        directory, digest = Path(data["directory"]), data["manifest_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); start the run again") from error
    read_manifest(directory)
    if sha256(directory / MANIFEST) != digest:
        raise UserError(f"{directory} has changed since the run in {out} began; put it back, or start the run again")
    return directory


def _fits(key: str, found: Any, wanted: Any) -> bool:
    """Whether data collected with ``found`` can be learned from where ``wanted`` is set."""
    if key == "seed":
        return True  # of whatever seed, it is random play
    if key == "pretrain.scenes_per_step":  # records of one collected update rest on equally many dreams
        return isinstance(found, int) and found % wanted == 0
    if key == "model.code_levels":
        return isinstance(found, list) and math.prod(found) == math.prod(wanted)
    return found == wanted


def _plain(value: Any) -> str:
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
