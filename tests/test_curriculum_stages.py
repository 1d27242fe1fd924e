"""PPO without Ray in the stages of a curriculum: absent dreams are as if they were not there, and the ratio is one."""

import dataclasses

import numpy as np
import pytest
import torch
from steps import own_steps, step_columns

from dreamrl import columns, policy
from dreamrl.columns import ACTION_LOGP, OBS, TRUTH, flat, nested, normalise
from dreamrl.config import CurriculumConfig, PPOConfig, WorldConfig
from dreamrl.curriculum import stages_of
from dreamrl.judge import Judge
from dreamrl.metrics import explain
from dreamrl.nn.output_decoder import NEVER
from dreamrl.ppo import PPOTrainer
from dreamrl.ppo_loss import dream_loss, ppo_loss
from dreamrl.rollout import play
from dreamrl.saving import optimizer_tensors, set_optimizer, set_weights, weights
from envs.reasoning_batch import Phase, ReasoningBatch
from envs.world import Outcome

KINDS = {
    "default": {},
    "everything": {
        "use_learned_edges": True,
        "use_node_memory": True,
        "use_dream_memory": True,
        "stochastic_results": True,
        "attention": "sparsemax",
    },
    "vision": {"vision_backbone": "lite"},
    "mean": {"graph_reader": "mean"},
}
TINY = PPOConfig(
    iterations=10, questions_per_iteration=12, minibatch_size=12, replay_scenes=2, num_learners=0, predict_share=0.3
)
STAGES = CurriculumConfig(enabled=True, window=12, min_iterations=(1,), max_iterations=(1,), targets=(1.0,))


@pytest.fixture(scope="module")
def make(make_loaded):
    def make(model=None, curriculum=STAGES, **ppo):
        world, ppo = WorldConfig(sizes=(2, 3)), dataclasses.replace(TINY, **ppo)
        loaded = make_loaded(3, model, world=world, ppo=ppo, curriculum=curriculum)
        with torch.no_grad():
            loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 2.0  # dreams of several steps
        return loaded

    return make


def sampled(loaded, batch, numbers):
    """The questions played to their end, with random numbers for the answers that do not depend on N."""
    width = loaded.run.model.max_answer_tokens + 1
    uniform = torch.rand(len(numbers), width, generator=torch.Generator().manual_seed(0))
    return play(loaded.run, batch, numbers, lambda obs, dice, _: policy.act(loaded.model, obs, dice, uniform))


def train_columns(loaded, batch, trace):
    """What PPO learns from, of all questions together."""
    rows = {}
    for q in range(len(batch.questions)):
        steps = own_steps(trace, q)
        extra = step_columns(loaded.run, steps, batch.final_info(q))
        obs, action = ({k: np.stack([s[part][k] for s in steps]) for k in steps[0][part]} for part in ("obs", "action"))
        for name, value in flat(obs, action, extra).items():
            rows.setdefault(name, []).append(value)
    found = {name: np.concatenate(values) for name, values in rows.items()}
    normalise(found)
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in found.items()}


def loss_of(loaded, found):
    """PPO's whole loss without replay, its gradients, and what was scored."""
    batch = nested(found)
    now = policy.score(loaded.model, batch[OBS], batch["actions"], {k: batch[k] for k in TRUTH})
    loss, metrics = ppo_loss(loaded.run, loaded.model, batch, now, {})
    loaded.model.zero_grad()
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), {k: float(v.detach()) for k, v in metrics.items()}, gradients


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def both(request, make):
    """The same 16 questions with 2 of 3 dreams of a stage, and with 2 dreams and no third."""
    out = []
    for count in (3, 2):
        loaded = make(request.param | {"num_dream_sequences": count}, CurriculumConfig(), replay_weight=0.0)
        loaded.model.graph_reasoner.limit(loaded.run.model.graph_reasoning_hops)
        enabled = CurriculumConfig(enabled=True, stages=("all",), dreams=(2,))
        (stage,) = stages_of(dataclasses.replace(loaded.run, curriculum=enabled), loaded.world)
        batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, Judge(loaded.model), count)
        batch.enter(stage)
        out.append((loaded, batch, sampled(loaded, batch, list(range(16)))))
    (three, _, _), (two, _, _) = out
    assert all(torch.equal(weights(three.model)[k], v) for k, v in weights(two.model).items())
    return out


def test_absent_dreams_change_nothing_of_the_others(both):
    (_, batch, trace), (_, fewer, other) = both
    assert len(trace) == len(other) > 3
    assert (batch.lengths[:, 2] == 0).all() and (batch.lengths[:, :2] == fewer.lengths).all()
    assert batch.answers == fewer.answers
    for q in range(len(batch.questions)):
        assert batch.breakdown(q) == pytest.approx(fewer.breakdown(q))
    for step, same in zip(trace[:-1], other[:-1], strict=True):
        for name in ("frames", "actions", "beliefs", "lengths", "active"):
            assert (step["obs"][name][:, :2] == same["obs"][name]).all()
        assert not step["obs"]["active"][:, 2].any() and not step["obs"]["lengths"][:, 2].any()
        np.testing.assert_allclose(step["columns"][ACTION_LOGP], same["columns"][ACTION_LOGP], atol=1e-5)
        for info, twin in zip(step["infos"], same["infos"], strict=True):
            assert info["dream_rewards"][2] == 0 and info["answer_reward"] == twin["answer_reward"]
            assert info["dream_rewards"][:2] == pytest.approx(twin["dream_rewards"], abs=1e-6)
    finals = [(batch.final_info(q), fewer.final_info(q)) for q in range(16)]
    assert all(not f["focus_target"][2] and f["focus_target"][[0, 1, 3]].tolist() == g["focus_target"].tolist()
               for f, g in finals)  # fmt: skip
    assert all(f["dreams_shown"] == g["dreams_shown"] <= 2 for f, g in finals)
    assert all((f["answer_tokens"] == g["answer_tokens"]).all() for f, g in finals)


def test_learning_with_absent_dreams_is_learning_with_fewer(both):
    found, expected = (train_columns(loaded, batch, trace) for loaded, batch, trace in both)
    for name in (columns.ADVANTAGES, columns.TARGETS, columns.DREAM_LOGP):
        torch.testing.assert_close(found[name][:, :2], expected[name], atol=1e-5, rtol=1e-4)
        assert not found[name][:, 2].any()
    ours, theirs = (loss_of(loaded, own) for (loaded, _, _), own in zip(both, (found, expected), strict=True))
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5) and ours[1] == pytest.approx(theirs[1], abs=1e-4)
    for name, gradient in theirs[2].items():
        torch.testing.assert_close(ours[2][name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_an_absent_dream_is_never_read(both):
    """Without the limit it might be; with it its probability is zero, and that of the others is as without it."""
    loaded, batch, trace = both[0]
    obs = {k: torch.from_numpy(v) for k, v in trace[-1]["obs"].items()}
    parts = [obs[k].long() for k in ("frames", "actions", "beliefs", "lengths")]
    with torch.no_grad():
        prompt = loaded.model.ask(obs)
        limited = loaded.model.read(*parts, prompt)
        fewer = loaded.model.read(*(part[:, :2] for part in parts), prompt)
        loaded.model.graph_reasoner.limit(None)
        open_ = loaded.model.read(*parts, prompt)
    loaded.model.graph_reasoner.limit(loaded.run.model.graph_reasoning_hops)
    assert (limited.focus_logits[:, 2] == NEVER).all() and (open_.focus_logits[:, 2] > NEVER / 2).all()
    torch.testing.assert_close(limited.focus_logits[:, [0, 1, 3]], fewer.focus_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(limited.value, fewer.value, atol=1e-5, rtol=1e-4)
    assert not limited.nodes[:, 2].any() and not limited.mask[:, 2].any()


@pytest.mark.parametrize("kind", ["default", "everything"])
def test_ratio_is_one_on_the_first_minibatch_of_every_stage(make, kind):
    trainer = PPOTrainer(make(KINDS[kind]))
    assert trainer.curriculum is not None
    for stage in trainer.curriculum.stages:
        trainer.enter(stage)
        found, parts = trainer.sample()
        batch = nested(found)
        now = policy.score(trainer.model, batch[OBS], batch["actions"], {k: batch[k] for k in TRUTH})
        _, metrics = dream_loss(trainer.run, batch, now.dreams)
        assert float(metrics["max_ratio_error"]) < 1e-4 and abs(float(metrics["approx_kl"])) < 1e-6
        answering = now.answers.question
        torch.testing.assert_close(now.answers.logp, batch[ACTION_LOGP][answering], atol=1e-4, rtol=1e-5)
        assert float(now.answers.logp.detach().abs().min()) > 0.3
        lengths = batch[OBS]["lengths"][batch[OBS]["phase"] == Phase.ANSWER]
        assert int(lengths.max()) == stage.dream_length and parts["dream_length"] > 1
        assert ((lengths > 0).sum(1) == stage.dreams).all()
        assert set(batch[OBS]["grid"].flatten().tolist()) == set(stage.world.sizes)
        # Learning with another number of hops would be found out.
        trainer.model.graph_reasoner.limit(stage.hops - 1)
        with torch.no_grad():
            other = policy.score(trainer.model, batch[OBS], batch["actions"], {k: batch[k] for k in TRUTH})
        assert float((other.answers.logp - now.answers.logp).detach().abs().max()) > 1e-3


def test_an_iteration_belongs_to_the_stage_and_leaves_the_model_whole(make):
    trainer = PPOTrainer(make())
    assert trainer.curriculum is not None
    for number, stage in enumerate(trainer.curriculum.stages, 1):
        metrics = trainer.iterate()
        assert metrics["curriculum/stage"] == number
        assert all(explain(f"ppo/{name}") for name in metrics)
        assert metrics["dream_length"] <= stage.dream_length
        assert tuple(trainer.replay.world.sizes) == tuple(stage.replay.sizes)
        assert trainer.model.graph_reasoner.rounds is None
    assert metrics["curriculum/forced"] + metrics["curriculum/mastered"] == 3


def test_without_a_curriculum_there_is_no_trace_of_one(make):
    trainer = PPOTrainer(make(curriculum=CurriculumConfig()))
    metrics = trainer.iterate()
    assert trainer.curriculum is None and not [name for name in metrics if "curriculum" in name]


def test_a_resumed_trainer_goes_on_in_its_stage(make):
    first = PPOTrainer(make())
    for _ in range(2):
        first.iterate()
    tensors = {k: v.clone() for k, v in (weights(first.model) | optimizer_tensors(first.optimizer)).items()}
    state = first.curriculum.state()
    second = PPOTrainer(make(), judge=first.batch.judge, iteration=2)
    set_weights(second.model, {k: v for k, v in tensors.items() if not k.startswith("optimizer/")}, "checkpoint")
    set_optimizer(second.optimizer, tensors)
    second.curriculum.restore(state)
    for trainer in (first, second):
        trainer.iterate()
    assert second.curriculum.state() == first.curriculum.state() and first.curriculum.number == 3
    assert all(torch.equal(v, weights(second.model)[k]) for k, v in weights(first.model).items())
