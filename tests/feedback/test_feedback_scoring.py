"""Fitting the scorer: what is held out, how well that is predicted, and how far the scorer is trusted."""

import math

import pytest
import torch

from dreamrl.feedback.examples import Preference, Rated
from dreamrl.feedback.scoring import accuracy_of, answered, fit_scorer, held_out_rows, tokens_of, trust
from dreamrl.generate import generate

PROMPTS = ("Give the shortest way to the gift.", "Find the shortest safe path to the gift.")
WORDS = ("left", "down", "right", "up")


def preferences(count, flipped=()):
    """Answers with "then" are preferred, but for those numbers in ``flipped``."""
    out = []
    for index in range(count):
        plan = [WORDS[index // 4**k % 4] for k in range(3)]
        both = [" then ".join(plan), ", ".join(plan)]
        chosen, rejected = reversed(both) if index in flipped else both
        prompt = PROMPTS[index % 2]
        out.append(Preference(line=index, prompt=prompt, chosen=chosen, rejected=rejected, scene=None))
    return out


def ratings(count):
    """The same as ratings of one answer each."""
    pairs = preferences(count)
    return [
        Rated(
            line=p.line, prompt=p.prompt, reward=0.5 - p.line % 2, answer=(p.chosen, p.rejected)[p.line % 2], scene=None
        )
        for p in pairs
    ]


@pytest.mark.parametrize("records", [preferences(60), ratings(60)], ids=["preferences", "ratings"])
def test_what_people_like_is_found_in_examples_that_were_not_seen(loaded, records):
    found = fit_scorer(loaded, records, 60, seed=0)
    assert found.held_out == 12
    assert found.accuracy > 0.95 and found.error < 0.2
    assert found.trust == pytest.approx(trust(found.accuracy, 12)) and found.trust > 0.5
    assert not any(parameter.requires_grad for parameter in found.scorer.parameters())
    first, again, other = (fit_scorer(loaded, records, 1, seed) for seed in (0, 0, 1))
    assert first.error > found.error + 0.1  # it was learned, not there before
    assert torch.equal(first.scorer.score.weight, again.scorer.score.weight)
    assert not torch.equal(first.scorer.score.weight, other.scorer.score.weight)


def test_a_coin_is_not_trusted(loaded):
    coin = torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.5
    found = fit_scorer(loaded, preferences(60, flipped=coin.nonzero().flatten().tolist()), 60, seed=0)
    assert found.trust < 0.1


def test_too_few_examples_are_not_trusted(loaded):
    found = fit_scorer(loaded, preferences(2), 5, seed=0)
    assert found.held_out == 0 and math.isnan(found.accuracy) and found.trust == 0


def test_trust_in_closed_form():
    z = 1.645**2
    assert trust(1.0, 20) == pytest.approx(2 / (1 + z / 20) - 1)  # all right: the interval ends at n / (n + z^2)
    assert trust(0.5, 1000) == 0 and trust(0.2, 50) == 0 and trust(math.nan, 5) == 0
    values = [trust(0.8, n) for n in (5, 20, 100, 10**7)]
    assert values == sorted(values) and values[-1] == pytest.approx(0.6, abs=1e-3)
    low = (trust(0.75, 40) + 1) / 2  # solves (p - low)^2 = z^2 low (1 - low) / n
    assert (0.75 - low) ** 2 == pytest.approx(z * low * (1 - low) / 40)


def test_the_same_words_are_all_held_out_or_none(loaded):
    records = preferences(40) + preferences(40, flipped=range(40))
    hidden = held_out_rows(records, seed=0)
    assert hidden.sum() == 16 and (hidden[:40] == hidden[40:]).all()
    assert (held_out_rows(records, seed=1) != hidden).any()
    rated = held_out_rows(ratings(40) * 2, seed=0)
    assert rated.sum() == 16 and (rated[:40] == rated[40:]).all()


class FirstWord(torch.nn.Module):
    """Scores an answer by its first token."""

    def forward(self, prompt, answer):
        return answer[:, 0].float()


def test_accuracy_equals_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    answers, prompt = torch.randint(3, 8, (2, 30, 4), generator=generator), torch.zeros(30, 4, dtype=torch.long)
    rewards = torch.randint(-2, 3, (30,), generator=generator) / 2

    def sure(better, worse):
        return float(better > worse) + 0.5 * float(better == worse)

    first, second = answers[0, :, 0].tolist(), answers[1, :, 0].tolist()
    slow = [sure(first[i], first[j]) for i in range(30) for j in range(30) if rewards[i] > rewards[j]]
    data = {"prompt": prompt, "answer": answers[0], "reward": rewards}
    assert accuracy_of(FirstWord(), data) == pytest.approx(sum(slow) / len(slow))
    slow = [sure(a, b) for a, b in zip(first, second, strict=True)]
    data = {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    assert accuracy_of(FirstWord(), data) == pytest.approx(sum(slow) / 30)
    alike = {"prompt": prompt, "answer": answers[0], "reward": torch.ones(30)}
    assert math.isnan(accuracy_of(FirstWord(), alike))


def test_a_rating_without_an_answer_is_of_what_generate_answers(loaded):
    scene = {"desc": ["SFF", "FHF", "FFG"]}
    given = Rated(line=1, prompt=PROMPTS[0], reward=1.0, answer="up", scene=None)
    bare = Rated(line=2, prompt=PROMPTS[0], reward=1.0, answer=None, scene=None)
    about = Rated(line=3, prompt=PROMPTS[1], reward=1.0, answer=None, scene=scene)
    found = answered(loaded, [given, bare, about, bare])
    assert found[0] is given
    own = generate(loaded, PROMPTS[1], scene=loaded.world.scene(scene))["text"]
    assert [record.answer for record in found[1:]] == [generate(loaded, PROMPTS[0])["text"], own, found[1].answer]
    assert [record.line for record in found] == [1, 2, 3, 2]
    tokens_of(found, loaded.text, 24, 12)


def test_tokens_are_those_of_the_texts(loaded):
    data = tokens_of(preferences(3), loaded.text, 24, 12)
    assert [loaded.text.decode(row) for row in data["prompt"].tolist()] == [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    assert [loaded.text.decode(row) for row in data["rejected"].tolist()][2] == "right, left, left"
    data = tokens_of(ratings(3), loaded.text, 24, 12)
    assert data["reward"].tolist() == [0.5, -0.5, 0.5]
    assert loaded.text.decode(data["answer"][1].tolist()) == "down, left, left"
    long = Rated(line=1, prompt=PROMPTS[0], reward=0.0, answer="\ufffd" * 9, scene=None)  # its own, cut off
    assert tokens_of([long], loaded.text, 24, 12)["answer"].shape == (1, 12)
