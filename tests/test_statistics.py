"""Tests of dreamrl/statistics.py."""

import math

import numpy as np
import pytest

from dreamrl import statistics
from dreamrl.statistics import bootstrap_interval, expected_calibration_error, mean_interval


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


def slow_calibration_error(probabilities, outcomes, bins):
    total = 0.0
    for place in range(bins):
        low, high = place / bins, (place + 1) / bins
        own = [i for i, p in enumerate(probabilities) if low <= p < high or (p == 1 and place == bins - 1)]
        if own:
            accuracy = sum(outcomes[i] for i in own) / len(own)
            confidence = sum(probabilities[i] for i in own) / len(own)
            total += len(own) / len(probabilities) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 8, 16])
def test_calibration_error_equals_a_slow_loop(bins):
    rng = np.random.default_rng(bins)
    probabilities = np.concatenate([rng.random(200) ** 2, [0.0, 1.0, 0.5]])
    outcomes = rng.integers(2, size=len(probabilities))
    expected = slow_calibration_error(probabilities, outcomes, bins)
    assert expected_calibration_error(probabilities, outcomes, bins) == pytest.approx(expected)


def test_calibration_error_in_closed_form():
    assert expected_calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])) == 0
    assert expected_calibration_error(np.full(4, 0.9), np.zeros(4)) == pytest.approx(0.9)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([0, 1])) == 1
    # gaps of one bin cancel, gaps of two bins do not
    assert expected_calibration_error(np.array([0.42, 0.48]), np.array([1, 0]), 10) == pytest.approx(0.05)
    assert expected_calibration_error(np.array([0.42, 0.58]), np.array([1, 0]), 10) == pytest.approx(0.58)


def test_predictions_that_come_true_as_often_as_they_say_are_calibrated():
    rng = np.random.default_rng(0)
    probabilities = rng.random(100_000)
    outcomes = rng.random(100_000) < probabilities
    assert expected_calibration_error(probabilities, outcomes) < 0.01
    assert expected_calibration_error(probabilities**2, outcomes) > 0.15  # true mean gap: 1/2 - 1/3


@pytest.mark.parametrize(
    ("probabilities", "outcomes", "bins", "message"),
    [
        ([], [], 10, "non-empty"),
        ([0.5], [1, 0], 10, r"got shapes \(1,\) and \(2,\)"),
        ([1.5], [1], 10, "probabilities must all be between 0 and 1"),
        ([float("nan")], [1], 10, "probabilities must all be between 0 and 1"),
        ([0.5], [0.5], 10, "outcomes must all be 0 or 1"),
        ([0.5], [1], 0, r"bins \(0\)"),
    ],
)
def test_wrong_arguments_of_the_calibration_error_are_named(probabilities, outcomes, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(np.array(probabilities), np.array(outcomes), bins)


def test_interval_over_seeds_by_hand():
    """Three values: t = 4.303 with 2 degrees of freedom (any printed table)."""
    mean, half = mean_interval([0.8, 0.9, 0.7])
    assert mean == pytest.approx(0.8)
    assert half == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert mean_interval([0.5, 0.7])[1] == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert mean_interval([0.25]) == (0.25, None)
