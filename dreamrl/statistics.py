"""Uncertainty of what is reported: intervals by resampling, or by Student's t where there are only a few values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_DRAWS = 2_000_000
"""Draws held in memory at once (16 MB); more resamples than fit are done in blocks."""


def bootstrap_interval(values: np.ndarray, resamples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap of the mean (Efron 1979): where the mean of new samples like this one would lie.

    Values that are all alike give an interval of width 0, whatever their number: the bootstrap cannot imagine
    what the sample does not hold.

    Args:
        values: (n,) numbers or booleans, n >= 1.
        resamples: number of samples drawn from ``values`` with replacement.
        seed: decides the resamples; the same seed gives the same interval.
        level: coverage, between 0 and 1.

    Returns:
        lower and upper end of the interval.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"values must be a non-empty list of finite numbers, got shape {values.shape}")
    if resamples < 1:
        raise ValueError(f"resamples ({resamples}) must be >= 1")
    if not 0 < level < 1:
        raise ValueError(f"level ({level}) must be between 0 and 1")
    rng = np.random.default_rng(seed)
    block = max(1, MAX_DRAWS // values.size)
    means = np.empty(resamples)
    for begin in range(0, resamples, block):
        part = means[begin : begin + block]
        part[:] = values[rng.integers(values.size, size=(part.size, values.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def expected_calibration_error(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> float:
    """Mean gap between what was predicted and how often it came true (ECE, arXiv:1706.04599 eq. 3).

    Args:
        probabilities: (n,) predictions in [0, 1], n >= 1.
        outcomes: (n,) what came true, 0 or 1.
        bins: predictions are grouped in bins of equal width; 1 belongs to the last.

    Returns:
        the mean over the bins, by their share of the predictions, of |mean outcome - mean prediction|.
    """
    probabilities, outcomes = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    if probabilities.ndim != 1 or probabilities.size == 0 or probabilities.shape != outcomes.shape:
        raise ValueError(
            "probabilities and outcomes must be non-empty lists of one length, "
            f"got shapes {probabilities.shape} and {outcomes.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must all be between 0 and 1")
    if not np.isin(outcomes, (0, 1)).all():
        raise ValueError("outcomes must all be 0 or 1")
    if bins < 1:
        raise ValueError(f"bins ({bins}) must be >= 1")
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=outcomes - probabilities, minlength=bins)
    return float(np.abs(gaps).sum() / probabilities.size)


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
    """Mean, and half the width of its interval by Student's t; None for a single value.

    Args:
        values: at least one, of a normal distribution; a mean over many questions is close to it.
        level: coverage, between 0 and 1.
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return mean, None
    from scipy.special import stdtrit  # quantiles of Student's t; scipy is slow to import

    return mean, float(stdtrit(count - 1, (1 + level) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(count)
