"""Columns of an episode against a slow loop over its dreams and steps."""

import dataclasses

import numpy as np
import pytest
import torch
from steps import own_steps

from dreamrl import columns, policy
from dreamrl.columns import flat, learned_columns, nested, normalise
from dreamrl.config import PPOConfig
from dreamrl.judge import Judge
from dreamrl.rollout import play
from envs.reasoning_batch import Phase, ReasoningBatch

QUESTIONS = 6


@pytest.fixture(scope="module")
def sampled(make_loaded):
    """Settings, the final info of six questions, and the steps that each took."""
    loaded = make_loaded(model={"stochastic_results": True}, ppo=PPOConfig(predict_share=0.5))
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, Judge(loaded.model), 3)
    trace = play(loaded.run, batch, list(range(QUESTIONS)), lambda *args: policy.act(loaded.model, *args))
    return loaded.run, [batch.final_info(q) for q in range(QUESTIONS)], [own_steps(trace, q) for q in range(QUESTIONS)]


def episode(sampled, q, **changes):
    """Observations, infos, values and learned columns of question ``q``, with other settings of PPO."""
    run, finals, steps = sampled
    run = dataclasses.replace(
        run,
        ppo=dataclasses.replace(run.ppo, gamma=changes.get("gamma", run.ppo.gamma)),
        model=dataclasses.replace(run.model, ppo_gae_lambda=changes.get("gae_lambda", run.model.ppo_gae_lambda)),
    )
    obs = {k: np.stack([s["obs"][k] for s in steps[q]]) for k in steps[q][0]["obs"]}
    infos = [s["info"] for s in steps[q]]
    infos[-1] = infos[-1] | finals[q]
    dream_value = np.stack([s["columns"][columns.DREAM_VALUE] for s in steps[q]])
    value = np.array([s["columns"][columns.VF_PREDS] for s in steps[q]])
    return obs, infos, dream_value, value, learned_columns(obs, infos, dream_value, value, run)


@pytest.mark.parametrize("gamma, gae_lambda", [(0.95, 0.95), (0.9, 0.0), (1.0, 1.0)])
def test_advantages_are_discounted_sums_of_surprises(sampled, gamma, gae_lambda):
    compared = 0
    for q in range(QUESTIONS):
        obs, infos, values, _, found = episode(sampled, q, gamma=gamma, gae_lambda=gae_lambda)
        for n in range(3):
            own = [t for t in range(len(infos)) if obs["active"][t, n] and obs["phase"][t] == Phase.DREAM]
            pay = [float(infos[t]["dream_rewards"][n]) for t in own]
            pay[-1] += sum(float(infos[t]["dream_rewards"][n]) for t in range(own[-1] + 1, len(infos)))
            surprise = [
                pay[k] + gamma * (values[own[k + 1], n] if k + 1 < len(own) else 0.0) - values[own[k], n]
                for k in range(len(own))
            ]
            for k, t in enumerate(own):
                expected = sum((gamma * gae_lambda) ** (j - k) * surprise[j] for j in range(k, len(own)))
                assert found[columns.ADVANTAGES][t, n] == pytest.approx(expected, abs=1e-5)
                assert found[columns.TARGETS][t, n] == pytest.approx(expected + values[t, n], abs=1e-5)
                compared += 1
            rest = sorted(set(range(len(infos))) - set(own))
            assert not found[columns.ADVANTAGES][rest, n].any() and not found[columns.TARGETS][rest, n].any()
    assert compared > QUESTIONS * 3


def test_an_answer_is_judged_in_its_own_step_only(sampled):
    for q in range(QUESTIONS):
        _, infos, _, value, found = episode(sampled, q)
        reward = infos[-1]["answer_reward"]
        zeros = [0.0] * (len(infos) - 1)
        assert found[columns.ANSWER_ADVANTAGE].tolist() == pytest.approx([*zeros, reward - value[-1]], abs=1e-6)
        assert found[columns.ANSWER_TARGET].tolist() == pytest.approx([*zeros, reward])


def test_every_step_knows_what_should_be_read_in_the_end(sampled):
    """Learners get pieces of episodes, shuffled: the answer step must find its targets in its own row."""
    run, finals, _ = sampled
    for q in range(QUESTIONS):
        _, infos, _, _, found = episode(sampled, q)
        assert found.keys() == set(columns.LEARNED)
        for t, info in enumerate(infos):
            assert found[columns.FOCUS_TARGET][t].tolist() == finals[q]["focus_target"].tolist()
            assert found[columns.ANSWER_TOKENS][t].tolist() == finals[q]["answer_tokens"].tolist()
            assert found[columns.DREAMS_SHOWN][t] == finals[q]["dreams_shown"]
            assert all((found[name][t] == info[name]).all() for name in columns.TRUTH)


def test_flat_columns_come_back_nested(sampled):
    _, _, steps = sampled
    obs, _, _, _, learned = episode(sampled, 0)
    actions = {k: np.stack([s["action"][k] for s in steps[0]]) for k in steps[0][0]["action"]}
    policy_columns = {k: np.stack([s["columns"][k] for s in steps[0]]) for k in policy.STEP_COLUMNS}
    rows = flat(obs, actions, policy_columns | learned)
    assert all("/" in name or name in columns.KEPT for name in rows)
    again = nested(rows)
    assert again.keys() == {columns.OBS, columns.ACTIONS, *columns.KEPT}
    for group, original in ((columns.OBS, obs), (columns.ACTIONS, actions)):
        assert again[group].keys() == original.keys()
        assert all((again[group][k] == original[k]).all() for k in original)


def columns_to_scale(phases, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "obs/phase": np.array(phases),
        "obs/active": rng.integers(0, 2, (len(phases), 3)),
        columns.ADVANTAGES: rng.normal(3, 5, (len(phases), 3)).astype(np.float32),
        columns.ANSWER_ADVANTAGE: rng.normal(2, 7, len(phases)).astype(np.float32),
    }


def test_advantages_are_scaled_over_what_took_part():
    given = columns_to_scale([0, 0, 1, 0, 1, 1, 0] * 10)
    active = (given["obs/active"] == 1) & (given["obs/phase"] == Phase.DREAM)[:, None]
    dreams, answers = given[columns.ADVANTAGES].copy(), given[columns.ANSWER_ADVANTAGE].copy()
    normalise(given)
    found = given[columns.ADVANTAGES]
    assert found[active].mean() == pytest.approx(0, abs=1e-5) and found[active].std() == pytest.approx(1, abs=1e-4)
    assert not found[~active].any()
    order = np.argsort(dreams[active])
    assert (np.diff(found[active][order]) >= 0).all()
    # Answers are compared with their value alone: taking the mean away would pay for the best of many wrong ones.
    spread = answers[given["obs/phase"] == Phase.ANSWER].std()
    assert given[columns.ANSWER_ADVANTAGE] == pytest.approx(answers / (spread + 0.01), rel=1e-4)


@pytest.mark.parametrize("phase", [Phase.DREAM, Phase.ANSWER])
def test_batches_of_one_phase_are_scaled_too(phase):
    given = columns_to_scale([int(phase)] * 5)
    given["obs/active"][:] = phase == Phase.DREAM
    normalise(given)
    assert np.isfinite(given[columns.ADVANTAGES]).all() and np.isfinite(given[columns.ANSWER_ADVANTAGE]).all()
    scaled = columns.ADVANTAGES if phase == Phase.DREAM else columns.ANSWER_ADVANTAGE
    assert given[scaled].std() == pytest.approx(1, abs=0.02)


def test_columns_can_be_shuffled_together(sampled):
    """Every column has one row a step."""
    obs, infos, _, _, found = episode(sampled, 1)
    assert {len(value) for value in (*obs.values(), *found.values())} == {len(infos)}
    assert all(torch.from_numpy(np.ascontiguousarray(value)).shape[0] == len(infos) for value in found.values())


@pytest.mark.ray
def test_names_are_those_of_rllib():
    from ray.rllib.core.columns import Columns

    for name in ("OBS", "ACTIONS", "ACTION_LOGP", "VF_PREDS"):
        assert getattr(columns, name) == getattr(Columns, name)
