"""Drawing categories from logits with random numbers that the caller gives: the same numbers, the same draw."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(
    logits: Tensor,
    uniform: Tensor,
    temperature: Tensor | None = None,
    greedy: Tensor | bool | None = None,
    top_p: Tensor | float = 1.0,
) -> Tensor:
    """Sample categories by inverting the cumulative distribution.

    Args:
        logits: (..., C).
        uniform: (...) numbers in [0, 1).
        temperature: (...) or (rows,), divides the logits; 0 is greedy.
        greedy: (rows,) rows that take the most probable category instead, or one bool for all.
        top_p: (rows,), or one number for all; see :func:`nucleus`. Applied after the temperature; 1 keeps all.

    Returns:
        (...) category indices.
    """
    best = logits.argmax(-1)
    if greedy is True:
        return best
    frozen = greedy if isinstance(greedy, Tensor) else None
    if temperature is not None:
        cold = temperature == 0
        logits = logits / _per_row(temperature.masked_fill(cold, 1.0), best).unsqueeze(-1)
        frozen = _per_row(cold, best) if frozen is None else _per_row(cold, best) | _per_row(frozen, best)
    probabilities = logits.double().softmax(-1)
    if isinstance(top_p, Tensor) or top_p < 1:
        limit = _per_row(torch.as_tensor(top_p, dtype=torch.double, device=logits.device), best)
        probabilities = probabilities * nucleus(probabilities, limit.unsqueeze(-1))
    cumulative = probabilities.cumsum(-1)
    drawn = torch.searchsorted(cumulative, (uniform.double().unsqueeze(-1) * cumulative[..., -1:]), right=True)
    drawn = drawn.squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return drawn if frozen is None else torch.where(_per_row(frozen, best), best, drawn)


def nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Which categories nucleus sampling keeps (Holtzman et al. 2019, arXiv:1904.09751, eq. 2).

    The fewest of the most probable ones that have ``top_p`` together, and never none. Of equally probable
    categories the first count as more probable.

    Args:
        probabilities: (..., C).
        top_p: broadcasts to (..., 1).

    Returns:
        (..., C) True where kept.
    """
    ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # what the more probable ones have together
    kept = before < top_p
    kept[..., 0] = True
    return torch.zeros_like(kept).scatter(-1, index, kept)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """``values`` (rows,), or already of the shape of ``like`` (rows, ...), so that they broadcast to it."""
    return values if values.dim() in (0, like.dim()) else values.view(-1, *[1] * (like.dim() - 1))
