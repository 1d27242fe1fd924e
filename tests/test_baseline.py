"""The baseline without dreams: its probabilities, its losses, PPO on answers, and files."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamrl.baseline import ImageTokenReasoningLLM, majority
from dreamrl.baseline_training import AnswerPPO, as_loaded, pretrain_baseline
from dreamrl.config import DreamingConfig, PPOConfig, PretrainConfig, RunConfig, WorldConfig
from dreamrl.data import RandomPlay
from dreamrl.errors import UserError
from dreamrl.evaluate import held_out
from dreamrl.model import Assets
from dreamrl.nn.text import BOS, EOS, PAD
from dreamrl.pretrain import train_codec
from dreamrl.rewards import answer_correctness
from dreamrl.saving import load_pretrained, make_assets, new_model
from envs.questions import stream
from envs.reasoning_batch import training_question
from envs.world import QuestionKind

SMALL = RunConfig(
    seed=3,
    model=DreamingConfig(
        embedding_dim=16,
        codec_hidden=32,
        num_dream_sequences=3,
        dream_length=4,
        max_prompt_tokens=24,
        max_answer_tokens=12,
    ),
    pretrain=PretrainConfig(steps=12, scenes_per_step=2, codec_steps=100, checkpoint_every=5),
    ppo=PPOConfig(
        iterations=4, questions_per_iteration=10, minibatch_size=12, replay_scenes=2, predict_share=0.5, num_learners=0
    ),
)


def assets_of(run):
    made = make_assets(run.model, run.world.name, run.seed)
    return Assets(run, made.world, made.text)


@pytest.fixture(scope="module")
def model():
    """Untrained, its codec aside, but with weights far from zero and from each other; not to be changed."""
    model = ImageTokenReasoningLLM(assets_of(SMALL), layers=2, loops=2)
    data = RandomPlay(SMALL, model.assets.world, model.assets.text, model.codec)
    train_codec(as_loaded(model), data)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("codec."):
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def ppo(model):
    return AnswerPPO(copy.deepcopy(model))


@pytest.fixture(scope="module")
def questions(model):
    return [training_question(SMALL, model.assets.world, i) for i in range(6)]


# --- probabilities


@torch.no_grad()
def slow_logits(model, view, q, tokens):
    """What may follow ``tokens``, from the whole text anew."""
    inputs = torch.tensor([[BOS, *tokens]])
    return model.output_decoder(inputs, view.memory[q : q + 1], view.mask[q : q + 1])[0, -1].double().log_softmax(-1)


@pytest.mark.parametrize("sampled", [False, True])
def test_answers_are_written_token_by_token_with_their_probability(model, questions, sampled):
    asked = model.ask(questions)
    uniform = torch.rand(len(questions), 12, generator=torch.Generator().manual_seed(1)) if sampled else None
    written, view = model.answer(asked, uniform), model.look(asked)
    for q in range(len(questions)):
        tokens = []
        for place in range(12):
            logp = slow_logits(model, view, q, tokens)
            token = int(logp.argmax())
            if uniform is not None:
                token = int((logp.exp().cumsum(0) <= uniform[q, place].double()).sum())
            assert int(written.tokens[q, place]) == token
            assert float(written.logp[q, place].detach()) == pytest.approx(float(logp[token]), abs=1e-4)
            own = float(written.entropy[q, place].detach())
            assert own == pytest.approx(float(-(logp.exp() * logp).sum()), abs=1e-4)
            tokens.append(token)
            if token == EOS:
                break
        assert (written.tokens[q, len(tokens) :] == PAD).all() and (written.logp[q, len(tokens) :] == 0).all()


def test_an_answer_does_not_depend_on_what_else_is_asked(model, questions):
    together = model.answer(model.ask(questions))
    assert len({q.scene.grid for q in questions}) > 1
    for q, question in enumerate(questions):
        alone = model.answer(model.ask([question]))
        assert torch.equal(alone.tokens[0], together.tokens[q])
        assert torch.allclose(alone.logp[0], together.logp[q], atol=1e-5)


def test_it_sees_the_picture_and_the_question(model, questions):
    asked = model.ask(questions)
    before = model.look(asked)
    for name in ("text", "frames"):
        changed = asked | {name: asked[name].clone()}
        changed[name][0, 0] += 1
        after = model.look(changed)
        assert not torch.allclose(after.value[0], before.value[0])
        assert torch.allclose(after.value[1:], before.value[1:], atol=1e-5)


def test_majority_takes_the_most_frequent_and_of_equals_the_first():
    assert majority(["a", "b", "c", "b"]) == "b"
    assert majority(["a", "b"]) == "a"


def test_votes_are_the_same_whatever_their_number_and_their_company(model, questions):
    many = model.vote(questions, 4, seed=5)
    assert [texts[:2] for texts in many] == model.vote(questions, 2, seed=5)
    assert many[2:] == model.vote(questions[2:], 4, seed=5, first=2)
    greedy = [model.assets.text.decode(t) for t in model.answer(model.ask(questions)).tokens.tolist()]
    assert [texts[0] for texts in many] == greedy
    assert any(len(set(texts)) > 1 for texts in many)


# --- the supervised loss


def test_the_loss_is_that_of_the_answers_that_rollouts_support(model):
    data = RandomPlay(SMALL, model.assets.world, model.assets.text, model.codec)
    batch = data.batch(2, 16)
    loss, metrics = model.compute_loss(batch)
    asked = {"text": batch["text"], "grid": batch["grid"], "frames": batch["frames"][:, 0, 0]}
    view, terms, unsupported = model.look(asked), [], []
    for q in range(16):
        none = bool(batch["focus_target"][q, -1]) and not bool(batch["script"][q])
        unsupported.append(none)
        answer = [t for t in batch["answer"][q].tolist() if t != PAD]
        text = model.assets.text.decode(answer)
        assert none == (text == "no dream reaches the gift")
        if not none:
            terms += [-float(slow_logits(model, view, q, answer[:i])[token]) for i, token in enumerate(answer)]
    assert 0 < sum(unsupported) < 16
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-4)
    assert float(metrics["supported"]) == pytest.approx(1 - np.mean(unsupported))
    changed = batch | {"answer": batch["answer"].clone()}
    changed["answer"][torch.tensor(unsupported)] = 7
    assert torch.equal(model.compute_loss(changed)[0], loss)


def test_every_parameter_gets_a_gradient(model):
    model = copy.deepcopy(model)
    data = RandomPlay(SMALL, model.assets.world, model.assets.text, model.codec)
    model.compute_loss(data.batch(0, 4))[0].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_pretraining_goes_on_where_it_was_stopped(tmp_path):
    whole = ImageTokenReasoningLLM(assets_of(SMALL), 1, 1)
    pretrain_baseline(whole, tmp_path / "whole")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_baseline(ImageTokenReasoningLLM(assets_of(SMALL), 1, 1), tmp_path / "cut", stop)
    assert not (tmp_path / "cut" / "pretrained").exists()
    resumed = ImageTokenReasoningLLM(assets_of(SMALL), 1, 1)
    pretrain_baseline(resumed, tmp_path / "cut")
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


# --- PPO


def test_ratio_is_one_before_the_first_update(ppo):
    asked, columns, _ = ppo.sample()
    rows = torch.tensor([7, 0, 4])  # a minibatch is another batch than the one that was sampled
    asked, columns = ({name: value[rows] for name, value in part.items()} for part in (asked, columns))
    _, metrics = ppo.policy_loss(asked, columns)
    assert float(metrics["max_ratio_error"]) < 1e-4
    assert abs(float(metrics["approx_kl"])) < 1e-6
    assert float(columns["logp"].abs().amax()) > 0.1  # there is a probability to be wrong about
    other = columns | {"tokens": columns["tokens"].roll(1, 0)}
    assert float(ppo.policy_loss(asked, other)[1]["max_ratio_error"]) > 1e-2


def test_answers_are_paid_what_the_verifier_says(ppo):
    ppo.iteration = 2
    _, columns, parts = ppo.sample()
    world, text = ppo.model.assets.world, ppo.model.assets.text
    rewards = np.zeros((10, 3))
    for q in range(10):
        question = training_question(SMALL, world, 20 + q)
        dice = torch.from_numpy(stream(SMALL.seed, 32, 20 + q).random((3, 12))).float()
        view = ppo.model.look(ppo.model.ask([question])).repeat(3)
        tokens = ppo.model.write(view, dice).tokens
        assert torch.equal(tokens, columns["tokens"][q])
        for n in range(3):
            verdict = world.verify(question, text.decode(tokens[n].tolist()))
            rewards[q, n] = answer_correctness(verdict.exact, verdict.success)
    assert np.array_equal(columns["reward"].numpy(), rewards)
    assert parts["exact_match"] == np.mean(rewards == 1)
    assert float(columns["advantages"].mean()) == pytest.approx(0, abs=1e-5)
    assert float(columns["advantages"].std()) == pytest.approx(1, abs=1e-3)


def test_an_update_makes_better_answers_more_probable(ppo):
    """With made-up pay: all answers but the first of each question are worthless."""
    ppo.run = replace(SMALL, ppo=replace(SMALL.ppo, replay_weight=0))
    asked, columns, _ = ppo.sample()
    columns["advantages"] = torch.tensor([2.0, -1.0, -1.0]).expand(10, 3)
    for number in range(5):
        ppo.learn(asked, columns, number)
    after = ppo.model.score(ppo.model.look(asked).repeat(3), columns["tokens"].flatten(0, 1)).logp.view(10, 3, -1)
    gain = (after - columns["logp"]).sum(-1).mean(0)
    assert gain[0] > 0 > gain[1:].mean()


def test_an_iteration_moves_all_but_the_codec(ppo):
    before = {name: p.detach().clone() for name, p in ppo.model.named_parameters()}
    metrics = ppo.iterate()
    assert {"exact_match", "success", "approx_kl", "value_loss", "replay_loss", "grad_norm"} <= set(metrics)
    for name, parameter in ppo.model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("codec."), name


def test_a_minibatch_is_whole_questions_each_once_an_epoch(ppo):
    rows = list(ppo.minibatches(10))
    assert [len(r) for r in rows] == [4, 4, 4, 4]  # 12 answers are 4 questions; two epochs of two
    for epoch in (rows[:2], rows[2:]):
        assert len(set(torch.cat(epoch).tolist())) == 8


# --- files, and people


def test_a_saved_model_answers_the_same(model, questions, tmp_path):
    model.save_pretrained(tmp_path / "model")
    again = ImageTokenReasoningLLM.load_pretrained(tmp_path / "model")
    assert (again.layers, again.loops, again.assets.run) == (model.layers, model.loops, SMALL)
    assert again.vote(questions, 3, seed=1) == model.vote(questions, 3, seed=1)


def test_a_model_of_the_other_kind_is_one_clear_error(model, tmp_path):
    model.save_pretrained(tmp_path / "baseline")
    with pytest.raises(UserError):
        load_pretrained(tmp_path / "baseline")
    new_model(SMALL).model.save_pretrained(tmp_path / "dreams")
    with pytest.raises(UserError, match="holds a model that dreams, not a baseline"):
        ImageTokenReasoningLLM.load_pretrained(tmp_path / "dreams")


def test_people_get_text_confidence_and_a_verdict(model):
    scene = model.assets.world.scene({"desc": ["SFF", "FHF", "FFG"]})
    prompt = "Find the shortest safe path to the gift."
    result = model.generate(prompt, scene)
    question = model.assets.world.interpret(prompt, scene)
    written = model.answer(model.ask([question]))
    assert result["output"] == model.assets.text.decode(written.tokens[0].tolist())
    assert result["confidence"] == pytest.approx(float(written.logp.detach().sum().exp()), abs=1e-4)
    assert result["verdict"] == model.assets.world.verify(question, result["output"])
    assert model.generate("Who is the elf?", scene)["verdict"] is None
    assert model.generate(prompt, seed=4) == model.generate(prompt, seed=4)
    with pytest.raises(UserError, match="prompt: .*shorten it"):
        model.generate("gift " * 60, scene)


@pytest.mark.slow
def test_it_learns_what_an_untrained_one_cannot(tmp_path):
    """3x3 boards: after supervised training and PPO it beats the best answer that needs no picture, on new boards."""
    run = replace(
        SMALL,
        model=DreamingConfig(embedding_dim=32),
        world=WorldConfig(sizes=(3,)),
        pretrain=PretrainConfig(steps=250, predict_share=0),
        ppo=PPOConfig(iterations=12, predict_share=0),
    )
    model = ImageTokenReasoningLLM(assets_of(run), 2, 1)
    world, boards = model.assets.world, held_out(model.assets.world, (3,), 200, 0)
    assert {q.kind for q in boards} == {QuestionKind.PLAN}

    def exact(texts):
        return np.mean([world.verify(q, text).exact for q, text in zip(boards, texts, strict=True)])

    def answers():
        return [text for (text,) in model.vote(boards, 1, 0)]

    blind = max(exact([action] * len(boards)) for action in world.actions)  # the best that needs no picture
    untrained = exact(answers())
    pretrain_baseline(model, tmp_path)
    ppo = AnswerPPO(model)
    for _ in range(run.ppo.iterations):
        ppo.iterate()
    assert untrained < 0.02 and blind < 0.15
    assert exact(answers()) > blind + 0.05
