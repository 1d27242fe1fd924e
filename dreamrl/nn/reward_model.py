"""The learned judge of dreams: what the simulator would say of a dream, for where there is no simulator.

It is a network of its own: sharing weights with the policy that it judges would let PPO raise the reward by
changing the judge. It reads image codes, so it belongs to the codec that it was trained with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dreamrl.dreaming_config import REWARD_COMPONENTS, DreamingConfig
from dreamrl.nn.dream_generator import NUM_BELIEFS
from dreamrl.nn.layers import AttentionPool, Block, mlp
from dreamrl.nn.positional import GridPositions
from dreamrl.nn.text import PAD

EVIDENCE_BLOCKS = 2
CONTEXT_BLOCKS = 2


class RewardScores(NamedTuple):
    """What is thought of R dreams; every number is in [0, 1].

    ``faithfulness``, ``coherence``, ``correctness``, ``creativity`` (R,) predict the components of
    :mod:`dreamrl.rewards`. ``weights`` (4,) sum to 1, in this order; ``total`` (R,) is the weighted sum.
    ``confidence`` (R,) is the probability that the simulator would confirm every picture and belief.
    ``makers`` (R, T, A) is how probable it is that each action makes the result of a step, 0 past the dream's end;
    ``steps`` (R, T) is that of the claimed action.
    """

    faithfulness: Tensor
    coherence: Tensor
    correctness: Tensor
    creativity: Tensor
    weights: Tensor
    total: Tensor
    confidence: Tensor
    makers: Tensor
    steps: Tensor

    @property
    def components(self) -> Tensor:
        """(R, 4) in the order of ``REWARD_COMPONENTS``."""
        return torch.stack([getattr(self, name) for name in REWARD_COMPONENTS], dim=-1)


class RewardModel(nn.Module):
    """Evidence of each step alone, then attention over the steps, the prompt and the answer, then the siblings.

    The evidence is a transformer over the patches of (what, result); from it comes a score for every action, and
    that of the claimed one is the step's. The simulator answers for all actions, so each step teaches A times:
    after 300 updates the cross-entropy was 0.08, with the claimed action on the patches and one score 0.38.
    Coherence is the mean of the steps' scores, and every head sees the weakest step: one bad step among many
    cannot hide.

    Args:
        config: architecture; only components in ``config.reward_components`` get weight in the total.
        num_actions: A.
        vocab_size: text tokens.
    """

    def __init__(self, config: DreamingConfig, num_actions: int, vocab_size: int):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.positions = GridPositions("rope", dim, heads)
        self.before = nn.Embedding(config.num_codes + 1, dim)
        self.after = nn.Embedding(config.num_codes + 1, dim)
        self.action = nn.Embedding(num_actions, dim)
        self.evidence = nn.ModuleList(Block(dim, heads) for _ in range(EVIDENCE_BLOCKS))
        self.patches = AttentionPool(dim, heads)
        self.makers = nn.Linear(dim, num_actions)
        self.claim = nn.Parameter(0.1 * torch.randn(dim))
        self.belief = nn.Embedding(NUM_BELIEFS, dim)
        self.step = nn.Embedding(config.dream_length, dim)
        self.text = nn.Embedding(vocab_size, dim)
        self.prompt_place = nn.Embedding(config.max_prompt_tokens, dim)
        self.answer_place = nn.Embedding(config.max_answer_tokens, dim)
        self.verdict = nn.Parameter(0.1 * torch.randn(dim))
        self.context = nn.ModuleList(Block(dim, heads) for _ in range(CONTEXT_BLOCKS))
        self.pool = AttentionPool(dim, heads)
        self.norm = nn.LayerNorm(dim)
        self.heads = nn.ModuleDict(
            {name: mlp(2 * dim + 1, dim, 1) for name in ("faithfulness", "correctness", "confidence")}
        )
        self.heads["creativity"] = mlp(4 * dim + 1, dim, 1)
        self.weight_logits = nn.Parameter(torch.zeros(len(REWARD_COMPONENTS)))
        self.log_sharpness = nn.Parameter(torch.tensor(2.0))
        self.paid: Tensor
        paid = torch.tensor([name in config.reward_components for name in REWARD_COMPONENTS])
        self.register_buffer("paid", paid, persistent=False)

    def forward(
        self,
        frames: Tensor,
        actions: Tensor,
        beliefs: Tensor,
        lengths: Tensor,
        grid: Tensor,
        text: Tensor,
        dreams: int,
        answer: Tensor | None = None,
    ) -> RewardScores:
        """Judge R = Q x N dreams, the N dreams of a question in a row.

        Args:
            frames: (R, T + 1, P) codes; frame t + 1 is the result of step t.
            actions: (R, T) claimed actions.
            beliefs: (R, T).
            lengths: (R,) steps that each dream lasted, at least 1.
            grid: (R, 2) rows and columns of the pictures in patches.
            text: (R, L) prompt tokens.
            dreams: N.
            answer: (R, L') answer tokens; without them (or all padding) the dream alone is judged.

        Returns:
            :class:`RewardScores`.
        """
        assert len(frames) % dreams == 0, (len(frames), dreams)
        happened = torch.arange(actions.shape[1], device=frames.device) < lengths.unsqueeze(1)  # (R, T)
        evidence = self._evidence(frames, grid, happened)
        makers = self.makers(evidence).sigmoid() * happened.unsqueeze(-1)  # (R, T, A)
        steps = makers.gather(-1, actions.unsqueeze(-1)).squeeze(-1)  # (R, T)
        x = evidence + self.action(actions) + self.belief(beliefs) + self._places(self.step, actions.shape[1])
        x = x + steps.unsqueeze(-1) * self.claim
        read, told = self._read(x, happened, text, answer)
        weakest = steps.masked_fill(~happened, 1.0).amin(1, keepdim=True)
        own = torch.cat([read, told, weakest], dim=-1)  # (R, 2 D + 1)
        score = {name: head(own) for name, head in self.heads.items() if name != "creativity"}
        score["creativity"] = self.heads["creativity"](torch.cat([own, self._siblings(told, dreams)], dim=-1))
        score = {name: value.squeeze(-1).sigmoid() for name, value in score.items()}
        score["coherence"] = steps.sum(1) / lengths.clamp(min=1)
        weights = self.weights()
        total = torch.stack([score[name] for name in REWARD_COMPONENTS], dim=-1) @ weights
        return RewardScores(weights=weights, total=total, makers=makers, steps=steps, **score)

    def weights(self) -> Tensor:
        """(4,) share of each component in the total; 0 for those that are not paid."""
        return self.weight_logits.masked_fill(~self.paid, float("-inf")).softmax(0)

    def preference_logits(self, total: Tensor, other: Tensor) -> Tensor:
        """Log-odds that dreams of ``total`` are preferred to dreams of ``other`` (Bradley and Terry 1952)."""
        return self.log_sharpness.exp() * (total - other)

    def _evidence(self, frames: Tensor, grid: Tensor, happened: Tensor) -> Tensor:
        """(R, T, D): what lies between each step's pictures; zeros past the end."""
        row, step = happened.nonzero(as_tuple=True)  # (K,)
        size = int(grid.prod(1).amax())
        what, result, own = frames[row, step, :size], frames[row, step + 1, :size], grid[row]
        mask = torch.arange(size, device=frames.device) < own.prod(1, keepdim=True)  # (K, P)
        x = self.before(what) + self.after(result)
        _, places = self.positions(own[:, 1], size)
        for block in self.evidence:
            x = block(x, mask=mask[:, None, None, :], places=places)
        pooled = self.patches(x, mask)  # (K, D)
        return pooled.new_zeros(*happened.shape, pooled.shape[-1]).index_put((row, step), pooled)

    def _read(self, x: Tensor, happened: Tensor, text: Tensor, answer: Tensor | None) -> tuple[Tensor, Tensor]:
        """Steps (R, T, D) with prompt and answer in mind -> an overall impression and the pooled steps, (R, D)."""
        parts = [self.verdict.expand(len(x), 1, -1), x]
        masks = [happened.new_ones(len(x), 1), happened]
        for tokens, places in ((text, self.prompt_place), (answer, self.answer_place)):
            if tokens is not None:
                written = int((tokens != PAD).sum(1).amax())
                tokens = tokens[:, :written]
                parts.append(self.text(tokens) + self._places(places, written))
                masks.append(tokens != PAD)
        tokens, mask = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
        for block in self.context:
            tokens = block(tokens, mask=mask[:, None, None, :])
        return self.norm(tokens[:, 0]), self.pool(tokens[:, 1 : 1 + x.shape[1]], happened)

    def _siblings(self, told: Tensor, dreams: int) -> Tensor:
        """(R, D) pooled dreams -> (R, 2 D): the mean of the others, and how far they are; zeros for an only dream."""
        grouped = told.unflatten(0, (-1, dreams))  # (Q, N, D)
        others = max(1, dreams - 1)
        mean = (grouped.sum(1, keepdim=True) - grouped) / others
        apart = (grouped.unsqueeze(2) - grouped.unsqueeze(1)).abs().sum(2) / others  # (Q, N, D)
        return torch.cat([mean, apart], dim=-1).flatten(0, 1)

    def _places(self, table: nn.Embedding, length: int) -> Tensor:
        """(length, D) embeddings of 0, 1, ...; places beyond the table share its last row."""
        return table(torch.arange(length, device=table.weight.device).clamp(max=table.num_embeddings - 1))
