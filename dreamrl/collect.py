"""Random play collected into files before training: what ``dreamrl collect`` does.

Ray tasks draw the records of a shard each and write it. A record depends on its number and the settings alone, so
neither the number of tasks nor the size of the shards changes it. A killed run goes on where it was: shards whose
SHA-256 the manifest names are kept, all others are made once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamrl.config import RunConfig, WorldConfig
from dreamrl.errors import UserError
from dreamrl.files import sha256
from dreamrl.manifest import (
    MANIFEST,
    MAX_SHARDS,
    PATCHES,
    Manifest,
    StoredFile,
    data_settings,
    read_manifest,
    shard_name,
    write_manifest,
)
from dreamrl.preflight import check_writable
from dreamrl.records import PlayDrawer, PlayRecord
from dreamrl.settings import from_dict, load_settings, to_dict
from dreamrl.shards import write_patches, write_shard
from dreamrl.stop import stoppable
from dreamrl.terminal import StageProgress
from envs.registry import world_of

SAVE_SECONDS = 5.0
"""Least time between two writings of the manifest: what a kill costs at most, besides unfinished shards."""
POLL_SECONDS = 0.5
TRIED = 32
"""Records that are drawn beforehand to see that the world can."""
AGAIN = "run the same command again to go on"


def collect_settings(
    world: str,
    sizes: Sequence[int] | None,
    preset: str | None,
    file: Path | None,
    overrides: Sequence[str],
    seed: int | None,
) -> RunConfig:
    """The settings that a command line asks for, checked against the world.

    Args:
        world: a world's name, or entries as in ``world.worlds`` with "+" between them.
        sizes: of the scenes; None: the world's own choice.
        preset: see ``dreamrl.settings.load_settings``, as for the others.
        file: YAML file of settings.
        overrides: ``key=value`` strings.
        seed: replaces the key ``seed``.
    """
    for override in overrides:
        if override.startswith("world."):
            raise UserError(f"--world and --sizes say which scenes, which {override} contradicts; drop one of them")
    run = load_settings(preset, file, overrides, seed)
    several = any(mark in world for mark in "+@*")
    if several and sizes:
        raise UserError("--sizes is for one world; write sizes behind each name, such as frozen_lake@3-4+minigrid")
    chosen = (
        WorldConfig(worlds=tuple(world.split("+"))) if several else WorldConfig(name=world, sizes=tuple(sizes or ()))
    )
    run = replace(run, world=chosen)
    world_of(run)
    return run


def wanted_manifest(run: RunConfig, num: int, shard_size: int) -> Manifest:
    """The manifest of a collection that has not begun."""
    if num > shard_size * MAX_SHARDS:
        raise UserError(f"--num ({num}) makes more than {MAX_SHARDS} files of {shard_size} records; set --shard-size")
    return Manifest(settings=data_settings(run), num=num, shard_size=shard_size)


def check_collection(out: Path, wanted: Manifest) -> None:
    """Raise unless ``wanted`` may be collected into ``out``: new, empty, or begun by the same command."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / MANIFEST).exists():
        raise UserError(f"{out} exists and holds no {MANIFEST}; choose another --out")
    found = read_manifest(out)
    pairs = {key: (found.settings.get(key), value) for key, value in wanted.settings.items()}
    pairs |= {"--num": (found.num, wanted.num), "--shard-size": (found.shard_size, wanted.shard_size)}
    for key, (old, new) in pairs.items():
        if old != new:
            fix = "repeat its command to go on, or choose another --out"
            raise UserError(f"{out} was begun with {key} {old}, not {new}; {fix}")


def collect(run: RunConfig, out: Path, num: int, shard_size: int, workers: int, address: str) -> None:
    """Write ``num`` records of random play to ``out``, in shards of ``shard_size``.

    Args:
        run: settings, seed included.
        out: directory; what is finished there is kept.
        num: records.
        shard_size: records of a file.
        workers: shards that are written at the same time, at most.
        address: of the Ray cluster, see ``dreamrl.cluster``; its nodes must share the disk of ``out``.
    """
    wanted = wanted_manifest(run, num, shard_size)
    check_collection(out, wanted)
    check_writable(out)
    if not (out / MANIFEST).exists():  # a world that cannot play says so before anything is written or started
        for _ in draw_records(PlayDrawer(run, world_of(run)), 0, min(num, TRIED)):
            pass
    out.mkdir(parents=True, exist_ok=True)
    manifest = replace(wanted, files=kept_files(out))
    write_manifest(out, manifest)
    if PATCHES not in manifest.files:
        manifest.files[PATCHES] = write_codec_patches(run, out)
        write_manifest(out, manifest)
    missing = [index for index in range(manifest.num_shards) if shard_name(index) not in manifest.files]
    if len(missing) < manifest.num_shards:
        kept = f"{manifest.num_shards - len(missing)} of {manifest.num_shards} shards"
        print(f"collect: {kept} were finished before and are kept", flush=True)
    try:
        if missing:
            _write_missing(run, out, manifest, missing, workers, address)
    except KeyboardInterrupt as stopped:
        raise KeyboardInterrupt(str(stopped) or f"interrupted; {AGAIN}") from None
    size = sum(file.bytes for file in manifest.files.values())
    print(f"{num} records in {out}: {manifest.num_shards} shards, {size / 2**20:.1f} MB")


def kept_files(out: Path) -> dict[str, StoredFile]:
    """The files of ``out`` that are as its manifest says; leftovers of writings that were killed are removed."""
    for leftover in out.glob(".*.partial"):
        leftover.unlink()
    if not (out / MANIFEST).exists():
        return {}
    files = read_manifest(out).files
    return {
        name: file
        for name, file in files.items()
        if (out / name).is_file() and (out / name).stat().st_size == file.bytes and sha256(out / name) == file.sha256
    }


def write_codec_patches(run: RunConfig, out: Path) -> StoredFile:
    """Write what the image codec is to be trained on."""
    write_patches(out / PATCHES, PlayDrawer(run, world_of(run)).patches())
    return _stored(out / PATCHES)


def write_records(run: RunConfig, out: Path, shard_size: int, num: int, index: int) -> StoredFile:
    """Draw and write shard ``index`` of ``num`` records in shards of ``shard_size``."""
    first, end = index * shard_size, min(num, (index + 1) * shard_size)
    path = out / shard_name(index)
    write_shard(path, first, draw_records(PlayDrawer(run, world_of(run)), first, end))
    return _stored(path)


def draw_records(drawer: PlayDrawer, first: int, end: int) -> Iterator[PlayRecord]:
    """Records ``first`` to ``end`` - 1 of a data set: those of update 0, then those of update 1, and so on."""
    scenes = drawer.config.pretrain.scenes_per_step
    for number in range(first, end):
        update, place = divmod(number, scenes)
        yield drawer.draw(update, place, drawer.dreams_to_read(update, scenes))


def _write_missing(
    run: RunConfig, out: Path, manifest: Manifest, missing: list[int], workers: int, address: str
) -> None:
    """Write the shards ``missing`` on Ray; the manifest is kept up to date, whatever happens."""
    from dreamrl.cluster import ray_session

    done = manifest.num - sum(end - begin for begin, end in map(manifest.span_of, missing))
    size = sum(file.bytes for file in manifest.files.values())
    progress = StageProgress("collect", manifest.num, done=done)
    with stoppable(out) as stop, ray_session(run, out, address), progress:
        stop.listen()
        saved_at = time.monotonic()
        try:
            for index, file in _finished(run, out, manifest, missing, workers, lambda: stop.asked):
                manifest.files[shard_name(index)] = file
                begin, end = manifest.span_of(index)
                size += file.bytes
                progress.advance(end - begin, MB=size / 2**20)
                if time.monotonic() - saved_at >= SAVE_SECONDS:
                    write_manifest(out, manifest)
                    saved_at = time.monotonic()
        finally:
            write_manifest(out, manifest)
        if stop.asked:
            raise KeyboardInterrupt(f"interrupted; {progress.done} of {manifest.num} records are kept, {AGAIN}")


def _finished(
    run: RunConfig,
    out: Path,
    manifest: Manifest,
    missing: list[int],
    workers: int,
    stopped: Callable[[], bool],
) -> Iterator[tuple[int, StoredFile]]:
    """Each missing shard once it is written, in the order in which they are; ends early when ``stopped``."""
    import ray
    from ray.exceptions import RayTaskError

    task, settings = ray.remote(max_retries=3)(_task), ray.put(to_dict(run))
    todo, running = iter(missing), {}
    try:
        while not stopped():
            while len(running) < workers and (index := next(todo, None)) is not None:
                running[
                    task.options(name=f"collect shard {index}").remote(
                        settings, str(out.resolve()), manifest.shard_size, manifest.num, index
                    )
                ] = index
            if not running:
                return
            for ready in ray.wait(list(running), timeout=POLL_SECONDS)[0]:
                try:
                    file = ray.get(ready)
                except RayTaskError as error:
                    raise error.cause from None  # a mistake in the world, as if it had been found here
                yield running.pop(ready), file
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _task(settings: dict[str, Any], out: str, shard_size: int, num: int, index: int) -> StoredFile:
    """One shard, in a process of Ray's."""
    return write_records(from_dict(settings, "the driver's settings"), Path(out), shard_size, num, index)


def _stored(path: Path) -> StoredFile:
    return StoredFile(bytes=path.stat().st_size, sha256=sha256(path))
