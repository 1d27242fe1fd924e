"""Sampling whole episodes: each question has its own random numbers, and the trace says what happened."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from steps import own_steps, step_columns

from dreamrl import columns, policy
from dreamrl.config import PPOConfig
from dreamrl.judge import Judge
from dreamrl.rollout import episodes, play, reward_parts, shared_out, together
from envs.reasoning_batch import Phase, ReasoningBatch, training_question
from envs.reasoning_env import ReasoningEnv

DREAMS = 3


@pytest.fixture(scope="module")
def loaded(make_loaded):
    return make_loaded(model={"stochastic_results": True}, ppo=PPOConfig(predict_share=0.5))


@pytest.fixture(scope="module")
def make_batch(loaded):
    return lambda: ReasoningBatch(loaded.run, loaded.world, loaded.text, Judge(loaded.model), DREAMS)


def played(loaded, batch, numbers):
    return play(loaded.run, batch, numbers, lambda *args: policy.act(loaded.model, *args))


def test_a_question_is_played_alike_whoever_plays_it(loaded, make_batch):
    """Alone, or with others: the same steps, up to rounding."""
    whole_batch, part_batch = make_batch(), make_batch()
    whole, part = played(loaded, whole_batch, [0, 1, 2, 3, 4]), played(loaded, part_batch, [3, 1])
    for place, number in enumerate((3, 1)):
        ours, theirs = own_steps(whole, number), own_steps(part, place)
        assert len(ours) == len(theirs) > 1
        assert whole_batch.questions[number].text == part_batch.questions[place].text
        for a, b in zip(ours, theirs, strict=True):
            for key in a["obs"]:
                assert (a["obs"][key] == b["obs"][key]).all(), key
            for key in ("action", "belief"):
                active = (a["obs"]["active"] == 1) & (a["obs"]["phase"] == Phase.DREAM)
                assert (a["action"][key][active] == b["action"][key][active]).all(), key
            for key, value in a["columns"].items():
                assert b["columns"][key] == pytest.approx(value, abs=1e-4), key


def test_questions_are_those_of_their_numbers(loaded, make_batch):
    batch = make_batch()
    played(loaded, batch, [7, 5, 7])
    for question, number in zip(batch.questions, (7, 5, 7), strict=True):
        expected = training_question(loaded.run, loaded.world, number)
        assert (question.text, question.scene.key, question.script) == (
            expected.text,
            expected.scene.key,
            expected.script,
        )
    assert batch.answers[0] == batch.answers[2]


def test_random_numbers_differ_by_question_dream_and_step_and_repeat(loaded, make_batch):
    seen = []

    def watch(obs, uniform, answer_uniform):
        seen[-1].append((obs["step"].clone(), uniform.clone(), answer_uniform.clone()))
        return policy.act(loaded.model, obs, uniform, answer_uniform)

    for numbers in ([0, 1, 2], [2]):
        seen.append([])
        play(loaded.run, make_batch(), numbers, watch)
    # A question whose dreams have ended waits at its step; what it would draw there repeats.
    steps = [uniform for t, (step, uniform, _) in enumerate(seen[0]) if (step == t).all() and t < 4]
    assert len(steps) > 0
    drawn = torch.stack(steps)  # (steps, Q, N, P + 2)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert len(drawn.flatten().unique()) > 0.999 * drawn.numel()
    for many, alone in zip(seen[0], seen[1], strict=False):
        assert torch.equal(many[1][2], alone[1][0]) and torch.equal(many[2][2], alone[2][0])


def test_the_trace_replays_in_the_environment(loaded, make_batch):
    """The actions of each question, stepped through the Gymnasium environment, give its observations and rewards."""
    batch = make_batch()
    trace = played(loaded, batch, list(range(8)))
    assert (trace[-1]["obs"]["phase"] == Phase.OVER).all()
    env = ReasoningEnv(loaded.run, loaded.world, loaded.text, batch.judge)
    lengths = set()
    for q, question in enumerate(batch.questions):
        obs, _ = env.reset(options={"question": question})
        steps = own_steps(trace, q)
        lengths.add(len(steps))
        for number, step in enumerate(steps):
            assert all((step["obs"][k] == obs[k]).all() for k in obs)
            obs, _, over, _, info = env.step(step["action"])
            assert step["info"]["dream_rewards"] == pytest.approx(info["dream_rewards"], abs=1e-5)
            assert step["info"]["answer_reward"] == info["answer_reward"]
            assert over == (number == len(steps) - 1)
        assert len(steps) == batch.lengths[q].max() + 1
    assert len(lengths) > 1  # questions end at different times: what comes after the end is nobody's step


def test_columns_of_a_question_hold_the_policy_and_what_is_to_be_learned(loaded, make_batch):
    batch = make_batch()
    trace = played(loaded, batch, [0, 1])
    for q in range(2):
        steps, final = own_steps(trace, q), batch.final_info(q)
        found = step_columns(loaded.run, steps, final)
        assert found.keys() == {*policy.STEP_COLUMNS, *columns.LEARNED}
        for t, step in enumerate(steps):
            assert all((found[name][t] == step["columns"][name]).all() for name in policy.STEP_COLUMNS)
            assert (found["true_result"][t] == step["info"]["true_result"]).all()
        assert found[columns.ANSWER_TARGET][-1] == pytest.approx(steps[-1]["info"]["answer_reward"])
        assert "focus_target" not in steps[-1]["info"]  # the trace itself stays as it was


def test_episodes_are_the_steps_of_each_question_one_by_one(loaded, make_batch):
    batch = make_batch()
    trace = played(loaded, batch, list(range(6)))
    for q, found in enumerate(episodes(loaded.run, batch, trace)):
        steps, final = own_steps(trace, q), batch.final_info(q)
        for name, column in step_columns(loaded.run, steps, final).items():
            assert (found.columns[name] == column).all(), name
        for t, step in enumerate(steps):
            assert all((found.obs[k][t] == v).all() for k, v in step["obs"].items())
            assert all((found.action[k][t] == v).all() for k, v in step["action"].items())
        assert len(found.infos) == len(steps) and found.infos[-1]["answer"] == final["answer"]
        assert (found.obs["phase"][-1] == Phase.OVER).all() and len(found.obs["phase"]) == len(steps) + 1


@pytest.mark.parametrize("questions", [1, 3, 12, 256, 1000])
def test_questions_are_shared_out_in_the_same_batches_whoever_samples(loaded, questions):
    def run(samplers):
        ppo = PPOConfig(questions_per_iteration=questions, num_env_runners=0, num_learners=0, minibatch_size=1)
        object.__setattr__(ppo, "num_env_runners", samplers)  # also where they do not divide the questions
        return replace(loaded.run, ppo=ppo)

    whole = list(shared_out(run(0), 2))
    assert [n for batch in whole for n in batch] == list(range(2 * questions, 3 * questions))
    assert max(map(len, whole)) <= together(run(0)) <= 64
    for samplers in (1, 2, 4):
        shares = [list(shared_out(run(samplers), 2, shard, samplers)) for shard in range(samplers)]
        assert sorted(batch for share in shares for batch in share) == whole
    assert len(list(shared_out(run(8), 2))) >= min(8, len(whole))


def test_as_many_questions_as_are_asked_for(loaded):
    for count in (0, 1, 70, 500):
        numbers = [n for batch in shared_out(loaded.run, 1, 1, 2, count) for n in batch]
        assert len(set(numbers)) == len(numbers) == count


def test_reward_parts_are_means_over_questions(loaded, make_batch):
    batch = make_batch()
    played(loaded, batch, [0, 1, 2, 3])
    parts = reward_parts([batch.final_info(q) for q in range(4)])
    each = [batch.breakdown(q) for q in range(4)]
    assert parts.keys() == each[0].keys()
    for name, value in parts.items():
        assert value == pytest.approx(np.mean([e[name] for e in each]))
