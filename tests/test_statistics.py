"""Tests of dreamrl/statistics.py."""

import numpy as np
import pytest

from dreamrl import statistics
from dreamrl.statistics import bootstrap_interval


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(("level", "z"), [(0.95, 1.959964), (0.8, 1.281552)])
def test_interval_of_a_share_is_the_binomial_one(share, level, z):
    count = 1000
    values = np.arange(count) < share * count
    low, high = bootstrap_interval(values, resamples=4000, seed=0, level=level)
    half = z * np.sqrt(share * (1 - share) / count)
    assert low == pytest.approx(share - half, abs=0.12 * half)
    assert high == pytest.approx(share + half, abs=0.12 * half)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.exponential(size=(300, 100))
    intervals = [bootstrap_interval(sample, resamples=300, seed=i) for i, sample in enumerate(samples)]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.89 <= covered <= 0.98


def test_same_seed_same_interval_and_other_seed_another():
    values = np.random.default_rng(0).normal(size=200)
    assert bootstrap_interval(values, 100, seed=3) == bootstrap_interval(values, 100, seed=3)
    assert bootstrap_interval(values, 100, seed=3) != bootstrap_interval(values, 100, seed=4)


def test_small_blocks_give_an_equally_good_interval(monkeypatch):
    values = np.arange(100) < 50
    whole = bootstrap_interval(values, 2000, seed=0)
    monkeypatch.setattr(statistics, "MAX_DRAWS", 750)  # 7 resamples a block, the last block not full
    assert bootstrap_interval(values, 2000, seed=0) == pytest.approx(whole, abs=0.03)


def test_values_that_are_all_alike_have_an_interval_of_width_zero():
    assert bootstrap_interval(np.ones(50), 100, seed=0) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values"),
        ([1.0, float("nan")], {}, "values"),
        ([[1.0]], {}, "values"),
        ([1.0], {"resamples": 0}, r"resamples \(0\)"),
        ([1.0], {"level": 95}, r"level \(95\)"),
    ],
)
def test_wrong_arguments_are_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(np.array(values), **{"resamples": 10, "seed": 0, **options})
