"""The file of a search: what is refused, in which words, and that nothing is lost between reading and writing."""

import copy
import importlib.util
from pathlib import Path

import pytest
import yaml

from dreamrl.cli import main
from dreamrl.errors import UserError
from dreamrl.files import locked
from dreamrl.tune.plan import plan_from, read_plan, shipped_searches, write_plan

GOOD = {
    "preset": "nano",
    "settings": {"ppo": {"iterations": 8}},
    "space": {"ppo.lr": {"loguniform": [1e-4, 1e-2]}},
    "search": {"algorithm": "random", "trials": 4, "seed": 0},
    "scheduler": {"name": "asha", "grace": 2, "reduction": 2},
    "trial": {"cpus": 1, "gpus": 0, "concurrent": 2},
    "stages": "pretrain-and-ppo",
    "metric": "exact_match",
    "measure": {"boards": 10, "every": 2},
}
DROP = object()


def changed(path, value):
    """``GOOD`` with one field set or dropped."""
    data = copy.deepcopy(GOOD)
    *parents, last = path
    at = data
    for name in parents:
        at = at.setdefault(name, {})
    if value is DROP:
        del at[last]
    else:
        at[last] = value
    return data


def test_the_good_file_is_good():
    assert plan_from(GOOD, "FILE").samples == 4


def test_a_grid_is_gone_through_once_a_trial():
    data = changed(["space", "ppo.epochs"], {"grid": [1, 2, 3]}) | {"scheduler": {"name": "none"}}
    assert plan_from(data, "FILE").samples == 12


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["sapce"], {}, 'unknown key "sapce" in FILE; did you mean "space"?'),
        (["preset"], "nanno", 'unknown preset "nanno"; did you mean "nano"?'),
        (["settings"], [1], "settings in FILE ([1]) must hold lines"),
        (["settings", "ppo.lrr"], 1, 'unknown key "ppo.lrr" in settings in FILE; did you mean "ppo.lr"?'),
        (["settings", "ppo.iterations"], 9, "ppo.iterations is given twice in settings in FILE"),
        (["settings", "ppo"], {"iterations": "many"}, 'ppo.iterations ("many") must be a whole number'),
        (["settings", "model"], {"moe_top_k": 9}, "model.moe_top_k (9) must be <= model.num_experts (4) (settings in"),
        (["settings", "world"], {"name": "lake"}, "lake"),
        (["space"], DROP, "space in FILE must hold at least one line"),
        (["space"], {}, "space in FILE must hold at least one line"),
        (["space", "ppo.lrr"], {"choice": [1]}, 'unknown key "ppo.lrr" in space in FILE; did you mean "ppo.lr"?'),
        (["space", "preset"], {"choice": ["nano"]}, 'unknown key "preset" in space'),
        (["space", "ppo.num_learners"], {"choice": [1, 2]}, "does not change what is learned; put it under settings"),
        (["space", "ppo.lr"], [1, 2], "ppo.lr in space in FILE ([1, 2]) must be one of {choice"),
        (["space", "ppo.lr"], {"loguni": [1, 2]}, 'unknown word "loguni"; did you mean "loguniform"?'),
        (["space", "ppo.lr"], {"choice": [1], "grid": [1]}, "must be exactly one of"),
        (["space", "ppo.lr"], {"choice": []}, "choice ([]) must be a list of values"),
        (["space", "ppo.lr"], {"choice": 3}, "choice (3) must be a list of values"),
        (["space", "ppo.lr"], {"choice": ["x"]}, 'choice holds "x", which must be a number'),
        (["space", "ppo.lr"], {"choice": [0.1, 0.1]}, "holds a value twice"),
        (["space", "ppo.lr"], {"int": [1, 2]}, "int does not fit this setting; use uniform or loguniform"),
        (["space", "ppo.lr"], {"uniform": [0.2, 0.1]}, "must hold two numbers, the lower one first"),
        (["space", "ppo.lr"], {"uniform": [0.1, 0.2, 0.3]}, "must hold two numbers, the lower one first"),
        (["space", "ppo.lr"], {"loguniform": [0, 0.1]}, "must begin above 0, or use uniform"),
        (["space", "ppo.lr"], {"loguniform": [1e-4, 3]}, "ppo.lr (3.0) must be between 1e-08 and 1"),
        (["space", "ppo.epochs"], {"uniform": [1, 4]}, "uniform does not fit this setting; use int or logint"),
        (["space", "ppo.epochs"], {"int": [1, 4.5]}, "int holds 4.5, which must be a whole number"),
        (["space", "ppo.epochs"], {"choice": [True]}, "choice holds true, which must be a whole number"),
        (["space", "ppo.epochs"], {"int": [1, 4], "at_most": "ppo.zzz"}, "must name another setting"),
        (["space", "reward.shaping"], {"uniform": [0, 1]}, "use choice"),
        (["search", "trails"], 3, 'unknown key "trails" in search in FILE; did you mean "trials"?'),
        (["search"], 3, "search in FILE (3) must hold lines"),
        (["search", "trials"], 0, "search.trials (0) in FILE must be between 1 and 10000"),
        (["search", "trials"], 1.5, "trials (1.5) in search in FILE must be a whole number"),
        (["search", "trials"], 1, "search.trials (1) in FILE must be >= 2: asha compares trials"),
        (["search", "algorithm"], "optina", "search.algorithm (optina) in FILE must be one of random, optuna"),
        (["scheduler", "name"], "hyperband", "scheduler.name (hyperband) in FILE must be one of none, asha, pbt"),
        (["scheduler", "grace"], 8, "scheduler.grace (8) in FILE must be < ppo.iterations (8)"),
        (["scheduler", "reduction"], 1, "scheduler.reduction (1.0) in FILE must be between 1.1 and 100"),
        (["scheduler"], {"name": "pbt", "interval": 8}, "scheduler.interval (8) in FILE must be < ppo.iterations (8)"),
        (["measure", "every"], 3, "measure.every (3) in FILE must be <= scheduler.grace (2)"),
        (["measure", "every"], 0, "measure.every (0) in FILE must be between"),
        (["settings"], {"ppo.iterations": 1}, "measure.every (2) in FILE must be <= ppo.iterations (1)"),
        (["settings"], {"ppo.iterations": 0}, "ppo.iterations (0) in FILE must be >= 1"),
        (["trial", "gpus"], 1.5, "trial.gpus (1.5) in FILE must be a share of one GPU or a whole number"),
        (["trial", "cpus"], "2", "cpus ('2') in trial in FILE must be a number"),
        (["stages"], "both", "stages (both) in FILE must be one of pretrain-and-ppo, shared"),
        (["metric"], "exact", "metric (exact) in FILE must be one of exact_match"),
        (["space", "ppo.iterations"], {"int": [4, 8]}, "must be none: trials of different ppo.iterations"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(path, value, said):
    with pytest.raises(ValueError) as refused:
        plan_from(changed(path, value), "FILE")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["model.num_experts", "world.sizes", "pretrain.lr", "seed", "model.moe_noise_std"])
def test_trials_that_share_a_model_vary_nothing_that_made_it(key):
    values = {"world.sizes": [[3], [4]], "pretrain.lr": [1e-3, 1e-4]}.get(key, [2, 4])
    data = changed(["space", key], {"choice": values}) | {"stages": "shared"}
    with pytest.raises(UserError, match=f"{key} in space in FILE: the pretrained model that all trials share depends"):
        plan_from(data, "FILE")
    plan_from(data | {"stages": "pretrain-and-ppo"}, "FILE")


@pytest.mark.parametrize(
    ("key", "why"),
    [("model.num_experts", "shape"), ("pretrain.lr", "fixed once a trial has begun"), ("ppo.boards_per_size", "fixed")],
)
def test_population_based_training_varies_learning_settings_only(key, why):
    data = changed(["space", key], {"choice": [0.5, 0.25] if key == "pretrain.lr" else [2, 4]})
    with pytest.raises(UserError, match=f"{key} in space in FILE: pbt cannot change it in training, .*{why}"):
        plan_from(data | {"scheduler": {"name": "pbt", "interval": 2}}, "FILE")


@pytest.mark.parametrize(("algorithm", "scheduler"), [("optuna", "none"), ("random", "pbt"), ("optuna", "pbt")])
def test_what_does_not_go_together(algorithm, scheduler):
    data = changed(["space", "ppo.epochs"], {"grid": [1, 2]})
    data |= {"search": {"algorithm": algorithm, "trials": 4}, "scheduler": {"name": scheduler, "interval": 2}}
    with pytest.raises(UserError, match="must be (a choice|random with pbt)"):
        plan_from(data, "FILE")


def test_optuna_that_is_not_installed_is_said_before_anything_starts(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="must be random, or install it: pip install optuna"):
        plan_from(changed(["search", "algorithm"], "optuna"), "FILE")


def test_a_plan_that_is_written_is_read_as_the_same(tmp_path):
    data = changed(["space", "model.moe_top_k"], {"choice": [1, 2, 8], "at_most": "model.num_experts"})
    data["space"]["world.sizes"] = {"choice": [[3], [3, 4]]}
    plan = plan_from(data, "FILE")
    write_plan(plan, tmp_path / "tune.yaml")
    assert read_plan(tmp_path / "tune.yaml") == plan


@pytest.mark.parametrize("name", shipped_searches())
def test_the_searches_that_come_along_are_valid(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # found wherever one is
    plan = read_plan(Path("tune_configs") / f"{name}.yaml")
    assert plan.samples >= 4


def test_what_comes_along():
    assert {"smoke", "moe", "ppo", "pbt"} <= set(shipped_searches())


def write(path, data):
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the file of a search"),
        (["bad.yaml", "--resume", "full"], "give the file of a search"),
        (["none.yaml"], "cannot read none.yaml: No such file or directory; give a YAML file or one of"),
        (["bad.yaml"], 'unknown key "sapce"'),
        (["broken.yaml"], "broken.yaml is not valid YAML"),
        (["good.yaml", "--out", "full"], "full exists and is not an empty directory; pass --resume full"),
        (["--resume", "full"], "nothing to resume: full/tune.yaml does not exist"),
        (["--resume", "made", "--out", "x"], "--resume goes on in made, which --out contradicts"),
        (["good.yaml", "--address", "nowhere"], "--address"),
        (["good.yaml", "--sedd", "1"], 'has no flag "--sedd"'),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_no_trace(refused, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bad.yaml", {"sapce": {}})
    write(tmp_path / "good.yaml", GOOD)
    write(tmp_path / "broken.yaml", "space: [")
    for name in ("full", "made"):
        (tmp_path / name).mkdir()
    write(tmp_path / "full" / "file", "")
    write_plan(plan_from(GOOD, "FILE"), tmp_path / "made" / "tune.yaml")
    assert said in refused("tune", *arguments)


def test_help_names_the_command(capsys):
    assert main(["tune", "--help"]) == 0
    assert "tune_configs/smoke.yaml" in capsys.readouterr().out


def test_two_searches_do_not_share_a_directory(tmp_path):
    with (
        locked(tmp_path, "tune"),
        pytest.raises(UserError, match="another `dreamrl tune` works"),
        locked(tmp_path, "tune"),
    ):
        pass
