"""Pretraining on collected records: batches like those of ``dreamrl.data.RandomPlay``, read from files.

Update u consists of the records u * S to u * S + S - 1, so a run on collected records of its own seed learns what a
run that plays on the fly learns, to the last bit. What is left out: shuffling between epochs, which random play does
not need; an epoch repeats the records in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import torch

from dreamrl.config import RunConfig
from dreamrl.data import PlayEncoder
from dreamrl.manifest import PATCHES, fitting_manifest, spans
from dreamrl.nn.codec import ImageCodec
from dreamrl.nn.text import TextTokenizer
from dreamrl.records import CODEC_SCENES
from dreamrl.shards import Span, plain_tables, read_patches, records_of, tables_of
from envs.world import World

Reader = Callable[[Iterable[Span]], Iterator[pa.Table]]
"""Reads spans as tables of any length, in order: in this process, or by tasks of Ray Data."""


class StoredPlay:
    """Batches of collected records.

    Reading in order is a stream that keeps a few records in memory; asking for another batch starts a new stream.

    Args:
        config: the run's settings.
        world: that the records are of.
        text: its tokenizer.
        codec: frozen image codec.
        directory: what ``dreamrl collect`` wrote; must fit ``config``.
        reader: how files are read.
    """

    def __init__(
        self,
        config: RunConfig,
        world: World,
        text: TextTokenizer,
        codec: ImageCodec,
        directory: Path,
        reader: Reader = plain_tables,
    ):
        """See the class."""
        self.directory, self.reader = directory, reader
        self.manifest = fitting_manifest(directory, config)
        self.encoder = PlayEncoder(config, world, text, codec)
        self._stream: Iterator[pa.Table] = iter(())
        self._next: tuple[int, ...] = ()

    def patches(self, scenes: int = CODEC_SCENES) -> torch.Tensor:
        """Distinct patches for the codec, (n, 3 S S) in [0, 1]: those that a run of the data's seed sees."""
        assert scenes == CODEC_SCENES, f"patches of {CODEC_SCENES} scenes were stored, not of {scenes}"
        return torch.from_numpy(read_patches(self.directory / PATCHES).copy()).float() / 255

    def close(self) -> None:
        """Stop reading; the next batch starts a new stream."""
        self._stream, self._next = iter(()), ()

    def batch(self, index: int, scenes: int, rank: int = 0, workers: int = 1) -> dict[str, torch.Tensor]:
        """Batch ``index``: this worker's share of ``scenes`` records."""
        if (index, scenes, rank, workers) != self._next:
            wanted = spans(self.manifest, self.directory, index, scenes, rank, workers)
            self._stream = tables_of(self.reader(wanted), len(range(rank, scenes, workers)))
        self._next = (index + 1, scenes, rank, workers)
        table = next(self._stream)
        first = index % (self.manifest.num // scenes) * scenes
        numbers = table["number"].to_pylist()
        assert numbers == list(range(first + rank, first + scenes, workers)), f"batch {index} is records {numbers}"
        return self.encoder.batch(records_of(table), index, rank)
