"""The env runner in this process: what users hang into it, and how much it returns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from dreamrl import policy
from dreamrl.columns import ACTIONS, LEARNED, OBS, nested
from dreamrl.config import DreamingConfig, PPOConfig, RunConfig
from dreamrl.policy import STEP_COLUMNS
from dreamrl.ppo import PPOTrainer
from dreamrl.rl.algorithm import algorithm_config
from dreamrl.rl.env_runner import DreamEnvRunner
from dreamrl.rl.learner import PLACE, EpisodesToBatch, episode_columns
from dreamrl.saving import load_pretrained, new_model, save_pretrained
from envs.reasoning_batch import Phase
from envs.world import Outcome

pytestmark = pytest.mark.ray

QUESTIONS = 12


@pytest.fixture(scope="module")
def run():
    model = DreamingConfig(
        embedding_dim=16, num_heads=2, codec_hidden=16, num_dream_sequences=2, dream_length=4, stochastic_results=True
    )
    ppo = PPOConfig(questions_per_iteration=QUESTIONS, minibatch_size=8, num_learners=0, predict_share=0.5)
    return RunConfig(model=model, ppo=ppo, seed=3)


@pytest.fixture(scope="module")
def model_dir(run, tmp_path_factory):
    loaded = new_model(run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        loaded.model.dream_generator.belief.bias[Outcome.CONTINUE] += 1.0  # dreams of several lengths
    directory = tmp_path_factory.mktemp("model") / "model"
    save_pretrained(loaded, directory)
    return directory


@pytest.fixture
def make_runner(run, model_dir):
    """A runner of W with more RLlib settings: for ``callbacks``, ``environment``, and the rest for ``env_runners``."""
    made = []

    def make(callbacks=None, environment=None, runners=0, index=0, **settings):
        own = replace(run, ppo=replace(run.ppo, num_env_runners=runners))
        config = algorithm_config(own, model_dir)
        config.environment(**(environment or {})).env_runners(**settings)
        if callbacks is not None:
            config.callbacks(**callbacks)
        config.validate()
        made.append(DreamEnvRunner(config=config, worker_index=index))
        return made[-1]

    yield make
    for runner in made:
        runner.stop()


def step_by_step(**_):
    """A callback that has episodes made step by step."""


WATCHED = {"callbacks": {"on_episode_step": step_by_step}}


def assert_equal_episodes(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b) and a.is_terminated == b.is_terminated
        first, second = a.get_observations(slice(0, len(a) + 1)), b.get_observations(slice(0, len(b) + 1))
        assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)
        dreaming = first["phase"][:-1] == Phase.DREAM
        for key in ("action", "belief"):  # what questions in the answer phase put there does not count
            active = first["active"][:-1] == 1
            same = np.asarray(a.get_actions()[key]) == np.asarray(b.get_actions()[key])
            assert same[dreaming[:, None] & active].all(), key
        assert np.allclose(a.get_rewards(), b.get_rewards(), atol=1e-5)
        for name in (*STEP_COLUMNS, *LEARNED):
            ours_column, theirs_column = (np.asarray(e.get_extra_model_outputs(name)) for e in (a, b))
            assert ours_column.dtype == theirs_column.dtype, name
            assert np.allclose(ours_column, theirs_column, atol=1e-4), name
        assert [sorted(i) for i in a.get_infos()] == [sorted(i) for i in b.get_infos()]


def test_episodes_are_the_same_whether_somebody_watches_or_not(make_runner):
    plain, watched = make_runner(), make_runner(**WATCHED)
    assert not plain.watched and watched.watched
    ours, theirs = plain.sample(), watched.sample()
    assert len({len(e) for e in ours}) > 1
    assert_equal_episodes(ours, theirs)
    assert watched.get_metrics()["num_env_steps_sampled"].peek() == sum(map(len, ours))


def test_what_is_learned_from_is_what_the_plain_trainer_samples(make_runner, run, model_dir):
    """Same questions, actions, advantages and targets, to the bit and in the same order."""
    runner = make_runner()
    modules = {DEFAULT_MODULE_ID: runner.module}
    [batch] = EpisodesToBatch(run=run)(rl_module=modules, batch={}, episodes=runner.sample()).values()
    plain = nested(PPOTrainer(load_pretrained(model_dir)).sample()[0])
    assert batch.keys() - {PLACE} == plain.keys()
    for group in (OBS, ACTIONS):
        assert plain[group].keys() == batch[group].keys()
        assert all(torch.equal(plain[group][k], batch[group][k]) for k in plain[group]), group
    assert all(torch.equal(plain[k], batch[k]) for k in plain.keys() - {OBS, ACTIONS})


class Noting(RLlibCallback):
    """Notes what it is called with."""

    def __init__(self):
        self.noted = []

    def on_episode_created(self, *, episode, env_index, **kwargs):
        self.noted.append(("created", env_index, len(episode)))

    def on_episode_start(self, *, episode, env_index, **kwargs):
        assert episode.get_observations(0)["phase"] == Phase.DREAM and "question" in episode.get_infos(0)
        self.noted.append(("start", env_index, len(episode)))

    def on_episode_step(self, *, episode, env_index, **kwargs):
        assert set(STEP_COLUMNS) <= set(episode.extra_model_outputs)
        self.noted.append(("step", env_index, len(episode)))

    def on_episode_end(self, *, episode, env_index, metrics_logger, **kwargs):
        assert "answer" in episode.get_infos(-1) and episode.is_done
        metrics_logger.log_value("longest", len(episode), reduce="max")
        self.noted.append(("end", env_index, len(episode)))

    def on_sample_end(self, *, samples, **kwargs):
        self.samples = samples


def test_callbacks_see_every_step_of_every_episode(make_runner):
    runner = make_runner(callbacks={"callbacks_class": Noting})
    sampled = runner.sample(num_episodes=runner.together)
    [callback] = runner._callbacks
    for index, episode in enumerate(sampled):
        own = [(name, steps) for name, place, steps in callback.noted if place == index]
        steps = [("step", t + 1) for t in range(len(episode))]
        assert own == [("created", 0), ("start", 0), *steps, ("end", len(episode))]
    assert callback.samples is sampled
    assert runner.get_metrics()["longest"].peek() == max(map(len, sampled))


def test_callbacks_may_be_functions(make_runner):
    lengths = []
    runner = make_runner(callbacks={"on_episode_end": lambda *, episode, **_: lengths.append(len(episode))})
    assert sorted(map(len, runner.sample())) == sorted(lengths)


class OtherQuestion(ConnectorV2):
    """Hides the second half of every prompt, from the module and from the episode."""

    def __call__(self, *, rl_module, batch, episodes, explore=None, shared_data=None, metrics=None, **kwargs):
        for episode in episodes:
            seen = {k: np.copy(v) for k, v in episode.get_observations(-1).items()}
            seen["text"][len(seen["text"]) // 2 :] = 0
            seen["text"][0] = 7
            episode.set_observations(at_indices=-1, new_data=seen)
        return batch


def test_what_a_connector_makes_of_an_observation_is_seen_and_kept(make_runner, model_dir):
    runner = make_runner(env_to_module_connector=lambda *_: OtherQuestion())
    model = load_pretrained(model_dir).model
    for episode in runner.sample(num_episodes=3):
        steps = len(episode)
        obs = episode.get_observations(slice(0, steps))
        assert (obs["text"][:, 0] == 7).all()
        tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in obs.items()}
        actions = {k: torch.from_numpy(np.asarray(v)) for k, v in episode.get_actions().items()}
        with torch.no_grad():
            scored = policy.score(model, tensors, actions)
        logp = np.asarray(episode.get_extra_model_outputs("dream_logp"))
        at = scored.dreams.question.numpy(), scored.dreams.dream.numpy()
        assert np.allclose(logp[at], scored.dreams.logp, atol=1e-4)
        asked = {k: v.clone() for k, v in tensors.items()} | {"text": torch.roll(tensors["text"], 1, 1)}
        with torch.no_grad():
            other = policy.score(model, asked, actions)
        assert not np.allclose(logp[at], other.dreams.logp, atol=1e-4)


class AlwaysLeft(ConnectorV2):
    """Sends the world action 0, whatever the module chose."""

    def __call__(self, *, rl_module, batch, episodes, explore=None, shared_data=None, metrics=None, **kwargs):
        batch[Columns.ACTIONS_FOR_ENV] = {
            episode: [a | {"action": np.zeros_like(a["action"])} for a in chosen]
            for episode, chosen in batch[Columns.ACTIONS].items()
        }
        return batch


def test_the_world_gets_what_a_connector_hands_on(make_runner):
    own = {"normalize_actions": False, "clip_actions": False}  # RLlib's pieces would put the module's choice back
    runner = make_runner(environment=own, module_to_env_connector=lambda *_: AlwaysLeft())
    sampled = runner.sample()
    assert any(np.asarray(e.get_actions()["action"]).any() for e in sampled)
    assert not any(e.get_observations(-1)["actions"].any() for e in sampled)


class EveryOther(ConnectorV2):
    """Learns from every other episode only."""

    def __call__(self, *, rl_module, batch, episodes, explore=None, shared_data=None, metrics=None, **kwargs):
        del episodes[1::2]
        return batch


def test_a_learner_connector_before_ours_decides_what_is_learned_from(make_runner, run):
    runner = make_runner()
    sampled, modules = runner.sample(), {DEFAULT_MODULE_ID: runner.module}
    kept = sum(len(e) for e in sampled[::2])
    config = algorithm_config(run, Path("unused")).learners(
        learner_connector=lambda *_: [EveryOther(), EpisodesToBatch(run=run)]
    )
    pipeline = config.build_learner_connector(None, None)
    batch = pipeline(rl_module=modules, batch={}, episodes=list(sampled), shared_data={}, metrics=None)
    assert len(batch[DEFAULT_MODULE_ID]["action_logp"]) == kept < sum(map(len, sampled))


def test_infos_tell_of_the_question_and_of_its_answer(make_runner):
    runner = make_runner()
    for place, episode in enumerate(runner.sample(num_episodes=runner.together)):
        infos = episode.get_infos()
        assert len(infos) == len(episode) + 1
        assert infos[0] == {"question": runner.batch.questions[place].text, "number": place}
        assert infos[-1]["answer"] == runner.batch.answers[place]
        assert infos[-1]["reward_parts"] == runner.batch.breakdown(place)
        assert sum(i["answer_reward"] + i["dream_rewards"].mean() for i in infos[1:]) == pytest.approx(
            episode.get_return(), abs=1e-5
        )


def test_metrics_are_those_of_the_episodes(make_runner):
    runner = make_runner()
    sampled = runner.sample()
    metrics = runner.get_metrics()
    assert metrics["num_env_steps_sampled"].peek() == sum(map(len, sampled))
    assert metrics["num_episodes"].peek() == QUESTIONS
    assert metrics["episode_len_max"].peek() == max(map(len, sampled))
    assert metrics["episode_return_mean"].peek() == pytest.approx(np.mean([e.get_return() for e in sampled]), abs=1e-5)
    parts = [e.get_infos(-1)["reward_parts"]["exact_match"] for e in sampled]
    assert metrics["reward_parts"]["exact_match"].peek() == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("runners", [1, 2, 3, 4])
def test_runners_share_the_questions_out(make_runner, runners):
    shares = [make_runner(runners=runners, index=i + 1).sample() for i in range(runners)]
    numbers = [[e.get_infos(0)["number"] for e in share] for share in shares]
    assert all(numbers) and sorted(n for share in numbers for n in share) == list(range(QUESTIONS))


@pytest.mark.parametrize("count", [1, 5, 20])
def test_as_many_episodes_as_asked_for(make_runner, count):
    sampled = make_runner().sample(num_episodes=count)
    assert len(sampled) == count and all(e.is_done for e in sampled)


@pytest.mark.parametrize("settings", [{}, WATCHED], ids=["plain", "watched"])
@pytest.mark.parametrize("steps", [1, 6, 23, 60])
def test_exactly_as_many_steps_as_asked_for(make_runner, run, steps, settings):
    """The last episode is cut, with what its steps have to teach as in the whole one."""
    runner = make_runner(**settings)
    sampled = runner.sample(num_timesteps=steps)
    assert sum(map(len, sampled)) == steps
    assert all(e.is_done for e in sampled[:-1])
    metrics = runner.get_metrics()
    assert metrics["num_env_steps_sampled"].peek() == steps
    assert metrics["num_episodes"].peek() == sum(e.is_done for e in sampled)
    for cut, whole in zip(sampled, make_runner().sample(num_episodes=len(sampled)), strict=True):
        ours, theirs = episode_columns(cut, run), episode_columns(whole, run)
        for name in LEARNED:
            assert np.allclose(ours[name], theirs[name][: len(cut)], atol=1e-4), name
