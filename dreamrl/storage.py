"""A second copy of a run in object storage or on a network file system, from which it can be resumed anywhere.

The driver copies what is new: published checkpoints, models, metrics and pictures. Object stores cannot rename, so
a directory is complete when the file that lists its digests is there, which is written last; whoever reads a
checkpoint checks the digests.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING

from dreamrl.checkpoint import CONFIG, MANIFEST
from dreamrl.errors import UserError
from dreamrl.preflight import RUN_CONFIG

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

LISTS = (MANIFEST, CONFIG)
"""Files that list the digests of their directory."""
LEFT_OUT = ("ray", "ray.log", "stop")
"""What only this machine needs: Ray's own records and logs."""


class Storage:
    """The copy of one run at ``uri``.

    Args:
        uri: any that pyarrow or fsspec reads: ``s3://bucket/run``, ``gs://...``, ``file:///mnt/nfs/run``.
    """

    def __init__(self, uri: str):
        """Raises UserError if no file system is known for ``uri`` or it cannot be reached."""
        self.uri = uri
        self.files, self.root = _open(uri)
        self.known: dict[str, tuple[int, int]] = {}  # path in the run -> size and time of what was copied last

    def push(self, out: Path) -> int:
        """Copy what is new or changed in ``out``, delete checkpoints that are no longer there; how many were copied."""
        local = {
            path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file() and _travels(path, out)
        }
        changed = []
        for name, path in local.items():
            try:
                state = path.stat()
            except FileNotFoundError:  # an old checkpoint that was deleted meanwhile
                continue
            if self.known.get(name) != (mark := (state.st_size, state.st_mtime_ns)):
                changed.append((name, path, mark))
        copied = 0
        for name, path, mark in sorted(changed, key=lambda item: (PurePosixPath(item[0]).name in LISTS, item[0])):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            self._write(name, data)
            self.known[name] = mark
            copied += 1
        self._forget(local)
        return copied

    def pull(self, out: Path) -> None:
        """Copy the whole run to ``out``, which does not exist yet."""
        from pyarrow.fs import FileSelector, FileType

        found = self.files.get_file_info(FileSelector(self.root, recursive=True, allow_not_found=True))
        names = {self._name(info.path): info for info in found if info.type == FileType.File}
        if RUN_CONFIG not in names:
            raise UserError(f"nothing to resume at {self.uri}: it holds no {RUN_CONFIG} of a run; check the address")
        # The configuration makes a directory a run: it comes last.
        for name in sorted(names, key=lambda name: name == RUN_CONFIG):
            if not _inside(name):
                raise UserError(
                    f"{self.uri} holds {name}, which would be written outside of {out}; it was tampered with"
                )
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.files.open_input_stream(f"{self.root}/{name}") as file:
                target.write_bytes(file.read())
            state = target.stat()
            self.known[name] = (state.st_size, state.st_mtime_ns)

    def _write(self, name: str, data: bytes) -> None:
        path = f"{self.root}/{name}"
        self.files.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with self.files.open_output_stream(path) as file:
            file.write(data)

    def _forget(self, local: dict[str, Path]) -> None:
        """Delete copies of checkpoints that the run has deleted; nothing else is ever deleted."""
        gone = {PurePosixPath(name).parts[1] for name in self.known if name.startswith("checkpoints/")}
        gone -= {PurePosixPath(name).parts[1] for name in local if name.startswith("checkpoints/")}
        for checkpoint in gone:
            self.files.delete_dir(f"{self.root}/checkpoints/{checkpoint}")
            self.known = {k: v for k, v in self.known.items() if not k.startswith(f"checkpoints/{checkpoint}/")}

    def _name(self, path: str) -> str:
        return path.removeprefix(self.root.lstrip("/")).removeprefix(self.root).lstrip("/")


class Mirror:
    """Pushes a run to its storage beside the training; inside ``with`` and, to be sure, once more at the end.

    Storage that fails does not stop a run: it is said, and tried again with the next checkpoint.

    Args:
        uri: see :class:`Storage`; empty: nothing is copied.
        out: the run's directory.
    """

    def __init__(self, uri: str, out: Path):
        """See the class."""
        self.storage = Storage(uri) if uri else None
        self.out, self.seen = out, set()
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="storage")
        self.pending: Future | None = None

    def __enter__(self) -> Mirror:
        """Nothing to prepare."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        """Wait for what is under way and copy the rest, also of a run that failed or was interrupted."""
        self.pool.shutdown(wait=True)
        if self.storage is not None and self.out.exists():
            self._push()

    def look(self) -> None:
        """Start copying if there is a checkpoint that was not there before; returns at once."""
        checkpoints = self.out / "checkpoints"
        if self.storage is None or not checkpoints.is_dir() or (self.pending and not self.pending.done()):
            return
        now = {path.name for path in checkpoints.iterdir() if not path.name.startswith(".")}
        if now - self.seen:
            self.seen = now  # before the thread can fail and take it back
            self.pending = self.pool.submit(self._push)

    def _push(self) -> None:
        assert self.storage is not None
        try:
            self.storage.push(self.out)
        except OSError as error:
            self.seen = set()
            fix = "the run goes on; it is tried again with the next checkpoint"
            print(f"storage: cannot write to {self.storage.uri} ({_line(error)}); {fix}", file=sys.stderr, flush=True)


def _open(uri: str) -> tuple[FileSystem, str]:
    import pyarrow as pa
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        return FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "://" not in uri:
            raise UserError(f"storage ({uri}) must be a URI such as s3://bucket/run or file:///mnt/run") from error
    except OSError as error:
        raise UserError(
            f"storage ({uri}) cannot be reached ({_line(error)}); check the address and the keys"
        ) from error
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"storage ({uri}): {_line(error)}; use a URI that pyarrow or fsspec knows") from error
    return PyFileSystem(FSSpecHandler(files)), root


def _travels(path: Path, out: Path) -> bool:
    parts = path.relative_to(out).parts
    return parts[0] not in LEFT_OUT and not any(part.startswith(".") for part in parts)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
