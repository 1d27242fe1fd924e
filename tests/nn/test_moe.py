"""The router, its losses and metrics against closed forms; for the dispatch see ``test_moe_dispatch``."""

import itertools
import math
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.experts import Context
from dreamrl.nn.moe import (
    MixtureOfExperts,
    Routing,
    expert_counts,
    load_balance_loss,
    router_z_loss,
    routing_metrics,
)

ROWS, DIM = 7, 16


def make(**fields):
    config = DreamingConfig(embedding_dim=DIM, **fields)
    torch.manual_seed(config.num_experts * 10 + config.moe_top_k)
    return MixtureOfExperts(config).double()


def summaries():
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def think(moe):
    """The whole mixture on pictures of 3 x 3 patches."""
    x = torch.randn(ROWS, 9, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    mask, columns = torch.ones(ROWS, 1, 1, 9, dtype=torch.bool), torch.full((ROWS,), 3)
    return moe(x, mask, columns, summaries(), Context(x, mask[:, 0, 0]))[0]


@pytest.mark.parametrize("gating", ["softmax", "sparsemax"])
@pytest.mark.parametrize("num_experts, top_k", [(4, 2), (6, 3), (3, 3)])
@torch.no_grad()
def test_the_most_probable_experts_are_chosen(num_experts, top_k, gating):
    routing = make(num_experts=num_experts, moe_top_k=top_k, moe_gating=gating).route(summaries())
    torch.testing.assert_close(routing.weights.sum(1), torch.ones(ROWS, dtype=torch.double))
    torch.testing.assert_close(routing.probs.sum(1), torch.ones(ROWS, dtype=torch.double))
    for probs, experts, weights, _ in zip(*routing, strict=True):
        assert len(set(experts.tolist())) == top_k
        left_out = [float(probs[e]) for e in range(num_experts) if e not in experts.tolist()]
        assert min(probs[experts].tolist()) >= max(left_out, default=0.0)
        if gating == "softmax" or max(left_out, default=0.0) == 0:
            torch.testing.assert_close(weights, probs[experts] / probs[experts].sum())


@pytest.mark.parametrize("load_balance", ["switch", "bias"])
@pytest.mark.parametrize("gating", ["softmax", "sparsemax"])
@pytest.mark.parametrize("left_out", range(4))
@torch.no_grad()
def test_an_expert_that_is_left_out_is_as_if_it_had_never_been(left_out, gating, load_balance):
    """The same numbers as a mixture that is built of the other experts."""
    moe = make(moe_gating=gating, load_balance=load_balance)
    small = make(moe_gating=gating, load_balance=load_balance, num_experts=3)
    rest = [e for e in range(4) if e != left_out]
    small.router[0].load_state_dict(moe.router[0].state_dict())
    if load_balance == "bias":
        moe.bias.copy_(torch.tensor([0.3, -0.2, 0.1, 0.0]))
        moe.bias[left_out] = 9.0  # what it once was given must not bring it back
        small.bias.copy_(moe.bias[rest])
    small.router[1].weight.copy_(moe.router[1].weight[rest])
    for own, there in zip(small.experts, rest, strict=True):
        own.load_state_dict(moe.experts[there].state_dict())
    complete = think(moe)
    moe.leave_out(left_out)
    routing, expected = moe.route(summaries()), small.route(summaries())
    assert not (routing.experts == left_out).any() and not routing.probs[:, left_out].any()
    assert torch.equal(routing.experts, torch.tensor(rest)[expected.experts])
    torch.testing.assert_close(routing.probs[:, rest], expected.probs)
    torch.testing.assert_close(think(moe), think(small))
    assert not torch.equal(think(moe), complete)
    assert math.isfinite(float(load_balance_loss(routing) + router_z_loss(routing)))
    moe.leave_out(None)
    assert torch.equal(think(moe), complete)


def test_which_expert_can_be_left_out():
    with pytest.raises(ValueError, match="expert .4. must be between 0 and 3"):
        make().leave_out(4)
    with pytest.raises(ValueError, match="cannot be left out: moe_top_k .2. needs all 2"):
        make(num_experts=2, moe_top_k=2).leave_out(0)


def test_no_noise_without_a_generator():
    moe, summary = make(moe_noise_std=3.0).train(), summaries()
    state = torch.get_rng_state()
    assert torch.equal(think(moe), think(moe))
    silent, noisy = moe.route(summary), moe.route(summary, torch.Generator().manual_seed(0))
    assert not torch.equal(silent.logits, noisy.logits)
    assert torch.equal(noisy.logits, moe.route(summary, torch.Generator().manual_seed(0)).logits)
    assert torch.equal(state, torch.get_rng_state())
    plain = make()
    assert plain.noise is None
    assert torch.equal(plain.route(summary).logits, plain.route(summary, torch.Generator()).logits)


@torch.no_grad()
def test_noise_starts_with_the_spread_that_the_config_says():
    torch.manual_seed(0)
    moe = MixtureOfExperts(DreamingConfig(embedding_dim=DIM, moe_noise_std=0.5))
    summary = torch.randn(1, DIM).expand(20_000, DIM)
    noise = moe.route(summary, torch.Generator().manual_seed(0)).logits - moe.router(summary)
    assert noise.mean(0).abs().amax() < 0.01
    assert noise.std(0).tolist() == pytest.approx([0.5 * math.log(2)] * 4, rel=0.02)


@torch.no_grad()
def test_the_bias_chooses_but_does_not_weigh():
    moe, summary = make(load_balance="bias", moe_gating="sparsemax"), summaries()
    moe.bias.zero_()
    moe.router[1].weight *= 100  # sparsemax now gives most experts zero
    free = moe.route(summary)
    moe.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 5.0]))
    forced = moe.route(summary)
    assert all(set(experts) == {2, 3} for experts in forced.experts.tolist())
    assert torch.equal(free.probs, forced.probs) and torch.equal(free.logits, forced.logits)
    assert bool((forced.probs.gather(1, forced.experts).sum(1) == 0).any())  # and yet:
    for logits, experts, weights in zip(forced.logits, forced.experts, forced.weights, strict=True):
        high, low = logits[experts].sort(descending=True).values  # sparsemax of two, in closed form
        expected = ((1 + high - low) / 2).clamp(max=1)
        torch.testing.assert_close(weights.sort(descending=True).values, torch.stack([expected, 1 - expected]))


def test_the_bias_is_saved_with_the_weights_and_gets_no_gradient():
    moe = make(load_balance="bias")
    think(moe).sum().backward()
    assert "bias" in dict(moe.named_parameters())
    assert moe.bias.grad is None
    assert make().bias is None


def test_the_bias_moves_against_the_load():
    moe = make(load_balance="bias", load_balance_loss_weight=0.25)
    moe.bias.zero_()
    load = torch.tensor([5, 3, 3, 1])
    moe.update_bias(load)
    assert moe.bias.tolist() == [-0.25, 0.0, 0.0, 0.25]
    assert load.tolist() == [5, 3, 3, 1]
    moe.update_bias(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert moe.bias.tolist() == [0.0, 0.25, 0.25, 0.0]


@torch.no_grad()
def test_the_bias_spreads_the_work_of_a_router_that_stands_still():
    moe = make(load_balance="bias", num_experts=8, load_balance_loss_weight=0.001)
    moe.bias.zero_()
    shared = torch.randn(DIM, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    summary = shared + 0.3 * torch.randn(500, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    first = routing_metrics(moe.route(summary))
    for _ in range(800):
        moe.update_bias(expert_counts(moe.route(summary)))
    last = routing_metrics(moe.route(summary))
    assert first["max_vio"] > 1.5
    assert last["max_vio"] < 0.2
    assert last["dead_experts"] == 0


def one_worker(rank, folder):
    """The workers' own loads pull the bias in different directions; their sum decides."""
    rendezvous, patience = f"file://{folder}/rendezvous", timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=patience)
    try:
        moe = make(load_balance="bias", load_balance_loss_weight=1.0)
        moe.bias.zero_()
        own = torch.tensor([[9, 1, 1, 1], [0, 0, 3, 2]][rank], dtype=torch.double)  # together 9 1 4 3, mean 4.25
        before = own.clone()
        moe.update_bias(own)
        assert torch.equal(own, before)
    finally:
        dist.destroy_process_group()
    torch.save(moe.bias.tolist(), f"{folder}/{rank}")


def test_all_workers_move_the_bias_alike(tmp_path):
    other = mp.get_context("spawn").Process(target=one_worker, args=(1, str(tmp_path)))
    other.start()
    one_worker(0, str(tmp_path))
    other.join()
    assert [torch.load(tmp_path / str(rank)) for rank in (0, 1)] == [[-1.0, 1.0, 1.0, 1.0]] * 2


def balanced(num_experts, top_k):
    experts = torch.tensor(list(itertools.combinations(range(num_experts), top_k)))  # each expert equally often
    probs = torch.full((len(experts), num_experts), 1 / num_experts)
    return Routing(probs, experts, torch.full(experts.shape, 1 / top_k), probs.log())


def collapsed(num_experts, top_k):
    probs = torch.zeros(10, num_experts)
    probs[:, :top_k] = 1 / top_k
    return Routing(probs, torch.arange(top_k).expand(10, top_k), probs[:, :top_k], probs.log())


SIZES = [(4, 2), (4, 1), (5, 3), (2, 2)]


@pytest.mark.parametrize("num_experts, top_k", SIZES)
def test_balance_loss_is_1_when_balanced_and_e_over_k_when_collapsed(num_experts, top_k):
    assert float(load_balance_loss(balanced(num_experts, top_k))) == pytest.approx(1.0, rel=1e-6)
    assert float(load_balance_loss(collapsed(num_experts, top_k))) == pytest.approx(num_experts / top_k, rel=1e-6)


@pytest.mark.parametrize("num_experts, top_k", SIZES)
def test_metrics_when_balanced_and_when_collapsed(num_experts, top_k):
    spread, alone = (routing_metrics(make(num_experts, top_k)) for make in (balanced, collapsed))
    usage = [f"expert_usage/{i}" for i in range(num_experts)]
    assert set(spread) == set(alone) == {*usage, "max_vio", "router_entropy", "dead_experts"}
    assert [float(spread[key]) for key in usage] == pytest.approx([1 / num_experts] * num_experts)
    assert float(spread["max_vio"]) == pytest.approx(0, abs=1e-6)
    assert float(spread["router_entropy"]) == pytest.approx(math.log(num_experts), rel=1e-6)
    assert float(spread["dead_experts"]) == 0
    assert [float(alone[key]) for key in usage] == pytest.approx([1 / top_k] * top_k + [0.0] * (num_experts - top_k))
    assert float(alone["max_vio"]) == pytest.approx(num_experts / top_k - 1, abs=1e-6)
    assert float(alone["router_entropy"]) == pytest.approx(math.log(top_k), abs=1e-6)
    assert float(alone["dead_experts"]) == num_experts - top_k


def by_hand():
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]])
    weights = torch.tensor([[0.625, 0.375], [2 / 3, 1 / 3]])
    return Routing(probs, torch.tensor([[0, 1], [0, 2]]), weights, torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, -1.0]]))


def test_losses_by_hand():
    # choices: expert 0 twice of 4, experts 1 and 2 once; mean probabilities .55 .2 .25
    balance = 3 * (0.5 * 0.55 + 0.25 * 0.2 + 0.25 * 0.25)
    assert float(load_balance_loss(by_hand())) == pytest.approx(balance, rel=1e-6)
    sums = math.exp(1) + math.exp(2) + math.exp(3), 2 + math.exp(-1)
    assert float(router_z_loss(by_hand())) == pytest.approx(sum(math.log(s) ** 2 for s in sums) / 2, rel=1e-6)


@pytest.mark.parametrize(
    "loss_of, rate, before, after", [(load_balance_loss, 1.0, 1.3, 1.1), (router_z_loss, 0.05, 4, 0.5)]
)
def test_descending_a_loss_spreads_the_work_or_calms_the_router(loss_of, rate, before, after):
    moe, summary = make(moe_top_k=1), summaries()
    with torch.no_grad():
        moe.router[1].weight[0] = 3 * summary.mean(0)  # a router that prefers expert 0
    optimizer = torch.optim.SGD(moe.router.parameters(), lr=rate)
    first = float(loss_of(moe.route(summary)).detach())
    for _ in range(30):
        loss = loss_of(moe.route(summary))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first > before
    assert float(loss_of(moe.route(summary)).detach()) < after
