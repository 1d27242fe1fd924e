"""The image decoder: answers with a picture, drawn from the dream in focus and what the text decoder reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.input_tokenizer import InputTokenizer
from dreamrl.nn.layers import Block, widened
from dreamrl.nn.positional import GridPositions


class ImageDecoder(nn.Module):
    """One block over the patches of a picture, with cross-attention to :meth:`OutputDecoder.memory`.

    All patches are drawn at once, not one after the other: a dream's last picture is already close to the answer.

    Args:
        config: architecture.
        tokenizer: shared code table; also the output matrix (Press and Wolf 2017).
    """

    def __init__(self, config: DreamingConfig, tokenizer: InputTokenizer):
        """See the class."""
        super().__init__()
        dim, heads = config.embedding_dim, config.num_heads
        self.codes = tokenizer.codes
        self.positions = GridPositions(config.positions, dim, heads, config.yarn_factor)
        self.block = Block(dim, heads, cross=True, normaliser=config.attention)
        self.norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(config.num_codes))

    def forward(self, last: Tensor, grid: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """Draw one picture for each of Q questions.

        Args:
            last: (Q, P) codes of the last picture of the dream in focus, or of the prompt's picture when no dream
                is; ``config.num_codes`` past the picture's own patches.
            grid: (Q, 2) rows and columns of the picture in patches.
            memory: (Q, M, D) tokens that may be read.
            memory_mask: (Q, M) True where a token is real.

        Returns:
            (Q, P, V) logits of the codes; those past the picture's own patches mean nothing.
        """
        length = last.shape[1]
        mask = torch.arange(length, device=last.device) < grid.prod(dim=1, keepdim=True)  # (Q, P)
        added, places = self.positions(grid[:, 1], length)
        x = self.codes(last)
        x = x if added is None else x + added
        x = self.block(x, mask[:, None, None, :], places, memory, memory_mask[:, None, None, :])
        # Tied as in the dream generator: at first the picture that was read is the most probable one.
        table = self.codes.weight[:-1] * x.shape[-1] ** -0.5  # (V, D), without padding
        return widened(F.linear(self.norm(x), table, self.bias))
