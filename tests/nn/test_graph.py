"""The dream graph's edges and layers, against slow loops, PyG's own layer and entmax."""

import tempfile

import entmax
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.nn import TransformerConv

from dreamrl.nn.graph import (
    EDGE_TYPES,
    LEARNED_INCOMING,
    NEXT,
    PREVIOUS,
    SIBLING,
    EdgeAttention,
    LearnedEdges,
    build_graph,
    edge_type_name,
    segment_sparsemax,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def stirred(module, scale=0.4, seed=0):
    """``module`` with random weights, all far from zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def random_lengths(seed, most=5):
    generator = seeded(seed)
    questions, dreams, steps = (int(torch.randint(1, most + 1, (), generator=generator)) for _ in range(3))
    return torch.randint(0, steps + 1, (questions, dreams), generator=generator), steps


def random_edges(nodes, edges, types, seed=0):
    """Edges over all nodes but the last two, which hear nothing."""
    generator = seeded(seed)
    source = torch.randint(nodes, (edges,), generator=generator)
    target = torch.randint(nodes - 2, (edges,), generator=generator)
    return torch.stack([source, target]), torch.randint(types, (edges,), generator=generator)


def places(graph, dreams, steps):
    """(question, dream, step) of every node."""
    return [(i // (dreams * steps), i // steps % dreams, i % steps) for i in graph.node.tolist()]


def slow_edges(lengths, steps):
    """Every (source, target, type) between (question, dream, step), by the definition."""
    questions, dreams = lengths.shape
    nodes = [(q, n, t) for q in range(questions) for n in range(dreams) for t in range(steps) if t < int(lengths[q, n])]
    edges = set()
    for q, n, t in nodes:
        for other in nodes:
            if other == (q, n, t + 1):
                edges.add(((q, n, t), other, NEXT))
            if other == (q, n, t - 1):
                edges.add(((q, n, t), other, PREVIOUS))
            if other[0] == q and other[1] != n and other[2] == t:
                edges.add(((q, n, t), other, SIBLING))
    return nodes, edges


def by_place(graph, dreams, steps):
    """The (source, target, type) of every edge between (question, dream, step)."""
    where = places(graph, dreams, steps)
    return [
        (where[a], where[b], kind)
        for a, b, kind in zip(*graph.edge_index.tolist(), graph.edge_type.tolist(), strict=True)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_edges_equal_a_slow_loop(seed):
    lengths, steps = random_lengths(seed)
    graph = build_graph(lengths, steps)
    nodes, edges = slow_edges(lengths, steps)
    assert places(graph, lengths.shape[1], steps) == nodes
    found = by_place(graph, lengths.shape[1], steps)
    assert len(found) == len(set(found))
    assert set(found) == edges


@pytest.mark.parametrize("length", [0, 3])
def test_dreams_all_of_one_length(length):
    graph = build_graph(torch.full((2, 4), length), 3)
    assert len(graph.node) == 2 * 4 * length
    assert graph.edge_index.shape[1] == 2 * (4 * 2 * max(0, length - 1) + 4 * 3 * length)


def test_edge_types_have_names():
    assert [edge_type_name(kind) for kind in range(5)] == ["next", "previous", "sibling", "learned_0", "learned_1"]


@pytest.mark.parametrize("seed", range(6))
def test_shuffled_sources_keep_all_but_who_is_heard(seed):
    lengths, steps = random_lengths(seed)
    plain, shuffled = build_graph(lengths, steps), build_graph(lengths, steps, shuffled=True)
    assert shuffled.node.tolist() == plain.node.tolist()
    assert shuffled.edge_type.tolist() == plain.edge_type.tolist()
    assert shuffled.edge_index[1].tolist() == plain.edge_index[1].tolist()
    question = plain.node // (lengths.shape[1] * steps)
    for q in range(len(lengths)):
        own = question[plain.edge_index[1]] == q
        assert sorted(shuffled.edge_index[0, own].tolist()) == sorted(plain.edge_index[0, own].tolist())
    again = build_graph(lengths, steps, shuffled=True)
    assert again.edge_index.tolist() == shuffled.edge_index.tolist()


def test_shuffled_sources_mean_nothing_and_do_not_depend_on_the_batch():
    lengths = torch.randint(1, 9, (5, 6), generator=seeded(0))
    plain, shuffled = (build_graph(lengths, 8, shuffled=flag) for flag in (False, True))
    same = (shuffled.edge_index[0] == plain.edge_index[0]).float().mean()
    assert same < 0.1  # one in about 30 by chance
    together = by_place(shuffled, 6, 8)
    alone = []
    for q in range(5):
        edges = by_place(build_graph(lengths[q : q + 1], 8, shuffled=True), 6, 8)
        alone += [((q, *source[1:]), (q, *target[1:]), kind) for source, target, kind in edges]
    assert together == alone


@pytest.mark.parametrize("scale", [1, 2, 5, 10])
def test_segment_sparsemax_equals_entmax_segment_by_segment(scale):
    scores = (randn(60, 3) * scale).requires_grad_()
    index = torch.randint(12, (60,), generator=seeded(scale))
    index[index == 5] = 4  # segment 5 is empty, and 12 and 13 are
    index[:1] = 11
    weights = segment_sparsemax(scores, index, 14)
    slow = torch.zeros_like(scores)
    for segment in index.unique():
        rows = (index == segment).nonzero().squeeze(1)
        slow = slow.index_copy(0, rows, entmax.sparsemax(scores[rows], dim=0))
    torch.testing.assert_close(weights, slow)
    assert ((weights == 0) == (slow == 0)).all()
    assert (weights == 0).any()
    up = randn(60, 3, seed=9)
    (fast_grad,), (slow_grad,) = (torch.autograd.grad((w * up).sum(), scores) for w in (weights, slow))
    torch.testing.assert_close(fast_grad, slow_grad)
    assert slow_grad.abs().max() > 0.1


def test_segment_sparsemax_of_ties_and_of_many_rows():
    even = segment_sparsemax(torch.full((4, 1), 7.0), torch.zeros(4, dtype=torch.long), 1)
    torch.testing.assert_close(even, torch.full((4, 1), 0.25))
    index = torch.arange(200_000) % 50_000  # rounding must not leak from one segment into the next
    totals = torch.zeros(50_000, 1).index_add(0, index, segment_sparsemax(randn(200_000, 1) * 3, index, 50_000))
    torch.testing.assert_close(totals, torch.ones_like(totals), atol=1e-5, rtol=0)


def test_edge_attention_equals_pyg(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where TransformerConv leaves a compiled file
    dim, heads, types = 16, 4, 5
    theirs = stirred(TransformerConv(dim, dim // heads, heads=heads, edge_dim=dim, root_weight=False)).double()
    ours = EdgeAttention(dim, heads).double()
    for name in ("query", "key", "value", "edge"):
        getattr(ours, name).load_state_dict(getattr(theirs, f"lin_{name}").state_dict())
    edge_index, edge_type = random_edges(20, 70, types)
    given = randn(20, dim).double(), randn(types, dim, seed=1).double()
    inputs = [[part.clone().requires_grad_() for part in given] for _ in range(2)]
    told = inputs[0][1][edge_type]
    expected, (_, alpha) = theirs(inputs[0][0], edge_index, told, return_attention_weights=True)
    found, weight = ours(inputs[1][0], edge_index, edge_type, inputs[1][1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weight, alpha)
    assert (found[-2:] == 0).all()
    expected.square().sum().backward()
    found.square().sum().backward()
    for one, other in zip(*inputs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(ours.edge.weight.grad, theirs.lin_edge.weight.grad)


def test_edge_attention_leaves_no_file(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    edge_index, edge_type = random_edges(5, 9, 2)
    EdgeAttention(8, 2)(randn(5, 8), edge_index, edge_type, randn(2, 8))
    assert not list(tmp_path.iterdir())


def slow_attention(layer, x, edge_index, edge_type, types, gate):
    """``EdgeAttention`` with a loop over nodes and heads."""
    dim = x.shape[1] // layer.heads
    query, key, value = layer.query(x), layer.key(x), layer.value(x)
    edge = types @ layer.edge.weight.T
    out = torch.zeros_like(x)
    for node in range(len(x)):
        incoming = [e for e in range(len(edge_type)) if edge_index[1, e] == node]
        for head in range(layer.heads if incoming else 0):
            own = slice(head * dim, (head + 1) * dim)
            told = edge[edge_type[incoming]][:, own]
            source = edge_index[0, incoming]
            score = (key[source][:, own] + told) @ query[node, own] / dim**0.5
            weight = entmax.sparsemax(score, dim=0) if "sparsemax" in str(layer.normalise) else score.softmax(0)
            out[node, own] = (weight * gate[incoming]) @ (value[source][:, own] + told)
    return out


@torch.no_grad()
@pytest.mark.parametrize("normaliser", ["softmax", "sparsemax"])
def test_edge_attention_equals_a_slow_loop(normaliser):
    layer = stirred(EdgeAttention(16, 4, normaliser))
    edge_index, edge_type = random_edges(12, 50, 3)
    x, types, gate = randn(12, 16), randn(3, 16, seed=1), torch.rand(50, generator=seeded(2))
    found, weight = layer(x, edge_index, edge_type, types, gate)
    torch.testing.assert_close(found, slow_attention(layer, x, edge_index, edge_type, types, gate))
    assert bool((weight == 0).any()) == (normaliser == "sparsemax")


def nodes_of(lengths, steps, dim=16, seed=0):
    """Random nodes (K, D), their flat indices and the mask (Q, N, T)."""
    valid = torch.arange(steps) < lengths.unsqueeze(-1)
    node = valid.flatten().nonzero().squeeze(1)
    return randn(len(node), dim, seed=seed), node, valid


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_learned_edges_equal_a_slow_loop(seed):
    lengths, steps = random_lengths(seed)
    x, node, valid = nodes_of(lengths, steps, seed=seed)
    layer = stirred(LearnedEdges(16, 4, num_types=3))
    edge_index, edge_type, gate = layer(x, node, valid)
    edges = zip(*edge_index.tolist(), edge_type.tolist(), strict=True)
    found = dict(zip(edges, gate.tolist(), strict=True))
    assert len(found) == len(gate)
    dream = (node // steps).tolist()
    question = (node // (steps * lengths.shape[1])).tolist()
    mean = torch.stack([x[[j for j in range(len(x)) if dream[j] == d]].mean(0) for d in dream]) if len(x) else x
    told = layer.norm(x + mean)
    expected = {}
    for kind in range(3):
        own = slice(kind * 4, kind * 4 + 4)
        score = layer.query(told)[:, own] @ layer.key(told)[:, own].T / 2
        for i in range(len(x)):
            others = [j for j in range(len(x)) if j != i and question[j] == question[i]]
            for j in sorted(others, key=lambda j, i=i, score=score: -float(score[i, j]))[:LEARNED_INCOMING]:
                expected[(j, i, kind + len(EDGE_TYPES))] = float(score[i, j].sigmoid())
    assert found.keys() == expected.keys()
    for edge, value in expected.items():
        assert found[edge] == pytest.approx(value, abs=1e-5)


def test_gates_teach_the_scores():
    layer = stirred(LearnedEdges(16, 4, num_types=3))
    x, node, valid = nodes_of(torch.tensor([[3, 2], [1, 3]]), 3)
    layer(x, node, valid)[2].sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and (parameter.grad.abs().amax(-1) > 1e-6).all(), name


def test_learned_edges_between_shuffled_triplets():
    lengths = torch.randint(1, 6, (4, 5), generator=seeded(0))
    x, node, valid = nodes_of(lengths, 5)
    layers = [stirred(LearnedEdges(16, 4, 2, shuffled=flag)) for flag in (False, True)]
    (plain, kinds, gate), (shuffled, kinds_after, gate_after) = (layer(x, node, valid) for layer in layers)
    assert kinds.tolist() == kinds_after.tolist() and plain[1].tolist() == shuffled[1].tolist()
    assert gate.tolist() == gate_after.tolist()
    assert (plain[0] == shuffled[0]).float().mean() < 0.3
    question = node // 25
    assert (question[shuffled[0]] == question[shuffled[1]]).all()


class Operations(TorchDispatchMode):
    """Counts the tensor operations that run inside."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("shuffled", [False, True])
def test_no_loop_over_nodes(shuffled):
    counts = set()
    for questions, dreams, steps in ((2, 2, 3), (3, 6, 8)):
        lengths = torch.full((questions, dreams), steps)
        x, node, valid = nodes_of(lengths, steps)
        layer, attention = LearnedEdges(16, 4, 2, shuffled), EdgeAttention(16, 4, "sparsemax")
        with Operations() as operations:
            build_graph(lengths, steps, shuffled)
            edge_index, edge_type, gate = layer(x, node, valid)
            attention(x, edge_index, edge_type, randn(5, 16), gate)
        counts.add(operations.count)
    assert len(counts) == 1
