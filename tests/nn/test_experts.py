"""What each type of expert reads, and how the chosen experts tell each other what they found."""

import pytest
import torch

from dreamrl.dreaming_config import EXPERT_TYPES, DreamingConfig
from dreamrl.nn.experts import READS, Context, CrossExpertAttention, Expert
from dreamrl.nn.moe import MixtureOfExperts
from dreamrl.nn.positional import GridPositions

ROWS, PATCHES, DIM, HEADS = 4, 6, 16, 2
CONFIG = DreamingConfig(embedding_dim=DIM, expert_num_heads=HEADS, expert_num_layers=2, moe_top_k=3)
SOURCES = {"temporal": "memory", "causal": "prompt"}


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.double, requires_grad=True)


def make(kind):
    torch.manual_seed(0)
    return Expert(CONFIG, kind).double()


def run(kind, expert, x, columns, source=None):
    """``expert`` on pictures without padding."""
    _, places = GridPositions("rope", DIM, HEADS)(torch.full((len(x),), columns), x.shape[1])
    mask = torch.ones(len(x), 1, 1, x.shape[1], dtype=torch.bool)
    return expert(x, mask, places if READS[kind].places else type(places)(), source)


def test_every_type_that_may_be_asked_for_is_there():
    assert set(READS) == set(EXPERT_TYPES)
    config = DreamingConfig(embedding_dim=DIM, num_experts=7, expert_types=EXPERT_TYPES)
    kinds = [expert.reads for expert in MixtureOfExperts(config).experts]
    assert kinds == [READS[EXPERT_TYPES[i % 5]] for i in range(7)]


@pytest.mark.parametrize("kind", EXPERT_TYPES)
def test_what_an_expert_reads(kind):
    """By the gradients of what comes out of a mixture that has this type alone, row by row."""
    config = DreamingConfig(embedding_dim=DIM, expert_types=(kind,), moe_top_k=4)
    torch.manual_seed(0)
    moe = MixtureOfExperts(config).double()
    context = Context(
        prompt=randn(ROWS, 5, DIM, seed=1),
        prompt_mask=torch.arange(5) < torch.tensor([5, 3, 1, 0]).unsqueeze(1),
        memory=randn(ROWS, 2, DIM, seed=2),
        memory_mask=torch.arange(2) < torch.tensor([2, 1, 0, 2]).unsqueeze(1),
    )
    mask, columns = torch.ones(ROWS, 1, 1, PATCHES, dtype=torch.bool), torch.full((ROWS,), 3)
    out, _ = moe(randn(ROWS, PATCHES, DIM), mask, columns, randn(ROWS, DIM, seed=3), context)
    for name in ("prompt", "memory"):
        (gradient,) = torch.autograd.grad(out.sum(), getattr(context, name), allow_unused=True, retain_graph=True)
        if SOURCES.get(kind) == name:
            assert torch.equal(gradient.abs().sum(-1) > 0, getattr(context, f"{name}_mask"))
        else:
            assert gradient is None


@pytest.mark.parametrize("kind", EXPERT_TYPES)
def test_only_the_abstract_expert_does_not_see_where_patches_stand(kind):
    expert, x = make(kind), randn(ROWS, PATCHES, DIM)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = run(kind, expert, x[:, order], columns=3)
    blind = torch.allclose(moved, run(kind, expert, x, columns=3)[:, order], atol=1e-10)
    assert blind == (kind == "abstract")
    reshaped = torch.allclose(run(kind, expert, x, columns=2), run(kind, expert, x, columns=3), atol=1e-10)
    assert reshaped == (kind == "abstract")


@pytest.mark.parametrize("kind", SOURCES)
def test_no_source_reads_like_one_with_nothing_in_it(kind):
    expert, x = make(kind), randn(ROWS, PATCHES, DIM)
    without = run(kind, expert, x, columns=3)
    empty = run(kind, expert, x, 3, (randn(ROWS, 4, DIM), torch.zeros(ROWS, 4, dtype=torch.bool)))
    torch.testing.assert_close(empty, without, atol=1e-12, rtol=1e-12)
    (gradient,) = torch.autograd.grad(empty.sum(), expert.nothing)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    said = run(kind, expert, x, 3, (randn(ROWS, 4, DIM), torch.ones(ROWS, 4, dtype=torch.bool)))
    assert not torch.allclose(said, without)


def exchange_inputs():
    experts = torch.tensor([[0, 3, 1], [2, 1, 0], [3, 2, 1], [0, 1, 2]])
    order = experts.flatten().argsort(stable=True)
    thoughts = randn(experts.numel(), PATCHES, DIM)
    return thoughts, torch.ones(experts.numel(), PATCHES, dtype=torch.bool), experts, order


def test_the_exchange_starts_as_the_identity_and_can_learn():
    torch.manual_seed(0)
    exchange, given = CrossExpertAttention(CONFIG).double(), exchange_inputs()
    told = exchange(*given)
    assert torch.equal(told, given[0])
    told.square().sum().backward()
    assert exchange.attention.out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("row", range(4))
def test_experts_hear_those_of_their_own_row_only(row):
    torch.manual_seed(0)
    exchange, (thoughts, real, experts, order) = CrossExpertAttention(CONFIG).double(), exchange_inputs()
    torch.nn.init.normal_(exchange.attention.out.weight)
    told = exchange(thoughts, real, experts, order)
    own = order // experts.shape[1] == row
    first = int(own.nonzero()[0])
    (gradient,) = torch.autograd.grad((told[first] - thoughts[first]).sum(), thoughts)
    assert torch.equal(gradient.abs().sum((1, 2)) > 1e-12, own)


def test_what_is_heard_depends_on_who_says_it():
    torch.manual_seed(0)
    exchange, (thoughts, real, experts, order) = CrossExpertAttention(CONFIG).double(), exchange_inputs()
    torch.nn.init.normal_(exchange.attention.out.weight)
    other = exchange(thoughts, real, (experts + 1) % 4, order)
    assert not torch.allclose(other, exchange(thoughts, real, experts, order))


def test_the_exchange_does_not_read_padding():
    torch.manual_seed(0)
    exchange, (thoughts, real, experts, order) = CrossExpertAttention(CONFIG).double(), exchange_inputs()
    torch.nn.init.normal_(exchange.attention.out.weight)
    real[:, 4:] = False
    painted = thoughts.detach().clone()
    painted[:, 4:] += 10
    told, again = exchange(thoughts, real, experts, order), exchange(painted, real, experts, order)
    torch.testing.assert_close(again[:, :4], told[:, :4], atol=1e-12, rtol=1e-12)
