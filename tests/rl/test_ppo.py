"""The real env runner and learner, in this process: is what PPO computes what PPO says?"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamrl import policy
from dreamrl.columns import TRUTH, nested
from dreamrl.config import DreamingConfig, PPOConfig, RunConfig
from dreamrl.metrics import explain
from dreamrl.ppo import PPOTrainer
from dreamrl.ppo_loss import dream_loss, ppo_loss
from dreamrl.pretrain import train_codec
from dreamrl.rl.algorithm import algorithm_config, learner_tensors, restore_learners
from dreamrl.rl.learner import PLACE
from dreamrl.rl.module import SCORED
from dreamrl.rl.train import iteration_metrics
from dreamrl.saving import load_pretrained, model_tensors, new_model, save_pretrained, weights
from envs.reasoning_batch import Phase
from envs.world import Outcome

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_here")]


KINDS = {
    "default": {},
    "stochastic": {"stochastic_results": True},
    "everything": {
        "stochastic_results": True,
        "use_dream_memory": True,
        "expert_types": ("spatial", "temporal", "causal", "abstract"),
        "use_cross_expert_attention": True,
        "use_learned_edges": True,
        "use_node_memory": True,
        "vision_backbone": "lite",
        "moe_noise_std": 1.0,
        "token_masking": 0.3,
    },
}


def tiny_run(**changes) -> RunConfig:
    model = DreamingConfig(
        embedding_dim=16, num_heads=2, codec_hidden=32, num_dream_sequences=3, dream_length=4, **changes
    )
    ppo = PPOConfig(
        iterations=3, questions_per_iteration=12, minibatch_size=20, replay_scenes=2, num_learners=0, predict_share=0.3
    )
    return RunConfig(model=model, ppo=ppo, seed=3)


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def model_dir(request, tmp_path_factory):
    from dreamrl.data import RandomPlay

    run = tiny_run(**request.param)
    loaded = new_model(run)
    train_codec(loaded, RandomPlay(run, loaded.world, loaded.text, loaded.model.codec))
    with torch.no_grad():  # an uneven policy and router: a wrong logp cannot hide behind uniform probabilities
        for parameter in loaded.model.dream_generator.policy.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
        loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 2.0  # dreams of several steps
    directory = tmp_path_factory.mktemp("model") / "model"
    save_pretrained(loaded, directory)
    return directory, run


@pytest.fixture
def algorithm(model_dir):
    directory, run = model_dir
    algorithm = algorithm_config(run, directory).build_algo()
    yield algorithm
    algorithm.stop()


def sampled_batch(algorithm):
    """Episodes of the real env runner through the real learner connector."""
    runner, learner = algorithm.env_runner_group.local_env_runner, algorithm.learner_group._learner
    episodes = runner.sample()
    batch = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=episodes, shared_data={}, metrics=learner.metrics
    )
    return episodes, batch["default_policy"], learner.module["default_policy"].unwrapped()


def test_ratio_is_one_before_the_first_update(algorithm, model_dir):
    _, run = model_dir
    _, batch, module = sampled_batch(algorithm)
    assert (batch["obs"]["phase"] == Phase.ANSWER).any() and (batch["obs"]["phase"] == Phase.DREAM).any()
    scored = module.forward_train(batch)[SCORED]
    _, metrics = dream_loss(run, batch, scored.dreams)
    assert float(metrics["max_ratio_error"]) < 1e-4
    assert abs(float(metrics["approx_kl"])) < 1e-6
    answers = scored.answers
    assert torch.allclose(answers.logp, batch["action_logp"][answers.question], atol=1e-4)
    assert float(batch["dream_logp"].abs().amax()) > 0.1  # there is a probability to be wrong about


def test_in_bfloat16_the_first_minibatch_begins_at_ratio_one_to_the_bit(model_dir, tmp_path):
    """Sampled on the CPU in float32, learned from in bfloat16: the learner asks its own weights first."""
    run = replace(model_dir[1], precision="bfloat16")
    save_pretrained(replace(load_pretrained(model_dir[0]), run=run), tmp_path / "model")
    algorithm = algorithm_config(run, tmp_path / "model").build_algo()
    try:
        episodes, batch, module = sampled_batch(algorithm)
        size = run.ppo.minibatch_size
        first = {k: v[:size] for k, v in batch.items() if k not in ("obs", "actions")}
        first |= {group: {k: v[:size] for k, v in batch[group].items()} for group in ("obs", "actions")}
        scored = module.forward_train(first)[SCORED]
    finally:
        algorithm.stop()
    _, metrics = dream_loss(run, first, scored.dreams)
    assert float(metrics["max_ratio_error"]) == 0
    if scored.answers is not None:
        assert torch.equal(scored.answers.logp, first["action_logp"][scored.answers.question])
    sampled = np.concatenate([episode.get_extra_model_outputs("action_logp") for episode in episodes])
    learned = batch["action_logp"].numpy()
    assert 1e-4 < abs(np.sort(sampled) - np.sort(learned)).max() < 0.5


def test_a_missing_part_of_the_logp_is_caught(algorithm, model_dir):
    """Scoring other actions than those sampled, or dropping the codes' part, breaks the ratio."""
    _, run = model_dir
    _, batch, module = sampled_batch(algorithm)
    changed = dict(batch) | {"actions": dict(batch["actions"])}
    if run.model.stochastic_results:
        module.model.config = replace(run.model, stochastic_results=False)  # logp of the action alone
    else:
        changed["actions"]["action"] = (batch["actions"]["action"] + 1) % 4
    _, metrics = dream_loss(run, changed, module.forward_train(changed)[SCORED].dreams)
    module.model.config = run.model
    assert float(metrics["max_ratio_error"]) > 1e-2


def test_the_plain_trainer_samples_the_same_columns_in_the_same_order(algorithm, model_dir):
    """Same questions, actions, advantages and targets, shuffled alike, as through Ray's episodes."""
    directory, run = model_dir
    trainer = PPOTrainer(load_pretrained(directory))
    for iteration in range(2):
        episodes, batch, _ = sampled_batch(algorithm)
        trainer.iteration = iteration
        ours, parts = trainer.sample()
        assert len({e.get_infos()[0]["question"] for e in episodes}) > 1
        theirs = {k: v for k, v in batch.items() if k != PLACE}
        mine = nested(ours)
        assert mine.keys() == theirs.keys()
        for group in ("obs", "actions"):
            assert mine[group].keys() == theirs[group].keys()
            assert all(torch.equal(mine[group][k], theirs[group][k]) for k in mine[group])
        assert all(torch.equal(mine[k], theirs[k]) for k in mine.keys() - {"obs", "actions"})
        logged = algorithm.env_runner_group.local_env_runner.metrics.peek(("reward_parts",))
        assert parts == pytest.approx({k: float(v) for k, v in logged.items()}, abs=1e-6)
        algorithm.env_runner_group.local_env_runner._weights_seq_no = iteration + 1


def test_the_plain_trainer_computes_the_same_loss_and_the_same_update(algorithm, model_dir):
    directory, run = model_dir
    loaded = load_pretrained(directory)
    trainer = PPOTrainer(loaded)
    _, batch, module = sampled_batch(algorithm)
    learner = algorithm.learner_group._learner
    first = next(trainer.minibatches(trainer.sample()[0]))
    size = len(first["action_logp"])
    theirs = {k: v[:size] for k, v in batch.items() if k not in ("obs", "actions")}
    theirs |= {group: {k: v[:size] for k, v in batch[group].items()} for group in ("obs", "actions")}
    loss = learner.compute_loss_for_module(
        module_id="default_policy",
        config=learner.config.get_config_for_module("default_policy"),
        batch=theirs,
        fwd_out=module.forward_train(theirs),
    )
    scored = policy.score(loaded.model, first["obs"], first["actions"], {k: first[k] for k in TRUTH})
    own, _ = ppo_loss(run, loaded.model, first, scored, trainer.replay.batch(0, run.ppo.replay_scenes, key=4))
    torch.testing.assert_close(loss, own, atol=1e-6, rtol=1e-6)


def test_the_plain_trainer_ends_with_the_same_weights(algorithm, model_dir):
    """Two whole iterations: the same minibatches, replay, clipping, optimizer and learning rate."""
    directory, _ = model_dir
    loaded = load_pretrained(directory)
    trainer = PPOTrainer(loaded)
    for _ in range(2):
        theirs = iteration_metrics(algorithm.train(), 1.0)
        ours = trainer.iterate()
        assert {f"ppo/{name}" for name in ours} <= theirs.keys()
        assert all(explain(name) for name in theirs.keys() - {"steps"})
        for name in ("exact_match", "faithfulness", "progress", "dream_length"):
            assert ours[name] == pytest.approx(theirs[f"ppo/{name}"], abs=1e-6)
    state = model_tensors(learner_tensors(algorithm))
    for name, tensor in weights(loaded.model).items():
        torch.testing.assert_close(tensor, state[name], atol=1e-6, rtol=1e-5, msg=name)


def test_advantages_are_those_of_the_episodes(algorithm, model_dir):
    """Against a slow loop over every dream of every episode."""
    _, run = model_dir
    episodes, batch, _ = sampled_batch(algorithm)
    expected = []
    for episode in episodes:
        values = np.asarray(episode.get_extra_model_outputs("dream_value"))
        observations = episode.get_observations()
        infos = episode.get_infos()[1:]
        for dream in range(run.model.num_dream_sequences):
            steps = [
                t for t in range(len(episode)) if observations["active"][t, dream] and observations["phase"][t] == 0
            ]
            pay = [infos[t]["dream_rewards"][dream] for t in steps]
            pay[-1] += sum(infos[t]["dream_rewards"][dream] for t in range(steps[-1] + 1, len(episode)))
            for k, start in enumerate(steps):
                total = 0.0
                for j, t in enumerate(steps[k:]):
                    after = values[steps[k + j + 1], dream] if k + j + 1 < len(steps) else 0.0
                    delta = pay[k + j] + run.ppo.gamma * after - values[t, dream]
                    total += (run.ppo.gamma * run.model.ppo_gae_lambda) ** j * delta
                expected.append(total + values[start, dream])
    active = (batch["obs"]["active"] == 1) & (batch["obs"]["phase"] == 0).unsqueeze(1)
    assert np.allclose(np.sort(expected), np.sort(batch["dream_targets"][active].numpy()), atol=1e-4)


def test_training_moves_the_policy_but_never_the_judge(algorithm, model_dir):
    before = learner_tensors(algorithm)
    result = algorithm.train()
    after = learner_tensors(algorithm)
    assert result["env_runners"]["num_episodes"] == 12
    moved = {name.split(".")[0] for name in model_tensors(before) if not torch.equal(before[name], after[name])}
    assert {"dream_generator", "graph_reasoner", "output_decoder"} <= moved
    assert not moved & {"codec", "inverse_dynamics"}


def test_a_new_algorithm_takes_up_weights_and_optimizer(algorithm, model_dir):
    directory, run = model_dir
    algorithm.train()
    saved = learner_tensors(algorithm)
    resumed = algorithm_config(run, directory, start_iteration=1).build_algo()
    try:
        assert any(not torch.equal(saved[k], v) for k, v in learner_tensors(resumed).items())
        restore_learners(resumed, saved)
        restored = learner_tensors(resumed)
        assert saved.keys() == restored.keys() and all(torch.equal(saved[k], v) for k, v in restored.items())
        runner = resumed.env_runner_group.local_env_runner
        assert torch.equal(runner.module.model.dream_generator.policy.weight, saved["dream_generator.policy.weight"])
        asked = {e.get_infos()[0]["question"] for e in runner.sample()}
        assert len(asked) > 1
        # Question numbers go on where the first run stopped: none is asked twice, none is left out.
        algorithm.train()
        resumed.train()
        ours, theirs = learner_tensors(algorithm), learner_tensors(resumed)
        assert all(torch.allclose(ours[k], theirs[k], atol=1e-5) for k in ours)
    finally:
        resumed.stop()


def test_same_seed_gives_the_same_weights(algorithm, model_dir):
    directory, run = model_dir
    again = algorithm_config(run, directory).build_algo()
    try:
        for _ in range(2):
            algorithm.train()
            again.train()
        first, second = learner_tensors(algorithm), learner_tensors(again)
        assert all(torch.equal(first[k], second[k]) for k in first)
    finally:
        again.stop()


def test_two_runners_sample_what_one_does(model_dir):
    """Runner r of W takes every W-th batch of questions; together they sample the same."""
    from dreamrl.rl.env_runner import DreamEnvRunner

    directory, run = model_dir

    def play(runners: int, index: int):
        config = algorithm_config(replace(run, ppo=replace(run.ppo, num_env_runners=runners)), directory)
        config.validate()
        runner = DreamEnvRunner(config=config, worker_index=index)
        runner.run = replace(run, ppo=replace(run.ppo, num_env_runners=runners))
        return [(e.get_infos()[0]["number"], len(e), e.get_return()) for e in runner.sample()]

    shares = [play(2, 1), play(2, 2)]
    assert all(shares) and sorted(shares[0] + shares[1]) == play(0, 0)  # to the last bit


def test_stock_env_runner_can_step_the_environment_and_train(model_dir):
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    directory, run = model_dir
    config = algorithm_config(run, directory)
    config.env_runners(env_runner_cls=SingleAgentEnvRunner, num_envs_per_env_runner=4)
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
        learner = result["learners"]["default_policy"]
        assert result["env_runners"]["num_env_steps_sampled"] >= 8
        assert np.isfinite(learner["policy_loss"])
    finally:
        algorithm.stop()
