"""PPO on answers: probabilities and pay as they should be, and nothing learned but the wording."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from dreamrl.evaluate import held_out
from dreamrl.feedback.examples import Preference, learn_from_feedback
from dreamrl.feedback.questions import (
    Asked,
    read_questions,
    words_logp,
)
from dreamrl.feedback.training import (
    AnswerTrainer,
    FeedbackSettings,
    Liking,
    learn,
    only,
    pay,
    trained_parameters,
)
from dreamrl.imagine import answer, imagine
from dreamrl.losses import reading_loss
from dreamrl.nn.feedback_scorer import FeedbackScorer
from dreamrl.rewards import answer_correctness
from envs.questions import stream
from envs.world import Split

SMALL = FeedbackSettings(
    questions=8, questions_per_round=4, samples=3, updates=2, replay_scenes=2, scorer_steps=2, boards=4,
    calibration_boards=8, lr=1e-2,
)  # fmt: skip
BOARD = {"desc": ["SFF", "FHF", "FFG"]}
PREFERS = {"prompt": "Which way?", "chosen": "right then down", "rejected": "right, down"}
RATED = {"prompt": "Which way?", "reward": 0.5, "answer": "right, down"}


@pytest.fixture
def own(loaded):
    """A copy of the small model, to be changed."""
    return dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))


@pytest.fixture(scope="module")
def read(loaded):
    questions = held_out(loaded.world, (3, 4), 8, 0, Split.TRAIN)
    return read_questions(loaded, [Asked(question, True) for question in questions], 0)


@pytest.fixture(scope="module")
def liking(loaded):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scorer = FeedbackScorer(loaded.text.vocab_size, 24, 12).requires_grad_(False)
    return Liking(scorer, 0.1, 0.2, 0.7)


@pytest.fixture
def trainer(own, read, liking):
    with only(trained_parameters(own), own.model):
        yield AnswerTrainer(own, read, liking, SMALL, seed=0)


# --- PPO


def test_the_ratio_is_one_before_the_first_update(trainer, read):
    sampled = trainer.sample(torch.tensor([0, 3, 5]), 0)
    _, metrics = trainer.loss(sampled)
    assert float(metrics["max_ratio_error"]) < 1e-5 and float(metrics["clip_fraction"]) == 0
    assert float(sampled.kl.abs().amax()) < 1e-5
    model, asked = trainer.loaded.model, sampled.read
    scored = model.score_answer(asked.reading, asked.prompt, asked.focus, sampled.tokens)
    torch.testing.assert_close(sampled.logp, scored.logp)  # the focus is certain: this is the words alone
    assert float(sampled.logp.abs().amin()) > 0.1
    assert len({str(row) for row in sampled.tokens.tolist()}) > 5


def test_the_ratio_tells_another_decoder_apart(trainer):
    sampled = trainer.sample(torch.arange(4), 0)
    with torch.no_grad():
        trainer.decoder.place.weight.mul_(1.1)
    assert float(trainer.loss(sampled)[1]["max_ratio_error"]) > 1e-2
    again = trainer.sample(torch.arange(4), 0)
    assert float(again.kl.abs().amax()) > 1e-2  # the start is kept as it was
    torch.testing.assert_close(again.logp, words_logp(trainer.decoder, again.read, again.tokens))


def test_advantages_are_pay_against_the_mean_of_the_question(trainer, loaded):
    with torch.no_grad():
        trainer.decoder.place.weight.mul_(1.1)
    sampled = trainer.sample(torch.tensor([2, 6]), 1)
    scorer = trainer.liking.scorer
    pays = []
    for row in range(6):
        text, tokens = sampled.read.text[row : row + 1], sampled.tokens[row : row + 1]
        score = scorer(text, tokens)[0]
        verdict = loaded.world.verify(sampled.read.asked[row].question, loaded.text.decode(tokens[0].tolist()))
        kl = words_logp(trainer.decoder, sampled.read, sampled.tokens) - words_logp(
            trainer.start, sampled.read, sampled.tokens
        )
        liked = 0.7 * torch.tanh((score - 0.1) / 0.2)
        pays.append(answer_correctness(verdict.exact, verdict.success) + 0.4 * liked - 0.05 * kl[row])
        torch.testing.assert_close(sampled.score[row], score)
    expected = [pays[row] - sum(pays[row // 3 * 3 : row // 3 * 3 + 3]) / 3 for row in range(6)]
    torch.testing.assert_close(sampled.advantages, torch.stack(expected).detach())


def test_no_wrong_answer_is_paid_like_an_exact_one():
    wrong, exact = torch.zeros(1), torch.ones(1)
    zero, most = torch.zeros(1), torch.ones(1)
    assert pay(wrong, most, zero, FeedbackSettings()) < pay(exact, -most, zero, FeedbackSettings())
    assert pay(exact, zero, most, FeedbackSettings(kl_weight=0.3)).item() == pytest.approx(0.7)


@pytest.mark.parametrize("sign", [1, -1])
def test_answers_become_more_probable_the_better_they_were(trainer, sign):
    trainer.settings = dataclasses.replace(SMALL, replay_weight=0.0)
    sampled = trainer.sample(torch.arange(4), 0)
    advantages = torch.zeros(12)
    advantages[5] = sign
    sampled = sampled._replace(advantages=advantages)
    loss, _ = trainer.loss(sampled)
    gradient = torch.autograd.grad(loss, trainer.trained)
    with torch.no_grad():
        for parameter, slope in zip(trainer.trained, gradient, strict=True):
            parameter -= 1e-2 * slope
    change = words_logp(trainer.decoder, sampled.read, sampled.tokens) - sampled.logp
    assert sign * change[5].item() > 1e-4


def test_beyond_the_clip_range_nothing_pulls(trainer):
    trainer.settings = dataclasses.replace(SMALL, replay_weight=0.0)
    sampled = trainer.sample(torch.arange(4), 0)
    gone = sampled._replace(logp=sampled.logp - 0.5, advantages=torch.ones(12))
    gradient = torch.autograd.grad(trainer.loss(gone)[0], trainer.trained)
    assert all(float(part.abs().amax()) == 0 for part in gradient)


def test_replay_is_the_reading_loss_of_random_play(trainer):
    sampled = trainer.sample(torch.arange(4), 0)
    with_, metrics = trainer.loss(sampled)
    batch = trainer.replay.batch(0, SMALL.replay_scenes, key=46)
    model = trainer.loaded.model
    expected = reading_loss(model, batch, model.ask(batch))[0]["answer"]
    torch.testing.assert_close(metrics["replay_loss"], expected)
    trainer.settings = dataclasses.replace(SMALL, replay_weight=0.0)
    torch.testing.assert_close(with_ - trainer.loss(sampled)[0], expected)


def test_a_heavy_weight_on_the_kl_keeps_the_model_where_it_was(own, read, liking):
    found = {}
    for weight in (0.0, 5.0):
        copied = dataclasses.replace(own, model=copy.deepcopy(own.model))
        settings = dataclasses.replace(SMALL, kl_weight=weight, replay_weight=0.0, samples=8, lr=3e-4)
        with only(trained_parameters(copied), copied.model):
            trainer = AnswerTrainer(copied, read, liking._replace(trust=1.0), settings, seed=0)
            for number in range(10):
                trainer.epoch(number, lambda metrics: None)
            found[weight] = trainer.measure(read)
    assert found[0.0]["kl"] > 4 * abs(found[5.0]["kl"])


# --- the whole


def test_nothing_changes_but_the_decoder(own, loaded):
    before = {name: parameter.clone() for name, parameter in own.model.named_parameters()}
    own.model.graph_reasoner.requires_grad_(True)
    flags = [parameter.requires_grad for parameter in own.model.parameters()]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    seen = []
    metrics = learn(own, preferences(), 2, 0, SMALL, seen.append)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert flags == [parameter.requires_grad for parameter in own.model.parameters()]
    assert all(parameter.grad is None for parameter in own.model.parameters())
    trained = {id(parameter) for parameter in trained_parameters(own)}
    for name, parameter in own.model.named_parameters():
        allowed = id(parameter) in trained or name == "calibration"
        assert torch.equal(parameter, before[name]) != allowed, name
    assert len(seen) == 2 * SMALL.rounds
    assert {f"epoch_2/{name}" for name in ("score", "correctness", "kl")} <= set(metrics)
    assert metrics["kl_before"] == 0 and metrics["kl_after"] != 0
    assert metrics["examples"] == 30 and metrics["held_out"] == 6

    questions = held_out(loaded.world, (3,), 6, 0)
    first, second = (imagine(model, questions, 3, 0, 1.0) for model in (loaded, own))
    np.testing.assert_array_equal(first.batch.frames, second.batch.frames)
    first, second = answer(loaded, first, 3), answer(own, second, 3)
    np.testing.assert_array_equal(first.focus, second.focus)
    np.testing.assert_array_equal(first.pictures, second.pictures)
    assert first.texts != second.texts


def preferences():
    words = [" ".join(WORDS[index // 4**k % 4] for k in range(2)) for index in range(15)]
    both = [(w.replace(" ", " then "), w.replace(" ", ", ")) for w in words]
    return [
        Preference(line=n, prompt=prompt, chosen=chosen, rejected=rejected, scene=None)
        for n, (chosen, rejected) in enumerate(both, 1)
        for prompt in ("Which way?", "How do I get to the gift?")
    ]


WORDS = ("left", "down", "right", "up")


def test_the_same_seed_learns_the_same(loaded):
    found = []
    settings = dataclasses.replace(SMALL, questions=4, updates=1)
    for seed in (0, 0, 1):
        own = dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))
        metrics = learn(own, preferences(), 1, seed, settings)
        found.append((metrics, own.model.output_decoder.place.weight))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def test_noise_decides_nothing_in_a_round(trainer):
    first, again, other = (trainer.sample(torch.arange(4), number) for number in (3, 3, 4))
    assert torch.equal(first.tokens, again.tokens) and not torch.equal(first.tokens, other.tokens)
    dice = stream(0, 45, 3).random((12, 13))
    model, asked = trainer.loaded.model, first.read
    expected = model.answer(asked.reading, asked.prompt, torch.from_numpy(dice).float()).tokens
    assert torch.equal(first.tokens, expected)


def test_settings_that_cannot_be(loaded):
    with pytest.raises(ValueError, match=r"feedback.questions \(9\) must be a multiple of questions_per_round \(4\)"):
        dataclasses.replace(SMALL, questions=9)
    with pytest.raises(ValueError, match=r"feedback.samples \(1\) must be between 2"):
        dataclasses.replace(SMALL, samples=1)


def test_numbers_of_numpy_are_rewards_and_three_examples_no_evidence(own):
    examples = [{**RATED, "reward": reward} for reward in (np.float32(0.5), np.int64(-1), 1)]
    examples = [{**example, "answer": answer} for example, answer in zip(examples, WORDS, strict=False)]
    metrics = learn_from_feedback(own, examples, 1, settings=SMALL)
    assert metrics["examples"] == 3 and metrics["held_out"] == 1 and metrics["trust"] == 0
    assert "scorer_error" in metrics and "scorer_accuracy" not in metrics  # one rating compares with nothing
    assert not np.isnan(list(metrics.values())).any()
    metrics = learn_from_feedback(own, examples, 1, settings=dataclasses.replace(SMALL, use_trust=False))
    assert metrics["trust"] == 1
