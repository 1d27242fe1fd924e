"""A second copy of a run: complete, resumable elsewhere, and no reason to stop when it fails."""

import pytest
import torch

from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.errors import UserError
from dreamrl.storage import Mirror, Storage


def save(out, number, keep=2):
    save_checkpoint(out / "checkpoints", f"ppo-{number:08d}", {"w": torch.full((3,), number)}, {"step": number}, keep)


def files(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def run(tmp_path):
    out = tmp_path / "run"
    (out / "ray").mkdir(parents=True)
    (out / "config.yaml").write_text("preset: nano\n")
    (out / "metrics.jsonl").write_text('{"stage": "ppo", "step": 1}\n')
    (out / "ray" / "state").write_text("only here")
    (out / ".secret").write_text("only here")
    save(out, 1)
    return out


@pytest.fixture(params=["file", "memory"])
def uri(request, tmp_path):
    return f"file://{tmp_path / 'copy'}" if request.param == "file" else f"memory://copy-{tmp_path.name}"


def test_what_comes_back_is_what_went(run, uri, tmp_path):
    assert Storage(uri).push(run) == 5
    Storage(uri).pull(tmp_path / "back")
    expected = {name: data for name, data in files(run).items() if not name.startswith((".", "ray/"))}
    assert files(tmp_path / "back") == expected
    assert newest_checkpoint(tmp_path / "back" / "checkpoints", "ppo")[2] == {"step": 1}


def test_only_what_changed_is_copied_and_old_checkpoints_go(run, uri, tmp_path):
    storage = Storage(uri)
    storage.push(run)
    assert storage.push(run) == 0
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "step": 2}\n')
    assert storage.push(run) == 1
    save(run, 2)
    save(run, 3)  # deletes the first
    assert storage.push(run) == 6
    Storage(uri).pull(tmp_path / "back")
    assert sorted(p.name for p in (tmp_path / "back" / "checkpoints").iterdir()) == ["ppo-00000002", "ppo-00000003"]


def test_a_copy_that_was_cut_off_falls_back_to_the_checkpoint_before(run, tmp_path, caplog):
    copy = tmp_path / "copy"
    storage = Storage(f"file://{copy}")
    storage.push(run)
    save(run, 2)
    real, written = storage._write, []

    def dies(name, data):
        if len(written) == 2:
            raise OSError("the network is gone")
        written.append(name)
        real(name, data)

    storage._write = dies
    with pytest.raises(OSError):
        storage.push(run)
    assert not any(name.endswith("manifest.json") for name in written)  # it comes last
    Storage(f"file://{copy}").pull(tmp_path / "back")
    found = newest_checkpoint(tmp_path / "back" / "checkpoints", "ppo")
    assert found[0].name == "ppo-00000001" and "falling back" in caplog.text


def test_a_mirror_follows_the_checkpoints(run, tmp_path):
    copy = tmp_path / "copy"
    with Mirror(f"file://{copy}", run) as mirror:
        mirror.look()
        mirror.pending.result()
        assert (copy / "checkpoints" / "ppo-00000001" / "manifest.json").exists()
        first = mirror.pending
        mirror.look()
        assert mirror.pending is first  # nothing new
        save(run, 2)
        mirror.look()
        (run / "summary.json").write_text("{}")
    assert (copy / "checkpoints" / "ppo-00000002" / "manifest.json").exists() and (copy / "summary.json").exists()


def test_storage_that_fails_is_said_and_does_not_stop_the_run(run, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    with Mirror(f"file://{tmp_path / 'file' / 'copy'}", run) as mirror:
        mirror.look()
        mirror.pending.result()
        assert not mirror.seen  # it will be tried again
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].startswith("storage: cannot write to file://") and "goes on" in said[0]


def test_without_storage_nothing_happens(run):
    with Mirror("", run) as mirror:
        mirror.look()
        assert mirror.pending is None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("runs/copy", "must be a URI such as"),
        ("nowhere://bucket/run", "use a URI that pyarrow or fsspec knows"),
    ],
)
def test_wrong_addresses(uri, said):
    with pytest.raises(UserError, match=said):
        Storage(uri)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="nothing to resume at file"):
        Storage(f"file://{tmp_path / 'empty'}").pull(tmp_path / "back")
    assert not (tmp_path / "back").exists()
