"""How sure a point is: against the equation that Wilson's interval solves, and against what the bands say they are."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, t

from dreamrl.report.bands import over_runs, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (3, 7), (576, 600), (1, 1)])
def test_wilson_is_the_score_interval(right, count):
    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right / count, count) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_wilson_covers_means_of_shares_at_least_as_often_as_it_says():
    rng = np.random.default_rng(0)
    values = rng.choice([0.0, 0.5, 1.0], size=(2000, 60), p=[0.1, 0.3, 0.6])
    inside = [low <= 0.75 <= high for low, high in (wilson(row.mean(), 60) for row in values)]
    assert np.mean(inside) > 0.95


@pytest.mark.parametrize(("share", "count"), [(0.5, 0), (1.1, 5), (-0.1, 5)])
def test_what_is_no_share_is_refused(share, count):
    with pytest.raises(ValueError, match="share"):
        wilson(share, count)


def test_the_band_over_runs_is_students_interval():
    values = [0.4, 0.5, 0.9]
    reach = t.ppf(0.975, 2) * np.std(values, ddof=1) / math.sqrt(3)
    assert over_runs(values, bounded=False) == pytest.approx((0.6, 0.6 - reach, 0.6 + reach))
    assert over_runs(values, bounded=True) == pytest.approx((0.6, 0.0, 1.0))
    assert reach > 0.6


def test_two_runs_have_a_range():
    assert over_runs([0.25, 0.75], bounded=True) == (0.5, 0.25, 0.75)
