"""Records in files: what is read is what was written, from any place on, and trained on alike."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from programs import finish, kill, start, wait_for
from two_workers import pretrain_by_two

from dreamrl.bench.data import collect_here
from dreamrl.bench.processes import weight_hash
from dreamrl.cluster import ray_session
from dreamrl.data import RandomPlay
from dreamrl.manifest import read_manifest, shard_name, spans
from dreamrl.pretrain import pretrain_loop, ray_tables
from dreamrl.records import PlayDrawer
from dreamrl.saving import weights
from dreamrl.settings import load_settings
from dreamrl.shards import Span, plain_tables, portions, read_patches, records_of, tables_of, write_patches, write_shard
from dreamrl.stored import StoredPlay
from envs.registry import world_of

TINY = [
    "model.embedding_dim=16", "model.num_heads=2", "model.codec_hidden=32", "model.dream_length=4",
    "model.num_dream_sequences=2", "pretrain.codec_steps=40", "pretrain.scenes_per_step=4", "pretrain.num_workers=1",
    "pretrain.checkpoint_every=5",
]  # fmt: skip


def run_of(*overrides, seed=0):
    return load_settings("nano", None, [*TINY, *overrides], seed)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """50 records of 3x3 and 4x4 boards in shards of 7."""
    directory = tmp_path_factory.mktemp("data")
    collect_here(run_of(), directory, 50, 7)
    return directory


def same_record(a, b):
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert (x.dtype, x.shape) == (y.dtype, y.shape) and (x == y).all(), field.name
        else:
            assert x == y, field.name


@pytest.mark.parametrize("world", ["frozen_lake", "temporal", "easy_vqa"])
def test_records_come_back_as_they_were(tmp_path, world):
    run = run_of(f"world.name={world}")
    drawer = PlayDrawer(run, world_of(run))
    records = [drawer.draw(0, number, 2) for number in range(70)]
    write_shard(tmp_path / "a.parquet", 100, records)
    read = pq.read_table(tmp_path / "a.parquet")
    assert read["number"].to_pylist() == list(range(100, 170))
    for table in (read, read.slice(3, 40), pa.concat_tables([read.slice(60), read.slice(0, 5)])):
        numbers = table["number"].to_pylist()
        found = records_of(table)
        assert len(found) == len(numbers)
        for number, record in zip(numbers, found, strict=True):
            same_record(records[number - 100], record)
    write_shard(tmp_path / "b.parquet", 100, records)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_patches_come_back_as_they_were(tmp_path):
    patches = np.random.default_rng(0).integers(0, 256, (5, 48), np.uint8)
    write_patches(tmp_path / "p.parquet", patches)
    assert (read_patches(tmp_path / "p.parquet") == patches).all()


def test_a_failed_writing_leaves_the_old_file(tmp_path, collected):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"old")

    def broken():
        yield records_of(pq.read_table(collected / shard_name(0)))[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_shard(path, 0, broken())
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("scenes", "workers"), [(4, 1), (4, 2), (8, 2), (6, 3), (7, 2)])
@pytest.mark.parametrize("update", [0, 2, 5, 13])
def test_workers_read_their_share_of_every_update(collected, scenes, workers, update):
    manifest = read_manifest(collected)
    for rank in range(workers):
        share = len(range(rank, scenes, workers))
        reading = tables_of(plain_tables(spans(manifest, collected, update, scenes, rank, workers)), share)
        updates = 50 // scenes
        for index in range(update, update + 2 * updates):
            first = index % updates * scenes
            assert next(reading)["number"].to_pylist() == list(range(first, first + scenes))[rank::workers]


@pytest.mark.parametrize("records", [1, 3, 5, 1000])
def test_portions_are_the_spans(collected, records):
    whole = list(itertools.islice(spans(read_manifest(collected), collected, 3, 4, 1, 2), 12))
    groups = list(portions(whole, records))
    assert all(sum(s.end - s.begin for s in group) == 2 * records for group in groups[:-1])
    numbers = [[n for span in part for n in span.taken(span.first, span.end)] for part in (whole, sum(groups, []))]
    assert numbers[0] == numbers[1]


def test_a_span_takes_its_worker_s_records():
    span = Span(path="", first=100, begin=104, end=117, scenes=8, rank=1, workers=2)
    assert span.taken(100, 200).tolist() == [105, 107, 109, 111, 113, 115]
    assert span.taken(108, 112).tolist() == [109, 111]


def play_of(loaded, codec, run, directory=None):
    if directory is None:
        return RandomPlay(run, loaded.world, loaded.text, codec)
    return StoredPlay(run, loaded.world, loaded.text, codec, directory)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("extra", [[], ["model.use_contrastive_loss=true", "model.vision_backbone=lite"]])
def test_batches_from_disk_are_those_on_the_fly(collected, loaded, tile_codec, extra):
    run = run_of(*extra)
    stored, played = (play_of(loaded, tile_codec, run, where) for where in (collected, None))
    for index, rank, workers in ((0, 0, 1), (1, 0, 1), (9, 0, 1), (3, 1, 2), (4, 1, 2), (2, 0, 2)):
        assert equal(stored.batch(index, 4, rank, workers), played.batch(index, 4, rank, workers))
    assert torch.equal(stored.patches(64), played.patches(64))


def test_epochs_repeat_the_records_in_their_order(collected, loaded, tile_codec):
    stored = play_of(loaded, tile_codec, run_of(), collected)
    first, again = ([stored.batch(index, 4) for index in range(begin, begin + 12)] for begin in (0, 12))
    for a, b in zip(first, again, strict=True):
        a.pop("noise_seed"), b.pop("noise_seed")  # what is hidden is drawn anew
        assert equal(a, b)


@pytest.mark.slow
def test_training_from_disk_ends_with_the_weights_of_training_on_the_fly(collected, tmp_path):
    run = run_of("pretrain.steps=12")
    on_the_fly = weights(pretrain_loop(run, tmp_path / "fly").model)
    assert pretrain_loop(run, tmp_path / "disk", should_stop=lambda: True, collected=collected) is None
    from_disk = weights(pretrain_loop(run, tmp_path / "disk", collected=collected).model)  # goes on at update 10
    assert all(torch.equal(on_the_fly[k], from_disk[k]) for k in on_the_fly)


@pytest.mark.ray
def test_ray_data_reads_what_a_plain_reader_reads(collected, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamrl.pretrain.PORTION", 9)  # many pipelines, none of whole updates
    run, manifest = run_of(), read_manifest(collected)
    with ray_session(run, tmp_path, "local"):
        read = [
            list(itertools.islice(tables_of(reader(spans(manifest, collected, 3, 4, 1, 2)), 2), 30))
            for reader in (plain_tables, ray_tables)
        ]
    for a, b in zip(*read, strict=True):
        assert a["number"].to_pylist() == b["number"].to_pylist()
        for x, y in zip(records_of(a), records_of(b), strict=True):
            same_record(x, y)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_train_ends_with_the_weights_of_training_on_the_fly(collected, tmp_path):
    """Two workers; killed once, then resumed without naming the data again."""
    fly, disk = tmp_path / "fly", tmp_path / "disk"
    settings = [*TINY, "pretrain.num_workers=2", "pretrain.steps=12"]
    pretrain_by_two(load_settings(overrides=settings), fly)
    process = start("pretrain", "--data", str(collected), "--out", str(disk), *settings)
    wait_for(lambda: list(disk.glob("checkpoints/pretrain-*05")), process)
    kill(process)
    finish(start("pretrain", "--resume", str(disk)))
    assert weight_hash(disk / "model") == weight_hash(fly / "pretrained")
