"""Records of random play in Parquet files, written whole or not at all and read a few at a time.

Parquet, because it is what Ray Data and most other tools read, and pyarrow comes with Ray. Patches instead of
pictures (see ``dreamrl.records``), compressed by zstd: on FrozenLake 0.2 KB a record against 8.5 KB as PNG files
and 1.0 KB as compressed pixels, and the fastest of the three to write and to read.

Equal records make equal bytes, whoever writes them (with the same pyarrow).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dreamrl.files import replacement
from dreamrl.records import PlayRecord

ROW_GROUP = 64
"""Records that are read at a time."""
_WORDS, _FLAG, _NUMBERS, _FLAGS = pa.string(), pa.bool_(), pa.list_(pa.int32()), pa.list_(pa.bool_())
SCHEMA = pa.schema(
    {
        "number": pa.int64(),
        "text": _WORDS,
        "answer": _WORDS,
        "scripted": _FLAG,
        "grid": _NUMBERS,
        "patches": pa.binary(),
        "pictures": _NUMBERS,
        "seen": _NUMBERS,
        "actions": _NUMBERS,
        "beliefs": _NUMBERS,
        "lengths": _NUMBERS,
        "succeeded": _FLAGS,
        "cloned": _FLAGS,
        "focus": _FLAGS,
        "pair_pictures": _NUMBERS,
        "pair_actions": _NUMBERS,
        "repaint": _NUMBERS,
    }
)
"""``number`` counts the records of a data set; the others are the fields of :class:`PlayRecord`, flattened."""
assert set(SCHEMA.names) == {"number", *(field.name for field in dataclasses.fields(PlayRecord))}


@dataclass(frozen=True, kw_only=True)
class Span:
    """Records ``begin`` to ``end`` - 1 of a data set, all in one file: those that one worker takes of each update.

    Example:
        A shard holds records 100 to 199; with 8 scenes an update, worker 1 of 2 takes records 105, 107, 109, 111, ...
        of ``Span(path="shard-00001.parquet", first=100, begin=104, end=200, scenes=8, rank=1, workers=2)``.
    """

    path: str
    first: int
    """Number of the file's first record."""
    begin: int
    end: int
    scenes: int
    """Records of an update, over all workers."""
    rank: int
    workers: int

    def taken(self, begin: int, end: int) -> np.ndarray:
        """Which of the records ``begin`` to ``end`` - 1 are taken, as numbers."""
        numbers = np.arange(max(begin, self.begin), min(end, self.end))
        return numbers[numbers % self.scenes % self.workers == self.rank]


def write_shard(path: Path, first: int, records: Iterable[PlayRecord]) -> None:
    """Publish ``records``, numbered from ``first`` on, as the file ``path``; memory for one row group is enough."""

    def tables() -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        for number, record in enumerate(records, first):
            rows.append(_row(number, record))
            if len(rows) == ROW_GROUP:
                yield pa.Table.from_pylist(rows, SCHEMA)
                rows = []
        if rows:
            yield pa.Table.from_pylist(rows, SCHEMA)

    _publish(path, SCHEMA, tables())


def write_patches(path: Path, patches: np.ndarray) -> None:
    """Publish ``patches`` (n, 3 S S) uint8, what the image codec is trained on, as the file ``path``."""
    table = pa.table({"patch": pa.array([patch.tobytes() for patch in patches], pa.binary())})
    _publish(path, table.schema, [table])


def read_patches(path: Path) -> np.ndarray:
    """The patches that :func:`write_patches` wrote."""
    column = pq.read_table(path, memory_map=False)["patch"].to_pylist()
    return np.frombuffer(b"".join(column), np.uint8).reshape(len(column), -1)


def read_span(span: Span) -> Iterator[pa.Table]:
    """The records of ``span`` as tables, in order, one row group in memory at a time."""
    with pq.ParquetFile(span.path, memory_map=False) as file:
        begin = span.first
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            numbers = span.taken(begin, end)
            if len(numbers):
                yield file.read_row_group(group).take(pa.array(numbers - begin))
            begin = end


def plain_tables(spans: Iterable[Span]) -> Iterator[pa.Table]:
    """The records of ``spans`` as tables, read in this process."""
    for span in spans:
        yield from read_span(span)


def portions(spans: Iterable[Span], records: int) -> Iterator[list[Span]]:
    """``spans`` cut and grouped so that each group holds about ``records`` records of one worker."""
    group: list[Span] = []
    room = 0
    for span in spans:
        begin = span.begin
        while begin < span.end:
            room = room or records * span.workers
            end = min(span.end, begin + room)
            group.append(replace(span, begin=begin, end=end))
            room -= end - begin
            begin = end
            if not room:
                yield group
                group = []
    if group:
        yield group


def tables_of(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """``tables`` cut and joined so that each has ``size`` rows; what is left over at the end is dropped."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        while count >= size:
            joined = pa.concat_tables(waiting) if len(waiting) > 1 else waiting[0]
            yield joined.slice(0, size)
            count -= size
            waiting = [joined.slice(size)] if count else []


def records_of(table: pa.Table) -> list[PlayRecord]:
    """The rows of ``table`` as records; their arrays cannot be written to."""
    columns: dict[str, Sequence] = {name: _column(table[name]) for name in SCHEMA.names if name != "number"}
    return [_record({name: column[row] for name, column in columns.items()}) for row in range(len(table))]


def _row(number: int, record: PlayRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"number": number}
    for name in SCHEMA.names[1:]:
        value = getattr(record, name)
        row[name] = value.reshape(-1) if isinstance(value, np.ndarray) else value
    return row | {"patches": record.patches.tobytes()}


def _record(row: dict[str, Any]) -> PlayRecord:
    count, pictures = len(row["lengths"]), row["pictures"]
    rows, columns = row["grid"].tolist()
    distinct = int(pictures.max()) + 1  # every patch is in some picture
    shapes = {
        "pictures": (-1, rows * columns),
        "seen": (count, -1),
        "actions": (count, -1),
        "beliefs": (count, -1),
        "pair_pictures": (2, count),
        "repaint": (count, 3),
    }
    shaped = {name: row[name].reshape(shape) for name, shape in shapes.items()}
    patches = np.frombuffer(row["patches"], np.uint8).reshape(distinct, -1)
    return PlayRecord(**(row | shaped | {"grid": (rows, columns), "patches": patches}))


def _column(column: pa.ChunkedArray) -> Sequence:
    """A column as Python values, lists as numpy arrays."""
    array: Any = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # what an empty or an oversized column stays
        array = pa.concat_arrays(array.chunks)
    if not pa.types.is_list(array.type):
        return array.to_pylist()
    values = array.values.to_numpy(zero_copy_only=False)
    ends = array.offsets.to_numpy()
    return [values[begin:end] for begin, end in zip(ends[:-1], ends[1:], strict=True)]


def _publish(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write ``tables`` to the file ``path``: a kill leaves the whole file or none."""
    with (
        replacement(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer,
    ):
        for table in tables:
            writer.write_table(table)
