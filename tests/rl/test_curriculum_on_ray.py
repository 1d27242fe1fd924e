"""The curriculum through the real env runner, learner and driver: the right stage reaches everybody."""

import dataclasses
import json
import os
import time

import pytest
import torch

from dreamrl.checkpoint import newest_checkpoint
from dreamrl.columns import OBS
from dreamrl.config import CurriculumConfig, DreamingConfig, PPOConfig, RunConfig, WorldConfig
from dreamrl.curriculum import stages_of
from dreamrl.data import RandomPlay
from dreamrl.ppo import PPOTrainer
from dreamrl.ppo_loss import dream_loss
from dreamrl.pretrain import train_codec
from dreamrl.rl.algorithm import algorithm_config, enter_stage, learner_tensors
from dreamrl.rl.module import SCORED
from dreamrl.rl.train import ppo_on_ray
from dreamrl.saving import load_pretrained, model_tensors, new_model, save_pretrained, weights
from envs.reasoning_batch import Phase
from envs.world import Outcome

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_here")]

RUN = RunConfig(
    seed=3,
    world=WorldConfig(sizes=(2, 3)),
    model=DreamingConfig(embedding_dim=16, num_heads=2, codec_hidden=32, num_dream_sequences=3, dream_length=4),
    ppo=PPOConfig(
        iterations=3, questions_per_iteration=12, minibatch_size=20, replay_scenes=2, num_learners=0, predict_share=0.3
    ),
    curriculum=CurriculumConfig(
        enabled=True, stages=("a", "b", "c"), window=12, targets=(1.0,), min_iterations=(1,), max_iterations=(1,)
    ),
)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    loaded = new_model(RUN)
    train_codec(loaded, RandomPlay(RUN, loaded.world, loaded.text, loaded.model.codec))
    with torch.no_grad():
        for parameter in loaded.model.dream_generator.policy.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
        loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 2.0
    directory = tmp_path_factory.mktemp("model") / "model"
    save_pretrained(loaded, directory)
    return directory


@pytest.fixture
def algorithm(model_dir):
    algorithm = algorithm_config(RUN, model_dir).build_algo()
    yield algorithm
    algorithm.stop()


def test_ratio_is_one_on_the_first_minibatch_of_every_stage(algorithm, model_dir):
    runner, learner = algorithm.env_runner_group.local_env_runner, algorithm.learner_group._learner
    for stage in stages_of(RUN, load_pretrained(model_dir).world):
        enter_stage(algorithm, stage.number)
        episodes = runner.sample()
        batch = learner._learner_connector(
            rl_module=learner.module, batch={}, episodes=episodes, shared_data={}, metrics=learner.metrics
        )["default_policy"]
        module = learner.module["default_policy"].unwrapped()
        scored = module.forward_train(batch)[SCORED]
        _, metrics = dream_loss(RUN, batch, scored.dreams)
        assert float(metrics["max_ratio_error"]) < 1e-4
        logp = batch["action_logp"][scored.answers.question]
        torch.testing.assert_close(scored.answers.logp, logp, atol=1e-4, rtol=1e-5)
        lengths = batch[OBS]["lengths"][batch[OBS]["phase"] == Phase.ANSWER]
        assert int(lengths.max()) == stage.dream_length and ((lengths > 0).sum(1) == stage.dreams).all()
        assert batch[OBS]["frames"].shape[1:3] == (3, 5)  # the shapes stay
        assert tuple(learner.replay.world.sizes) == tuple(stage.replay.sizes)
        sums = [sum(e.get_rewards()) for e in episodes]
        pay = [sum(i["dream_rewards"][: stage.dreams].mean() + i["answer_reward"] for i in e.get_infos()[1:])
               for e in episodes]  # fmt: skip
        assert sums == pytest.approx(pay, abs=1e-5)


def test_the_plain_trainer_ends_with_the_same_weights(algorithm, model_dir):
    loaded = load_pretrained(model_dir)
    trainer = PPOTrainer(loaded)
    for number in range(3):
        assert trainer.curriculum.number == number
        enter_stage(algorithm, number)
        algorithm.train()
        trainer.iterate()
    state = model_tensors(learner_tensors(algorithm))
    for name, tensor in weights(loaded.model).items():
        torch.testing.assert_close(tensor, state[name], atol=1e-6, rtol=1e-5, msg=name)


def test_an_env_runner_that_was_killed_comes_back_in_the_present_stage(model_dir):
    """It is down when the stage is sent out, and gets it with its weights before it samples."""
    run = dataclasses.replace(RUN, ppo=dataclasses.replace(RUN.ppo, num_env_runners=1))
    algorithm = algorithm_config(run, model_dir).build_algo()
    try:
        algorithm.train()
        group = algorithm.env_runner_group
        group.foreach_env_runner(lambda runner: os._exit(1), local_env_runner=False)
        enter_stage(algorithm, 2)
        for _ in range(20):  # it takes a while to start
            time.sleep(1)
            algorithm.train()
            if group.num_healthy_remote_workers() == 1:
                break
        found = group.foreach_env_runner(
            lambda runner: (runner.batch.present, runner.batch.longest, runner._weights_seq_no), local_env_runner=False
        )
        (stage,) = stages_of(RUN, load_pretrained(model_dir).world)[2:]
        assert [f[:2] for f in found] == [(stage.dreams, stage.dream_length)] and found[0][2] > 1
    finally:
        algorithm.stop()


class Stop:
    """Asks for an end from the start: after every iteration."""

    asked = True


def test_a_stopped_run_goes_on_in_its_stage_and_ends_the_same(model_dir, tmp_path, capsys):
    straight, parts = tmp_path / "whole", tmp_path / "parts"
    for out in (straight, parts):
        out.mkdir()
    whole = ppo_on_ray(RUN, straight, model_dir)
    for done in (1, 2):
        assert ppo_on_ray(RUN, parts, model_dir, stop=Stop()) is None
        state = newest_checkpoint(parts / "checkpoints", "ppo")[2]["curriculum"]
        assert state["number"] == done and state["forced"] + state["mastered"] == done
    resumed = ppo_on_ray(RUN, parts, model_dir)
    for name, tensor in weights(whole.model).items():
        torch.testing.assert_close(weights(resumed.model)[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    told = [
        [json.loads(line)["ppo/curriculum/stage"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (straight, parts)
    ]
    assert told == [[1, 2, 3], [1, 2, 3]]
    assert capsys.readouterr().out.count('curriculum: "a"') == 2
