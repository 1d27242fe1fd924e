"""The scorer of answers: Bradley-Terry by hand, and a network that reads words, their order and the prompt."""

import math

import pytest
import torch

from dreamrl.nn.feedback_scorer import FeedbackScorer, preference_loss, rating_loss
from dreamrl.nn.text import EOS, PAD

PAIRS = [(1.0, 0.2), (-0.5, 2.0), (0.3, 0.3)]


def test_preference_loss_is_bradley_terry():
    chosen, rejected = torch.tensor(PAIRS).T
    odds = [math.exp(a) / (math.exp(a) + math.exp(b)) for a, b in PAIRS]  # strength of one against both
    assert preference_loss(chosen, rejected) == pytest.approx(-sum(map(math.log, odds)) / 3, rel=1e-6)
    assert preference_loss(chosen[2:], rejected[2:]) == pytest.approx(math.log(2))
    assert torch.isfinite(preference_loss(torch.tensor([-300.0]), torch.tensor([300.0])))


def test_preference_loss_raises_the_chosen_and_lowers_the_rejected():
    chosen, rejected = (column.clone().requires_grad_() for column in torch.tensor(PAIRS).T)
    preference_loss(chosen, rejected).backward()
    surprise = torch.tensor([1 / (1 + math.exp(a - b)) for a, b in PAIRS])  # 1 - probability of the choice
    torch.testing.assert_close(chosen.grad, -surprise / 3)
    torch.testing.assert_close(rejected.grad, surprise / 3)


def test_rating_loss_is_the_mean_squared_error():
    scores = torch.tensor([0.5, -1.0], requires_grad=True)
    loss = rating_loss(scores, torch.tensor([1.0, 0.5]))
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 2.25) / 2)
    torch.testing.assert_close(scores.grad, torch.tensor([-0.5, -1.5]))


@pytest.fixture
def scorer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FeedbackScorer(vocab_size=20, prompt_tokens=6, answer_tokens=5, dim=16, heads=2)


def test_padding_and_neighbours_do_not_matter(scorer):
    prompt = torch.tensor([[4, 5, PAD, PAD, PAD, PAD], [6, 7, 8, 9, 10, 11]])
    answer = torch.tensor([[12, EOS, PAD, PAD, PAD], [13, 14, 15, 16, EOS]])
    both = scorer(prompt, answer)
    torch.testing.assert_close(both[0], scorer(prompt[:1, :2], answer[:1, :2])[0])
    torch.testing.assert_close(both[1], scorer(prompt[1:], answer[1:])[0])


def test_order_and_prompt_matter(scorer):
    prompt, answer = torch.tensor([[4, 5]]), torch.tensor([[6, 7]])
    found = [scorer(*pair) for pair in ((prompt, answer), (prompt, answer.flip(1)), (answer, prompt))]
    assert len({round(value.item(), 5) for value in found}) == 3


def test_every_weight_learns(scorer):
    prompt, answer = torch.randint(3, 20, (2, 8, 5), generator=torch.Generator().manual_seed(0))
    rating_loss(scorer(prompt, answer), torch.ones(8)).backward()
    for name, parameter in scorer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_taste_that_depends_on_the_prompt_is_learned(scorer):
    """Token 10 is liked in answers to token 3, disliked in answers to token 4; the other words say nothing."""
    generator = torch.Generator().manual_seed(1)

    def batch(count):
        prompt = torch.randint(5, 10, (count, 4), generator=generator)
        prompt[:, 0] = torch.randint(3, 5, (count,), generator=generator)
        answers = torch.randint(12, 20, (2, count, 4), generator=generator)
        place = torch.randint(0, 4, (count,), generator=generator)
        for answer, word in zip(answers, (10, 11), strict=True):
            answer[torch.arange(count), place] = word
        likes = (prompt[:, :1] == 3).expand(-1, 4)
        return prompt, torch.where(likes, answers[0], answers[1]), torch.where(likes, answers[1], answers[0])

    optimizer = torch.optim.AdamW(scorer.parameters(), lr=5e-3)
    for _ in range(80):
        prompt, chosen, rejected = batch(32)
        loss = preference_loss(scorer(prompt, chosen), scorer(prompt, rejected))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prompt, chosen, rejected = batch(200)
    with torch.no_grad():
        right = scorer(prompt, chosen) > scorer(prompt, rejected)
    assert right.float().mean() > 0.95
