"""The graph reasoner: reads all triplets of all dreams as one graph and decides which dream to answer from.

Nodes are triplets; edges are temporal (within a dream, both ways) and cross-dream (same step of two dreams).
Nothing depends on the order of the dreams: node features hold the step but not the dream's index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv

from dreamrl.config import DreamingConfig
from dreamrl.nn.dream_generator import NUM_BELIEFS
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.layers import AttentionPool, mlp

NEXT, PREVIOUS, SIBLING = range(3)
"""Edge types: to the next step, to the step before, to the same step of another dream."""
EDGE_TYPES = ("next", "previous", "sibling")


class Graph(NamedTuple):
    """Edges over valid nodes: ``node`` (K,) flat index into (Q N T), ``edge_index`` (2, M), ``edge_type`` (M,)."""

    node: Tensor
    edge_index: Tensor
    edge_type: Tensor


class Reading(NamedTuple):
    """``nodes`` (Q, N, T, D), ``mask`` (Q, N, T), ``focus_logits`` (Q, N + 1), ``value`` (Q,) expected reward."""

    nodes: Tensor
    mask: Tensor
    focus_logits: Tensor
    value: Tensor


def build_graph(lengths: Tensor, steps: int) -> Graph:
    """All edges of Q dream graphs at once, without a Python loop over nodes.

    Args:
        lengths: (Q, N) steps that each dream lasted.
        steps: T.

    Returns:
        :class:`Graph` whose nodes are the steps that happened.
    """
    questions, dreams = lengths.shape
    device = lengths.device
    valid = torch.arange(steps, device=device) < lengths.unsqueeze(-1)  # (Q, N, T)
    flat = torch.arange(valid.numel(), device=device).view_as(valid)
    follows = valid[:, :, 1:]
    earlier, later = flat[:, :, :-1][follows], flat[:, :, 1:][follows]
    pairs = valid.unsqueeze(2) & valid.unsqueeze(1)  # (Q, N, N, T)
    pairs &= ~torch.eye(dreams, dtype=torch.bool, device=device)[None, :, :, None]
    source = flat.unsqueeze(2).expand(questions, dreams, dreams, steps)[pairs]
    target = flat.unsqueeze(1).expand(questions, dreams, dreams, steps)[pairs]
    edge_index = torch.stack([torch.cat([earlier, later, source]), torch.cat([later, earlier, target])])
    sizes = torch.tensor([len(earlier), len(later), len(source)], device=device)
    edge_type = torch.repeat_interleave(torch.arange(3, device=device), sizes)
    node = flat[valid]
    place = torch.zeros(valid.numel(), dtype=torch.long, device=device)
    place[node] = torch.arange(len(node), device=device)
    return Graph(node, place[edge_index], edge_type)


class GraphReasoner(nn.Module):
    """Graph transformer (Shi et al. 2021, arXiv:2009.03509) over triplets, pre-norm and residual.

    Args:
        config: architecture.
        num_actions: A.
        tokenizer: shared image code table.
    """

    def __init__(self, config: DreamingConfig, num_actions: int, tokenizer: InputTokenizer):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.codes = tokenizer.codes
        self.patches = AttentionPool(dim, heads)
        self.action = nn.Embedding(num_actions, dim)
        self.belief = nn.Embedding(NUM_BELIEFS, dim)
        self.step = nn.Embedding(config.dream_length, dim)
        self.triplet = mlp(2 * dim, dim, dim)
        self.edge = nn.Embedding(len(EDGE_TYPES), dim)
        hops = config.graph_reasoning_hops
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(hops))
        self.hops = nn.ModuleList(
            TransformerConv(dim, dim // heads, heads=heads, edge_dim=dim, root_weight=False) for _ in range(hops)
        )
        self.feeds = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), mlp(dim, 2 * dim, dim)) for _ in range(hops))
        self.dream = AttentionPool(dim, heads)
        self.score = mlp(2 * dim, dim, 1)
        self.none = nn.Parameter(torch.zeros(()))
        self.none_score = mlp(dim, dim, 1)
        self.all = AttentionPool(dim, heads)
        self.value = mlp(2 * dim, dim, 1)

    def forward(self, frames: Tensor, actions: Tensor, beliefs: Tensor, lengths: Tensor, prompt: Prompt) -> Reading:
        """Read Q questions' dreams.

        Args:
            frames: (Q, N, T + 1, P) codes; frame t + 1 is the result of step t.
            actions: (Q, N, T).
            beliefs: (Q, N, T).
            lengths: (Q, N) steps that each dream lasted.
            prompt: encoded questions.

        Returns:
            :class:`Reading`; ``focus_logits`` score each dream and, last, "none of them".
        """
        questions, dreams, steps = actions.shape
        graph = build_graph(lengths, steps)
        x = self._nodes(frames, actions, beliefs, graph)
        x = x + prompt.summary[graph.node // (dreams * steps)]
        edge_attr = self.edge(graph.edge_type)
        for norm, hop, feed in zip(self.norms, self.hops, self.feeds, strict=True):
            x = x + hop(norm(x), graph.edge_index, edge_attr)
            x = x + feed(x)
        nodes = x.new_zeros(questions * dreams * steps, x.shape[-1]).index_copy(0, graph.node, x)
        nodes = nodes.view(questions, dreams, steps, -1)
        mask = torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)
        dream = self.dream(nodes.flatten(0, 1), mask.flatten(0, 1)).view(questions, dreams, -1)
        asked = prompt.summary.unsqueeze(1).expand_as(dream)
        score = self.score(torch.cat([dream, asked], dim=-1)).squeeze(-1)  # (Q, N)
        none = self.none_score(prompt.summary) + self.none  # (Q, 1)
        overall = self.all(dream, lengths > 0)
        value = self.value(torch.cat([overall, prompt.summary], dim=-1)).squeeze(-1)
        return Reading(nodes, mask, torch.cat([score, none], dim=-1), value)

    def _nodes(self, frames: Tensor, actions: Tensor, beliefs: Tensor, graph: Graph) -> Tensor:
        """(K, D) features of the valid triplets: what, action, result, belief, step."""
        steps = actions.shape[-1]
        place = graph.node
        what = frames[:, :, :-1].flatten(0, 2)[place]  # (K, P)
        result = frames[:, :, 1:].flatten(0, 2)[place]
        both = torch.cat([what, result])
        seen = both < self.codes.num_embeddings - 1  # padding is the table's last row
        before, after = self.patches(self.codes(both), seen).chunk(2)
        told = self.action(actions.flatten()[place]) + self.belief(beliefs.flatten()[place])
        step = self.step((place % steps).clamp(max=self.step.num_embeddings - 1))
        return self.triplet(torch.cat([before, after], dim=-1)) + told + step
