"""What a directory of collected records must be for a run to learn from it; every mistake is one line."""

import json

import pytest

from dreamrl.bench.data import collect_here
from dreamrl.errors import UserError
from dreamrl.manifest import check_data, data_for, fitting_manifest, remember_data, shard_name
from dreamrl.settings import load_settings

SMALL = [
    "model.dream_length=4", "model.num_dream_sequences=2", "pretrain.scenes_per_step=4", "pretrain.num_workers=1",
]  # fmt: skip


def run_of(*overrides, seed=0):
    return load_settings("nano", None, [*SMALL, *overrides], seed)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """50 records of 3x3 and 4x4 boards in shards of 7."""
    directory = tmp_path_factory.mktemp("data")
    collect_here(run_of(), directory, 50, 7)
    return directory


@pytest.fixture
def copy(collected, tmp_path):
    """A copy that may be damaged."""
    directory = tmp_path / "copy"
    directory.mkdir()
    for file in collected.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    return directory


def test_whole_and_fitting_data_pass(collected):
    checked = []
    check_data(collected, run_of(seed=9), checked.append)
    assert sum(checked) == sum(f.stat().st_size for f in collected.glob("*.parquet"))
    assert fitting_manifest(collected, run_of("pretrain.scenes_per_step=2")).num == 50


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["world.sizes=3,5"], "with world.sizes=[3,4], the run has [3,5]; set world.sizes=[3,4] or collect again"),
        (["world.name=temporal"], "with world.name=frozen_lake, the run has temporal; set world.name=frozen_lake"),
        (["world.worlds=[frozen_lake@3-4,minigrid]"], "with world.worlds=[], the run has [frozen_lake@3-4,minigrid]"),
        (["model.dream_length=5"], "with model.dream_length=4, the run has 5; set model.dream_length=4"),
        (["model.num_dream_sequences=3"], "with model.num_dream_sequences=2, the run has 3"),
        (["model.code_levels=[8,8]"], "with model.code_levels=[8,6,5], the run has [8,8]"),
        (["model.patch_size=8"], "with model.patch_size=16, the run has 8"),
        (["pretrain.predict_share=0.5"], "with pretrain.predict_share=0.3, the run has 0.5"),
        (["pretrain.scenes_per_step=3"], "with pretrain.scenes_per_step=4, the run has 3"),
        (["pretrain.scenes_per_step=8"], "with pretrain.scenes_per_step=4, the run has 8"),
    ],
)
def test_settings_that_do_not_fit_are_named(collected, overrides, message):
    with pytest.raises(UserError) as caught:
        check_data(collected, run_of(*overrides))
    assert message in str(caught.value)


def edit(directory, **changes):
    data = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(data | changes))


def forget(directory, name):
    data = json.loads((directory / "manifest.json").read_text())
    del data["files"][name]
    (directory / "manifest.json").write_text(json.dumps(data))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / shard_name(2)).unlink(), "shard-00002.parquet is missing; copy the directory again"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json is missing; give the directory"),
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json is not valid JSON"),
        (lambda d: (d / "manifest.json").write_text("[]"), "manifest.json has format version None"),
        (lambda d: edit(d, format_version=7), "manifest.json has format version 7, this dreamrl reads 1; collect it"),
        (lambda d: edit(d, num="many"), "manifest.json was edited or is damaged"),
        (lambda d: edit(d, num=0), "manifest.json was edited or is damaged (its numbers and its files do not fit)"),
        (lambda d: edit(d, num=20), "manifest.json was edited or is damaged (its numbers and its files do not fit)"),
        (lambda d: edit(d, files=[1]), "manifest.json was edited or is damaged"),
        (lambda d: forget(d, shard_name(7)), "is not finished (8 of 9 files); run the `dreamrl collect` that began it"),
        (lambda d: flip(d / shard_name(1)), "shard-00001.parquet was damaged: its SHA-256 is not the one in"),
        (lambda d: flip(d / "patches.parquet"), "patches.parquet was damaged: its SHA-256"),
        (lambda d: (d / shard_name(3)).write_bytes((d / shard_name(3)).read_bytes()[:-9]), "bytes instead of"),
    ],
)
def test_damage_is_found_and_named(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError) as caught:
        check_data(copy, run_of())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_too_few_records_for_an_update(tmp_path):
    collect_here(run_of(), tmp_path, 3, 7)
    with pytest.raises(UserError, match=r"holds 3 records, fewer than pretrain.scenes_per_step \(4\)"):
        check_data(tmp_path, run_of())


def test_a_run_remembers_what_it_learns_from(copy, tmp_path):
    run, out = run_of(), tmp_path / "out"
    out.mkdir()
    assert data_for(run, out, None, resume=True, overwrite=False) is None
    assert data_for(run, out, copy, resume=False, overwrite=False) == copy
    remember_data(out, copy)
    assert data_for(run, out, None, resume=True, overwrite=False) == copy
    edit(copy, num=51)
    with pytest.raises(UserError, match="has changed since the run in .* began"):
        data_for(run, out, None, resume=True, overwrite=False)
    (out / "pretrained").mkdir()  # finished: the data may be gone
    assert data_for(run, out, None, resume=True, overwrite=False) is None


def test_overwrite_does_not_delete_the_data(copy, tmp_path):
    with pytest.raises(UserError, match="is inside --out .*, which --overwrite deletes"):
        data_for(run_of(), tmp_path, copy, resume=False, overwrite=True)
