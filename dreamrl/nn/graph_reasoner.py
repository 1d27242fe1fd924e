"""The graph reasoner: reads all triplets of all dreams as one graph and decides which dream to answer from.

Nothing depends on the order of the dreams: node features hold the step but not the dream's index. (Only the
reader with shuffled edges, a control, knows the order.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.dream_generator import NUM_BELIEFS
from dreamrl.nn.graph import EDGE_TYPES, NO_EDGES, EdgeAttention, Edges, Graph, LearnedEdges, Reading, build_graph
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.layers import AttentionPool, mlp, widened
from dreamrl.nn.output_decoder import NEVER
from dreamrl.nn.positional import GridPositions


class GraphTransformer(nn.Module):
    """Rounds of message passing over the dream graph: pre-norm edge attention and feed-forward, both residual.

    With ``use_node_memory`` a node takes its message in through a GRU, whose weights all hops share (Li et al.
    2016, arXiv:1511.05493, eq. 3 to 6), instead of adding it.

    Args:
        config: architecture; at least one hop.
    """

    def __init__(self, config: DreamingConfig):
        """See the class."""
        super().__init__()
        dim, heads, hops = config.embedding_dim, config.graph_num_heads, config.graph_reasoning_hops
        self.learned = None
        num_types = len(EDGE_TYPES)
        if config.use_learned_edges:
            shuffled = config.graph_reader == "shuffled"
            self.learned = LearnedEdges(dim, heads, config.num_edge_types, shuffled)
            num_types += config.num_edge_types
        self.edge = nn.Embedding(num_types, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(hops))
        self.hops = nn.ModuleList(EdgeAttention(dim, heads, config.attention) for _ in range(hops))
        self.feeds = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), mlp(dim, 2 * dim, dim)) for _ in range(hops))
        self.memory = nn.GRUCell(dim, dim) if config.use_node_memory else None

    def forward(self, x: Tensor, graph: Graph, valid: Tensor, rounds: int | None = None) -> tuple[Tensor, Edges]:
        """Let the nodes hear of each other.

        Args:
            x: (K, D) nodes.
            graph: the fixed edges.
            valid: (Q, N, T) True at the K nodes.
            rounds: how many of the hops are taken, the first ones; None: all.

        Returns:
            (K, D) nodes, and the edges that messages passed along.
        """
        edge_index, edge_type, gate = graph.edge_index, graph.edge_type, None
        if self.learned is not None:
            chosen, kind, opening = self.learned(x, graph.node, valid)
            gate = torch.cat([opening.new_ones(len(edge_type)), opening])
            edge_index, edge_type = torch.cat([edge_index, chosen], dim=1), torch.cat([edge_type, kind])
        weight = x.new_ones(len(edge_type), 1)
        for norm, hop, feed in list(zip(self.norms, self.hops, self.feeds, strict=True))[:rounds]:
            message, weight = hop(norm(x), edge_index, edge_type, self.edge.weight, gate)
            x = x + message if self.memory is None else self._remember(message, x)
            x = x + feed(x)
        return x, Edges(graph.node[edge_index], edge_type, weight.detach().mean(-1))

    def _remember(self, message: Tensor, x: Tensor) -> Tensor:
        """Nodes (K, D) that have taken their messages in; in float32, for what a gate adds is small beside the node."""
        assert self.memory is not None
        with torch.autocast(x.device.type, enabled=False):
            return self.memory(widened(message), widened(x))


class MeanPool(nn.Module):
    """Plain mean of tokens, the control of :class:`AttentionPool`; it has no weights."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` (B, L, D), ``mask`` (B, L) True where a token is real -> (B, D); zeros where none is."""
        weight = mask.to(x.dtype).unsqueeze(-1)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


class GraphReasoner(nn.Module):
    """Triplets -> nodes -> graph transformer -> a score for every dream, and what the answer is worth.

    ``graph_reader`` says how: graph; shuffled (the same edges from other nodes); mean (no edges, no hops, plain
    means). The last two are controls: the graph is worth its cost only if it beats them.

    Args:
        config: architecture.
        num_actions: A.
        tokenizer: shared image code table.
    """

    def __init__(self, config: DreamingConfig, num_actions: int, tokenizer: InputTokenizer):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.reader = config.graph_reader
        self.codes = tokenizer.codes
        self.patches = AttentionPool(dim, heads)
        self.action = nn.Embedding(num_actions, dim)
        self.belief = nn.Embedding(NUM_BELIEFS, dim)
        self.step = nn.Embedding(config.dream_length, dim)
        self.triplet = mlp(2 * dim, dim, dim)
        passes = self.reader != "mean" and config.graph_reasoning_hops > 0
        self.graph = GraphTransformer(config) if passes else None
        self.dream = MeanPool() if self.reader == "mean" else AttentionPool(dim, heads)
        self.score = mlp(2 * dim, dim, 1)
        self.none_score = mlp(dim, dim, 1)
        self.all = MeanPool() if self.reader == "mean" else AttentionPool(dim, heads)
        self.value = mlp(2 * dim, dim, 1)
        self.rounds: int | None = None
        self.places = GridPositions("learned", dim, heads) if config.use_picture_reading else None

    def limit(self, rounds: int | None) -> None:
        """Read as in a stage of a curriculum: with the first ``rounds`` hops, and never from a dream without steps.

        None takes the limit away. It is no part of the weights.
        """
        self.rounds = rounds

    def forward(
        self,
        frames: Tensor,
        actions: Tensor,
        beliefs: Tensor,
        lengths: Tensor,
        prompt: Prompt,
        grid: Tensor | None = None,
    ) -> Reading:
        """Read Q questions' dreams.

        Args:
            frames: (Q, N, T + 1, P) codes; frame t + 1 is the result of step t.
            actions: (Q, N, T).
            beliefs: (Q, N, T).
            lengths: (Q, N) steps that each dream lasted.
            prompt: encoded questions.
            grid: (Q, 2) rows and columns of the pictures in patches; ``use_picture_reading`` needs it.

        Returns:
            :class:`Reading`; ``focus_logits`` score each dream and, last, "none of them".
        """
        questions, dreams, steps = actions.shape
        mask = torch.arange(steps, device=lengths.device) < lengths.unsqueeze(-1)  # (Q, N, T)
        place = mask.flatten().nonzero().squeeze(1)  # (K,)
        x = self._nodes(frames, actions, beliefs, place, grid)
        x = x + prompt.summary[place // (dreams * steps)]
        x, edges = self._reason(x, lengths, mask)
        nodes = x.new_zeros(mask.numel(), x.shape[-1]).index_copy(0, place, x).view(*mask.shape, -1)
        dream = self.dream(nodes.flatten(0, 1), mask.flatten(0, 1)).view(questions, dreams, -1)
        asked = prompt.summary.unsqueeze(1).expand_as(dream)
        score = widened(self.score(torch.cat([dream, asked], dim=-1)).squeeze(-1))  # (Q, N)
        if self.rounds is not None:
            score = score.masked_fill(lengths == 0, NEVER)
        overall = self.all(dream, lengths > 0)
        value = widened(self.value(torch.cat([overall, prompt.summary], dim=-1)).squeeze(-1))
        focus = torch.cat([score, widened(self.none_score(prompt.summary))], dim=-1)
        if grid is None:
            return Reading(nodes, mask, focus, value, edges)
        last = frames.gather(2, lengths.view(questions, dreams, 1, 1).expand(-1, -1, 1, frames.shape[-1])).squeeze(2)
        return Reading(nodes, mask, focus, value, edges, last, grid[:, 1])

    def _reason(self, x: Tensor, lengths: Tensor, mask: Tensor) -> tuple[Tensor, Edges]:
        """Nodes (K, D) after message passing, and the edges."""
        if self.reader == "mean":
            return x, Edges(*(part.to(x.device) for part in NO_EDGES))
        graph = build_graph(lengths, mask.shape[-1], shuffled=self.reader == "shuffled")
        if self.graph is None:
            return x, Edges(graph.node[graph.edge_index], graph.edge_type, x.new_ones(len(graph.edge_type)))
        return self.graph(x, graph, mask, self.rounds)

    def _nodes(self, frames: Tensor, actions: Tensor, beliefs: Tensor, place: Tensor, grid: Tensor | None) -> Tensor:
        """(K, D) features of the valid triplets: what, action, result, belief, step."""
        dreams, steps = actions.shape[1:]
        what = frames[:, :, :-1].flatten(0, 2)[place]  # (K, P)
        result = frames[:, :, 1:].flatten(0, 2)[place]
        both = torch.cat([what, result])
        seen = both < self.codes.num_embeddings - 1  # padding is the table's last row
        looked = self.codes(both)
        if self.places is not None:
            assert grid is not None, "use_picture_reading needs to know where the rows of a picture end"
            added, _ = self.places(grid[place // (dreams * steps), 1].repeat(2), both.shape[1])
            looked = looked + added
        before, after = self.patches(looked, seen).chunk(2)
        told = self.action(actions.flatten()[place]) + self.belief(beliefs.flatten()[place])
        step = self.step((place % steps).clamp(max=self.step.num_embeddings - 1))
        return self.triplet(torch.cat([before, after], dim=-1)) + told + step
