"""The command line: what reaches the work, what is printed, and the program as a whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamrl.cli import main
from dreamrl.config import RunConfig

ROOT = Path(__file__).parent.parent
BOARD = {"desc": ["SFF", "FHF", "FFG"]}


# --- what reaches the work


@pytest.mark.parametrize(
    ("command", "stages"),
    [("train", ("pretrain", "ppo", "eval")), ("pretrain", ("pretrain",)), ("ppo", ("ppo", "eval"))],
)
def test_training_commands_run_their_stages(fake_work, command, stages):
    assert main([command]) == 0
    assert fake_work.calls == [(RunConfig(), Path(f"runs/{command}-nano-seed0"), "local", stages, False, None)]


def test_settings_come_from_the_command_line_in_any_order(fake_work):
    words = [
        "train",
        "ppo.lr=1e-4",
        "--seed",
        "3",
        "world.sizes=3,4",
        "--out",
        "here",
        "model.ppo_clip_epsilon=0.3",
        "--address=auto",
    ]
    assert main(words) == 0
    config, out, address, _, resume, _ = fake_work.calls[0]
    assert (config.ppo.lr, config.model.ppo_clip_epsilon, config.world.sizes, config.seed) == (1e-4, 0.3, (3, 4), 3)
    assert (out, address, resume) == (Path("here"), "auto", False)


def test_the_default_directory_names_command_preset_and_seed(fake_work):
    main(["pretrain", "--seed", "7"])
    assert fake_work.calls[0][1] == Path("runs/pretrain-nano-seed7")


def test_ppo_takes_a_pretrained_model(fake_work, saved_model):
    assert main(["ppo", "--model", str(saved_model)]) == 0
    assert fake_work.calls[0][-1] == saved_model


def test_resume_takes_the_settings_of_the_run(fake_work, make_run, tmp_path):
    run = make_run(tmp_path / "old")
    assert main(["train", "--resume", str(run)]) == 0
    config, out, _, _, resume, _ = fake_work.calls[0]
    assert (config.seed, config.ppo.lr, out, resume) == (5, 5e-4, run, True)


def test_overwrite_replaces_a_run_and_nothing_else(fake_work, make_run, tmp_path):
    run, other = make_run(tmp_path / "old"), make_run(tmp_path / "other")
    assert main(["train", "--out", str(run), "--overwrite"]) == 0
    assert not run.exists()
    assert other.exists()
    assert len(fake_work.calls) == 1


def test_an_empty_directory_needs_no_overwrite(fake_work, tmp_path):
    (tmp_path / "new").mkdir()
    assert main(["train", "--out", "new"]) == 0


def test_eval_passes_its_defaults(fake_work, saved_model):
    fake_work.answer = {"items": 600}
    assert main(["eval", str(saved_model), "--world", "frozen_lake"]) == 0
    assert fake_work.calls == [(saved_model, "frozen_lake", None, 600, 0, None, 4)]


def test_eval_reads_items(fake_work, saved_model, tmp_path):
    (tmp_path / "items.jsonl").write_text(json.dumps(BOARD))
    fake_work.answer = {"items": 1}
    arguments = ["--items", "items.jsonl", "--dreams", "16", "--seed", "2"]
    assert main(["eval", str(saved_model), "--world", "frozen_lake", *arguments]) == 0
    assert fake_work.calls == [(saved_model, "frozen_lake", [BOARD], 600, 2, None, 16)]


def test_generate_passes_a_scene_or_pictures(fake_work, saved_model, tmp_path):
    for name in ("board.png", "other.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    fake_work.answer = {"output": "right", "dreams": []}
    scene = ["--world", "frozen_lake", "--options", json.dumps(BOARD)]
    assert main(["generate", str(saved_model), "What now?", *scene, "--watch"]) == 0
    pictures = ["--image", "board.png", "--image", "other.png", "--save", "out", "--seed", "4", "--output", "both"]
    words = ["--temperature", "0.7", "--top-p", "0.9", "--max-length", "5", "--dreams", "2"]
    assert main(["generate", str(saved_model), "What now?", *pictures, *words]) == 0
    defaults = {"num_dreams": 4, "seed": 0, "output_mode": "text", "temperature": 0.0, "top_p": 1.0, "max_length": None}
    chosen = {"num_dreams": 2, "seed": 4, "output_mode": "both", "temperature": 0.7, "top_p": 0.9, "max_length": 5}
    both = [Path("board.png"), Path("other.png")]
    assert fake_work.calls == [
        (saved_model, "What now?", "frozen_lake", BOARD, None, None, defaults | {"watch_dreams": True}),
        (saved_model, "What now?", None, None, both, Path("out"), chosen | {"watch_dreams": False}),
    ]


# --- what is printed


RESULT = {
    "items": 600,
    "exact_match": 0.93125,
    "exact_match_ci": [0.91, 0.95],
    "by_size": {"3": 0.9, "4": 0.8},
    "seconds": np.float64(1.5),
}


def test_json_is_all_that_stdout_holds(fake_work, saved_model, capsys, monkeypatch):
    def chatty(*args):
        print("loading")
        return RESULT

    monkeypatch.setattr(sys.modules["dreamrl.evaluate"], "evaluate_command", chatty)
    assert main(["eval", str(saved_model), "--world", "frozen_lake", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == RESULT
    assert captured.err == "loading\n"


def test_a_result_is_a_short_table(fake_work, saved_model, capsys):
    fake_work.answer = RESULT
    assert main(["eval", str(saved_model), "--world", "frozen_lake"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "items           600",
        "exact match     0.9313",
        "exact match ci  [0.91, 0.95]",
        "by size 3       0.9",
        "by size 4       0.8",
        "seconds         1.5",
    ]


def test_dreams_are_a_line_each_and_pictures_json(fake_work, saved_model, capsys):
    fake_work.answer = {
        "output": "right",
        "dreams": [
            [
                {"action": "right", "belief": "continue", "faithful": True, "experts": [0.5, 0.5]},
                {"action": "down", "belief": "failure", "faithful": False, "experts": [1.0, 0.0]},
            ],
            [],
        ],
        "picture": np.zeros((2, 1, 3), np.uint8),
    }
    assert main(["generate", str(saved_model), "What now?"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "output    right",
        "dreams 1  right, down (false) -> failure",
        "dreams 2  no step",
        "picture   2x1x3",
    ]
    assert main(["generate", str(saved_model), "What now?", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["picture"] == [[[0, 0, 0]], [[0, 0, 0]]] and printed["dreams"] == fake_work.answer["dreams"]


def test_ctrl_c_says_how_to_continue(fake_work, make_run, capsys, tmp_path):
    fake_work.error = KeyboardInterrupt()
    assert main(["train", "--out", "new"]) == 130
    assert capsys.readouterr().err == "dreamrl: interrupted\n"
    run = make_run(tmp_path / "old")
    assert main(["train", "--resume", str(run)]) == 130
    assert capsys.readouterr().err == f"dreamrl: interrupted; continue with `dreamrl train --resume {run}`\n"


# --- as a program


def program(*argv, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "dreamrl", *argv], capture_output=True, text=True, cwd=cwd, env=environment
    )


def test_a_mistake_as_a_program(tmp_path):
    done = program("train", "ppo.learning_rate=1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    expected = 'dreamrl: error: unknown key "ppo.learning_rate" in the command line; did you mean "ppo.lr"?\n'
    assert done.stderr == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["generate", "-h"]])
def test_help(argv, capsys):
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("usage: dreamrl")


def test_the_version_is_the_package_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "dreamrl 0.1.0"


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["train", "zzz=1"], ["eval", "none", "--world", "x"]]
)
def test_help_and_errors_import_nothing_heavy(argv):
    code = (
        f"import sys; from dreamrl.cli import main; main({argv}); sys.exit(bool({{'torch', 'ray'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == 0
