"""`dreamrl feedback`: checked before torch is there, one line for every mistake, a table and a new model at the end."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from dreamrl.cli import main
from dreamrl.feedback import report
from dreamrl.feedback.examples import Preference, Rated
from dreamrl.feedback.training import FeedbackSettings
from dreamrl.saving import load_pretrained, save_pretrained, weights

ROOT = Path(__file__).parent.parent
PREFERS = {"prompt": "Which way?", "chosen": "right then down", "rejected": "right, down"}
RATED = {"prompt": "Which way?", "reward": 0.5}
BOARD = {"desc": ["SFF", "FHF", "FFG"]}


@pytest.fixture
def model(loaded, tmp_path, monkeypatch):
    """A saved model beside a sound feedback.jsonl, in the current directory."""
    save_pretrained(loaded, tmp_path / "model")
    (tmp_path / "feedback.jsonl").write_text("\n".join(json.dumps({**PREFERS, "options": BOARD}) for _ in range(3)))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


RESULT = {
    "examples": 30, "held_out": 6, "trust": 0.25, "scorer_accuracy": 1.0, "scorer_error": 0.1, "score_before": -1.0,
    "score_after": 2.0, "correctness_before": 0.5, "correctness_after": 0.625, "kl_before": 0.0, "kl_after": 0.1,
    "saved": "new",
}  # fmt: skip


class Work:
    """Stands in for the learning; keeps the arguments of each call."""

    def __init__(self):
        self.calls, self.result = [], RESULT

    def __call__(self, *args):
        self.calls.append(args)
        print("loading")
        return self.result


@pytest.fixture
def work(monkeypatch):
    fake, work = types.ModuleType("dreamrl.feedback.report"), Work()
    vars(fake).update(feedback_command=work, print_feedback=report.print_feedback)
    monkeypatch.setitem(sys.modules, "dreamrl.feedback.report", fake)
    return work


def test_checked_records_reach_the_work(model, work):
    assert main(["feedback", "model", "feedback.jsonl", "--out", "new"]) == 0
    assert main(["feedback", "model", "feedback.jsonl", "--out", "new", "--epochs", "7", "--seed", "4"]) == 0
    records = [
        Preference(line=n, prompt="Which way?", chosen="right then down", rejected="right, down", scene=BOARD)
        for n in (1, 2, 3)
    ]
    directory = Path("model"), records, Path("new")
    assert work.calls == [(*directory, 3, 0), (*directory, 7, 4)]
    Path("feedback.jsonl").write_text(json.dumps(RATED))
    main(["feedback", "model", "feedback.jsonl", "--out", "new"])
    assert work.calls[2][1] == [Rated(line=1, prompt="Which way?", reward=0.5, answer=None, scene=None)]


def test_a_table_before_and_after(model, work, capsys):
    main(["feedback", "model", "feedback.jsonl", "--out", "new"])
    assert capsys.readouterr().out.splitlines() == [
        "loading",
        "                                  before  after",
        "score of own answers              -1.000  2.000",
        "exact answers, validation boards   50.0%  62.5%",
        "nats from the starting model       0.000  0.100",
        "the scorer decides as people did on 100.0% of 6 held-out examples; it was trusted by 0.25 of 1",
        "model in new",
    ]
    work.result = {name: value for name, value in RESULT.items() if "scorer" not in name} | {"trust": 0.0}
    main(["feedback", "model", "feedback.jsonl", "--out", "new"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "that is too little to follow it: give more examples, or examples that agree with each other"


def test_json_is_all_that_stdout_holds(model, work, capsys):
    assert main(["feedback", "model", "feedback.jsonl", "--out", "new", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == RESULT
    assert captured.err == "loading\n"


BAD = {
    "key.jsonl": {**PREFERS, "choosen": "a"},
    "reward.jsonl": {**RATED, "reward": 2},
    "board.jsonl": {**RATED, "scene": {"desc": ["SG"]}},
    "long.jsonl": {**RATED, "prompt": "z" * 25},
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model", "the following arguments are required: FILE.jsonl, --out"),
        ("model feedback.jsonl", "the following arguments are required: --out"),
        ("model feedback.jsonl --ot new", 'dreamrl feedback has no flag "--ot"; did you mean "--out"?'),
        ("model feedback.jsonl --out new --epochs 0", "--epochs (0) must be between 1 and 1000"),
        ("model feedback.jsonl --out new --seed -1", "--seed (-1) must be between 0 and"),
        ("model feedback.jsonl --out model", "model exists; choose another --out"),
        ("model feedback.jsonl --out feedback.jsonl/new", "cannot create feedback.jsonl/new: "),
        ("none feedback.jsonl --out new", "model none does not exist; give the model/ directory of a run"),
        ("model none.jsonl --out new", "cannot read feedback none.jsonl: No such file or directory"),
        ("model empty.jsonl --out new", "empty.jsonl holds no feedback; put"),
        ("model key.jsonl --out new", 'key.jsonl line 1: unknown key "choosen"; did you mean "chosen"?'),
        ("model reward.jsonl --out new", 'reward.jsonl line 1: "reward" (2) must be a number from -1'),
        ("model board.jsonl --out new", 'board.jsonl line 1: "scene": board is 1x2'),
        ("model long.jsonl --out new", 'long.jsonl line 1: "prompt": text of 25 tokens is longer than 24'),
    ],
)
def test_mistakes(model, work, refused, line, message):
    Path("empty.jsonl").write_text("\n")
    for name, item in BAD.items():
        Path(name).write_text(json.dumps(item))
    assert refused("feedback", *line.split()).startswith(message)
    assert work.calls == []


def test_a_damaged_model_is_refused(model, work, refused):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "run"}))
    assert 'has no "run"' in refused("feedback", "model", "feedback.jsonl", "--out", "new")


@pytest.mark.parametrize("file", ["none.jsonl", "bad.jsonl"])
def test_mistakes_import_no_torch(model, file):
    Path("bad.jsonl").write_text(json.dumps({**PREFERS, "chosen": ""}))
    code = (
        "import sys; from dreamrl.cli import main\n"
        f"code = main(['feedback', 'model', {file!r}, '--out', 'new'])\n"
        "sys.exit(code if not {'torch', 'ray'} & set(sys.modules) else 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr


def test_the_work_saves_a_model_that_learned(model, monkeypatch, capsys, loaded):
    small = FeedbackSettings(
        questions=4, questions_per_round=2, samples=2, updates=1, replay_scenes=2, scorer_steps=2, boards=3,
        calibration_boards=4,
    )  # fmt: skip
    monkeypatch.setattr(report, "FeedbackSettings", lambda: small)
    threads = torch.get_num_threads()
    assert main(["feedback", "model", "feedback.jsonl", "--out", "deep/new", "--epochs", "1", "--json"]) == 0
    torch.set_num_threads(threads)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["saved"] == "deep/new"
    assert "feedback  2/2" in captured.err
    before, after = weights(loaded.model), weights(load_pretrained(Path("deep/new")).model)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"output_decoder", "calibration"}
    assert torch.equal(before["input_tokenizer.text.weight"], after["input_tokenizer.text.weight"])
