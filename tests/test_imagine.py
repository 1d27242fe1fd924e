"""Dreams depend on the seed, the question and their own number only."""

import numpy as np
import pytest
import torch

from dreamrl.imagine import GREEDY, Wording, answer, imagine
from envs.questions import stream
from envs.world import Outcome as Belief
from envs.world import QuestionKind, Split

ARRAYS = ("frames", "actions", "beliefs", "lengths")


@pytest.fixture(scope="module", params=[False, True], ids=["default", "memory"])
def sampled(make_loaded, request):
    """A small model whose results and beliefs are sampled too, so that dreams differ in everything."""
    loaded = make_loaded(model={"stochastic_results": True, "use_dream_memory": request.param})
    with torch.no_grad():
        loaded.model.dream_generator.belief.bias[Belief.CONTINUE] += 2.0  # dreams of several steps
    return loaded


def questions(loaded, sizes=(3, 4, 4, 3, 3)):
    out = []
    for index, size in enumerate(sizes):
        rng = stream(8, index)
        scene = loaded.world.sample_scene(rng, Split.TEST, size)
        kind = (QuestionKind.PLAN, QuestionKind.PREDICT)[index % 2]
        out.append(loaded.world.ask(scene, kind, rng, (2, 1, 0) if kind is QuestionKind.PREDICT else ()))
    return out


def dreams_of(imagined, question, dream):
    """What was dreamed, without the room for other dreams."""
    batch = imagined.batch
    length = int(batch.lengths[question, dream])
    size = batch.questions[question].scene.grid
    return (
        batch.actions[question, dream, :length].tolist(),
        batch.beliefs[question, dream, :length].tolist(),
        batch.frames[question, dream, : length + 1, : size[0] * size[1]].tolist(),
    )


def test_the_first_4_of_16_dreams_are_the_4_dreams(sampled):
    asked = questions(sampled)
    few, many = imagine(sampled, asked, 4, 0, 1.0), imagine(sampled, asked, 16, 0, 1.0)
    for name in ARRAYS:
        assert (getattr(many.batch, name)[:, :4] == getattr(few.batch, name)).all(), name
    np.testing.assert_allclose(many.values[:, :4], few.values, atol=1e-5)
    np.testing.assert_allclose(many.experts[:, :4], few.experts, atol=1e-5)
    different = {str(dreams_of(many, 0, n)) for n in range(16)}
    assert len(different) > 12
    assert answer(sampled, many, 4).texts == answer(sampled, few, 4).texts


def test_dreams_do_not_depend_on_the_chunk(sampled):
    asked = questions(sampled)
    whole = imagine(sampled, asked, 4, 0, 1.0)
    for start, end in ((0, 2), (2, 3), (3, 5)):
        part = imagine(sampled, asked[start:end], 4, 0, 1.0, first=start)
        for q in range(end - start):
            for n in range(4):
                assert dreams_of(part, q, n) == dreams_of(whole, start + q, n)


def test_dreams_do_not_depend_on_a_larger_board_in_the_chunk(sampled):
    asked = questions(sampled, (3, 3, 6))
    whole = imagine(sampled, asked, 4, 0, 1.0)
    alone = imagine(sampled, asked[:1], 4, 0, 1.0)
    for n in range(4):
        assert dreams_of(alone, 0, n) == dreams_of(whole, 0, n)


def test_seeds_and_question_numbers_matter(sampled):
    [asked] = questions(sampled, (4,))
    found = {
        str([dreams_of(imagine(sampled, [asked], 4, seed, 1.0, first=first), 0, n) for n in range(1, 4)])
        for seed, first in ((0, 0), (1, 0), (0, 1))
    }
    assert len(found) == 3
    again = imagine(sampled, [asked], 4, 0, 1.0)
    assert (imagine(sampled, [asked], 4, 0, 1.0).batch.frames == again.batch.frames).all()


@torch.no_grad()
def test_the_first_dream_is_greedy(sampled):
    asked = questions(sampled)
    hot, cold = imagine(sampled, asked, 4, 0, 1.0), imagine(sampled, asked, 4, 1, 0.0)
    for q, question in enumerate(asked):
        assert dreams_of(hot, q, 0) == dreams_of(cold, q, 0)
        assert dreams_of(hot, q, 1) != dreams_of(cold, q, 1)
        actions, beliefs, frames = dreams_of(hot, q, 0)
        text = torch.from_numpy(sampled.text.encode(question.text, 24))[None]
        prompt = sampled.model.input_tokenizer(text)
        grid = torch.tensor([question.scene.grid])
        for t, action in enumerate(actions):
            what = torch.tensor([frames[t]])
            past = (torch.tensor([frames])[:, :t], torch.tensor([actions])[:, :t])
            look = sampled.model.dream_generator.look(what, grid, torch.tensor([t]), torch.tensor([0]), prompt, past)
            result, belief = sampled.model.dream_generator.imagine(look, what, look.action_logits.argmax(-1))
            assert action == int(look.action_logits.argmax())
            assert beliefs[t] == int(belief.argmax())
            assert frames[t + 1] == result[0].argmax(-1).tolist()


def test_dreams_start_from_the_true_picture_and_end_with_a_belief(sampled):
    asked = questions(sampled)
    imagined = imagine(sampled, asked, 6, 0, 1.0)
    lengths = set()
    for q, question in enumerate(asked):
        for n in range(6):
            _, beliefs, frames = dreams_of(imagined, q, n)
            assert frames[0] == sampled.model.codec.encode(question.scene.frame(question.scene.start)).tolist()
            assert all(b == Belief.CONTINUE for b in beliefs[:-1])
            assert beliefs[-1] != Belief.CONTINUE or len(beliefs) == 4
            lengths.add(len(beliefs))
    assert len(lengths) > 2


def test_expert_weights_are_those_of_the_steps_that_happened(sampled):
    imagined = imagine(sampled, questions(sampled), 4, 0, 1.0)
    steps = imagined.batch.lengths[..., None] > np.arange(imagined.batch.length)
    np.testing.assert_allclose(imagined.experts.sum(-1), steps, atol=1e-5)
    assert ((imagined.experts > 0).sum(-1)[steps] == sampled.model.config.moe_top_k).all()


def test_every_step_is_shown_once(sampled):
    shown = []
    imagine(sampled, questions(sampled), 4, 0, 1.0, on_step=lambda i: shown.append(i.batch.lengths.sum()))
    assert len(shown) == 4 or shown[-1] < 5 * 4 * 4
    assert (np.diff(shown) > 0).all()


def test_answers_come_from_the_dreams_that_may_be_read(sampled):
    imagined = imagine(sampled, questions(sampled), 6, 0, 1.0)
    few = answer(sampled, imagined, 2)
    for part in (imagined.batch.frames, imagined.batch.actions, imagined.batch.beliefs):
        part[:, 2:] = 1  # no dream but the first two is looked at
    again = answer(sampled, imagined, 2)
    assert few.texts == again.texts and (few.focus == again.focus).all()
    np.testing.assert_array_equal(few.confidence, again.confidence)
    assert (few.focus <= 2).all() and ((few.confidence >= 0) & (few.confidence <= 1)).all()


def test_words_follow_their_own_seed_and_the_dreams_stay(sampled):
    imagined = imagine(sampled, questions(sampled), 3, 0, 1.0)
    greedy = answer(sampled, imagined, 3)
    assert answer(sampled, imagined, 3, GREEDY).texts == greedy.texts
    assert answer(sampled, imagined, 3, Wording(temperature=0.0, seed=9)).texts == greedy.texts
    warm = [answer(sampled, imagined, 3, Wording(temperature=1.5, seed=seed)) for seed in (0, 0, 1)]
    assert warm[0].texts == warm[1].texts != warm[2].texts
    [asked] = questions(sampled, (4,))
    twice = imagine(sampled, [asked, asked], 1, 0, 1.0)  # one dream each, the greedy one
    assert len(set(answer(sampled, twice, 1).texts)) == 1
    assert len(set(answer(sampled, twice, 1, Wording(temperature=1.5)).texts)) == 2  # each has its own numbers
    short = answer(sampled, imagined, 3, Wording(max_length=2))
    assert all(len(sampled.text.encode(text, 64).nonzero()[0]) <= 6 for text in short.texts)
    assert short.texts != greedy.texts


@torch.no_grad()
def test_answers_bring_their_evidence_and_their_picture(sampled):
    """As the model itself says, question by question, without the padding of larger boards."""
    asked = questions(sampled)
    imagined = imagine(sampled, asked, 3, 0, 1.0)
    said = answer(sampled, imagined, 3)
    model, batch = sampled.model, imagined.batch
    for q, question in enumerate(asked):
        size = question.scene.grid[0] * question.scene.grid[1]
        arrays = (batch.frames[..., :size], batch.actions, batch.beliefs, batch.lengths)
        frames, actions, beliefs, lengths = (torch.from_numpy(a[q : q + 1].astype(np.int64)) for a in arrays)
        prompt = model.ask({"text": torch.from_numpy(batch.tokens[q : q + 1])})
        reading = model.read(frames, actions, beliefs, lengths, prompt)
        out = model.answer(reading, prompt)
        assert said.evidence[q] == pytest.approx(model.evidence(reading, out)[0].numpy(), rel=1e-3, abs=1e-3)
        assert said.confidence[q] == pytest.approx(float(model.confidence(model.evidence(reading, out))), abs=1e-3)
        grid = torch.tensor([question.scene.grid])
        picture = model.draw(reading, prompt, out.focus, frames, lengths, grid)[0]
        assert said.pictures[q, :size].tolist() == picture.tolist()
        assert (said.pictures[q, size:] == model.pad_code).all()
