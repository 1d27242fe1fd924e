"""Sampling follows the probabilities, keeps the nucleus, and without one draws what the plain inversion draws."""

import pytest
import torch

from dreamrl.nn.sampling import nucleus, sample


def grid_of_uniforms(count):
    """Numbers that fill [0, 1) evenly: what random numbers do in the long run, without the noise."""
    return (torch.arange(count, dtype=torch.double) + 0.5) / count


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def inverse(logits, uniform):
    """Where the cumulative distribution first exceeds each number: PPO's numbers hang on its last bit."""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulative, uniform.double().unsqueeze(-1) * cumulative[..., -1:], right=True)
    return drawn.squeeze(-1).clamp(max=logits.shape[-1] - 1)


@pytest.mark.parametrize("shape", [(4000, 37), (300, 9, 37)])
def test_with_nothing_switched_on_it_is_plain_inversion(shape):
    logits, uniform = randn(*shape) * 3, rand(*shape[:-1])
    uniform.flatten()[:5] = torch.tensor([0.0, 1e-7, 0.5, 1 - 1e-7, 1 - 2**-24])
    expected = inverse(logits, uniform)
    for temperature in (None, torch.ones(shape[0])):
        for top_p in (1.0, 1, torch.ones(shape[0])):
            assert torch.equal(sample(logits, uniform, temperature, None, top_p), expected)
    assert torch.equal(sample(logits, uniform, greedy=False), expected)
    assert torch.equal(sample(logits, uniform), sample(logits, uniform))


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_p", [0.3, 0.7, 1.0])
def test_sampled_frequencies_are_the_probabilities_of_the_nucleus(heat, top_p):
    logits, count = randn(6) * 2, 20_000
    drawn = sample(logits.expand(count, -1), grid_of_uniforms(count), torch.full((count,), heat), None, top_p)
    probabilities = (logits / heat).softmax(-1).tolist()
    kept, total = set(), 0.0
    for category in sorted(range(6), key=lambda c: -probabilities[c]):
        if total < top_p:
            kept.add(category)
            total += probabilities[category]
    expected = torch.tensor([p / total if c in kept else 0.0 for c, p in enumerate(probabilities)])
    found = drawn.bincount(minlength=6) / count
    torch.testing.assert_close(found, expected, atol=2 / count, rtol=0)
    assert (found[expected == 0] == 0).all()


@pytest.mark.parametrize(
    "top_p, expected",
    [
        (0.0, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [0, 1, 3]),
        (0.89, [0, 1, 3]),
        (0.91, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_the_nucleus_is_the_fewest_that_reach_top_p(top_p, expected):
    found = nucleus(torch.tensor([0.2, 0.4, 0.1, 0.3]), torch.tensor([top_p]))
    assert found.nonzero().flatten().tolist() == expected


def test_of_equally_probable_categories_the_first_are_kept():
    assert nucleus(torch.full((3, 8), 0.125), torch.tensor([[0.25], [0.3], [0.0]])).sum(-1).tolist() == [2, 3, 1]
    assert nucleus(torch.full((8,), 0.125), torch.tensor([0.25])).nonzero().flatten().tolist() == [0, 1]


def test_every_row_has_a_temperature_and_a_nucleus_of_its_own():
    logits, uniform = randn(6, 50, 11), rand(6, 50)
    heats, limits = torch.tensor([0.0, 0.2, 1.0, 1.0, 3.0, 0.7]), torch.tensor([1.0, 0.5, 1.0, 0.6, 0.9, 0.0])
    together = sample(logits, uniform, heats, None, limits)
    for row in range(6):
        alone = sample(logits[row], uniform[row], heats[row].expand(50), None, float(limits[row]))
        assert torch.equal(together[row], alone)
    assert torch.equal(together[0], logits[0].argmax(-1)) and torch.equal(together[5], logits[5].argmax(-1))
    assert torch.equal(together[2], inverse(logits[2], uniform[2])) and not torch.equal(together[2], together[0])
    per_draw = heats.unsqueeze(1).expand(6, 50)
    assert torch.equal(sample(logits, uniform, per_draw, None, limits), together)


def test_greedy_rows_take_the_most_probable():
    logits, uniform = randn(200, 6, 4), rand(200, 6)
    best, drawn, cold = logits.argmax(-1), sample(logits, uniform), torch.arange(200) % 2 == 0
    assert (best != drawn).float().mean() > 0.3
    assert torch.equal(sample(logits, uniform, None, True), best)
    mixed = torch.where(cold.unsqueeze(1), best, drawn)
    assert torch.equal(sample(logits, uniform, None, cold), mixed)
    assert torch.equal(sample(logits, uniform, (~cold).float()), mixed)
    frozen = torch.arange(200) < 100
    both = torch.where((cold | frozen).unsqueeze(1), best, drawn)
    assert torch.equal(sample(logits, uniform, (~cold).float(), frozen), both)


@pytest.mark.parametrize("top_p", [0.2, 0.9, 1.0])
@pytest.mark.parametrize("uniform", [0.0, 1e-7, 0.5, 1 - 1e-7])
def test_the_impossible_is_never_drawn(uniform, top_p):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    assert int(sample(logits, torch.tensor([uniform]), top_p=top_p)) in ((1, 3) if top_p > 0.5 else (3,))
