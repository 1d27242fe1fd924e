"""The dream graph: which triplets hear of which, and how messages pass between them.

Nodes are triplets. Fixed edges are temporal (within a dream, both ways) and cross-dream (the same step of two
dreams); learned edges are chosen by the model among all pairs of triplets of one question. No edge joins two
questions. What is read out of the graph is in ``dreamrl.nn.graph_reasoner``.

The layer is written with PyG's segment operations instead of its ``TransformerConv``: weights of learned edges can
gate messages, weights can be sparse, an edge's embedding is projected once a type instead of once an edge, and
no module is compiled into a file in the temporary directory of every process.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter, softmax

from dreamrl.nn.layers import widened

NEXT, PREVIOUS, SIBLING = range(3)
"""Edge types: to the next step, to the step before, to the same step of another dream."""
EDGE_TYPES = ("next", "previous", "sibling")
"""Names of the fixed edge types; learned types have the numbers after them."""
LEARNED_INCOMING = 2
"""Learned edges of one type that end in a node."""
SHUFFLE_SEED = 0


class Graph(NamedTuple):
    """Edges over valid nodes: ``node`` (K,) flat index into (Q N T), ``edge_index`` (2, M), ``edge_type`` (M,)."""

    node: Tensor
    edge_index: Tensor
    edge_type: Tensor


class Edges(NamedTuple):
    """The edges that were read, with their weights.

    ``edge_index`` (2, M) flat indices into (Q N T), source first; ``edge_type`` (M,) as in :class:`Graph`;
    ``weight`` (M,) is what the target's message took from the source in the last hop, averaged over heads (a
    learned edge's gate included), or 1 without hops; it carries no gradient.

    Example:
        >>> edges = Edges(torch.tensor([[0, 1], [1, 0]]), torch.tensor([NEXT, PREVIOUS]), torch.ones(2))
        >>> edge_type_name(int(edges.edge_type[0]))
        'next'
    """

    edge_index: Tensor
    edge_type: Tensor
    weight: Tensor


NO_EDGES = Edges(torch.zeros(2, 0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))


class Reading(NamedTuple):
    """``nodes`` (Q, N, T, D), ``mask`` (Q, N, T), ``focus_logits`` (Q, N + 1), ``value`` (Q,) expected reward.

    ``edges`` say which triplets heard of which. Where the pictures' grids were given also ``last`` (Q, N, P), the
    codes of each dream's last picture, and ``columns`` (Q,), patches per row.
    """

    nodes: Tensor
    mask: Tensor
    focus_logits: Tensor
    value: Tensor
    edges: Edges = NO_EDGES
    last: Tensor | None = None
    columns: Tensor | None = None


def edge_type_name(kind: int) -> str:
    """next, previous, sibling, learned_0, learned_1, ..."""
    return EDGE_TYPES[kind] if kind < len(EDGE_TYPES) else f"learned_{kind - len(EDGE_TYPES)}"


def build_graph(lengths: Tensor, steps: int, shuffled: bool = False) -> Graph:
    """All fixed edges of Q dream graphs at once, without a Python loop over nodes.

    Args:
        lengths: (Q, N) steps that each dream lasted.
        steps: T.
        shuffled: permute the sources, see :func:`shuffle_sources`.

    Returns:
        :class:`Graph` whose nodes are the steps that happened.
    """
    questions, dreams = lengths.shape
    device = lengths.device
    valid = (torch.arange(steps, device=device) < lengths.unsqueeze(-1)).flatten(1)  # (Q, N T)
    pairs, kinds = _possible_edges(dreams, steps, device)  # (2, S), (S,)
    question, slot = (valid[:, pairs[0]] & valid[:, pairs[1]]).nonzero(as_tuple=True)  # (M,)
    place = (valid.flatten().cumsum(0) - 1).view_as(valid)  # flat index -> number among the valid nodes
    source, target = place[question, pairs[0, slot]], place[question, pairs[1, slot]]
    if shuffled:
        source = shuffle_sources(source, question, slot, len(kinds))
    return Graph(valid.flatten().nonzero().squeeze(1), torch.stack([source, target]), kinds[slot])


def _possible_edges(dreams: int, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Fixed edges (2, S) of one question whose dreams last all ``steps``, over (N T), and their types (S,)."""
    flat = torch.arange(dreams * steps, device=device).view(dreams, steps)
    earlier, later = flat[:, :-1].flatten(), flat[:, 1:].flatten()
    one, other = (~torch.eye(dreams, dtype=torch.bool, device=device)).nonzero(as_tuple=True)
    source, target = flat[one].flatten(), flat[other].flatten()  # (N (N - 1) T,)
    pairs = torch.stack([torch.cat([earlier, later, source]), torch.cat([later, earlier, target])])
    sizes = torch.tensor([len(earlier), len(later), len(source)], device=device)
    return pairs, torch.repeat_interleave(torch.arange(len(EDGE_TYPES), device=device), sizes)


def shuffle_sources(source: Tensor, question: Tensor, slot: Tensor, slots: int) -> Tensor:
    """Permute the sources of edges within each question, for a reader whose edges mean nothing.

    Every node keeps the number and types of its incoming edges and the number of its outgoing ones. The
    permutation is drawn from a fixed seed and depends on the shapes alone: the same dreams are read the same way
    when sampling and when learning, whatever else is in the batch.

    Args:
        source: (M,) of edges that are sorted by question.
        question: (M,) question of each edge.
        slot: (M,) number of each edge among the possible edges of its question.
        slots: S, possible edges of a question.

    Returns:
        (M,) the sources of each question in another order.
    """
    order = torch.rand(slots, generator=torch.Generator().manual_seed(SHUFFLE_SEED), dtype=torch.float64)
    return source[(question + order.to(source.device)[slot]).argsort()]


def segment_sparsemax(scores: Tensor, index: Tensor, size: int) -> Tensor:
    """Sparsemax (Martins and Astudillo 2016, arXiv:1602.02068, algorithm 1) of each segment.

    p_i = max(0, z_i - tau), with tau such that each segment's p sum to 1; far scores get exactly 0.

    Args:
        scores: (M, H); the H columns are independent.
        index: (M,) segment of each row, in any order.
        size: number of segments; some may be empty.

    Returns:
        (M, H) weights.
    """
    top = scatter(scores.detach(), index, dim=0, dim_size=size, reduce="max")
    shifted = scores - top[index]
    inside = _support(shifted.detach(), index, size).to(scores.dtype)
    count = scatter(inside, index, dim=0, dim_size=size, reduce="sum").clamp(min=1)
    tau = (scatter(shifted * inside, index, dim=0, dim_size=size, reduce="sum") - 1) / count
    return torch.relu(shifted - tau[index]) * inside


def _support(shifted: Tensor, index: Tensor, size: int) -> Tensor:
    """(M, H) True where sparsemax is positive; ``shifted`` scores have the maximum 0 in each segment."""
    z = shifted.double().clamp(min=-1)  # at -1 and below nothing is in the support; bounds the sums below
    order = (2 * index.unsqueeze(1) - z).argsort(dim=0)  # by segment, and there by falling score
    z = z.gather(0, order)
    segment = index.sort().values
    sizes = index.bincount(minlength=size)
    start = (sizes.cumsum(0) - sizes)[segment]  # (M,) first row of the row's segment
    total = torch.cat([z.new_zeros(1, z.shape[1]), z.cumsum(0)])
    rank = torch.arange(1, len(index) + 1, device=index.device) - start
    inside = 1 + rank.unsqueeze(1) * z > total[1:] - total[start]
    return torch.zeros_like(inside).scatter(0, order, inside)


class EdgeAttention(nn.Module):
    """Multi-head attention of a node over its incoming edges (Shi et al. 2021, arXiv:2009.03509, eq. 3 and 4).

    For an edge j -> i of type r, in every head::

        e_r = W_e edge_r
        alpha_ij = softmax over j of  q_i . (k_j + e_r) / sqrt(d)
        out_i = sum over j of  gate_ij alpha_ij (v_j + e_r)

    A node without incoming edges gets zeros. ``TransformerConv(root_weight=False)`` with gates of 1.

    Args:
        dim: channels D; heads must divide it.
        heads: number of heads.
        normaliser: softmax or sparsemax.
    """

    def __init__(self, dim: int, heads: int, normaliser: str = "softmax"):
        """See the class."""
        super().__init__()
        assert dim % heads == 0, (dim, heads)
        self.heads = heads
        self.normalise = segment_sparsemax if normaliser == "sparsemax" else _segment_softmax
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.edge = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_type: Tensor, types: Tensor, gate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pass one round of messages.

        Args:
            x: (K, D) nodes.
            edge_index: (2, M) source and target of each edge.
            edge_type: (M,).
            types: (E, D) embedding of each edge type.
            gate: (M,) factor of each message; 1 if not given.

        Returns:
            (K, D) messages, and (M, heads) weights that the values were summed with.
        """
        source, target = edge_index
        parts = self.query(x), self.key(x), self.value(x), self.edge(types)
        query, key, value, edge = (part.unflatten(-1, (self.heads, -1)) for part in parts)  # (K or E, heads, D/heads)
        # All edges of one type into one node share e_r: its part is computed per node and type, not per edge.
        slot = target * len(types) + edge_type
        asked = torch.einsum("khd,ehd->keh", query, edge).flatten(0, 1)  # (K E, heads)
        score = ((query[target] * key[source]).sum(-1) + asked[slot]) / query.shape[-1] ** 0.5  # (M, heads)
        weight = self.normalise(widened(score), target, len(x))
        if gate is not None:
            weight = weight * gate.unsqueeze(-1)
        message = (value[source] * weight.unsqueeze(-1)).flatten(1)  # (M, D)
        told = scatter(message, target, dim=0, dim_size=len(x), reduce="sum")
        share = scatter(weight, slot, dim=0, dim_size=len(asked), reduce="sum").view(len(x), len(types), -1)
        return told + torch.einsum("keh,ehd->khd", share, edge).flatten(1), weight


def _segment_softmax(scores: Tensor, index: Tensor, size: int) -> Tensor:
    return softmax(scores, index, num_nodes=size)


class LearnedEdges(nn.Module):
    """Edges that the model draws itself: for each node and type, from the ``LEARNED_INCOMING`` best-scored triplets.

    The score of j -> i is q_i . k_j / sqrt(d) with a query and a key per type, between any two triplets of one
    question. The choice itself has no gradient; sigmoid(score) gates the message, and so the scores learn.

    A triplet is scored together with the mean of its dream. Dreams that begin alike have equal first triplets, and
    between equal scores the order of the dreams, or rounding, would decide.

    Args:
        dim: channels D.
        heads: sets the channels of query and key, d = D / heads.
        num_types: types of learned edges.
        shuffled: permute the sources, see :func:`shuffle_sources`.
    """

    def __init__(self, dim: int, heads: int, num_types: int, shuffled: bool = False):
        """See the class."""
        super().__init__()
        self.num_types = num_types
        self.shuffled = shuffled
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, num_types * (dim // heads))
        self.key = nn.Linear(dim, num_types * (dim // heads))

    def forward(self, x: Tensor, node: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the edges.

        Args:
            x: (K, D) nodes.
            node: (K,) flat index of each into (Q N T).
            valid: (Q, N, T) True at the K nodes.

        Returns:
            edge_index (2, M), edge_type (M,) from ``len(EDGE_TYPES)`` up, gate (M,) in (0, 1).
        """
        score = self._scores(x, node, valid)  # (Q, E, target, source)
        best, source = score.topk(min(LEARNED_INCOMING, score.shape[-1]), dim=-1)  # (Q, E, N T, top)
        chosen = best.detach() > float("-inf")
        question, kind, target, rank = chosen.nonzero(as_tuple=True)
        place = (valid.flatten().cumsum(0) - 1).view(len(valid), -1)
        source = place[question, source[chosen]]
        if self.shuffled:
            slot = (kind * best.shape[2] + target) * best.shape[3] + rank
            source = shuffle_sources(source, question, slot, best[0].numel())
        edge_index = torch.stack([source, place[question, target]])
        return edge_index, kind + len(EDGE_TYPES), best[chosen].sigmoid()

    def _scores(self, x: Tensor, node: Tensor, valid: Tensor) -> Tensor:
        questions, dreams, steps = valid.shape
        rows = x.new_zeros(valid.numel(), x.shape[-1]).index_copy(0, node, x).view(questions, dreams, steps, -1)
        mean = rows.sum(2, keepdim=True) / valid.sum(2).clamp(min=1)[..., None, None]
        told = self.norm(rows + mean).flatten(1, 2)  # (Q, N T, D)
        query, key = (part.unflatten(-1, (self.num_types, -1)) for part in (self.query(told), self.key(told)))
        score = torch.einsum("qied,qjed->qeij", query, key) / query.shape[-1] ** 0.5
        real = valid.flatten(1)
        pair = real.unsqueeze(2) & real.unsqueeze(1)  # (Q, N T, N T)
        pair = pair & ~torch.eye(dreams * steps, dtype=torch.bool, device=x.device)
        return widened(score).masked_fill(~pair.unsqueeze(1), float("-inf"))
