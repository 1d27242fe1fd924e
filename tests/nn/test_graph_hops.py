"""Message passing over hops: against a slow loop, and learned edges that find what fixed ones cannot reach."""

import dataclasses

import entmax
import pytest
import torch
import torch.nn.functional as F

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.graph import build_graph
from dreamrl.nn.graph_reasoner import GraphTransformer

CONFIG = DreamingConfig(embedding_dim=16, num_heads=2, graph_num_heads=4, num_edge_types=2)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(**fields):
    """A graph transformer whose weights are all far from zero."""
    transformer = GraphTransformer(dataclasses.replace(CONFIG, **fields))
    with torch.no_grad():
        for seed, parameter in enumerate(transformer.parameters()):
            parameter.copy_(0.4 * randn(*parameter.shape, seed=seed))
    return transformer


def slow_transformer(transformer, x, edges, normalise):
    """``GraphTransformer`` with loops over nodes and heads; ``edges`` are (source, target, type, gate)."""
    for norm, hop, feed in zip(transformer.norms, transformer.hops, transformer.feeds, strict=True):
        told, message = norm(x), torch.zeros_like(x)
        width = x.shape[1] // hop.heads
        for node in range(len(x)):
            incoming = [e for e in edges if e[1] == node]
            for h in range(hop.heads if incoming else 0):
                own = slice(h * width, (h + 1) * width)
                kinds = transformer.edge.weight[[e[2] for e in incoming]] @ hop.edge.weight[own].T
                sources = told[[e[0] for e in incoming]]
                keys = F.linear(sources, hop.key.weight[own], hop.key.bias[own]) + kinds
                values = F.linear(sources, hop.value.weight[own], hop.value.bias[own]) + kinds
                weight = normalise(keys @ hop.query(told[node])[own] / width**0.5, 0)
                message[node, own] = (weight * torch.tensor([e[3] for e in incoming])) @ values
        x = x + message if transformer.memory is None else slow_gru(transformer.memory, message, x)
        x = x + feed(x)
    return x


def slow_gru(cell, message, state):
    """Cho et al. 2014 (arXiv:1406.1078), in the variant that PyTorch documents."""
    (a, b, c), (d, e, f) = cell.weight_ih.chunk(3), cell.weight_hh.chunk(3)
    (i, j, k), (m, n, o) = cell.bias_ih.chunk(3), cell.bias_hh.chunk(3)
    reset = torch.sigmoid(message @ a.T + i + state @ d.T + m)
    update = torch.sigmoid(message @ b.T + j + state @ e.T + n)
    new = torch.tanh(message @ c.T + k + reset * (state @ f.T + o))
    return (1 - update) * new + update * state


@torch.no_grad()
@pytest.mark.parametrize("attention", ["softmax", "sparsemax"])
@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_hops_equal_a_slow_loop(attention, memory, learned):
    transformer = make(attention=attention, use_node_memory=memory, use_learned_edges=learned)
    normalise = {"softmax": torch.softmax, "sparsemax": entmax.sparsemax}[attention]
    lengths = torch.tensor([[3, 1, 2], [2, 0, 3]])
    valid = torch.arange(3) < lengths.unsqueeze(-1)
    graph = build_graph(lengths, 3)
    x = randn(len(graph.node), 16)
    edges = [(*pair, 1.0) for pair in zip(*graph.edge_index.tolist(), graph.edge_type.tolist(), strict=True)]
    if learned:
        index, kind, gate = transformer.learned(x, graph.node, valid)
        edges += zip(*index.tolist(), kind.tolist(), gate.tolist(), strict=True)
    nodes, found = transformer(x, graph, valid)
    torch.testing.assert_close(nodes, slow_transformer(transformer, x, edges, normalise), atol=2e-5, rtol=1e-4)
    compact = [[graph.node.tolist().index(i) for i in row] for row in found.edge_index.tolist()]
    assert list(zip(*compact, found.edge_type.tolist(), strict=True)) == [edge[:3] for edge in edges]


@pytest.mark.parametrize(("learned", "low", "high"), [(True, 0.9, 1.0), (False, 0.0, 0.6)])
def test_learned_edges_find_what_fixed_edges_cannot_reach(learned, low, high):
    """Every triplet must tell the colour (one of 4) of the one marked triplet of its question, after one hop."""
    config = dataclasses.replace(CONFIG, use_learned_edges=learned, graph_reasoning_hops=1)
    torch.manual_seed(0)
    transformer, head = GraphTransformer(config), torch.nn.Linear(16, 4)
    optimiser = torch.optim.Adam([*transformer.parameters(), *head.parameters()], lr=0.01)
    valid = torch.ones(32, 4, 4, dtype=torch.bool)
    graph = build_graph(torch.full((32, 4), 4), 4)
    accuracy = 0.0
    for step in range(100):
        generator = torch.Generator().manual_seed(step)
        colour = torch.randint(4, (32, 16), generator=generator)
        marked = torch.randint(16, (32, 1), generator=generator)
        x = torch.zeros(32, 16, 16).scatter(2, colour.unsqueeze(2), 1.0)
        x[:, :, 4:5] = torch.zeros(32, 16, 1).scatter(1, marked.unsqueeze(2), 1.0)
        target = colour.gather(1, marked).expand(32, 16)
        away = torch.ones(32, 16, dtype=torch.bool).scatter(1, marked, False)
        logits = head(transformer(x.flatten(0, 1), graph, valid)[0]).view(32, 16, 4)
        accuracy = (logits.argmax(-1) == target)[away].float().mean().item()
        loss = F.cross_entropy(logits[away], target[away])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert low <= accuracy <= high


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"use_learned_edges": True, "use_node_memory": True}], ids=["fixed", "learned"])
def test_the_first_rounds_are_those_of_a_shorter_transformer(fields):
    """Three hops of which one or two are taken, against transformers that have no more; none leaves the nodes alone."""
    long = make(graph_reasoning_hops=3, **fields)
    lengths = torch.tensor([[3, 1, 2], [2, 0, 3]])
    valid = torch.arange(3) < lengths.unsqueeze(-1)
    graph = build_graph(lengths, 3)
    x = randn(len(graph.node), 16)
    for rounds in (1, 2):
        short = GraphTransformer(dataclasses.replace(CONFIG, graph_reasoning_hops=rounds, **fields))
        short.load_state_dict({k: v for k, v in long.state_dict().items() if k in short.state_dict()})
        nodes, edges = long(x, graph, valid, rounds)
        expected, weights = short(x, graph, valid)
        torch.testing.assert_close(nodes, expected)
        torch.testing.assert_close(edges.weight, weights.weight)
    whole = long(x, graph, valid)[0]
    assert torch.equal(long(x, graph, valid, 3)[0], whole) and not torch.allclose(whole, nodes, atol=1e-2)
    untouched, edges = long(x, graph, valid, 0)
    assert torch.equal(untouched, x) and (edges.weight == 1).all()
