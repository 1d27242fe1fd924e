"""Fixtures of the command line's tests: hand-written stand-ins for the work, and directories to work on."""

import signal
import sys
import types

import numpy as np
import pytest
import torch

from dreamrl.checkpoint import save_model
from dreamrl.cli import main
from dreamrl.config import DreamingConfig, RunConfig
from dreamrl.saving import new_model
from dreamrl.settings import load_settings, write_yaml
from envs.worlds.frozen_lake import tileset


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """A program started in the background ignores Ctrl-C and hands that on to all that it starts; undo it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Work:
    """Stands in for the modules that do the work; keeps the arguments of each call, and raises or answers at will."""

    def __init__(self):
        self.calls = []
        self.answer = {}
        self.error = None

    def __call__(self, *args, **choices):
        self.calls.append((*args, choices) if choices else args)
        if self.error:
            raise self.error
        return self.answer


@pytest.fixture
def fake_work(monkeypatch, tmp_path):
    work = Work()
    for module, function in (("run", "train"), ("evaluate", "evaluate_command"), ("generate", "generate_command")):
        fake = types.ModuleType(f"dreamrl.{module}")
        setattr(fake, function, work)
        monkeypatch.setitem(sys.modules, f"dreamrl.{module}", fake)
    monkeypatch.chdir(tmp_path)
    return work


@pytest.fixture
def saved_model(tmp_path):
    save_model(tmp_path / "model", {"w": torch.ones(2)}, {}, lambda path: path.write_text("{}") and None)
    return tmp_path / "model"


def tree(root):
    """Every path under ``root`` with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


@pytest.fixture
def make_run():
    """Makes a directory that a run could have left."""

    def make(directory, seed=5):
        directory.mkdir(parents=True)
        write_yaml(load_settings("nano", None, ["ppo.lr=5e-4"], seed), directory / "config.yaml")
        (directory / "metrics.jsonl").write_text("{}\n")
        return directory

    return make


@pytest.fixture
def refused(capsys, tmp_path):
    """The one line that a command is refused with; fails if anything else was printed or any file changed."""

    def refuse(*argv):
        before = tree(tmp_path)
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("dreamrl: error: ")
        assert captured.err.count("\n") == 1
        assert tree(tmp_path) == before
        return captured.err.removeprefix("dreamrl: error: ").removesuffix("\n")

    return refuse


SMALL = {
    "embedding_dim": 16,
    "num_heads": 2,
    "codec_hidden": 16,
    "num_dream_sequences": 3,
    "dream_length": 4,
    "num_dream_offsets": 4,
    "max_prompt_tokens": 24,
    "max_answer_tokens": 12,
}


def make_loaded(seed=3, model=None, **sections):
    """A small untrained model whose weights are all far from zero and from each other.

    ``model`` holds settings of the model; ``sections`` are other sections of the run, such as ``ppo=PPOConfig()``.
    """
    run = RunConfig(seed=seed, model=DreamingConfig(**(SMALL | (model or {}))), **sections)
    loaded = new_model(run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return loaded


@pytest.fixture(scope="session", name="make_loaded")
def make_loaded_fixture():
    return make_loaded


@pytest.fixture(scope="session")
def loaded():
    """The model of :func:`make_loaded` with default settings; not to be changed."""
    loaded = make_loaded()
    loaded.model.requires_grad_(False)
    return loaded


class TileCodec:
    """Stands in for a trained image codec of FrozenLake: every tile has a code of its own."""

    def __init__(self):
        self.codes = {}
        for tile in tileset(16).reshape(-1, 16, 16, 3):
            self.codes.setdefault(tile.tobytes(), len(self.codes))

    def encode(self, frame):
        rows, columns = frame.shape[0] // 16, frame.shape[1] // 16
        cells = [frame[16 * r : 16 * r + 16, 16 * c : 16 * c + 16] for r in range(rows) for c in range(columns)]
        return np.array([self.codes[cell.tobytes()] for cell in cells])


@pytest.fixture(scope="session")
def tile_codec():
    return TileCodec()
