"""Mixture of transformer experts with sparse top-k routing.

One decision per picture, not per token: an expert is a whole transformer that reads all patches of a dream
step, so a step is "thought through" by k experts. Router noise is left out: a policy's probabilities must be
the same when it samples and when it learns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.nn.layers import Block
from dreamrl.nn.positional import Places


class Routing(NamedTuple):
    """Router output for R rows: ``probs`` (R, E), ``experts`` (R, k) indices, ``weights`` (R, k) summing to 1."""

    probs: Tensor
    experts: Tensor
    weights: Tensor


class Expert(nn.Module):
    """A small transformer over the patches of one picture.

    Args:
        dim: channels. heads: attention heads. layers: blocks.
    """

    def __init__(self, dim: int, heads: int, layers: int):
        """See the class."""
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor, places: Places) -> Tensor:
        """``x`` (R, P, D), ``mask`` (R, 1, 1, P), ``places`` of the patches -> (R, P, D)."""
        for block in self.blocks:
            x = block(x, mask=mask, places=places)
        return x


class MixtureOfExperts(nn.Module):
    """Top-k mixture (Shazeer et al. 2017, arXiv:1701.06538) with the Switch balance loss (arXiv:2101.03961).

    Args:
        dim: channels D.
        heads: attention heads of each expert.
        layers: blocks of each expert.
        num_experts: E.
        top_k: experts that each row uses.
    """

    def __init__(self, dim: int, heads: int, layers: int, num_experts: int, top_k: int):
        """See the class."""
        super().__init__()
        assert 1 <= top_k <= num_experts, (top_k, num_experts)
        self.top_k = top_k
        self.router = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_experts, bias=False))
        self.experts = nn.ModuleList(Expert(dim, heads, layers) for _ in range(num_experts))

    def route(self, summary: Tensor) -> Routing:
        """``summary`` (R, D) -> the k most probable experts of each row, their weights renormalised to 1."""
        probs = self.router(summary).softmax(dim=-1)
        weights, experts = probs.topk(self.top_k, dim=-1)
        return Routing(probs, experts, weights / weights.sum(dim=-1, keepdim=True))

    def forward(self, x: Tensor, mask: Tensor, places: Places, summary: Tensor) -> tuple[Tensor, Routing]:
        """Sparse dispatch: every expert runs once, on its own rows only.

        Args:
            x: (R, P, D) tokens.
            mask: (R, 1, 1, P) True where a patch is real.
            places: where the patches stand.
            summary: (R, D) what the router looks at.

        Returns:
            (R, P, D) weighted sum of the chosen experts' outputs, and the routing.
        """
        routing = self.route(summary)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows, slot = (routing.experts == index).nonzero(as_tuple=True)
            # An expert without rows still takes part (on no rows), so that every parameter has a gradient.
            result = expert(x[rows], mask[rows], places.rows(rows))
            out = out.index_add(0, rows, result * routing.weights[rows, slot, None, None])
        return out, routing


def load_balance_loss(routing: Routing) -> Tensor:
    """Switch Transformer eq. 4-6 for top-k: E * sum_e f_e * p_e; 1 when balanced, E / k at worst.

    ``f_e`` is the share of (row, slot) choices that went to expert e, ``p_e`` its mean router probability.
    """
    num_experts = routing.probs.shape[1]
    return num_experts * (expert_usage(routing) * routing.probs.mean(dim=0)).sum()


def expert_usage(routing: Routing) -> Tensor:
    """(E,) share of all choices that each expert received."""
    counts = torch.bincount(routing.experts.flatten(), minlength=routing.probs.shape[1])
    return counts / max(1, routing.experts.numel())
