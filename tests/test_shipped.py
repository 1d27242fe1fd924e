"""Shipped models stand for themselves by name, on the command line and from Python."""

import shutil

import pytest

from dreamrl import DreamingReasoningLLM, shipped
from dreamrl.checkpoint import check_model_files
from dreamrl.cli import main
from dreamrl.errors import UserError
from dreamrl.evaluate import evaluate, held_out
from dreamrl.saving import load_pretrained, save_pretrained
from dreamrl.shipped import model_directory


@pytest.fixture
def pond(tmp_path, monkeypatch, make_loaded):
    """A tiny model as if it came with the package, under the name "pond"."""
    loaded = make_loaded()
    save_pretrained(loaded, tmp_path / "models" / "pond")
    monkeypatch.setattr(shipped, "MODELS", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return loaded


def test_a_name_stands_for_the_directory_unless_there_is_one_of_that_name(pond, tmp_path):
    assert shipped.shipped() == ["pond"]
    assert model_directory("pond") == tmp_path / "models" / "pond"
    assert str(model_directory("other")) == "other"
    shutil.copytree(tmp_path / "models" / "pond", tmp_path / "pond")
    assert str(model_directory("pond")) == "pond"


def test_it_loads_from_python_and_answers_on_the_command_line(pond, capsys):
    model = DreamingReasoningLLM.load_pretrained("pond")
    assert model.config == pond.run.model
    assert main(["generate", "pond", "Give the shortest way to the gift.", "--dreams", "1", "--json"]) == 0
    assert '"output"' in capsys.readouterr().out


def test_a_wrong_name_is_told_which_there_are(pond, tmp_path):
    with pytest.raises(UserError, match="model pont does not exist; give the model/ directory of a run or pond"):
        check_model_files(tmp_path.__class__("pont"))


def test_what_comes_along_is_small():
    for directory in shipped.MODELS.iterdir():
        assert sum(file.stat().st_size for file in directory.iterdir()) < 8e6


def test_frozen_lake_answers_boards_that_it_never_saw():
    """Random play gets 0.08; docs/RESULTS.md says 0.98."""
    loaded = load_pretrained(model_directory("frozen-lake"))
    questions = held_out(loaded.world, loaded.world.sizes, 120, seed=5)
    result = evaluate(loaded, questions, (4,), seed=5)[4]
    assert result.exact.mean() > 0.93 and result.exact_frame > 0.99
