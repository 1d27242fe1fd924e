"""The policy on boards of several sizes at once: scoring finds what sampling did, groups change nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dreamrl import policy
from dreamrl.columns import ACTION_LOGP, ACTIONS, DREAM_LOGP, DREAM_VALUE, VF_PREDS
from dreamrl.judge import Judge
from dreamrl.losses import prompt_rows
from envs.questions import stream
from envs.reasoning_batch import Phase, ReasoningBatch
from envs.world import QuestionKind, Split

DREAMS = 3


def tensors(obs):
    return {k: torch.from_numpy(v) for k, v in obs.items()}


KINDS = {
    "greedy results": {},
    "sampled results": {"stochastic_results": True},
    "memory": {"use_dream_memory": True, "expert_types": ("temporal", "causal"), "stochastic_results": True},
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def loaded(make_loaded, request):
    return make_loaded(model=request.param)


@pytest.fixture
def model(loaded):
    return loaded.model


@pytest.fixture
def batch(loaded):
    """Four questions on boards of 3x3 and 4x4 cells."""
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, Judge(loaded.model), DREAMS)
    questions = []
    for index, size in enumerate((3, 4, 4, 3)):
        rng = stream(5, index)
        scene = loaded.world.sample_scene(rng, Split.TRAIN, size)
        kind = (QuestionKind.PLAN, QuestionKind.PREDICT)[index % 2]
        questions.append(loaded.world.ask(scene, kind, rng, (1, 2, 2) if kind is QuestionKind.PREDICT else ()))
    batch.reset(questions)
    return batch


def dice(batch, seed):
    shape = (len(batch.questions), DREAMS, batch.num_patches + 2)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def episodes(model, batch):
    """(observation, prompt, action, dreams, answers) of every step until all questions are answered."""
    prompt = model.ask(tensors(batch.asked()))
    length = model.config.max_answer_tokens
    while (batch.phase != Phase.OVER).any():
        obs = tensors(batch.observation())
        action = policy.empty_action(obs, length)
        seed = int(batch.step_index.sum())
        dreams = policy.dream(model, obs, prompt, action, dice(batch, seed))
        words = torch.rand(len(batch.questions), length + 1, generator=torch.Generator().manual_seed(seed))
        answers = policy.answer(model, obs, prompt, action, words, sample=True)
        yield obs, prompt, action, dreams, answers
        batch.step({k: v.numpy() for k, v in action.items()})


@torch.no_grad()
def test_scoring_finds_the_log_probabilities_of_sampling(model, batch):
    phases, compared = [], {"dreams": 0, "answers": 0}
    for obs, prompt, action, dreams, answers in episodes(model, batch):
        phases.append(obs["phase"].tolist())
        kept = {k: v.clone() for k, v in action.items()}
        for drawn, scored in (
            (dreams, policy.dream(model, obs, prompt, action)),
            (answers, policy.answer(model, obs, prompt, action)),
        ):
            assert (drawn is None) == (scored is None)
            if drawn is None:
                continue
            compared["dreams" if drawn is dreams else "answers"] += len(drawn.logp)
            assert torch.equal(drawn.question, scored.question)
            for name in ("logp", "entropy", "value"):
                torch.testing.assert_close(getattr(scored, name), getattr(drawn, name), atol=1e-5, rtol=1e-5)
        assert all(torch.equal(action[k], kept[k]) for k in action)  # scoring changes nothing
    assert compared["answers"] == 4 and compared["dreams"] == int(batch.lengths.sum())
    if model.config.stochastic_results:  # beliefs are sampled: some questions were answered while others dreamed
        assert any(len(set(p)) > 1 for p in phases)


@torch.no_grad()
def test_size_groups_equal_padded_rows(model, batch):
    for obs, prompt, action, dreams, _ in episodes(model, batch):
        if dreams is None:
            continue
        q, n = dreams.question, dreams.dream
        step = obs["step"].long()[q]
        rows = (obs["frames"].long()[q, n, step], obs["grid"].long()[q], step, n, prompt_rows(prompt, q))
        past = (obs["frames"].long()[q, n, :-1], obs["actions"].long()[q, n])
        out = model.dream_step(
            *rows,
            past=past,
            taken=(action["action"][q, n], action["result"][q, n], action["belief"][q, n]),
        )
        torch.testing.assert_close(dreams.logp, out.logp, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(dreams.value, out.value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(dreams.routing.probs, out.routing.probs, atol=1e-5, rtol=1e-5)
        sampled = model.dream_step(*rows, past=past, uniform=dice(batch, int(batch.step_index.sum()))[q, n])
        assert torch.equal(sampled.action, action["action"][q, n])
        assert torch.equal(sampled.result, action["result"][q, n])
        assert torch.equal(sampled.belief, action["belief"][q, n])


@torch.no_grad()
def test_only_active_dreams_act_and_only_real_patches_are_painted(model, batch):
    ended = 0
    for obs, _, action, dreams, _ in episodes(model, batch):
        active = (obs["active"] == 1) & (obs["phase"] == Phase.DREAM).unsqueeze(1)
        found = torch.zeros_like(active)
        if dreams is not None:
            found[dreams.question, dreams.dream] = True
        assert torch.equal(found, active)
        ended += int((~active[obs["phase"] == Phase.DREAM]).sum())
        for index, question in enumerate(batch.questions):
            size = question.scene.grid[0] * question.scene.grid[1]
            painted = action["result"][index][active[index]]
            assert (painted[:, :size] < model.pad_code).all()
            assert (painted[:, size:] == model.pad_code).all()
    if model.config.stochastic_results:
        assert ended > 0  # some dreams went on while a sibling had ended


@torch.no_grad()
def test_losses_against_the_truth_by_hand(model, batch):
    obs = tensors(batch.observation())
    prompt = model.ask(obs)
    action = policy.empty_action(obs, 12)
    generator = np.random.default_rng(0)
    truth = {
        "true_result": torch.from_numpy(generator.integers(0, model.pad_code, (4, DREAMS, 16))),
        "true_belief": torch.from_numpy(generator.integers(0, 4, (4, DREAMS))),
        "sound": torch.tensor([[True, False, True], [True, True, False], [False] * 3, [True] * 3]),
    }
    rows = policy.dream(model, obs, prompt, action, dice(batch, 0), truth=truth)
    for i, (q, n) in enumerate(zip(rows.question.tolist(), rows.dream.tolist(), strict=True)):
        size = int(obs["grid"][q].prod())
        one = torch.tensor([q])
        out = model.dream_step(
            obs["frames"][one, n, 0, :size].long(),
            obs["grid"][one].long(),
            torch.tensor([0]),
            torch.tensor([n]),
            prompt_rows(prompt, one),
            past=(obs["frames"][one, n, :0].long(), obs["actions"][one, n, :0].long()),
            taken=(action["action"][one, n], action["result"][one, n, :size], action["belief"][one, n]),
        )
        fair = float(truth["sound"][q, n])
        frame = F.cross_entropy(out.result_logits[0], truth["true_result"][q, n, :size])
        belief = F.cross_entropy(out.belief_logits[0], truth["true_belief"][q, n])
        assert float(rows.frame_loss[i]) == pytest.approx(float(frame) * fair, rel=1e-4)
        assert float(rows.belief_loss[i]) == pytest.approx(float(belief) * fair, rel=1e-4)


@torch.no_grad()
def test_acting_adds_up_what_was_sampled(model, batch):
    """``act`` against dreams and answers one by one, and ``score`` on what it did."""
    seen = set()
    length = model.config.max_answer_tokens
    while (batch.phase != Phase.OVER).any():
        obs = tensors(batch.observation())
        seed = int(batch.step_index.sum())
        words = torch.rand(4, length + 1, generator=torch.Generator().manual_seed(seed))
        out = policy.act(model, obs, dice(batch, seed), words)
        action, prompt = policy.empty_action(obs, length), model.ask(obs)
        dreams = policy.dream(model, obs, prompt, action, dice(batch, seed))
        answers = policy.answer(model, obs, prompt, action, words, sample=True)
        assert all(torch.equal(action[k], out[ACTIONS][k]) for k in action)
        expected = {DREAM_LOGP: torch.zeros(4, DREAMS), DREAM_VALUE: torch.zeros(4, DREAMS)}
        expected |= {ACTION_LOGP: torch.zeros(4), VF_PREDS: torch.zeros(4)}
        for rows in (dreams, answers):
            for i, q in enumerate([] if rows is None else rows.question.tolist()):
                expected[ACTION_LOGP][q] += rows.logp[i]
                expected[VF_PREDS][q] += rows.value[i]
                if rows is dreams:
                    expected[DREAM_LOGP][q, rows.dream[i]] = rows.logp[i]
                    expected[DREAM_VALUE][q, rows.dream[i]] = rows.value[i]
        for name in expected:
            torch.testing.assert_close(out[name], expected[name], msg=name)
        scored = policy.score(model, obs, out[ACTIONS])
        for rows, own in ((dreams, scored.dreams), (answers, scored.answers)):
            assert (rows is None) == (own is None)
            if rows is not None:
                seen.add(type(rows).__name__)
                torch.testing.assert_close(own.logp, rows.logp, atol=1e-5, rtol=1e-5)
        batch.step({k: v.numpy() for k, v in action.items()})
    assert seen == {"DreamRows", "AnswerRows"}
