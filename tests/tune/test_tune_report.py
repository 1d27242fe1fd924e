"""What a search leaves: ranking, importance, and a best run that can be repeated; all from results made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamrl.settings import load_settings
from dreamrl.tune.importance import PED_ANOVA, RANKS, importance
from dreamrl.tune.live import TrialRow
from dreamrl.tune.plan import plan_from
from dreamrl.tune.report import Outcome, best_of, observations, write_results
from dreamrl.tune.space import Domain

DATA = {
    "settings": {"ppo.iterations": 4, "world.sizes": [3]},
    "space": {
        "ppo.lr": {"loguniform": [1e-4, 1e-2]},
        "model.num_experts": {"choice": [2, 4, 8]},
        "reward.shaping": {"choice": ["potential", "naive"]},
    },
    "search": {"trials": 4},
}
PBT = {
    "settings": {"ppo.iterations": 6},
    "space": {"ppo.lr": {"loguniform": [1e-4, 1e-2]}},
    "scheduler": {"name": "pbt", "interval": 2},
}


def trial(name, score, lr, experts=4, status="finished", iteration=4, shaping="potential", reason=""):
    settings = {"ppo.lr": lr, "model.num_experts": experts, "reward.shaping": shaping}
    row = TrialRow(name=name, status=status, iteration=iteration, score=score, settings=settings, reason=reason)
    return Outcome(row=row, seconds=12.34, checkpoint=f"checkpoints/{name}" if score is not None else "")


TRIALS = [
    trial("00000", 0.25, 1e-3, experts=2),
    trial("00001", 0.75, 3e-3, experts=8),
    trial("00002", 0.25, 2e-4, status="stopped", iteration=2),
    trial("00003", 0.9, 9e-3, status="failed", iteration=2, reason="diverged: policy_loss is nan"),
    trial("00004", None, 5e-3, status="failed", iteration=0, reason="its process died"),
]


@pytest.fixture
def written(tmp_path):
    saved = []
    plan = plan_from(DATA, "FILE")
    best = write_results(plan, TRIALS, tmp_path, lambda run, checkpoint, place: saved.append((run, checkpoint, place)))
    return tmp_path, best, saved


def test_the_best_trial_did_not_fail_and_has_the_highest_score(written):
    out, best, saved = written
    assert best is TRIALS[1]
    assert [(checkpoint, place) for _, checkpoint, place in saved] == [(Path("checkpoints/00001"), out / "best")]
    assert saved[0][0].model.num_experts == 8


def test_of_equals_the_trial_that_went_further_is_the_better_one():
    assert best_of([TRIALS[2], TRIALS[0]]) is TRIALS[0]
    assert best_of([TRIALS[3], TRIALS[4]]) is None


def test_best_yaml_is_what_the_train_command_takes(written):
    out, best, saved = written
    run = load_settings(None, out / "best.yaml", [], None)  # as `dreamrl train --config` reads it
    assert run == saved[0][0]
    assert (run.ppo.lr, run.model.num_experts, run.ppo.iterations, run.world.sizes) == (3e-3, 8, 4, (3,))


def test_the_table_is_ranked_and_says_why_trials_failed(written):
    text = (written[0] / "results.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| 0")]
    assert rows == ["00001", "00000", "00002", "00003", "00004"]
    assert "| 00001 | finished | 4 | 0.75 | 3.0e-03 | 8 | potential |" in text
    assert "- 00003: diverged: policy_loss is nan" in text and "- 00004: its process died" in text


def test_results_json_holds_every_trial(written):
    record = json.loads((written[0] / "results.json").read_text())
    assert (record["best"], record["metric"]) == ("00001", "exact_match")
    assert [t["name"] for t in record["trials"]] == [o.row.name for o in TRIALS]
    assert record["trials"][0]["settings"] == dict(TRIALS[0].row.settings)
    assert record["importance"]["measurements"] == 3  # failed trials do not count


def test_the_plot_is_a_picture(written):
    with Image.open(written[0] / "importance.png") as image:
        assert image.size[0] > 500 and len(set(image.convert("L").tobytes())) > 50


def test_a_search_without_results_is_written_all_the_same(tmp_path):
    assert write_results(plan_from(DATA, "FILE"), TRIALS[3:], tmp_path, lambda *args: pytest.fail("no model")) is None
    assert not (tmp_path / "best.yaml").exists() and (tmp_path / "results.md").exists()


def test_with_pbt_a_measurement_tells_of_the_settings_that_led_to_it():
    plan = plan_from(PBT, "FILE")
    history = [
        {"iteration": 2, "exact_match": 0.1, "settings": {"ppo.lr": 1e-3}},
        {"iteration": 4, "exact_match": 0.4, "settings": {"ppo.lr": 1e-3}},
        {"iteration": 6, "exact_match": 0.5, "settings": {"ppo.lr": 2e-3}},  # another trial's weights
    ]
    row = TrialRow(name="00000", status="finished", iteration=6, score=0.5, settings={"ppo.lr": 2e-3})
    samples, scores = observations(plan, [Outcome(row=row, history=history)])
    assert samples == [{"ppo.lr": 1e-3}]
    assert scores == pytest.approx([0.3])


SPACE = (
    Domain(key="ppo.lr", kind="loguniform", values=(1e-4, 1e-2)),
    Domain(key="ppo.epochs", kind="int", values=(1, 4)),
    Domain(key="reward.shaping", kind="choice", values=("potential", "naive")),
    Domain(key="model.num_experts", kind="choice", values=(2, 4, 8)),
)


def synthetic(matters, trials, seed=0):
    """Random samples whose score depends on one setting, and noise a tenth as large."""
    rng = np.random.default_rng(seed)
    samples = [
        {
            "ppo.lr": float(10 ** rng.uniform(-4, -2)),
            "ppo.epochs": int(rng.integers(1, 5)),
            "reward.shaping": str(rng.choice(["potential", "naive"])),
            "model.num_experts": int(rng.choice([2, 4, 8])),
        }
        for _ in range(trials)
    ]
    effect = {
        "ppo.lr": lambda v: (np.log10(v) + 4) / 2,
        "ppo.epochs": lambda v: v / 4,
        "reward.shaping": lambda v: float(v == "potential"),
        "model.num_experts": lambda v: v / 8,
    }[matters]
    return samples, [float(effect(s[matters]) + 0.1 * rng.standard_normal()) for s in samples]


@pytest.mark.parametrize(("trials", "method"), [(14, RANKS), (200, PED_ANOVA)])
@pytest.mark.parametrize("matters", [domain.key for domain in SPACE])
def test_the_setting_that_matters_is_found(matters, trials, method):
    name, shares = importance(SPACE, *synthetic(matters, trials))
    assert name == method
    assert next(iter(shares)) == matters and shares[matters] >= 0.4
    assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0


def test_rank_correlation_of_a_monotone_function_is_one():
    samples = [{"ppo.lr": 10.0**-k, "ppo.epochs": 2} for k in range(6)]
    _, shares = importance(SPACE[:2], samples, [float(k**3) for k in range(6)])
    assert shares == {"ppo.lr": 1.0, "ppo.epochs": 0.0}


@pytest.mark.parametrize("trials", [0, 1, 2, 5, 40])
def test_equal_scores_say_that_nothing_mattered(trials):
    samples, _ = synthetic("ppo.lr", trials)
    assert set(importance(SPACE, samples, [0.5] * trials)[1].values()) == {0.0}
