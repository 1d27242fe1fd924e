"""Contrastive loss: against a loop over pairs, over workers against one process, and on a task that it must learn."""

import math

import pytest
import torch
from torch import nn

from dreamrl.nn.contrastive import MAX_TEMPERATURE, MIN_TEMPERATURE, ContrastiveHead, contrastive_loss, same_pictures

DIM = 6


def make_head(seed=0, temperature=0.1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ContrastiveHead(DIM, temperature)


def some_pairs(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, DIM, generator=generator)


@torch.no_grad()
def slow_loss(left, right, head, same):
    """Figure 3 of arXiv:2103.00020, one pair and one direction after the other."""
    a = [x / x.norm() for x in head.left(left)]
    b = [x / x.norm() for x in head.right(right)]
    total = 0.0
    for i in range(len(a)):
        others = [j for j in range(len(a)) if j == i or not same[i][j]]
        for own, candidates in (
            (a[i] @ b[i], [a[i] @ b[j] for j in others]),
            (a[i] @ b[i], [a[j] @ b[i] for j in others]),
        ):
            exponents = [math.exp(c / head.log_temperature.exp()) for c in candidates]
            total += -math.log(math.exp(own / head.log_temperature.exp()) / sum(exponents)) / (2 * len(a))
    return total


@pytest.mark.parametrize("count", [1, 2, 7])
def test_it_is_the_loss_of_a_loop(count):
    left, right = some_pairs(count)
    head = make_head()
    nothing = torch.eye(count, dtype=torch.bool)
    loss, _ = contrastive_loss(left, right, head)
    assert loss.item() == pytest.approx(slow_loss(left, right, head, nothing), rel=1e-5, abs=1e-7)
    if count > 1:
        assert loss > 0.1


def test_equal_results_are_no_negatives():
    left, right = some_pairs(5)
    same = torch.eye(5, dtype=torch.bool)
    for i, j in ((0, 3), (1, 2)):
        same[i, j] = same[j, i] = True
    head = make_head()
    loss, _ = contrastive_loss(left, right, head, same)
    assert loss.item() == pytest.approx(slow_loss(left, right, head, same), rel=1e-5)
    assert not math.isclose(loss.item(), contrastive_loss(left, right, head)[0].item(), rel_tol=1e-3)
    all_same, metrics = contrastive_loss(left, right, head, torch.ones(5, 5, dtype=torch.bool))
    assert all_same.item() == 0 and metrics["contrastive_accuracy"] == 1


class Bare(ContrastiveHead):
    """A head that projects nothing."""

    def __init__(self, temperature):
        super().__init__(DIM, temperature)
        self.left, self.right = nn.Identity(), nn.Identity()


def test_accuracy_is_the_share_of_pairs_that_find_each_other():
    right = torch.eye(4, DIM)
    left = right[[0, 1, 3, 2]]  # two pairs are mixed up
    _, metrics = contrastive_loss(left, right, Bare(0.5))
    assert metrics["contrastive_accuracy"].item() == 0.5
    assert metrics["contrastive_temperature"].item() == pytest.approx(0.5)
    left[2] = right[0]  # 2 now looks for 0, and 3 for 2; backwards 3 finds nobody: 0 is the first among equals
    _, metrics = contrastive_loss(left, right, Bare(0.5))
    assert metrics["contrastive_accuracy"].item() == (2 / 4 + 2 / 4) / 2


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, MAX_TEMPERATURE])
def test_the_temperature_stays_in_range_and_comes_back(temperature):
    """Pushed past the end it stops there, and a gradient towards the inside moves it at once."""
    head = make_head(temperature=temperature)
    outward = 1 if temperature == MAX_TEMPERATURE else -1
    optimizer = torch.optim.SGD([head.log_temperature], lr=1.0)

    def push(direction):
        optimizer.zero_grad()
        (-direction * head.temperature().log()).backward()
        optimizer.step()

    for _ in range(3):
        push(outward)
        assert head.temperature().item() == pytest.approx(temperature, rel=1e-5)
    push(-outward)
    assert head.temperature().log().item() == pytest.approx(math.log(temperature) - outward, abs=1e-5)


def test_it_learns_temperature_and_projections():
    left, right = some_pairs(5)
    head = make_head()
    contrastive_loss(left.requires_grad_(), right.requires_grad_(), head)[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
    assert left.grad.any(1).all() and right.grad.any(1).all()


def test_no_pairs_give_zero():
    left, right = some_pairs(0)
    head = make_head()
    loss, _ = contrastive_loss(left, right, head, torch.ones(0, 0, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and not head.log_temperature.grad.any()


def test_pictures_are_the_same_if_codes_and_shape_are():
    codes = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [4, 2, 3, 1], [4, 2, 3, 1]])
    grid = torch.tensor([[2, 2], [1, 4], [2, 2], [2, 2], [2, 2]])
    expected = [[i == j or {i, j} in ({0, 2}, {3, 4}) for j in range(5)] for i in range(5)]
    assert same_pictures(codes, grid).tolist() == expected


SPLITS = ((2, 2, 2), (3, 1, 2), (0, 5, 1), (6, 0, 0))
"""How many of 6 pairs each of three workers has."""
CODES = torch.tensor([[0, 1], [2, 3], [4, 5], [0, 1], [2, 3], [6, 7]])
"""Equal results within and across workers, whatever the split."""


class Encoder(nn.Module):
    """Something to train in front of the loss, and the head, as one module."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.encode = nn.Linear(DIM, DIM)
        self.head = make_head()

    def forward(self, left, right, codes):
        grid = torch.ones_like(codes)
        same = same_pictures(codes, grid)
        return contrastive_loss(self.encode(left), self.encode(right).tanh(), self.head, same)


def outcome(module, left, right, codes):
    """Loss, metrics and gradients."""
    module.zero_grad()
    loss, metrics = module(left, right, codes)
    loss.backward()
    return [loss.detach(), *metrics.values(), *(p.grad.clone() for p in module.parameters())]


def _worker(rank, meeting, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=3)
    left, right = some_pairs(6)
    module = nn.parallel.DistributedDataParallel(Encoder())
    for split in SPLITS:
        own = slice(sum(split[:rank]), sum(split[: rank + 1]))
        results.put((split, [value.tolist() for value in outcome(module, left[own], right[own], CODES[own])]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_workers_together_are_one_process_with_all_pairs(tmp_path):
    """Loss, metrics and averaged gradients, on every worker, though results are equal across workers."""
    expected = outcome(Encoder(), *some_pairs(6), CODES)
    assert all(value.any() for value in expected)
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_worker, (tmp_path / "meeting", results), nprocs=3)
    seen = [results.get() for _ in range(3 * len(SPLITS))]
    assert sorted(split for split, _ in seen) == sorted(3 * SPLITS)
    for _, found in seen:
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.tensor(a), b, rtol=1e-4, atol=1e-6)


def test_it_learns_where_moves_lead():
    """A dot on a 6 x 6 board moves left, right, up or down; asked about pairs of dot and move never shown."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        place, move, head = nn.Linear(2, 16), nn.Embedding(4, 16), ContrastiveHead(16, 0.07)
    moves = torch.tensor([[0, -1], [0, 1], [-1, 0], [1, 0]])
    grid = torch.arange(6)
    pairs = torch.cartesian_prod(grid, grid, torch.arange(4))[torch.randperm(144, generator=generator)]
    optimizer = torch.optim.AdamW([*place.parameters(), *move.parameters(), *head.parameters()], lr=1e-2)

    def ask(chosen):
        what, action = chosen[:, :2], chosen[:, 2]
        result = what + moves[action]
        same = (result.unsqueeze(0) == result.unsqueeze(1)).all(-1)
        return contrastive_loss(place(what / 6) + move(action), place(result / 6), head, same)

    untrained = ask(pairs[100:])[1]["contrastive_accuracy"]
    for _ in range(300):
        loss, _ = ask(pairs[:100])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = ask(pairs[100:])[1]["contrastive_accuracy"]
    assert untrained < 0.2 and trained > 0.9, (untrained, trained)
