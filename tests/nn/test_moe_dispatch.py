"""Sparse dispatch of the mixture of experts against a slow loop over rows."""

import math

import pytest
import torch

from dreamrl.dreaming_config import EXPERT_TYPES, DreamingConfig
from dreamrl.nn.experts import Context
from dreamrl.nn.layers import NOWHERE
from dreamrl.nn.moe import MixtureOfExperts, expert_counts, expert_usage

ROWS, PATCHES, DIM, HEADS = 7, 9, 16, 2
SIDES = torch.tensor([3, 2, 3, 2, 3, 2, 3])


def make(**fields):
    config = DreamingConfig(embedding_dim=DIM, expert_num_heads=HEADS, **fields)
    torch.manual_seed(config.num_experts * 10 + config.moe_top_k)
    moe = MixtureOfExperts(config).double()
    with torch.no_grad():  # what starts at zero would hide mistakes
        for parameter in moe.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return moe


def inputs(memory=True):
    """x, mask, columns, summary, context of rows with 3 x 3 and 2 x 2 patches, texts and pasts of every length."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.double, requires_grad=True)

    x, summary, prompt, past = randn(ROWS, PATCHES, DIM), randn(ROWS, DIM), randn(ROWS, 5, DIM), randn(ROWS, 3, DIM)
    mask = (torch.arange(PATCHES) < SIDES.square().unsqueeze(1))[:, None, None, :]
    prompt_mask = torch.arange(5) < torch.tensor([5, 0, 3, 1, 4, 2, 5]).unsqueeze(1)
    past_mask = torch.arange(3) < torch.tensor([0, 1, 2, 3, 0, 1, 2]).unsqueeze(1)
    context = Context(prompt, prompt_mask, past, past_mask) if memory else Context(prompt, prompt_mask)
    return x, mask, SIDES, summary, context


def slow_gating(logits, sparse):
    """Softmax, or sparsemax by its definition: the threshold of the largest support that holds together."""
    if not sparse:
        return logits.exp() / logits.exp().sum()
    ranked = logits.sort(descending=True).values
    for size in range(len(logits), 0, -1):
        threshold = (ranked[:size].sum() - 1) / size
        if ranked[size - 1] > threshold:
            return (logits - threshold).clamp(min=0)
    raise AssertionError(logits)


def slow_expert(moe, kind, index, x, columns, context, row):
    """One expert on one picture: only what is real, no masks."""
    expert = moe.experts[index]
    added, places = (None, NOWHERE) if kind == "abstract" else moe.positions(columns, x.shape[1])
    x = x if added is None else x + added
    source = None
    if kind in ("temporal", "causal"):
        source = expert.nothing.unsqueeze(0)
        if kind == "causal":
            source = torch.cat([source, context.prompt[row][context.prompt_mask[row]]])
        elif context.memory is not None:
            source = torch.cat([source, context.memory[row][context.memory_mask[row]]])
        source = source.unsqueeze(0)
    for block in expert.blocks:
        x = block(x, places=places, memory=source)
    return x


def slow_exchange(exchange, thoughts, experts):
    """Each expert's picture and what it hears, head by head and pair by pair."""
    tokens = []
    for thought, expert in zip(thoughts, experts, strict=True):
        real = torch.ones(thought.shape[:2], dtype=torch.bool)
        tokens.append(exchange.norm(exchange.pool(thought, real)[0] + exchange.index.weight[expert]))
    attention, size = exchange.attention, DIM // HEADS
    out = []
    for thought, listener in zip(thoughts, tokens, strict=True):
        heard = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            query = attention.query(listener)[part]
            keys = [attention.key_value(token)[:DIM][part] for token in tokens]
            values = [attention.key_value(token)[DIM:][part] for token in tokens]
            weights = torch.stack([query @ key / math.sqrt(size) for key in keys]).softmax(0)
            heard.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        out.append(thought + attention.out(torch.cat(heard)))
    return out


def slow_mixture(moe, fields, given, noise=None):
    """Row by row: gate, sort, run the k best experts on the real patches of that row alone; (P_row, D) each."""
    x, _, columns, summary, context = given
    types, sparse = fields.get("expert_types", ("general",)), fields.get("moe_gating") == "sparsemax"
    out = []
    for row in range(len(x)):
        features = moe.router[0](summary[row])
        logits = moe.router[1].weight @ features
        if noise is not None:
            spread = (1 + (moe.noise.weight @ features).exp()).log()
            logits = logits + noise[row] * spread * fields["moe_noise_std"]
        probs = slow_gating(logits, sparse)
        # Where sparsemax gives zero to more than are left out, the larger logit goes first.
        score = logits if moe.bias is None else slow_gating(logits, False) + moe.bias
        best = sorted(range(len(logits)), key=lambda e: -float(score[e].detach()))[: moe.top_k]
        weights = slow_gating(logits[best], True) if sparse else probs[best] / probs[best].sum()
        one = slice(row, row + 1)
        patches = x[one, : int(columns[row]) ** 2]
        thoughts = [slow_expert(moe, types[e % len(types)], e, patches, columns[one], context, row) for e in best]
        if moe.exchange is not None:
            thoughts = slow_exchange(moe.exchange, thoughts, best)
        out.append(sum(weight * thought for weight, thought in zip(weights, thoughts, strict=True))[0])
    return out


def gradients(moe, given, rows):
    """Of a fixed function of the real patches, with respect to inputs and parameters; zeros where none flows."""
    x, _, _, summary, context = given
    wanted = [x, summary, context.prompt] + ([] if context.memory is None else [context.memory])
    wanted += [p for p in moe.parameters() if p.requires_grad]
    out = torch.cat(rows)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    found = torch.autograd.grad((out * weight).sum(), wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


OPTIONS = {
    "default": {},
    "one of four, two layers": {"moe_top_k": 1, "expert_num_layers": 2},
    "all": {"moe_top_k": 4},
    "alone": {"num_experts": 1, "moe_top_k": 1},
    "some without rows": {"num_experts": 9, "moe_top_k": 1},
    "some of every type without rows": {"num_experts": 15, "moe_top_k": 1, "expert_types": EXPERT_TYPES},
    "types": {"num_experts": 5, "moe_top_k": 3, "expert_types": EXPERT_TYPES, "expert_num_layers": 2},
    "no places": {"expert_types": ("abstract",)},
    "learned places": {"positions": "learned", "expert_types": ("spatial", "abstract")},
    "alibi": {"positions": "alibi", "expert_types": ("spatial", "causal")},
    "sparsemax": {"moe_gating": "sparsemax", "moe_top_k": 3},
    "noise": {"moe_noise_std": 2.0},
    "noise, sparsemax": {"moe_noise_std": 2.0, "moe_gating": "sparsemax"},
    "bias": {"load_balance": "bias"},
    "bias, sparsemax": {"load_balance": "bias", "moe_gating": "sparsemax"},
    "exchange": {"use_cross_expert_attention": True, "moe_top_k": 3},
    "exchange, some without rows": {"use_cross_expert_attention": True, "num_experts": 15, "moe_top_k": 1},
    "everything": {
        "num_experts": 10, "moe_top_k": 3, "expert_types": EXPERT_TYPES, "moe_gating": "sparsemax",
        "load_balance": "bias", "moe_noise_std": 1.0, "use_cross_expert_attention": True, "positions": "learned",
    },
}  # fmt: skip


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_dispatch_equals_a_slow_loop(name, memory):
    fields = OPTIONS[name]
    moe, given = make(**fields), inputs(memory)
    generator = noise = None
    if moe.noise is not None:
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(ROWS, len(moe.experts), generator=torch.Generator().manual_seed(3)).double()
    if moe.bias is not None:
        moe.bias.normal_(std=0.3, generator=torch.Generator().manual_seed(4))
    out, routing = moe(*given, generator=generator)
    found = [row[: side**2] for row, side in zip(out, SIDES.tolist(), strict=True)]
    expected = slow_mixture(moe, fields, given, noise)
    for fast, slow in zip(found, expected, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)
    for fast, slow in zip(gradients(moe, given, found), gradients(moe, given, expected), strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-10, rtol=1e-10)
    assert ("without rows" in name) <= (float(expert_usage(routing).min()) == 0)
    assert all(isinstance(field, torch.Tensor) and len(field) == ROWS for field in routing)


def test_sparse_attention_of_experts_without_rows():
    moe = make(num_experts=15, moe_top_k=1, expert_types=EXPERT_TYPES, attention="sparsemax")
    out, routing = moe(*inputs())
    out.sum().backward()
    assert float(expert_usage(routing).min()) == 0
    assert all(parameter.grad.isfinite().all() for parameter in moe.parameters())


@pytest.mark.parametrize("name", ["default", "some of every type without rows", "exchange, some without rows"])
def test_without_gradients_the_outcome_is_the_same(name):
    moe, given = make(**OPTIONS[name]), inputs()
    with torch.no_grad():
        sampled, _ = moe(*given)
    assert torch.equal(sampled, moe(*given)[0])


def test_experts_may_have_sparse_attention():
    """Compared with softmax experts made sharp: with one huge logit both read a single token."""
    fields = {"num_experts": 2, "moe_top_k": 2, "expert_types": ("abstract", "causal")}
    sparse, soft, given = make(**fields, attention="sparsemax"), make(**fields), inputs()
    assert bool(sparse(*given)[0].isfinite().all())
    assert not torch.allclose(sparse(*given)[0], soft(*given)[0])
    for moe in (sparse, soft):
        for expert in moe.experts:
            for block in expert.blocks:
                for attention in (block.attention, block.cross):
                    if attention is not None:
                        attention.query.weight.data *= 1e6
    torch.testing.assert_close(sparse(*given)[0], soft(*given)[0], atol=1e-5, rtol=1e-5)


def test_only_chosen_experts_run():
    moe, given = make(num_experts=5), inputs()
    seen = {}
    for index, expert in enumerate(moe.experts):
        expert.register_forward_hook(lambda module, args, out, index=index: seen.update({index: len(args[0])}))
    _, routing = moe(*given)
    assert seen == dict(enumerate(expert_counts(routing).tolist()))
    assert sum(seen.values()) == 2 * ROWS


def test_an_expert_that_is_not_chosen_cannot_poison_the_rest():
    moe = make(num_experts=6)
    x, mask, columns, summary, context = inputs()
    given = x[:1], mask[:1], columns[:1], summary[:1], Context(*(part[:1] for part in context))
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
