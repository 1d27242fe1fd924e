"""A search on Ray Tune: what its parts make of a plan, and whole searches that are killed, interrupted and resumed."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import yaml
from programs import finish, start, wait_for

from dreamrl.settings import load_settings
from dreamrl.tune.plan import plan_from

pytestmark = pytest.mark.ray

TINY = {
    "settings": {
        "world.sizes": [2],
        "model": {"embedding_dim": 16, "num_heads": 2, "graph_num_heads": 2, "expert_num_heads": 2, "dream_length": 4},
        "pretrain": {"codec_steps": 20, "steps": 2, "scenes_per_step": 4, "num_workers": 1},
        "ppo": {
            "iterations": 4,
            "questions_per_iteration": 8,
            "minibatch_size": 16,
            "num_learners": 1,
            "replay_scenes": 1,
        },
    },
    "space": {
        "model.num_experts": {"choice": [1, 2, 4]},
        "model.moe_top_k": {"choice": [1, 2], "at_most": "model.num_experts"},
        "ppo.lr": {"loguniform": [1e-4, 1e-2]},
    },
    "search": {"trials": 3, "seed": 1},
    "measure": {"boards": 4, "every": 1, "dreams": 2},
}
"""Seconds a trial, most of them for the start of its process; nothing is learned."""


def test_ray_samples_what_the_space_says():
    from dreamrl.tune.on_ray import ray_domain

    data = {"space": {
        "ppo.epochs": {"int": [1, 3]}, "ppo.minibatch_size": {"logint": [8, 64]},
        "ppo.lr": {"loguniform": [1e-4, 1e-2]},
        "ppo.gamma": {"uniform": [0.5, 1]}, "model.num_experts": {"choice": [2, 4]}, "seed": {"grid": [0, 1, 2]},
    }}  # fmt: skip
    domains = {domain.key: ray_domain(domain) for domain in plan_from(data, "FILE").space}
    assert domains.pop("seed") == {"grid_search": [0, 1, 2]}
    drawn = {key: {domain.sample(None) for _ in range(300)} for key, domain in domains.items()}
    assert drawn["ppo.epochs"] == {1, 2, 3} and drawn["model.num_experts"] == {2, 4}
    for key, low, high in (("ppo.minibatch_size", 8, 64), ("ppo.lr", 1e-4, 1e-2), ("ppo.gamma", 0.5, 1)):
        assert low <= min(drawn[key]) < max(drawn[key]) <= high
    assert sorted(drawn["ppo.lr"])[len(drawn["ppo.lr"]) // 2] < 3e-3  # the median of a logarithmic scale is 1e-3


def test_what_population_based_training_makes_of_a_sample_stays_in_the_space():
    from dreamrl.tune.on_ray import held_within

    space = plan_from({"space": {"ppo.gamma": {"uniform": [0.8, 1]}, "ppo.epochs": {"int": [1, 4]}}}, "FILE").space
    assert held_within({"ppo.gamma": 1.2, "ppo.epochs": 0}, space) == {"ppo.gamma": 1, "ppo.epochs": 1}
    assert held_within({"ppo.gamma": 0.9, "ppo.epochs": 3}, space) == {"ppo.gamma": 0.9, "ppo.epochs": 3}


def test_a_trial_that_ctrl_c_ended_is_not_shown_as_one_that_the_scheduler_stopped(tmp_path):
    from dreamrl.tune.on_ray import ENDED, TRIALS, Watch

    plan = plan_from({"space": {"ppo.lr": {"loguniform": [1e-4, 1e-2]}}, "settings": {"ppo.iterations": 4}}, "FILE")
    watch = Watch(plan, str(tmp_path))
    trial = SimpleNamespace(trial_id="a_1", status="TERMINATED", config={"ppo.lr": 1e-3}, last_result={"iteration": 2})
    assert watch._row(trial).status == "running"
    (tmp_path / TRIALS / "a_1").mkdir(parents=True)
    (tmp_path / TRIALS / "a_1" / ENDED).touch()
    assert watch._row(trial).status == "stopped"
    trial.last_result["iteration"] = 4
    assert watch._row(trial).status == "finished"


def check_results(out, trials):
    """Everything that a search leaves is there, and agrees."""
    record = json.loads((out / "results.json").read_text())
    assert [trial["status"] for trial in record["trials"]] == ["finished"] * trials
    for trial in record["trials"]:
        assert [m["iteration"] for m in trial["history"]] == [1, 2, 3, 4]
        assert trial["history"][-1]["settings"] == trial["settings"]
        assert trial["settings"]["model.moe_top_k"] <= trial["settings"]["model.num_experts"]
    best = next(trial for trial in record["trials"] if trial["name"] == record["best"])
    assert best["score"] == max(trial["score"] for trial in record["trials"])
    run = load_settings(None, out / "best.yaml", [], None)
    assert run.ppo.lr == best["settings"]["ppo.lr"]
    assert json.loads((out / "best" / "config.json").read_text())["run"]["ppo"]["lr"] == run.ppo.lr
    assert (out / "importance.png").stat().st_size > 0 and best["name"] in (out / "results.md").read_text()
    return record


@pytest.mark.slow
def test_a_search_that_is_killed_and_interrupted_goes_on(tmp_path):
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(TINY, sort_keys=False))
    process = start("tune", str(file), "--out", str(out))
    wait_for(lambda: list(out.glob("ray/search/*/checkpoint_*")), process)
    process.kill()  # the driver alone, without warning
    process.communicate()

    process = start("tune", "--resume", str(out))
    wait_for(lambda: list(out.glob("ray/search/*_00002/checkpoint_*")), process)
    os.kill(process.pid, signal.SIGINT)
    output = finish(process, code=130, seconds=300)
    assert f"interrupted; continue with `dreamrl tune --resume {out}`" in output

    output = finish(start("tune", "--resume", str(out)))
    record = check_results(out, trials=3)
    for trial in record["trials"]:
        assert trial["name"] in output
    for noise in ("Warning", "WARNING", "INFO", "Traceback", "Configuration for experiment"):
        assert noise not in output
    again = finish(start("tune", "--resume", str(out)))  # nothing is left to do
    assert "results in" in again
    assert json.loads((out / "results.json").read_text())["trials"] == record["trials"]


@pytest.mark.slow
def test_a_population_shares_a_model_and_takes_over_from_its_best(tmp_path):
    file, out = tmp_path / "pbt.yaml", tmp_path / "out"
    space = {"ppo.lr": {"loguniform": [1e-4, 1e-2]}, "ppo.epochs": {"int": [1, 3]}}
    plan = TINY | {"space": space, "stages": "shared", "search": {"trials": 2, "seed": 1}}
    plan |= {"scheduler": {"name": "pbt", "interval": 2, "quantile": 0.5}}
    # Members compare themselves when they report, so enough often that both are there at some of these times.
    plan |= {"settings": TINY["settings"] | {"ppo": TINY["settings"]["ppo"] | {"iterations": 16}}}
    file.write_text(yaml.safe_dump(plan))
    finish(start("tune", str(file), "--out", str(out)))
    assert (out / "pretraining" / "pretrained" / "config.json").exists() and not list(out.glob("trials/*/pretrained"))
    trials = json.loads((out / "results.json").read_text())["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 2
    changes = 0
    for trial in trials:
        used = [measured["settings"] for measured in trial["history"]]
        assert all(1e-4 <= settings["ppo.lr"] <= 1e-2 and 1 <= settings["ppo.epochs"] <= 3 for settings in used)
        assert used[0] == used[1] and used[-1] == trial["settings"]  # nothing changes before the first comparison
        changes += sum(before != after for before, after in zip(used, used[1:], strict=False))
    assert changes >= 1


def test_measurements_that_were_repeated_or_cut_are_read_once(tmp_path):
    from dreamrl.tune.on_ray import measurements

    file = tmp_path / "measurements.jsonl"
    assert measurements(file) == []
    rows = [{"iteration": 1, "x": 0}, {"iteration": 2, "x": 0}, {"iteration": 2, "x": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"iteration": 3, "x"')
    assert measurements(file) == [rows[0], rows[2]]
