"""Contrastive alignment: what is seen and the actions in words, against the picture that they lead to.

Every worker of a data-parallel run sees the pairs of all workers. It computes the loss of all of them, but only
its own pairs are variables, their gradients times the number of workers: the average of the workers' gradients,
which data-parallel training takes anyway, is then the gradient of the loss of all pairs, and nothing has to be
sent backward.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.nn.layers import widened

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0


class ContrastiveHead(nn.Module):
    """Projections of both sides, and the temperature of their similarities.

    Both are linear: with a hidden layer on the left it learned more slowly and found no more of the right pictures.

    Args:
        dim: channels D.
        temperature: at the start.
    """

    def __init__(self, dim: int, temperature: float):
        """See the class."""
        super().__init__()
        self.left = nn.Linear(dim, dim, bias=False)
        self.right = nn.Linear(dim, dim, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def temperature(self) -> Tensor:
        """Between ``MIN_TEMPERATURE`` and ``MAX_TEMPERATURE``.

        The weight itself is moved back to the range: a clamp of its value would leave it there without a gradient.
        """
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
        return self.log_temperature.exp()


def contrastive_loss(
    left: Tensor, right: Tensor, head: ContrastiveHead, same: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Symmetric cross-entropy of CLIP (Radford et al. 2021, arXiv:2103.00020, figure 3).

    With unit vectors l_i and r_j of R pairs and temperature t, s_ij = l_i . r_j / t:
    loss = -1/2R sum_i (log softmax_j(s_ij)[i] + log softmax_j(s_ji)[i]).

    Several pairs should begin with the same picture: if each has a board of its own, the board alone tells which
    result is right, and what the actions do is learned less well.

    Args:
        left: (R, D) what is seen with the action in words.
        right: (R, D) what that leads to.
        head: projections and temperature.
        same: (A, A) True where two of the A pairs of *all* workers lead to the same picture, from
            :func:`same_pictures`; such a j is left out of i's sums. A is R with one worker. None: all differ.

    Returns:
        loss, and ``contrastive_temperature`` and ``contrastive_accuracy``: how often the most similar is the own.
    """
    sides = head.left(left), head.right(right)
    ours = torch.stack([F.normalize(widened(side), dim=-1) for side in sides], dim=1)
    pairs = gather(ours)  # (A, 2, D)
    temperature = head.temperature()
    count = len(pairs)
    if count == 0:
        loss = ours.sum() * 0 + temperature * 0
        return loss, {"contrastive_temperature": temperature.detach(), "contrastive_accuracy": loss.detach()}
    with torch.autocast(pairs.device.type, enabled=False):  # a low temperature magnifies what was rounded off
        logits = pairs[:, 0] @ pairs[:, 1].T / temperature  # (A, A)
    target = torch.arange(count, device=logits.device)
    if same is not None:
        assert same.shape == logits.shape, f"same is {tuple(same.shape)}, there are {count} pairs on all workers"
        logits = logits.masked_fill(same & (target.unsqueeze(1) != target), -torch.inf)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    hits = [(table.argmax(1) == target).float().mean() for table in (logits.detach(), logits.detach().T)]
    metrics = {"contrastive_temperature": temperature.detach(), "contrastive_accuracy": (hits[0] + hits[1]) / 2}
    return loss, metrics


def same_pictures(codes: Tensor, grid: Tensor) -> Tensor:
    """Which of all workers' pictures are equal: ``codes`` (R, P), ``grid`` (R, 2) -> (A, A) bool."""
    pictures = gather(torch.cat([codes, grid.to(codes.dtype)], dim=1))
    _, number = torch.unique(pictures, dim=0, return_inverse=True)
    return number.unsqueeze(0) == number.unsqueeze(1)


def gather(ours: Tensor) -> Tensor:
    """Rows ``ours`` (R, ...) of all workers, in the order of their ranks: (A, ...); R may differ.

    Rows of other workers are constants, and the gradient of our own is multiplied by the number of workers.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    workers = torch.distributed.get_world_size() if distributed else 1
    if workers == 1:
        return ours
    counts = [torch.zeros(1, dtype=torch.long, device=ours.device) for _ in range(workers)]
    torch.distributed.all_gather(counts, torch.tensor([len(ours)], device=ours.device))
    longest = max(int(count) for count in counts)
    padded = ours.new_zeros(longest, *ours.shape[1:])
    padded[: len(ours)] = ours.detach()
    parts = [torch.empty_like(padded) for _ in range(workers)]
    torch.distributed.all_gather(parts, padded)
    parts = [part[: int(count)] for part, count in zip(parts, counts, strict=True)]
    rank = torch.distributed.get_rank()
    parts[rank] = ours + (workers - 1) * (ours - ours.detach()) if ours.requires_grad else ours
    return torch.cat(parts)
