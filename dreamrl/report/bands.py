"""How sure a point of a curve is: over the questions of one run, or over several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dreamrl.statistics import mean_interval

Z = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5% above it."""
FEWEST_RUNS = 3
"""With fewer runs Student's t says hardly anything: the band is the range then."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927, the score interval).

    For the mean of values that lie between 0 and 1 it is at most too wide: no such value varies more than a coin
    with the same mean.

    Args:
        share: mean of ``count`` values between 0 and 1.
        count: at least 1.
    """
    if count < 1 or not 0 <= share <= 1:
        raise ValueError(f"share ({share}) must be between 0 and 1, count ({count}) at least 1")
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    reach = Z / (1 + Z * Z / count) * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    # At 0 and 1 rounding could leave the share itself outside.
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))


def over_runs(values: Sequence[float], bounded: bool) -> tuple[float, float, float]:
    """Mean of one value a run, and its band: 95% by Student's t, or the range of fewer than ``FEWEST_RUNS`` runs.

    Args:
        values: one a run, at least one.
        bounded: whether they are shares, so that the band ends at 0 and 1.
    """
    mean, reach = mean_interval(values)
    if len(values) < FEWEST_RUNS or reach is None:
        return mean, float(min(values)), float(max(values))
    low, high = mean - reach, mean + reach
    return (mean, max(0.0, low), min(1.0, high)) if bounded else (mean, low, high)


def runs_note(runs: int) -> str:
    """What the band over ``runs`` runs is, in words."""
    if runs < FEWEST_RUNS:
        return f"Lines are means over {runs} seeds; bands are their range, as {runs} are too few for an interval."
    return f"Lines are means over {runs} seeds; bands are 95% intervals of the mean by Student's t."
