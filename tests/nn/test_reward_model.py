"""The judge of dreams: what each score depends on, and what it must not depend on."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from dreamrl.dreaming_config import REWARD_COMPONENTS, DreamingConfig
from dreamrl.nn.reward_model import RewardModel

ACTIONS, VOCAB, DREAMS, STEPS, PATCHES = 4, 300, 3, 4, 9
CONFIG = DreamingConfig(
    embedding_dim=16, num_heads=2, code_levels=(5, 5), dream_length=STEPS, max_prompt_tokens=24, max_answer_tokens=12
)
PAD_CODE = CONFIG.num_codes
SCORES = (*REWARD_COMPONENTS, "total", "confidence")


def make_model(config=CONFIG):
    """A model none of whose parts is near zero or neutral."""
    model = RewardModel(config, ACTIONS, VOCAB).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def dreams():
    """Two questions with three dreams each, of different lengths, on pictures of different size."""
    generator = torch.Generator().manual_seed(0)

    def draw(high, *shape):
        return torch.randint(high, shape, generator=generator)

    rows = 2 * DREAMS
    grid = torch.tensor([[2, 3]] * DREAMS + [[3, 3]] * DREAMS)
    frames = draw(PAD_CODE, rows, STEPS + 1, PATCHES)
    frames[torch.arange(PATCHES).expand_as(frames) >= grid.prod(1)[:, None, None]] = PAD_CODE
    text, answer = (1 + draw(VOCAB - 1, 2, length).repeat_interleave(DREAMS, 0) for length in (10, 6))
    text[:DREAMS, 7:] = 0
    answer[DREAMS:, 3:] = 0
    return {
        "frames": frames,
        "actions": draw(ACTIONS, rows, STEPS),
        "beliefs": draw(4, rows, STEPS),
        "lengths": torch.tensor([4, 1, 2, 3, 4, 2]),
        "grid": grid,
        "text": text,
        "dreams": DREAMS,
        "answer": answer,
    }


def take(dreams, index):
    return {name: part[index] if isinstance(part, torch.Tensor) else part for name, part in dreams.items()}


def same(a, b, names=SCORES):
    for name in names:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-6, rtol=1e-5, msg=name)


def different(a, b, name):
    """(R,) bool: whose score changed."""
    return ((getattr(a, name) - getattr(b, name)).abs() > 1e-6).flatten(1 if getattr(a, name).dim() > 1 else 0)


def test_scores_are_what_the_record_says(model, dreams):
    scores = model(**dreams)
    for name in (*SCORES, "makers", "steps", "weights"):
        value = getattr(scores, name)
        assert ((value >= 0) & (value <= 1)).all(), name
    exponents = model.weight_logits.exp()
    torch.testing.assert_close(scores.weights, exponents / exponents.sum())
    for row in range(2 * DREAMS):
        total = sum(w * float(getattr(scores, k)[row]) for w, k in zip(scores.weights, REWARD_COMPONENTS, strict=True))
        assert float(scores.total[row]) == pytest.approx(float(total), abs=1e-6)
        length = int(dreams["lengths"][row])
        claimed = [float(scores.makers[row, t, dreams["actions"][row, t]]) for t in range(length)]
        assert scores.steps[row].tolist() == pytest.approx(claimed + [0.0] * (STEPS - length))
        assert float(scores.coherence[row]) == pytest.approx(sum(claimed) / length, abs=1e-6)
    assert torch.equal(scores.components, torch.stack([getattr(scores, k) for k in REWARD_COMPONENTS], 1))
    assert min(float(getattr(scores, name).std()) for name in SCORES) > 1e-3  # nothing above holds by being constant


@pytest.mark.parametrize("paid", [("faithfulness",), ("creativity", "coherence")])
def test_components_that_are_not_paid_have_no_weight(dreams, paid):
    model = make_model(dataclasses.replace(CONFIG, reward_components=paid))
    scores = model(**dreams)
    assert [w > 0 for w in scores.weights.tolist()] == [name in paid for name in REWARD_COMPONENTS]
    assert float(scores.weights.sum()) == pytest.approx(1)


def test_a_question_alone_without_padding_equals_the_question_among_others(model, dreams):
    together = model(**dreams)
    for begin, size, words, steps in ((0, 6, 7, 4), (DREAMS, 9, 10, 4)):
        own = take(dreams, slice(begin, begin + DREAMS))
        own |= {"frames": own["frames"][:, : steps + 1, :size], "text": own["text"][:, :words]}
        alone = model(**own)
        for name in SCORES:
            expected = getattr(together, name)[begin : begin + DREAMS]
            torch.testing.assert_close(getattr(alone, name), expected, atol=1e-6, rtol=1e-5, msg=name)


def test_what_lies_past_the_end_of_a_dream_or_of_its_picture_is_not_seen(model, dreams):
    past = torch.arange(STEPS) >= dreams["lengths"].unsqueeze(1)  # (R, T)
    outside = torch.arange(PATCHES) >= dreams["grid"].prod(1, keepdim=True)  # (R, P)
    changed = dict(dreams)
    after = torch.cat([past.new_zeros(len(past), 1), past], 1).unsqueeze(-1)
    changed["frames"] = dreams["frames"].masked_fill(after, 7).masked_fill(outside.unsqueeze(1), 3)
    changed["actions"] = dreams["actions"].masked_fill(past, 1)
    changed["beliefs"] = dreams["beliefs"].masked_fill(past, 2)
    assert not torch.equal(changed["frames"], dreams["frames"])
    same(model(**changed), model(**dreams))


def test_permuting_the_dreams_of_a_question_permutes_the_scores(model, dreams):
    order = torch.tensor([2, 0, 1, 3, 5, 4])
    scores, permuted = model(**dreams), model(**take(dreams, order))
    for name in SCORES:
        torch.testing.assert_close(getattr(permuted, name), getattr(scores, name)[order], atol=1e-6, rtol=1e-5)


def test_only_creativity_looks_at_the_siblings(model, dreams):
    changed = {**dreams, "frames": dreams["frames"].clone()}
    changed["frames"][0, 1, :6] = (changed["frames"][0, 1, :6] + 1) % PAD_CODE
    before, after = model(**dreams), model(**changed)
    for name in ("faithfulness", "coherence", "correctness", "confidence"):
        assert different(before, after, name).tolist() == [True] + 5 * [False], name
    assert different(before, after, "creativity").tolist() == 3 * [True] + 3 * [False]


def test_siblings_equal_a_slow_loop(model):
    told = torch.randn(2 * DREAMS, 5, generator=torch.Generator().manual_seed(2))
    found = model._siblings(told, DREAMS)
    for row in range(2 * DREAMS):
        begin = row // DREAMS * DREAMS
        others = [told[i] for i in range(begin, begin + DREAMS) if i != row]
        mean = sum(others) / len(others)
        apart = sum((other - told[row]).abs() for other in others) / len(others)
        torch.testing.assert_close(found[row], torch.cat([mean, apart]))
    assert torch.equal(model._siblings(told, 1), torch.zeros(2 * DREAMS, 10))


def test_no_answer_is_an_answer_of_padding_and_another_answer_another_verdict(model, dreams):
    none = {**dreams, "answer": None}
    same(model(**none), model(**{**dreams, "answer": torch.zeros_like(dreams["answer"])}))
    other = {**dreams, "answer": dreams["answer"].clone()}
    other["answer"][:DREAMS, 2] = 1 + other["answer"][:DREAMS, 2] % (VOCAB - 1)
    assert different(model(**dreams), model(**none), "correctness").all()
    assert different(model(**dreams), model(**other), "correctness").tolist() == 3 * [True] + 3 * [False]


@pytest.mark.parametrize(("name", "seen_by_steps"), [("actions", True), ("beliefs", False), ("text", False)])
def test_every_claim_counts(model, dreams, name, seen_by_steps):
    changed = {**dreams, name: dreams[name].clone()}
    changed[name][4, 1] = (changed[name][4, 1] + 1) % 4 + (4 if name == "text" else 0)
    before, after = model(**dreams), model(**changed)
    only = [row == 4 for row in range(2 * DREAMS)]
    assert different(before, after, "confidence").tolist() == only
    assert different(before, after, "makers").any(1).tolist() == 6 * [False]  # pictures alone say what made them
    assert different(before, after, "steps").any(1).tolist() == (only if seen_by_steps else 6 * [False])


def test_the_order_of_the_steps_counts(model, dreams):
    """Two steps with the same pictures, told the other way round: only the step embedding can tell."""
    swapped = {**dreams, "frames": dreams["frames"].clone(), "actions": dreams["actions"].clone()}
    swapped["frames"][4, 1:] = swapped["frames"][4, :1]
    swapped["actions"][4] = torch.tensor([0, 1, 2, 3])
    before = model(**swapped)
    swapped["actions"][4] = torch.tensor([1, 0, 2, 3])
    assert different(before, model(**swapped), "faithfulness").tolist() == [row == 4 for row in range(6)]


def test_longer_texts_and_dreams_than_in_training_can_be_read(model, dreams):
    longer = {name: part.repeat(1, 3) for name, part in dreams.items() if name in ("actions", "beliefs", "text")}
    frames = torch.cat([dreams["frames"][:, :1], dreams["frames"][:, 1:].repeat(1, 3, 1)], 1)
    scores = model(**{**dreams, **longer, "frames": frames, "lengths": 3 * dreams["lengths"]})
    assert all(torch.isfinite(getattr(scores, name)).all() for name in SCORES)


def test_preferences_are_bradley_terry(model):
    total, other = torch.tensor([0.9, 0.2]), torch.tensor([0.4, 0.7])
    sharpness = float(model.log_sharpness.exp())
    expected = F.logsigmoid(sharpness * torch.tensor([0.5, -0.5]))
    torch.testing.assert_close(F.logsigmoid(model.preference_logits(total, other)), expected)


def test_every_parameter_learns(dreams):
    model = make_model().requires_grad_(True)
    scores = model(**dreams)
    preference = model.preference_logits(scores.total[0], scores.total[1])
    (scores.components.sum() + scores.confidence.sum() + scores.makers.sum() + preference).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
