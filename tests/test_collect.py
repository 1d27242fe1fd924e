"""``dreamrl collect``: the same files whoever writes them and however often they are killed."""

import json
import os
import signal

import pyarrow.parquet as pq
import pytest
from programs import finish, kill, start, wait_for

from dreamrl.bench.data import collect_here
from dreamrl.bench.run import run_bench
from dreamrl.cli import main
from dreamrl.collect import collect, collect_settings, draw_records, kept_files
from dreamrl.manifest import check_data, read_manifest, shard_name
from dreamrl.records import PlayDrawer
from dreamrl.settings import load_settings
from envs.registry import world_of

SMALL = ["model.dream_length=4", "model.num_dream_sequences=2", "pretrain.scenes_per_step=4"]


def settings(seed=0):
    return load_settings("nano", None, SMALL, seed)


def files(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.name != "ray.log"}


def all_records(directory):
    return [row for path in sorted(directory.glob("shard-*")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def here(tmp_path):
    """What 30 records in shards of 8 must look like, written in this process."""
    directory = tmp_path / "here"
    directory.mkdir()
    collect_here(settings(), directory, 30, 8)
    return directory


def test_records_do_not_depend_on_the_shards(here, tmp_path):
    for shard_size in (1, 7, 30, 100):
        other = tmp_path / str(shard_size)
        other.mkdir()
        collect_here(settings(), other, 30, shard_size)
        assert all_records(other) == all_records(here)
        assert len(list(other.glob("shard-*"))) == -(-30 // shard_size)
    assert [row["number"] for row in all_records(here)] == list(range(30))


def test_records_are_those_of_the_updates_one_after_the_other(here):
    drawer = PlayDrawer(settings(), world_of(settings()))
    found = all_records(here)
    for update in range(7):
        read = drawer.dreams_to_read(update, 4)
        for place in range(4):
            row = found[4 * update + place]
            assert (row["text"], len(row["focus"])) == (drawer.draw(update, place, read).text, read + 1)


def test_any_part_can_be_drawn_alone():
    drawer = PlayDrawer(settings(), world_of(settings()))
    whole = [record.text for record in draw_records(drawer, 0, 12)]
    assert [record.text for record in draw_records(drawer, 5, 9)] == whole[5:9]


def test_another_seed_gives_other_records(here, tmp_path):
    (tmp_path / "other").mkdir()
    collect_here(settings(seed=1), tmp_path / "other", 30, 8)
    seeds = [
        [(row["text"], row["patches"], row["pictures"]) for row in all_records(d)] for d in (here, tmp_path / "other")
    ]
    assert sum(a == b for a, b in zip(*seeds, strict=True)) < 5


def test_damaged_and_unfinished_files_are_not_kept(here):
    (here / ".shard-00009.parquet.partial").write_bytes(b"half")
    (here / shard_name(1)).write_bytes(b"damaged")
    (here / shard_name(2)).unlink()
    assert set(kept_files(here)) == {"patches.parquet", shard_name(0), shard_name(3)}
    assert not (here / ".shard-00009.parquet.partial").exists()


@pytest.mark.ray
def test_ray_writes_the_same_files_and_mends_them(here, tmp_path, capfd):
    out = tmp_path / "out"
    collect(settings(), out, 30, 8, 2, "local")
    assert files(out) == files(here)
    check_data(out, settings())
    (out / shard_name(1)).write_bytes(b"damaged")
    kept = (out / shard_name(2)).stat().st_mtime_ns
    collect(settings(), out, 30, 8, 1, "local")
    assert files(out) == files(here)
    assert (out / shard_name(2)).stat().st_mtime_ns == kept
    assert "3 of 4 shards were finished before and are kept" in capfd.readouterr().out


SLOW = ("--world", "physics", "--num", "400", "--shard-size", "40")
"""About ten seconds of work."""


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_and_an_interrupted_collection_go_on(tmp_path):
    out, expected = tmp_path / "out", tmp_path / "expected"
    command = "collect", "--out", str(out), *SLOW
    process = start(*command)
    wait_for((out / shard_name(1)).exists, process)
    kill(process)
    assert len(list(out.glob("shard-*"))) < 10

    process = start(*command)
    wait_for((out / shard_name(4)).exists, process)
    os.kill(process.pid, signal.SIGINT)
    output = finish(process, code=130, seconds=120)
    assert "of 400 records are kept, run the same command again to go on" in output
    assert 0 < len(read_manifest(out).files) < 11

    output = finish(start(*command))
    assert "shards were finished before and are kept" in output
    expected.mkdir()
    run = collect_settings("physics", None, None, None, [], None)
    collect_here(run, expected, 400, 40)
    assert files(out) == files(expected)


# --- the command line


def test_worlds_and_sizes_of_the_command_line():
    one = collect_settings("frozen_lake", (3, 5), None, None, ["model.dream_length=6"], 4)
    assert (one.world.name, one.world.sizes, one.model.dream_length, one.seed) == ("frozen_lake", (3, 5), 6, 4)
    several = collect_settings("frozen_lake@3-4+minigrid*2", None, None, None, [], None)
    assert several.world.worlds == ("frozen_lake@3-4", "minigrid*2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: --world, --num, --out"),
        ("--world frozen_lake --num 5", "the following arguments are required: --out"),
        ("--world frozen_lace --num 5 --out new", 'unknown world "frozen_lace"; did you mean "frozen_lake"?'),
        ("--world frozen_lake --num 0 --out new", "--num (0) must be between 1 and"),
        ("--world frozen_lake --num x --out new", "argument --num: invalid int value: 'x'"),
        ("--world frozen_lake --num 5 --out new --shard-size 0", "--shard-size (0) must be between 1 and"),
        ("--world frozen_lake --num 200000 --out new --shard-size 1", "--num (200000) makes more than 100000 files"),
        ("--world frozen_lake --num 5 --out new --workers 0", "--workers (0) must be between 1 and 1024"),
        ("--world frozen_lake --num 5 --out new --seed=-1", "run.seed (-1) must be between 0 and"),
        ("--world frozen_lake --num 5 --out new --sizes 3,x", 'argument --sizes: "3,x" must be whole numbers'),
        ("--world frozen_lake --num 5 --out new --sizes 9", "world.sizes ([9]) must hold at least one size"),
        ("--world frozen_lake+minigrid --num 5 --out new --sizes 3", "--sizes is for one world; write sizes behind"),
        ("--world frozen_lake --num 5 --out new world.sizes=3", "--world and --sizes say which scenes, which"),
        ("--world physics --num 40 --out new model.dream_length=1", "physics asks about "),
        ("--world frozen_lake --num 5 --out new model.dream_lenth=3", 'unknown key "model.dream_lenth"'),
        ("--world frozen_lake --num 5 --out new --address here", '--address ("here") must be local, auto'),
        ("--world frozen_lake --num 5 --out file", "file is a file; choose another --out"),
        ("--world frozen_lake --num 5 --out full", "full exists and holds no manifest.json; choose another --out"),
        ("--world frozen_lake --num 5 --out new --shard 3", 'dreamrl collect has no flag "--shard"; did you mean'),
        ("--world frozen_lake --num 31 --shard-size 8 --out here", "here was begun with --num 30, not 31; repeat its"),
        ("--world frozen_lake --num 30 --shard-size 9 --out here", "here was begun with --shard-size 8, not 9"),
        ("--world frozen_lake --num 30 --shard-size 8 --out here --seed 1", "here was begun with seed 0, not 1"),
        ("--world minigrid --num 30 --shard-size 8 --out here", "here was begun with world.name frozen_lake, not mini"),
        (
            "--world frozen_lake --num 30 --shard-size 8 --out here model.dream_length=5",
            "here was begun with model.dream_length 4, not 5",
        ),
    ],
)
def test_mistakes(here, refused, tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    words = line.split()
    given = {word.split("=")[0] for word in words}
    small = [setting for setting in SMALL if setting.split("=")[0] not in given]
    assert refused("collect", *words, *(small if "--out" in words else [])).startswith(message)


def test_data_that_does_not_fit_stops_training_before_it_starts(here, fake_work, refused, tmp_path):
    short = refused("pretrain", "--data", str(here), *SMALL, "model.dream_length=8")
    assert "was collected with model.dream_length=4, the run has 8; set model.dream_length=4 or collect again" in short
    assert refused("train", "--data", "none") == (
        "data none does not exist; give the directory that `dreamrl collect --out` wrote"
    )
    assert refused("ppo", "--data", "none").startswith('dreamrl ppo has no flag "--data"')
    assert refused("train", "--resume", "none", "--data", "x").startswith("--resume takes everything from")
    (here / shard_name(1)).unlink()
    assert "shard-00001.parquet is missing" in refused("pretrain", "--data", str(here), *SMALL)
    assert fake_work.calls == []


def test_data_reach_the_work(here, fake_work):
    assert main(["pretrain", "--data", str(here), *SMALL]) == 0
    assert fake_work.calls[0][-1] == {"collected": here}


def test_bench_data_reports_its_numbers():
    result = run_bench("data", ["records=64", "shard_size=32", "updates=1", "rounds=1", "epochs=1"])
    assert result["ratio"] > 0 and len(result["rss_mb"]) == 2 and result["bytes_per_record"] > 0
    assert json.loads(json.dumps(result)) == result
