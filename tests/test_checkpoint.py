"""Models and checkpoints on disk: round trips, kills at any moment, damage of every kind."""

import hashlib
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamrl.checkpoint import (
    FORMAT_VERSION,
    check_model_files,
    load_model_files,
    newest_checkpoint,
    save_checkpoint,
    save_model,
)
from dreamrl.errors import UserError

CONFIG = {"model": {"embedding_dim": 64}, "world": "frozen_lake"}


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(7, 3, generator=generator), "steps": torch.tensor(seed), "empty": torch.zeros(0, 2)}


def write_tokenizer(path):
    path.write_text('{"version": "1.0"}')


def save(directory, seed=0, config=CONFIG):
    save_model(directory, tensors(seed), config, write_tokenizer)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor.cpu()), name


def test_a_model_comes_back_as_it_was(tmp_path):
    save(tmp_path / "model")
    config, state = load_model_files(tmp_path / "model")
    assert config == CONFIG
    same(state, tensors())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_shared_strided_and_odd_tensors(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "tied": base,
        "tied_too": base,
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "row": base[2],
        "scalar": torch.tensor(3),
        "flag": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "gradient": torch.nn.Parameter(torch.ones(2)),
    }
    save_model(tmp_path / "model", state, {}, write_tokenizer)
    same(load_model_files(tmp_path / "model")[1], {name: tensor.detach() for name, tensor in state.items()})


def test_saving_again_replaces_the_whole_model(tmp_path):
    save(tmp_path / "model", seed=1)
    (tmp_path / "model" / "stale.txt").write_text("old")
    save(tmp_path / "model", seed=2)
    same(load_model_files(tmp_path / "model")[1], tensors(2))
    assert not (tmp_path / "model" / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_model_and_no_trash(tmp_path):
    def fail(path):
        raise OSError(28, "No space left on device")

    save(tmp_path / "model", seed=1)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path / "model", tensors(2), CONFIG, fail)
    same(load_model_files(tmp_path / "model")[1], tensors(1))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from dreamrl.checkpoint import save_checkpoint, save_model

class Deadly(dict):
    def items(self):
        os.kill(os.getpid(), signal.SIGKILL)

root = Path(sys.argv[1])
if sys.argv[2] == "model":
    save_model(root / "model", {"w": torch.ones(3)}, {}, lambda path: os.kill(os.getpid(), signal.SIGKILL))
else:
    save_checkpoint(root, "ppo-00000002", {"w": torch.ones(3)}, Deadly(step=2))
"""


def killed_while_saving(root, what):
    done = subprocess.run([sys.executable, "-c", KILLED, str(root), what], cwd=Path(__file__).parent.parent)
    assert done.returncode == -9
    assert list(root.glob(".*.partial-*")), "the kill came too early or too late to prove anything"


def test_a_kill_while_saving_leaves_the_old_model(tmp_path):
    save(tmp_path / "model", seed=1)
    killed_while_saving(tmp_path, "model")
    same(load_model_files(tmp_path / "model")[1], tensors(1))
    save(tmp_path / "model", seed=2)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    save(tmp_path / "model", seed=1)
    (tmp_path / "model").rename(tmp_path / ".model.old")
    same(load_model_files(tmp_path / "model")[1], tensors(1))
    save(tmp_path / "model", seed=2)
    same(load_model_files(tmp_path / "model")[1], tensors(2))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(path, key):
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.rename(d.with_name("gone")), "model {d} does not exist; give the model/ directory of a run"),
        (lambda d: (d / "config.json").unlink(), "{d}/config.json is missing; give"),
        (lambda d: (d / "model.safetensors").unlink(), "{d}/model.safetensors is missing; give"),
        (lambda d: (d / "tokenizer.json").unlink(), "{d}/tokenizer.json is missing; give"),
        (lambda d: cut(d / "model.safetensors", 100), "{d}/model.safetensors was damaged or changed: its SHA-256"),
        (lambda d: cut(d / "model.safetensors", 0), "{d}/model.safetensors was damaged or changed: its SHA-256"),
        (lambda d: flip(d / "model.safetensors", -1), "{d}/model.safetensors was damaged or changed: its SHA-256"),
        (lambda d: cut(d / "config.json", 20), "{d}/config.json is not valid JSON ("),
        (lambda d: (d / "config.json").write_bytes(b"\xff"), "{d}/config.json is not valid JSON ("),
        (lambda d: (d / "config.json").write_text("[]"), "{d}/config.json must hold a JSON object; copy"),
        (lambda d: cut(d / "tokenizer.json", 5), "{d}/tokenizer.json was damaged or changed: its SHA-256"),
        (
            lambda d: edit(d / "config.json", format_version=FORMAT_VERSION + 1),
            f"{{d}}/config.json has format_version {FORMAT_VERSION + 1}, this dreamrl reads {FORMAT_VERSION}: up",
        ),
        (
            lambda d: edit(d / "config.json", format_version=1),
            f"{{d}}/config.json has format_version 1, this dreamrl reads {FORMAT_VERSION}: it is older, train it again",
        ),
        (lambda d: edit(d / "config.json", format_version="1"), '{d}/config.json has no valid "format_version" (1)'),
        (
            lambda d: without(d / "config.json", "format_version"),
            '{d}/config.json has no valid "format_version" (None)',
        ),
        (lambda d: without(d / "config.json", "weights_sha256"), '{d}/config.json has no "weights_sha256"'),
    ],
)
def test_a_damaged_model_is_one_clear_line(tmp_path, damage, message):
    directory = tmp_path / "model"
    save(directory)
    damage(directory)
    for load in (load_model_files, check_model_files):
        with pytest.raises(UserError) as caught:
            load(directory)
        assert str(caught.value).startswith(message.format(d=directory))
        assert "\n" not in str(caught.value)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file, not a model directory"):
        load_model_files(tmp_path / "model.safetensors")


class Trap:
    """Unpickling this touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["pickle", "cut", "huge header"])
def test_a_bad_weights_file_with_a_matching_digest_runs_no_code(tmp_path, damage):
    directory, sprung = tmp_path / "model", tmp_path / "sprung"
    save(directory)
    weights = directory / "model.safetensors"
    if damage == "pickle":
        weights.write_bytes(pickle.dumps(Trap(sprung)))
    elif damage == "cut":
        cut(weights, 100)
    else:
        weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])
    edit(directory / "config.json", weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"model.safetensors is not a safetensors file or is cut short"):
        load_model_files(directory)
    assert not sprung.exists()


def checkpoint(root, step, stage="ppo", keep=2):
    return save_checkpoint(root, f"{stage}-{step:08d}", tensors(step), {"step": step, "rng": [1, 2]}, keep)


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_the_newest_checkpoint_of_a_stage_comes_back(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path / "checkpoints", step)
    checkpoint(tmp_path / "checkpoints", 9, stage="pretrain")
    found = newest_checkpoint(tmp_path / "checkpoints", "ppo")
    assert found is not None
    assert found[0] == tmp_path / "checkpoints" / "ppo-00000003"
    same(found[1], tensors(3))
    assert found[2] == {"step": 3, "rng": [1, 2]}
    assert names(tmp_path / "checkpoints") == ["ppo-00000002", "ppo-00000003", "pretrain-00000009"]


def test_keep_counts_steps_and_not_the_order_of_writing(tmp_path):
    for step in (3, 1, 2):
        checkpoint(tmp_path, step, keep=3)
    checkpoint(tmp_path, 2, keep=2)
    assert names(tmp_path) == ["ppo-00000002", "ppo-00000003"]


@pytest.mark.parametrize("root", ["none", "empty"])
def test_no_checkpoint_is_none(tmp_path, root):
    (tmp_path / "empty").mkdir()
    assert newest_checkpoint(tmp_path / root, "ppo") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: flip(d / "tensors.safetensors", -1),
        lambda d: cut(d / "tensors.safetensors", 50),
        lambda d: flip(d / "state.json", 3),
        lambda d: (d / "state.json").unlink(),
        lambda d: (d / "manifest.json").unlink(),
        lambda d: cut(d / "manifest.json", 9),
        lambda d: edit(d / "manifest.json", sha256={}),
        lambda d: edit(d / "manifest.json", format_version=FORMAT_VERSION + 1),
    ],
)
def test_a_damaged_checkpoint_is_skipped_loudly(tmp_path, caplog, damage):
    checkpoint(tmp_path, 1)
    damage(checkpoint(tmp_path, 2))
    with caplog.at_level(logging.WARNING, logger="dreamrl.checkpoint"):
        found = newest_checkpoint(tmp_path, "ppo")
    assert found is not None
    assert found[2]["step"] == 1
    same(found[1], tensors(1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ppo-00000002" in caplog.text


def test_a_kill_while_checkpointing_falls_back_and_cleans_up(tmp_path):
    checkpoint(tmp_path, 1)
    killed_while_saving(tmp_path, "checkpoint")
    found = newest_checkpoint(tmp_path, "ppo")
    assert found is not None
    assert found[2]["step"] == 1
    assert names(tmp_path) == ["ppo-00000001"]


def test_a_kill_between_the_two_renames_of_a_checkpoint(tmp_path):
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2).rename(tmp_path / ".ppo-00000002.old")
    found = newest_checkpoint(tmp_path, "ppo")
    assert found is not None
    assert found[2]["step"] == 2
    assert names(tmp_path) == ["ppo-00000001", "ppo-00000002"]


def test_checking_a_model_needs_no_torch(tmp_path):
    save(tmp_path / "model")
    code = (
        "import sys, pathlib, dreamrl.checkpoint as c; c.check_model_files(pathlib.Path(sys.argv[1])); "
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.strip() == "set()"
