"""The frozen part of the reward: image codec and inverse dynamics as they were after pretraining.

PPO trains neither, so a policy cannot raise its reward by changing the judge.
"""

from __future__ import annotations

import numpy as np
import torch

from dreamrl.model import DreamingReasoningLLM
from dreamrl.nn.codec import FrameCodes


class Judge:
    """Codes of true frames, and how probable each action is between two dreamed frames."""

    def __init__(self, model: DreamingReasoningLLM):
        """Args: ``model`` after pretraining; its codec and inverse dynamics are used as they are."""
        self.inverse_dynamics = model.inverse_dynamics
        self.codes = FrameCodes(model.codec)

    @torch.no_grad()
    def action_probs(self, what: np.ndarray, result: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """``what``, ``result`` (R, P) codes, ``grid`` (R, 2) -> (R, A + 1); the last class is "no action"."""
        used = int(grid.prod(1).max())
        arrays = (what[:, :used], result[:, :used], grid)
        device = self.inverse_dynamics.head.weight.device
        given = (torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(device) for a in arrays)
        return self.inverse_dynamics(*given).softmax(-1).cpu().numpy()
