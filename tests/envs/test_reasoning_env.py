"""ReasoningEnv: Gymnasium's checks, determinism, and one environment equal to its place in a batch of many."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from dreamrl.judge import Judge
from envs.reasoning_batch import Phase, ReasoningBatch, training_question
from envs.reasoning_env import ReasoningEnv
from envs.world import Outcome, QuestionKind, Split, split_of


@pytest.fixture(scope="module")
def make_env(loaded):
    judge = Judge(loaded.model)
    return lambda: ReasoningEnv(loaded.run, loaded.world, loaded.text, judge)


def test_gymnasium_accepts_the_environment(make_env):
    check_env(make_env(), skip_render_check=True)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def random_episodes(env, count=6):
    """(observation, action, reward, over, info) of random play, with beliefs that let dreams go on for a while."""
    rng = np.random.default_rng(0)
    for episode in range(count):
        obs, _ = env.reset(seed=episode)
        over = False
        while not over:
            action = env.action_space.sample()
            action["belief"][rng.random(len(action["belief"])) < 0.7] = Outcome.CONTINUE
            obs, reward, over, truncated, info = env.step(action)
            assert not truncated
            yield obs, action, reward, over, info


def test_two_copies_do_the_same(make_env):
    first, second = make_env(), make_env()
    for env in (first, second):
        env.action_space.seed(5)
    rewards = []
    for a, b in zip(random_episodes(first), random_episodes(second), strict=True):
        assert same(a[0], b[0]) and same(a[1], b[1])
        assert a[2:4] == b[2:4] and (a[4]["dream_rewards"] == b[4]["dream_rewards"]).all()
        rewards.append(a[2])
    assert len(set(rewards)) > 10


def test_observations_stay_in_their_space(make_env):
    env = make_env()
    env.action_space.seed(0)
    phases = set()
    for obs, _, reward, over, info in random_episodes(env):
        assert env.observation_space.contains(obs)
        phases.add(int(obs["phase"]))
        assert over == (obs["phase"] == Phase.OVER)
        assert reward == pytest.approx(info["dream_rewards"].mean() + info["answer_reward"])
        assert ("reward_parts" in info) == over
    assert phases == {Phase.ANSWER, Phase.OVER} | phases and len(phases) >= 2


def test_a_model_that_looks_at_pictures_gets_the_first_one_in_every_step(make_loaded):
    seeing = make_loaded(model={"vision_backbone": "lite"})
    env = ReasoningEnv(seeing.run, seeing.world, seeing.text, Judge(seeing.model))
    check_env(env, skip_render_check=True)
    env.action_space.seed(0)
    for obs, *_ in random_episodes(env, 4):
        assert env.observation_space.contains(obs)
        frame = env.batch.questions[0].scene.frame(env.batch.questions[0].scene.start)
        height, width = frame.shape[:2]
        assert obs["picture_size"].tolist() == [[height, width]]
        assert (obs["pixels"][0, :height, :width] == frame).all() and not obs["pixels"][0, height:].any()


def test_observations_are_copies(make_env):
    env = make_env()
    obs, _ = env.reset(seed=0)
    before = {k: v.copy() for k, v in obs.items()}
    action = env.action_space.sample()
    action["belief"][:] = Outcome.CONTINUE
    env.step(action)
    assert same(obs, before)


def test_a_batch_equals_single_environments(loaded, make_env):
    count = 5
    questions = [training_question(loaded.run, loaded.world, index) for index in range(count)]
    dreams = loaded.run.model.num_dream_sequences
    batch = ReasoningBatch(loaded.run, loaded.world, loaded.text, Judge(loaded.model), dreams)
    envs = [make_env() for _ in questions]
    together = batch.reset(questions)
    alone = [env.reset(options={"question": q})[0] for env, q in zip(envs, questions, strict=True)]
    rng = np.random.default_rng(1)
    space = envs[0].action_space
    space.seed(1)
    over = [False] * count
    earned = 0
    while not all(over):
        for index in range(count):
            assert same({k: v[index] for k, v in together.items()}, alone[index])
        actions = [space.sample() for _ in questions]
        for index, action in enumerate(actions):
            action["belief"][rng.random(dreams) < 0.6] = Outcome.CONTINUE
            size = questions[index].scene.grid[0] * questions[index].scene.grid[1]
            action["result"][:, size:] = loaded.model.pad_code
        dream_rewards, answer_rewards = batch.step({k: np.stack([a[k] for a in actions]) for k in space})
        together = batch.observation()
        for index, env in enumerate(envs):
            if over[index]:
                assert not dream_rewards[index].any() and answer_rewards[index] == 0
                continue
            alone[index], reward, over[index], _, info = env.step(actions[index])
            assert dream_rewards[index] == pytest.approx(info["dream_rewards"], abs=1e-5)
            assert answer_rewards[index] == info["answer_reward"]
            if over[index]:
                assert batch.breakdown(index) == pytest.approx(info["reward_parts"], abs=1e-5)
                assert (batch.reading_target(index, batch.dreams_to_read(index))[0] == info["focus_target"]).all()
            earned += 1
    assert earned > 2 * count


def test_training_questions_are_numbered(loaded):
    def ask(index, split=Split.TRAIN):
        return training_question(loaded.run, loaded.world, index, split)

    questions = [ask(i) for i in range(60)]
    for index, question in enumerate(questions):
        again = ask(index)
        assert (again.text, again.scene.desc, again.script) == (question.text, question.scene.desc, question.script)
        assert split_of("/".join(question.scene.desc)) is Split.TRAIN
    assert len({q.scene.key for q in questions}) > 50
    assert {q.kind for q in questions} == set(QuestionKind)
    assert {q.scene.grid for q in questions} == {(3, 3), (4, 4)}
    assert split_of("/".join(ask(0, Split.TEST).scene.desc)) is Split.TEST


@torch.no_grad()
def test_the_judge_asks_the_frozen_inverse_dynamics(loaded):
    judge = Judge(loaded.model)
    rng = np.random.default_rng(0)
    what, result = rng.integers(0, 240, (2, 5, 16))
    grid = np.array([[3, 3], [4, 4], [3, 4], [2, 2], [3, 3]])
    for row, probs in enumerate(judge.action_probs(what, result, grid)):
        size = grid[row].prod()
        given = (torch.from_numpy(a[row : row + 1, :size]) for a in (what, result))
        expected = loaded.model.inverse_dynamics(*given, torch.from_numpy(grid[row : row + 1])).softmax(-1)
        assert probs == pytest.approx(expected[0].numpy(), abs=1e-5)
        assert probs.sum() == pytest.approx(1, abs=1e-5)
