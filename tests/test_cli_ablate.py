"""`dreamrl ablate` on the command line: what reaches the work, what is printed, and every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from dreamrl.ablation import runner
from dreamrl.ablation.variants import VARIANTS
from dreamrl.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the work was asked to do."""
    calls = []
    monkeypatch.setattr(runner, "ablate", lambda *args: calls.append(args))
    monkeypatch.chdir(tmp_path)
    return calls


def test_the_defaults_are_everything_once(asked):
    assert main(["ablate"]) == 0
    assert asked == [(Path("runs/ablation"), [], 3, 2, 1.0, [])]


def test_flags_and_settings_come_in_any_order(asked):
    words = "ablate ppo.lr=1e-4 --variants dense,memory --seeds 5 world.sizes=3,4 --out here --workers=4 --budget .5"
    assert main(words.split()) == 0
    assert asked == [(Path("here"), ["dense", "memory"], 5, 4, 0.5, ["ppo.lr=1e-4", "world.sizes=3,4"])]


def test_the_list_names_every_variant_and_its_settings(asked, capsys):
    assert main(["ablate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(VARIANTS)
    (dense,) = (line for line in lines if line.startswith("dense "))
    assert dense.endswith("(model.num_experts=1 model.moe_top_k=1 model.expert_num_layers=2)")
    assert asked == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--variants defalt", 'unknown variant "defalt"; did you mean "default"? (see `dreamrl ablate --list`)'),
        ("--variants default,", 'unknown variant ""; known: default, baseline-params'),
        ("--variants", "argument --variants: expected one argument"),
        ("--seeds x", "argument --seeds: invalid int value: 'x'"),
        ("--seeds 0", "--seeds (0) must be between 1 and 1000"),
        ("--workers 0", "--workers (0) must be between 1 and 256"),
        ("--budget -1", "--budget (-1) must be between 0.0001 and 10000"),
        ("--seed 3", 'dreamrl ablate has no flag "--seed"; did you mean "--seeds"?'),
        ("seed=3", "seed=... contradicts --seeds, which counts them from 0; drop it"),
        ("dense", '"dense" is not a setting; write key=value'),
        ("ppo.gmama=1", 'unknown key "ppo.gmama" in the command line; did you mean "ppo.gamma"?'),
        ("model.moe_top_k=5", "model.moe_top_k (5) must be <= model.num_experts (4)"),
        ("model.num_experts=2", 'variant "all-experts" does not go with these settings: model.moe_top_k (4) must'),
        ("--out file", "cannot create file: file is a file"),
        ("--out full", "full is not empty and was not made by `dreamrl ablate`; choose another --out"),
    ],
)
def test_mistakes_are_one_line_before_any_work(refused, monkeypatch, tmp_path, line, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    assert refused("ablate", *line.split()).startswith(message)


@pytest.mark.parametrize("argv", [["ablate", "--list"], ["ablate", "--variants", "x"], ["ablate", "--help"]])
def test_help_list_and_errors_import_nothing_heavy(argv):
    code = (
        f"import sys; from dreamrl.cli import main; main({argv}); sys.exit(bool({{'torch', 'ray'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == 0
