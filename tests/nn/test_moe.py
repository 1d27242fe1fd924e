"""Sparse routing against a slow loop, and the balance loss against closed forms."""

import itertools

import pytest
import torch

from dreamrl.nn.moe import MixtureOfExperts, Routing, expert_usage, load_balance_loss
from dreamrl.nn.positional import grid_angles

ROWS, PATCHES, DIM, HEADS = 7, 9, 16, 2


def make(num_experts, top_k, layers=1):
    torch.manual_seed(num_experts * 10 + top_k)
    return MixtureOfExperts(DIM, HEADS, layers, num_experts, top_k).double()


def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, PATCHES, DIM, generator=generator, dtype=torch.double, requires_grad=True)
    summary = torch.randn(ROWS, DIM, generator=generator, dtype=torch.double, requires_grad=True)
    sizes = torch.tensor([9, 4, 9, 6, 9, 4, 9])
    mask = (torch.arange(PATCHES) < sizes.unsqueeze(1))[:, None, None, :]
    angles = grid_angles(torch.tensor([3, 2, 3, 2, 3, 2, 3]), PATCHES, DIM // HEADS).double()
    return x, mask, angles, summary


def slow_mixture(moe, x, mask, angles, summary):
    """Row by row: softmax, sort, run the k best experts on that row alone."""
    out = []
    for row in range(len(x)):
        probs = moe.router(summary[row]).softmax(-1)
        best = probs.detach().argsort(descending=True)[: moe.top_k].tolist()
        total = sum(probs[e] for e in best)
        one = slice(row, row + 1)
        out.append(sum(probs[e] / total * moe.experts[e](x[one], mask[one], angles[one]) for e in best))
    return torch.cat(out)


def gradients(moe, inputs, out):
    """Of a fixed function of ``out``, with respect to the inputs and every parameter; zeros where none flows."""
    wanted = [inputs[0], inputs[3], *moe.parameters()]
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    found = torch.autograd.grad((out * weight).sum(), wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


@pytest.mark.parametrize("num_experts, top_k, layers", [(4, 2, 1), (4, 1, 2), (4, 4, 1), (1, 1, 1), (6, 3, 1)])
def test_dispatch_equals_a_slow_loop(num_experts, top_k, layers):
    moe, given = make(num_experts, top_k, layers), inputs()
    found, _ = moe(*given)
    expected = slow_mixture(moe, *given)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    for fast, slow in zip(gradients(moe, given, found), gradients(moe, given, expected), strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)


def test_only_chosen_experts_run():
    moe, given = make(5, 2), inputs()
    seen = {}
    for index, expert in enumerate(moe.experts):
        expert.register_forward_hook(lambda module, args, out, index=index: seen.update({index: len(args[0])}))
    _, routing = moe(*given)
    assert seen == {e: int((routing.experts == e).sum()) for e in range(5)}
    assert sum(seen.values()) == 2 * ROWS


def test_an_expert_that_is_not_chosen_cannot_poison_the_rest():
    moe, given = make(6, 2), [part[:1] for part in inputs()]
    before, routing = moe(*given)
    chosen = routing.experts[0].tolist()
    for index, expert in enumerate(moe.experts):
        if index not in chosen:
            for parameter in expert.parameters():
                parameter.data.fill_(float("nan"))
    after, _ = moe(*given)
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    after.sum().backward()
    for index, expert in enumerate(moe.experts):
        total = sum(float(p.grad.abs().sum()) for p in expert.parameters())
        assert total > 0 if index in chosen else total == 0


@pytest.mark.parametrize("num_experts, top_k", [(4, 2), (6, 3), (3, 3)])
@torch.no_grad()
def test_weights_are_those_of_the_most_probable_experts(num_experts, top_k):
    routing = make(num_experts, top_k).route(inputs()[3].detach())
    torch.testing.assert_close(routing.weights.sum(1), torch.ones(ROWS, dtype=torch.double))
    torch.testing.assert_close(routing.probs.sum(1), torch.ones(ROWS, dtype=torch.double))
    for probs, experts, weights in zip(*routing, strict=True):
        assert len(set(experts.tolist())) == top_k
        left_out = [float(probs[e]) for e in range(num_experts) if e not in experts.tolist()]
        assert min(probs[experts].tolist()) >= max(left_out, default=0.0)
        torch.testing.assert_close(weights, probs[experts] / probs[experts].sum())


def test_no_noise():
    moe, given = make(4, 2).train(), inputs()
    assert torch.equal(moe(*given)[0], moe(*given)[0])


@pytest.mark.parametrize("num_experts, top_k", [(4, 2), (4, 1), (5, 3), (2, 2)])
def test_balance_loss_is_1_when_balanced(num_experts, top_k):
    experts = torch.tensor(list(itertools.combinations(range(num_experts), top_k)))  # each expert equally often
    probs = torch.full((len(experts), num_experts), 1 / num_experts)
    routing = Routing(probs, experts, torch.full(experts.shape, 1 / top_k))
    assert float(load_balance_loss(routing)) == pytest.approx(1.0, rel=1e-6)
    assert expert_usage(routing).tolist() == pytest.approx([1 / num_experts] * num_experts)


@pytest.mark.parametrize("num_experts, top_k", [(4, 2), (4, 1), (5, 3), (2, 2)])
def test_balance_loss_is_e_over_k_when_collapsed(num_experts, top_k):
    experts = torch.arange(top_k).expand(10, top_k)
    probs = torch.zeros(10, num_experts)
    probs[:, :top_k] = 1 / top_k
    routing = Routing(probs, experts, probs[:, :top_k])
    assert float(load_balance_loss(routing)) == pytest.approx(num_experts / top_k, rel=1e-6)


def test_balance_loss_by_hand():
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
    routing = Routing(probs, torch.tensor([[0, 1], [0, 2]]), torch.tensor([[0.625, 0.375], [2 / 3, 1 / 3]]))
    # choices: expert 0 twice of 4, experts 1 and 2 once; mean probabilities .55 .2 .25
    assert float(load_balance_loss(routing)) == pytest.approx(3 * (0.5 * 0.55 + 0.25 * 0.2 + 0.25 * 0.25), rel=1e-6)


def test_descending_the_balance_loss_spreads_the_work():
    moe, given = make(4, 1), inputs()
    summary = given[3].detach()
    with torch.no_grad():
        moe.router[1].weight[0] = 3 * summary.mean(0)  # a router that prefers expert 0
    optimizer = torch.optim.SGD(moe.router.parameters(), lr=1.0)
    first = float(load_balance_loss(moe.route(summary)).detach())
    for _ in range(30):
        loss = load_balance_loss(moe.route(summary))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > 1.3
    assert float(load_balance_loss(moe.route(summary)).detach()) < 1.1
