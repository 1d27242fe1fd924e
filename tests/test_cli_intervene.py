"""``dreamrl eval --intervene``: what reaches the work, what is refused, what is printed."""

import json
import sys
import types
from pathlib import Path

import pytest

from dreamrl.cli import main
from dreamrl.trials import Tally, Trial, summarise

BOARD = {"desc": ["SFF", "FHF", "FFG"]}
ASKED = ("--world", "frozen_lake", "--intervene")
TRIAL = Trial(before="up", after="down", right=frozenset(["down"]), untrained="", agreed=True, kept=False, none=False)


@pytest.fixture
def intervened(fake_work, monkeypatch):
    """Stands in for the work of an intervention; ``evaluate_command`` answers with what nobody must see."""
    fake = types.ModuleType("dreamrl.intervene")
    calls = []

    def command(*args):
        print("loading")
        calls.append(args)
        found = {"action": summarise(Tally(trials=[TRIAL, TRIAL]), 10), "step": summarise(Tally(), 10)}
        return {"items": 1, "questions": 2, "dreams": 4, "interventions": found, "seconds": 1.5}

    fake.intervene_command = command
    monkeypatch.setitem(sys.modules, "dreamrl.intervene", fake)
    fake_work.answer = {"items": "the plain evaluation"}
    return calls


def test_it_passes_the_defaults_of_eval(intervened, fake_work, saved_model):
    assert main(["eval", str(saved_model), *ASKED]) == 0
    assert intervened == [(saved_model, "frozen_lake", None, 600, 0, None, 4, None)]
    assert fake_work.calls == []


def test_it_passes_all_options_of_eval(intervened, saved_model, tmp_path):
    (tmp_path / "items.jsonl").write_text(json.dumps(BOARD))
    options = ["--dreams", "16", "--seed", "2", "--save", "strips"]
    assert main(["eval", str(saved_model), *ASKED, *options, "--num", "30", "--sizes", "3"]) == 0
    assert main(["eval", str(saved_model), *ASKED, *options, "--items", "items.jsonl"]) == 0
    assert intervened == [
        (saved_model, "frozen_lake", None, 30, 2, (3,), 16, Path("strips")),
        (saved_model, "frozen_lake", [BOARD], 600, 2, None, 16, Path("strips")),
    ]


def test_without_it_eval_is_what_it_was(intervened, fake_work, saved_model):
    assert main(["eval", str(saved_model), "--world", "frozen_lake"]) == 0
    assert intervened == [] and len(fake_work.calls) == 1


def test_json_is_all_that_stdout_holds(intervened, saved_model, capsys):
    assert main(["eval", str(saved_model), *ASKED, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)["interventions"]
    assert found["action"]["predicted"] == 1 and found["action"]["kept"] == 0
    assert found["step"]["cases"] == 0 and found["step"]["predicted"] is None
    assert captured.err == "loading\n"


def test_the_result_is_a_table(intervened, saved_model, capsys):
    assert main(["eval", str(saved_model), *ASKED]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["loading"]
    assert lines[1][:4] == ["edit", "cases", "predicted", "95%"]
    assert lines[2][:5] == ["action", "2", "1.000", "[1.000,", "1.000]"]
    assert lines[3][:4] == ["step", "0", "-", "-"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval model --world frozen_lake --save out", "--save writes pictures of edited dreams; it needs --intervene"),
        ("eval model --world frozen_lake --intervene --save full", "full exists and is not an empty directory"),
        ("eval model --world frozen_lake --intervene --dreams 0", "--dreams (0) must be between 1 and 1024"),
        ("eval model --world frozen_lake --intervene --items file --num 3", "--items names the scenes, which --num"),
        ("eval none --world frozen_lake --intervene", "model none does not exist"),
        ("eval model --world frozen_lake --intervent", 'dreamrl eval has no flag "--intervent"; did you mean "--inter'),
    ],
)
def test_mistakes(intervened, saved_model, refused, tmp_path, line, message):
    (tmp_path / "file").write_text("not json")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert refused(*line.split()).startswith(message)
    assert intervened == []
