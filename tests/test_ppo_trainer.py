"""PPO without Ray: it scores what it sampled, learns from every row, repeats itself, and makes dreams better."""

import dataclasses

import pytest
import torch

from dreamrl import policy
from dreamrl.columns import (
    ACTION_LOGP,
    ACTIONS,
    ADVANTAGES,
    ANSWER_ADVANTAGE,
    ANSWER_TARGET,
    DREAM_LOGP,
    DREAMS_SHOWN,
    OBS,
    TARGETS,
    TRUTH,
    nested,
)
from dreamrl.config import PPOConfig, WorldConfig
from dreamrl.losses import routing_loss
from dreamrl.metrics import explain
from dreamrl.ppo import PPOTrainer
from dreamrl.ppo_loss import ANSWER_SHARE, WARM_UP, answer_loss, dream_loss, learning_rate, ppo_loss, replay_loss
from dreamrl.saving import weights
from envs.reasoning_batch import Phase
from envs.world import Outcome

KINDS = {
    "default": {},
    "memory": {
        "use_dream_memory": True,
        "expert_types": ("spatial", "temporal", "causal", "abstract"),
        "use_cross_expert_attention": True,
    },
    "stochastic": {"stochastic_results": True},
    "graph": {"use_learned_edges": True, "use_node_memory": True, "num_edge_types": 2},
    "vision": {"vision_backbone": "lite"},
    "sparse": {"attention": "sparsemax", "moe_gating": "sparsemax"},
    "noise": {"moe_noise_std": 2.0, "embedding_dropout": 0.4, "token_masking": 0.4},
}
TINY = PPOConfig(
    iterations=10, questions_per_iteration=8, minibatch_size=10, replay_scenes=2, num_learners=0, predict_share=0.3
)


@pytest.fixture(scope="module")
def make(make_loaded):
    def make(model=None, seed=3, **ppo):
        loaded = make_loaded(seed, model, world=WorldConfig(sizes=(2, 3)), ppo=dataclasses.replace(TINY, **ppo))
        with torch.no_grad():
            loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 2.0  # dreams of several steps
        return loaded

    return make


def scored(trainer, batch):
    truth = {k: batch[k] for k in TRUTH}
    return policy.score(trainer.model, batch[OBS], batch[ACTIONS], truth)


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_is_one_before_the_first_update(make, kind):
    trainer = PPOTrainer(make(KINDS[kind]))
    columns, parts = trainer.sample()
    batch = nested(columns)
    now = scored(trainer, batch)
    _, metrics = dream_loss(trainer.run, batch, now.dreams)
    assert float(metrics["max_ratio_error"]) < 1e-4
    assert abs(float(metrics["approx_kl"])) < 1e-6 and float(metrics["clip_fraction"]) == 0
    torch.testing.assert_close(now.answers.logp, batch[ACTION_LOGP][now.answers.question], atol=1e-4, rtol=1e-5)
    # There was a choice, so there is a probability to be wrong about.
    assert float(batch[DREAM_LOGP].abs().max()) > 0.3 and float(now.answers.logp.detach().abs().min()) > 0.3
    assert len(now.dreams.logp) == int(((batch[OBS]["active"] == 1) & (batch[OBS]["phase"] == 0)[:, None]).sum())
    assert len(now.answers.logp) == 8 and parts["dream_length"] > 1.5


@pytest.mark.parametrize("kind", ["memory", "stochastic", "vision"])
def test_a_part_left_out_of_the_probability_is_found_out(make, kind):
    """What the ratio test would say of a score that forgets the past, the sampled codes or the picture."""
    trainer = PPOTrainer(make(KINDS[kind], predict_share=0.0))
    columns, _ = trainer.sample()
    if kind == "memory":
        columns["obs/actions"] = (columns["obs/actions"] + 1) % 4
    elif kind == "stochastic":
        trainer.model.config = dataclasses.replace(trainer.model.config, stochastic_results=False)
    else:
        columns["obs/pixels"] = torch.zeros_like(columns["obs/pixels"])
    batch = nested(columns)
    _, metrics = dream_loss(trainer.run, batch, scored(trainer, batch).dreams)
    assert float(metrics["max_ratio_error"]) > 1e-3


def test_sampling_depends_on_the_seed_alone(make):
    torch.manual_seed(1)
    first, _ = PPOTrainer(make(KINDS["noise"])).sample()
    state = torch.get_rng_state()
    second, _ = PPOTrainer(make(KINDS["noise"])).sample()
    assert torch.equal(torch.get_rng_state(), state)
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    for other in (PPOTrainer(make(KINDS["noise"]), iteration=1), PPOTrainer(make(KINDS["noise"], seed=4))):
        asked = other.sample()[0]["obs/frames"]
        assert asked.shape != first["obs/frames"].shape or not torch.equal(asked, first["obs/frames"])


def moved_trainer(make, **ppo):
    """A trainer whose weights have moved away from those that it sampled with, and what it sampled."""
    trainer = PPOTrainer(make(**ppo))
    columns, _ = trainer.sample()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.trained:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return trainer, nested(columns)


def clipped(logp, old, advantage, clip):
    ratio = (logp - old).exp()
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def test_the_loss_of_dreams_term_by_term(make):
    trainer, batch = moved_trainer(make, value_weight=0.7, entropy_weight=0.3, replay_weight=0.2)
    run, dreams = trainer.run, scored(trainer, batch).dreams
    loss, metrics = dream_loss(run, batch, dreams)
    gains, values, clips = [], [], 0
    for i, (q, n) in enumerate(zip(dreams.question.tolist(), dreams.dream.tolist(), strict=True)):
        clip = run.model.ppo_clip_epsilon
        gains.append(clipped(dreams.logp[i], batch[DREAM_LOGP][q, n], batch[ADVANTAGES][q, n], clip))
        values.append((dreams.value[i] - batch[TARGETS][q, n]) ** 2)
        clips += abs(float((dreams.logp[i] - batch[DREAM_LOGP][q, n]).detach().exp()) - 1) > clip
    assert clips > 0
    world = (dreams.frame_loss + dreams.belief_loss).mean()
    assert float(world.detach()) > 0
    expected = torch.stack(gains).mean() + 0.7 * torch.stack(values).mean() - 0.3 * dreams.entropy.mean() + 0.2 * world
    torch.testing.assert_close(loss, expected + routing_loss(run.model, dreams.routing)[0], atol=1e-5, rtol=1e-5)
    assert float(metrics["clip_fraction"]) == pytest.approx(clips / len(gains))
    targets = batch[TARGETS][dreams.question, dreams.dream]
    explained = 1 - (targets - dreams.value).var() / targets.var()
    torch.testing.assert_close(metrics["explained_variance"], explained, atol=1e-4, rtol=1e-4)


def test_the_whole_loss_is_dreams_answers_reading_and_replay(make):
    trainer, batch = moved_trainer(make, answer_weight=0.4, replay_weight=0.6)
    now, replay = scored(trainer, batch), trainer.replay.batch(0, 2, key=4)
    run, answers = trainer.run, now.answers
    gains, values = [], []
    for i, q in enumerate(answers.question.tolist()):
        gain = (answers.logp[i], batch[ACTION_LOGP][q], batch[ANSWER_ADVANTAGE][q], run.model.ppo_clip_epsilon)
        gains.append(clipped(*gain))
        values.append((answers.value[i] - batch[ANSWER_TARGET][q]) ** 2)
    own = torch.stack(gains).mean() + run.ppo.value_weight * torch.stack(values).mean()
    torch.testing.assert_close(answer_loss(run, batch, answers), own, atol=1e-5, rtol=1e-5)
    whole, _ = ppo_loss(run, trainer.model, batch, now, replay)
    unread = dataclasses.replace(run, ppo=dataclasses.replace(run.ppo, answer_weight=0.0, replay_weight=0.0))
    rest, _ = ppo_loss(unread, trainer.model, batch, now, {})
    torch.testing.assert_close(rest, dream_loss(unread, batch, now.dreams)[0] + ANSWER_SHARE * own)
    unplayed = dataclasses.replace(run, ppo=dataclasses.replace(run.ppo, replay_weight=0.0))
    played = dream_loss(run, batch, now.dreams)[0] - dream_loss(unplayed, batch, now.dreams)[0]
    read = ppo_loss(unplayed, trainer.model, batch, now, {})[0] - rest
    assert float(read.detach()) > 0.1
    torch.testing.assert_close(whole, rest + read + played + 0.6 * replay_loss(run, trainer.model, replay)[0])


def test_only_the_dreams_that_are_shown_are_read_for_the_reading_loss(make):
    trainer, batch = moved_trainer(make, replay_weight=0.0)
    now, answering = scored(trainer, batch), batch[OBS]["phase"] == Phase.ANSWER
    assert int(batch[DREAMS_SHOWN][answering].min()) < 3
    before = ppo_loss(trainer.run, trainer.model, batch, now, {})[0]
    hidden = torch.arange(3) >= batch[DREAMS_SHOWN].unsqueeze(1)
    for which, same in ((hidden, True), (~hidden, False)):
        actions = torch.where(which.unsqueeze(-1), (batch[OBS]["actions"] + 1) % 4, batch[OBS]["actions"])
        changed = batch | {OBS: batch[OBS] | {"actions": actions}}
        assert torch.equal(ppo_loss(trainer.run, trainer.model, changed, now, {})[0], before) == same


@pytest.mark.parametrize("kind", ["default", "memory", "graph", "vision", "noise"])
def test_every_parameter_but_the_judges_has_a_gradient(make, kind):
    loaded = make(KINDS[kind])
    trainer = PPOTrainer(loaded)
    batch = next(trainer.minibatches(trainer.sample()[0]))
    trainer.learn(batch, 0)
    frozen = {"codec", "inverse_dynamics", "calibration"}
    for name, parameter in loaded.model.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in frozen), name


@pytest.mark.parametrize("count, size, epochs", [(20, 5, 2), (23, 5, 2), (7, 50, 3), (11, 4, 1)])
def test_minibatches_cover_every_row_in_every_epoch(make, count, size, epochs):
    trainer = PPOTrainer(make(minibatch_size=min(size, 16), epochs=epochs, questions_per_iteration=8))
    trainer.run = dataclasses.replace(
        trainer.run, ppo=dataclasses.replace(trainer.run.ppo, minibatch_size=min(size, 16))
    )
    rows = torch.arange(count)
    batches = [batch["row"].tolist() for batch in trainer.minibatches({"row": rows})]
    took = [row for batch in batches for row in batch]
    least = min(min(size, 16), count)
    assert {len(batch) for batch in batches} == {least}
    assert took == [i % count for i in range(len(took))]
    assert epochs * count <= len(took) < epochs * count + least


def test_learning_rate_warms_up_and_decays(make):
    run = make(iterations=50).run
    rates = [learning_rate(run, i) for i in range(51)]
    assert rates[0] == pytest.approx(run.ppo.lr / WARM_UP)
    assert all(a < b for a, b in zip(rates[: WARM_UP - 1], rates[1:WARM_UP], strict=True))
    assert all(a > b for a, b in zip(rates[WARM_UP - 1 :], rates[WARM_UP:], strict=False))
    assert rates[-1] == pytest.approx(run.ppo.lr / 10) and max(rates) < run.ppo.lr


def test_an_iteration_moves_the_policy_but_never_the_judge(make):
    loaded = make()
    trainer = PPOTrainer(loaded)
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    steps = []
    metrics = trainer.iterate(lambda: steps.append(1))
    moved = {name.split(".")[0] for name, p in loaded.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved >= {"input_tokenizer", "dream_generator", "graph_reasoner", "output_decoder", "image_decoder"}
    assert not moved & {"codec", "inverse_dynamics", "calibration"}
    assert trainer.iteration == 1 and len(steps) > 2
    assert trainer.optimizer.param_groups[0]["lr"] == learning_rate(trainer.run, 0)
    for name in metrics:
        assert explain(f"ppo/{name}")
    assert {
        "policy_loss",
        "approx_kl",
        "exact_match",
        "faithfulness",
        "grad_norm",
        "replay_frame_loss",
    } <= metrics.keys()


def test_replay_is_fresh_in_every_step_and_iteration(make):
    trainer = PPOTrainer(make(epochs=1))
    batch = next(trainer.minibatches(trainer.sample()[0]))
    seen = []
    draw = trainer.replay.batch

    def watch(*args, **kwargs):
        seen.append(draw(*args, **kwargs)["frames"])
        return draw(*args, **kwargs)

    trainer.replay.batch = watch
    for iteration in range(2):
        trainer.iteration = iteration
        for number in range(3):
            trainer.learn(batch, number)
    assert len({frames.numpy().tobytes() for frames in seen}) == 6


def test_two_trainers_with_one_seed_end_with_the_same_weights(make):
    def train(seed):
        loaded = make(KINDS["noise"], seed=seed, questions_per_iteration=4, minibatch_size=6, epochs=1)
        trainer = PPOTrainer(loaded)
        metrics = [trainer.iterate() for _ in range(2)]
        return weights(loaded.model), metrics

    torch.manual_seed(5)
    first, ours = train(3)
    torch.manual_seed(6)
    second, theirs = train(3)
    assert all(torch.equal(first[name], second[name]) for name in first) and ours == theirs


def test_clip_range_and_lambda_come_from_the_model(make):
    """They are settings of the model's objective: a narrower clip range changes the loss, lambda the advantages."""
    trainer, batch = moved_trainer(make)
    now = scored(trainer, batch)
    losses = []
    for clip in (0.02, 0.2):
        model = dataclasses.replace(trainer.run.model, ppo_clip_epsilon=clip)
        losses.append(float(dream_loss(dataclasses.replace(trainer.run, model=model), batch, now.dreams)[0].detach()))
    assert losses[0] != losses[1]
    greedy, far = (PPOTrainer(make({"ppo_gae_lambda": lam})).sample()[0] for lam in (0.0, 1.0))
    assert torch.equal(greedy["actions/action"], far["actions/action"])
    assert not torch.allclose(greedy[ADVANTAGES], far[ADVANTAGES], atol=1e-3)
