"""The speed benchmarks at their smallest: what they compare is alike, and what they report follows from it."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from torch import nn

from dreamrl.bench import generate, run
from dreamrl.errors import UserError
from dreamrl.judge import Judge
from envs.reasoning_env import ReasoningEnv

TINY = (
    "model.embedding_dim=16",
    "model.num_heads=2",
    "model.codec_hidden=16",
    "model.num_dream_sequences=2",
    "model.dream_length=2",
    "ppo.minibatch_size=4",
    "ppo.epochs=1",
    "ppo.replay_scenes=1",
)


@pytest.mark.ray
def test_rollout_compares_the_same_number_of_steps(capsys):
    from dreamrl.bench import rollout

    tiny = rollout.settings("nano", TINY, 0, 4)
    with rollout.quiet(), rollout.model_directory(tiny) as (loaded, directory):
        runners = rollout.env_runners(tiny, loaded, directory)
        loop = rollout.BareLoop(tiny, loaded, 4)
        assert loop() == rollout.drawn(runners["ours"]) == rollout.drawn(runners["stock"], num_timesteps=12) == 12
        assert 0 < loop.model_seconds < loop.seconds
    result = rollout.bench(overrides=TINY, questions=4, repeats=1)
    assert result["ours_to_bare"] == pytest.approx(result["ours"] / result["bare"], rel=0.01)
    assert result["ours_to_stock"] == pytest.approx(result["ours"] / result["stock"], rel=0.01)
    assert result["ceiling"] * result["model_share"] == pytest.approx(result["bare"] / result["stock"], rel=0.01)
    assert capsys.readouterr().out.count("\n") == 5  # a table of three


@pytest.mark.ray
def test_turns_alternate_and_the_first_does_not_count():
    from dreamrl.bench.rollout import alternate

    order = []
    speeds = alternate({name: lambda name=name: order.append(name) or 5 for name in "ab"}, repeats=3)
    assert order == list("abababab")
    assert {name: len(values) for name, values in speeds.items()} == {"a": 3, "b": 3}
    order.clear()
    assert generate.medians({name: lambda name=name: order.append(name) for name in "ab"}, repeats=2).keys() == set(
        "ab"
    )
    assert order == list("ababab")


@pytest.mark.ray
@pytest.mark.slow
def test_ppo_works_without_stable_baselines3(capsys):
    result = run.run_bench("ppo", [f"overrides=[{','.join(TINY)}]", "questions=4", "repeats=1", "sb3=false"])
    assert result["sb3"] is None and result["ours_to_sb3"] is None
    assert "pip install stable-baselines3" in capsys.readouterr().out
    assert result["ours_to_stock"] == pytest.approx(result["ours"] / result["stock"], rel=0.05)
    for name, parts in result["seconds"].items():
        assert all(parts[part] > 0 for part in ("sample", "connectors", "learn", "sync")), name
    assert result["seconds"]["ours"]["values"] == 0 < result["seconds"]["stock"]["values"]


@pytest.mark.ray
def test_stable_baselines3_that_is_not_installed_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(UserError, match="sb3=true needs Stable-Baselines3: pip install stable-baselines3=="):
        run.run_bench("ppo", ["sb3=true"])


@pytest.mark.ray
@pytest.mark.parametrize("parameters", [500, 5000])
def test_the_perceptron_is_the_widest_that_has_no_more_weights(parameters):
    from dreamrl.bench.sb3 import width_for

    def weights(width):
        body = [nn.Linear(7, width), nn.Linear(width, width)] * 2
        return sum(p.numel() for layer in [*body, nn.Linear(width, 9), nn.Linear(width, 1)] for p in layer.parameters())

    width = width_for(7, 9, parameters)
    assert weights(width) <= parameters < weights(width + 1)


@pytest.mark.ray
def test_the_flat_environment_steps_as_the_one_inside(make_loaded):
    from dreamrl.bench.sb3 import FlatEnv

    loaded = make_loaded()
    inside, flat = (ReasoningEnv(loaded.run, loaded.world, loaded.text, Judge(loaded.model)) for _ in range(2))
    flat = FlatEnv(flat)
    inside.reset(seed=1)
    flat.reset(seed=1)
    inside.action_space.seed(0)
    over = False
    while not over:
        action = inside.action_space.sample()
        obs, reward, over, _, _ = inside.step(action)
        vector = np.concatenate([np.ravel(action[name]) for name in flat.sizes])
        seen, pay, done, _, _ = flat.step(vector)
        assert flat.action_space.contains(vector) and flat.observation_space.contains(seen)
        assert (pay, done) == (reward, over)
        assert len(seen) == sum(np.size(value) for value in obs.values())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("stable_baselines3") is None, reason="needs stable-baselines3")
@pytest.mark.filterwarnings("ignore::UserWarning:stable_baselines3")
def test_stable_baselines3_takes_as_many_steps(make_loaded):
    from dreamrl.bench import rollout
    from dreamrl.bench.sb3 import Perceptron

    tiny = rollout.settings("nano", TINY, 0, 4)
    with rollout.model_directory(tiny) as (loaded, _):
        perceptron = Perceptron(tiny, loaded)
        before = [p.detach().clone() for p in perceptron.model.policy.parameters()]
        perceptron.iterate(count=True)
        assert perceptron.model.num_timesteps == perceptron.steps == 4 * 3
        assert len(perceptron.speeds) == 1
        moved = zip(before, perceptron.model.policy.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in moved)
        assert perceptron.parameters <= sum(p.numel() for p in loaded.model.parameters())
        ends = perceptron.model.rollout_buffer.episode_starts.sum(0)
        assert (ends <= 2).all()  # dreams go on to their full length, so that episodes have three steps


def test_generate_fits_how_time_grows(capsys):
    settings = ["questions=1", "steps=2,4", "dreams=1,2", "sizes=3,4", "lengths=20,40", "repeats=1"]
    result = run.run_bench("generate", [f"overrides=[{','.join(TINY[:5])}]", *settings])
    assert {kind: list(result[f"ms_by_{kind}"]) for kind in ("steps", "dreams", "patches")} == {
        "steps": [2, 4],
        "dreams": [1, 2],
        "patches": [9, 16],
    }
    by_steps = result["ms_by_steps"]
    assert result["exponents"]["steps"] == pytest.approx(np.log2(by_steps[4] / by_steps[2]), abs=0.01)
    assert result["dreams_per_second"] == pytest.approx(2 * result["answers_per_second"], rel=0.01)
    assert list(result["decode"]) == [20, 40]
    assert set(result["exponents"]) == {"steps", "dreams", "patches", "text_cached", "text_uncached"}
    assert "exponent" in capsys.readouterr().out


def test_dreams_of_the_model_that_is_measured_last(make_loaded):
    """Otherwise time would not be that of T steps."""
    loaded = generate.lasting(make_loaded().run, 6)
    [question] = generate.boards(loaded, 4, 1, 0)
    from dreamrl.imagine import imagine

    assert imagine(loaded, [question], 3, 0, 1.0).batch.lengths.tolist() == [[6, 6, 6]]


def test_pretrain_without_ray_measures_the_plain_loop():
    small = [*TINY[:5], "pretrain.scenes_per_step=2"]
    result = run.run_bench("pretrain", [f"overrides=[{','.join(small)}]", "updates=20", "repeats=1", "ray=false"])
    assert list(result["scenes_per_second"]) == ["plain"] and result["scenes_per_second"]["plain"] > 0
    assert 0 < result["data_share"] < 1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pretrain", ["updates=10"], "updates (10) must be >= 20"),
        ("generate", ["steps=4"], "steps (4) must hold at least two different numbers"),
        pytest.param("rollout", ["questions=0"], "questions (0) must be >= 1", marks=pytest.mark.ray),
        pytest.param("ppo", ["repeats=0"], "repeats (0) must be >= 1", marks=pytest.mark.ray),
    ],
)
def test_wrong_settings_are_one_line(name, settings, message):
    with pytest.raises(UserError) as raised:
        run.run_bench(name, settings)
    assert message in str(raised.value)
