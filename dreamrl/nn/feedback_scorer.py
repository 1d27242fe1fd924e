"""How much people like an answer, learned from their ratings or preferences.

A network of its own: sharing weights with the policy that it judges would let PPO raise the score by changing the
judge. It reads words only. It does not see the picture, so it cannot know whether an answer is true, and is not
asked: that is the verifier's say.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.nn.layers import AttentionPool, Block
from dreamrl.nn.text import PAD


class FeedbackScorer(nn.Module):
    """A transformer over the tokens of prompt and answer, pooled into one number.

    Args:
        vocab_size: text tokens.
        prompt_tokens: longest prompt.
        answer_tokens: longest answer.
        dim: channels D.
        heads: attention heads.
        layers: transformer blocks.
    """

    def __init__(
        self, vocab_size: int, prompt_tokens: int, answer_tokens: int, dim: int = 32, heads: int = 4, layers: int = 2
    ):
        """See the class."""
        super().__init__()
        self.text = nn.Embedding(vocab_size, dim)
        self.prompt_place = nn.Embedding(prompt_tokens, dim)
        self.answer_place = nn.Embedding(answer_tokens, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.pool = AttentionPool(dim, heads)
        self.score = nn.Linear(dim, 1)

    def forward(self, prompt: Tensor, answer: Tensor) -> Tensor:
        """``prompt`` (R, L) and ``answer`` (R, L') token ids, padded -> (R,) scores, of any size and sign."""
        parts, masks = [], []
        for tokens, place in ((prompt, self.prompt_place), (answer, self.answer_place)):
            written = max(1, int((tokens != PAD).sum(1).amax()))
            positions = torch.arange(written, device=tokens.device)
            parts.append(self.text(tokens[:, :written]) + place(positions))
            masks.append(tokens[:, :written] != PAD)
        x, mask = torch.cat(parts, dim=1), torch.cat(masks, dim=1)
        for block in self.blocks:
            x = block(x, mask=mask[:, None, None, :])
        return self.score(self.pool(x, mask)).squeeze(-1)


def preference_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -log sigmoid(r(chosen) - r(rejected)) over the scores (R,) of R pairs of answers.

    The probability of a choice is that of Bradley and Terry 1952; the loss is that of arXiv:2009.01325, section 3.4.
    """
    return F.softplus(rejected - chosen).mean()


def rating_loss(scores: Tensor, rewards: Tensor) -> Tensor:
    """Mean squared error of ``scores`` (R,) against the ratings ``rewards`` (R,) of people."""
    return F.mse_loss(scores, rewards)
