"""Mixture of experts: a router picks the k experts that think a whole picture through.

Routing is one decision per picture, not per token: an expert is a whole transformer that reads all patches of a
dream step, so a step is "thought through" by k experts. Noise comes from a generator that the caller gives, in
pretraining only: a policy's probabilities must be the same when it samples and when it learns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from entmax import sparsemax
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.experts import READS, Context, CrossExpertAttention, Expert
from dreamrl.nn.layers import NOWHERE, widened
from dreamrl.nn.positional import GridPositions


class Routing(NamedTuple):
    """Router output for R rows.

    ``probs`` (R, E) over all experts; ``experts`` (R, k) indices of the chosen ones and their ``weights`` (R, k),
    which sum to 1; ``logits`` (R, E) that all of them come from, noise included.
    """

    probs: Tensor
    experts: Tensor
    weights: Tensor
    logits: Tensor


class MixtureOfExperts(nn.Module):
    """Top-k mixture of experts, with sparse dispatch: an expert computes only the rows that chose it.

    Noisy top-k gating follows Shazeer et al. 2017 (arXiv:1701.06538, eq. 3-5); sparsemax (arXiv:1602.02068) may
    stand in for softmax; the load-balancing bias is that of arXiv:2408.15664.

    Args:
        config: architecture.
    """

    def __init__(self, config: DreamingConfig):
        """See the class."""
        super().__init__()
        dim, num_experts, types = config.embedding_dim, config.num_experts, config.expert_types
        self.top_k = config.moe_top_k
        self.gating = sparsemax if config.moe_gating == "sparsemax" else F.softmax
        self.noise_std = config.moe_noise_std
        self.bias_step = config.load_balance_loss_weight
        self.router = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_experts, bias=False))
        self.noise = nn.Linear(dim, num_experts, bias=False) if config.moe_noise_std > 0 else None
        if self.noise is not None:
            nn.init.zeros_(self.noise.weight)  # the same noise for all, at first
        # A parameter without gradient and no buffer: it is saved with the weights.
        self.bias = (
            nn.Parameter(torch.zeros(num_experts), requires_grad=False) if config.load_balance == "bias" else None
        )
        self.experts = nn.ModuleList(Expert(config, types[i % len(types)]) for i in range(num_experts))
        placed = any(READS[kind].places for kind in types[:num_experts])
        self.positions = (
            GridPositions(config.positions, dim, config.expert_num_heads, config.yarn_factor) if placed else None
        )
        self.exchange = CrossExpertAttention(config) if config.use_cross_expert_attention else None
        self.left_out: int | None = None

    def leave_out(self, expert: int | None) -> None:
        """Route as if ``expert`` were not there; its share goes to the others. None takes it back.

        To measure what an expert does. It is no part of the weights.
        """
        count = len(self.experts)
        if expert is not None and not 0 <= expert < count:
            raise ValueError(f"expert ({expert}) must be between 0 and {count - 1}")
        if expert is not None and self.top_k == count:
            raise ValueError(f"expert ({expert}) cannot be left out: moe_top_k ({self.top_k}) needs all {count}")
        self.left_out = expert

    def route(self, summary: Tensor, generator: torch.Generator | None = None) -> Routing:
        """Choose the experts of each row, from ``summary`` (R, D); with noise if a ``generator`` is given.

        The weights are the gating of the kept logits alone (eq. 3 of Shazeer et al.). For softmax that is the same
        as renormalising the probabilities of the kept; for sparsemax it is too while no more than k probabilities
        are above zero, and beyond that it is still sound when all that the bias made us keep have probability zero.
        """
        # In float32 always: rounding decides between close experts (arXiv:2101.03961, section 2.4).
        with torch.autocast(summary.device.type, enabled=False):
            features = self.router[0](widened(summary))
            logits = self.router[1](features)
            if generator is not None and self.noise is not None:
                dice = torch.randn(logits.shape, generator=generator, device=generator.device).to(logits)
                logits = logits + dice * F.softplus(self.noise(features)) * self.noise_std
        if self.left_out is not None:
            logits = _without(logits, self.left_out)
        score = logits if self.bias is None else logits.softmax(dim=-1) + self.bias
        if self.left_out is not None:
            score = _without(score, self.left_out)  # whatever its bias says
        experts = score.topk(self.top_k, dim=-1).indices
        weights = self.gating(logits.gather(1, experts), dim=-1)
        return Routing(self.gating(logits, dim=-1), experts, weights, logits)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        columns: Tensor,
        summary: Tensor,
        context: Context,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Routing]:
        """Let the chosen experts think.

        Args:
            x: (R, P, D) patches, packed row by row.
            mask: (R, 1, 1, P) True where a patch is real.
            columns: (R,) patches per row of each picture.
            summary: (R, D) what the router looks at.
            context: what some types of expert read.
            generator: makes the router's noise; None for none.

        Returns:
            (R, P, D) weighted sum of the chosen experts' outputs, and the routing.
        """
        routing = self.route(summary, generator)
        # All (row, slot) choices, sorted by expert: the rows of each expert are one slice.
        order = routing.experts.flatten().argsort(stable=True)
        counts = expert_counts(routing).tolist()
        rows = order // self.top_k
        thoughts = self._think(x, mask, columns, context, rows, counts)
        if self.exchange is not None:
            told = self.exchange(torch.cat(thoughts), mask[:, 0, 0][rows], routing.experts, order)
            thoughts = told.split(counts)
        weights = routing.weights.flatten()[order, None, None].split(counts)
        out = torch.zeros_like(x)
        for own, weight, thought in zip(rows.split(counts), weights, thoughts, strict=True):
            out = out.index_add(0, own, thought * weight)
        return out, routing

    def _think(
        self, x: Tensor, mask: Tensor, columns: Tensor, context: Context, rows: Tensor, counts: list[int]
    ) -> list[Tensor]:
        """Outputs of each expert for its share of ``rows`` (R k,), of which the first belong to the first expert."""
        added, places = (None, NOWHERE) if self.positions is None else self.positions(columns, x.shape[1])
        plain = x.index_select(0, rows).split(counts)
        placed = plain if added is None else (x + added).index_select(0, rows).split(counts)
        outputs = []
        for index, own in enumerate(rows.split(counts)):
            expert = self.experts[index]
            assert isinstance(expert, Expert)
            if counts[index] == 0 and not torch.is_grad_enabled():
                outputs.append(plain[index])
                continue
            # With gradients an expert takes part on no rows too, so that every parameter has a gradient.
            patches, where = (placed[index], places.rows(own)) if expert.reads.places else (plain[index], NOWHERE)
            outputs.append(expert(patches, mask[own], where, context.source(expert.reads.source, own)))
        return outputs

    @torch.no_grad()
    def update_bias(self, load: Tensor) -> None:
        """After an optimizer step: one step of the bias towards the experts that had less than their share.

        Args:
            load: (E,) choices that each expert received since the last step, or shares of them. Those of all
                data-parallel workers are added up, so that the bias stays the same on all of them.
        """
        assert self.bias is not None, "there is a bias only with load_balance=bias"
        load = load.to(self.bias, copy=True)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(load)
        self.bias += self.bias_step * (load.mean() - load).sign()


def _without(scores: Tensor, expert: int) -> Tensor:
    """``scores`` (R, E) that never choose ``expert``."""
    return scores.index_fill(-1, torch.tensor([expert], device=scores.device), -torch.inf)


def expert_counts(routing: Routing) -> Tensor:
    """(E,) choices that each expert received."""
    return torch.bincount(routing.experts.flatten(), minlength=routing.probs.shape[1])


def expert_usage(routing: Routing) -> Tensor:
    """(E,) share of all choices that each expert received."""
    return expert_counts(routing) / max(1, routing.experts.numel())


def load_balance_loss(routing: Routing) -> Tensor:
    """Switch Transformer (arXiv:2101.03961) eq. 4-6 for top-k: E * sum_e f_e * p_e; 1 when balanced, E / k at worst.

    ``f_e`` is the share of (row, slot) choices that went to expert e, ``p_e`` its mean router probability.
    """
    num_experts = routing.probs.shape[1]
    return num_experts * (expert_usage(routing) * routing.probs.mean(dim=0)).sum()


def router_z_loss(routing: Routing) -> Tensor:
    """ST-MoE (arXiv:2202.08906) eq. 5: mean of logsumexp(logits)^2, which keeps the router's logits small."""
    return routing.logits.logsumexp(dim=-1).square().mean()


def routing_metrics(routing: Routing) -> dict[str, Tensor]:
    """How the work is spread over the experts; no gradients.

    Returns:
        ``expert_usage/i``: share of all choices that went to expert i. ``max_vio``: by how much the busiest expert
        exceeds its fair share (arXiv:2408.15664, eq. 4); 0 when balanced. ``router_entropy``: mean entropy of the
        router's probabilities in nats. ``dead_experts``: experts that no row chose.
    """
    usage = expert_usage(routing)
    return {
        **{f"expert_usage/{i}": share for i, share in enumerate(usage)},
        "max_vio": usage.max() * len(usage) - 1,
        "router_entropy": torch.special.entr(routing.probs.detach()).sum(dim=-1).mean(),
        "dead_experts": (usage == 0).float().sum(),
    }
