"""Processes of a PPO run die: it goes on by itself and ends with the very weights of a run that was left alone."""

import os
import signal
from dataclasses import replace

import pytest
import torch

from dreamrl.bench.chaos import TITLES
from dreamrl.bench.processes import ray_processes, reached
from dreamrl.checkpoint import save_checkpoint
from dreamrl.config import DreamingConfig, PPOConfig, RunConfig, WorldConfig
from dreamrl.data import RandomPlay
from dreamrl.pretrain import train_codec
from dreamrl.rl.train import STAGE, ppo_on_ray
from dreamrl.saving import new_model, save_pretrained, weights

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_here")]
CPUS = 6

RUN = RunConfig(
    seed=3,
    deterministic=True,
    world=WorldConfig(sizes=(3,)),
    model=DreamingConfig(embedding_dim=16, num_heads=2, codec_hidden=32, num_dream_sequences=3, dream_length=4),
    ppo=PPOConfig(
        iterations=6,
        questions_per_iteration=16,
        minibatch_size=10,
        replay_scenes=2,
        num_learners=2,
        checkpoint_every=2,
    ),
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    loaded = new_model(RUN)
    train_codec(loaded, RandomPlay(RUN, loaded.world, loaded.text, loaded.model.codec))
    directory = tmp_path_factory.mktemp("model") / "model"
    save_pretrained(loaded, directory)
    return directory


def train(model_dir, out, runners, kills=None, step=3):
    """The weights that a run ends with; after update ``step`` a process of the kind ``kills`` gets SIGKILL."""
    killed = []

    def progress(**values):
        if values["step"] == step and kills and not killed:
            killed.extend(ray_processes(os.getpid(), TITLES[kills])[:1])
            os.kill(killed[0], signal.SIGKILL)

    out.mkdir()
    run = replace(RUN, ppo=replace(RUN.ppo, num_env_runners=runners))
    trained = ppo_on_ray(run, out, model_dir, progress)
    assert bool(killed) == bool(kills) and reached(out, STAGE) == 6
    return weights(trained.model)


@pytest.fixture(scope="module")
def undisturbed(model_dir, tmp_path_factory):
    return train(model_dir, tmp_path_factory.mktemp("whole") / "run", runners=1)


def assert_same(first, second):
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_killed_learner_is_rebuilt_from_the_newest_checkpoint(undisturbed, model_dir, tmp_path, capsys):
    assert_same(train(model_dir, tmp_path / "run", runners=1, kills="learner"), undisturbed)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ppo:")]
    assert line.startswith("ppo: a process died (") and line.endswith("; going on from ppo-00000002")


def test_what_a_killed_env_runner_should_have_played_is_played(undisturbed, model_dir, tmp_path):
    assert_same(train(model_dir, tmp_path / "run", runners=2, kills="env runner"), undisturbed)


@pytest.mark.parametrize("runners", [0, 2, 4])
def test_the_number_of_env_runners_changes_nothing(undisturbed, model_dir, tmp_path, runners):
    assert_same(train(model_dir, tmp_path / "run", runners), undisturbed)


def test_a_mistake_is_raised_at_once(model_dir, tmp_path):
    """A learner that fails by itself would fail again: weights of another shape, say."""
    (out := tmp_path / "run").mkdir()
    save_checkpoint(
        out / "checkpoints",
        "ppo-00000002",
        {"x": torch.zeros(1)},
        dict.fromkeys(("iteration", "episodes", "env_steps"), 2),
    )
    with pytest.raises(Exception, match="x|missing|match"):
        ppo_on_ray(RUN, out, model_dir)
