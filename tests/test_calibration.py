"""Confidence: the fit against other ways to fit, and what it does to a model that is too sure."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from dreamrl.calibration import LARGER, RIDGE, calibrate, fit
from dreamrl.evaluate import held_out
from dreamrl.imagine import answer, imagine
from dreamrl.statistics import expected_calibration_error
from envs.world import Split, Verdict
from envs.worlds.frozen_lake import FrozenLake


def newton(features, right, steps=60):
    """Ridge logistic regression by Newton's method (iteratively reweighted least squares)."""
    design = np.column_stack([features, np.ones(len(features))])
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-design @ weights))
        slope = design.T @ (chance - right) / len(right) + 2 * RIDGE * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design / len(right) + 2 * RIDGE * np.eye(
            len(weights)
        )
        weights = weights - np.linalg.solve(curvature, slope)
    return weights


def examples(count, seed, weights=(1.2, -0.8, 0.0, 0.5)):
    """Features and outcomes that follow a logistic law."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 2, (count, 3))
    chance = 1 / (1 + np.exp(-(features @ weights[:3] + weights[3])))
    return features, (rng.random(count) < chance).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_that_of_newtons_method(seed):
    features, right = examples(200, seed)
    weights, loss = fit(features, right)
    expected = newton(features, right)
    assert weights == pytest.approx(expected, abs=1e-3)
    design = np.column_stack([features, np.ones(200)])
    chance = 1 / (1 + np.exp(-design @ expected))
    likelihood = -np.log(np.where(right == 1, chance, 1 - chance)).mean()
    assert loss == pytest.approx(likelihood + RIDGE * expected @ expected, rel=1e-5)


def test_without_features_the_confidence_is_the_share_of_right_answers():
    """Closed form: the best constant is the mean; the ridge hardly moves it."""
    right = np.array([1.0] * 30 + [0.0] * 70)
    weights, _ = fit(np.zeros((100, 3)), right)
    assert weights[:3] == pytest.approx(0, abs=1e-4)
    assert 1 / (1 + np.exp(-weights[3])) == pytest.approx(0.3, abs=0.01)


def test_counts_of_one_binary_feature_have_a_closed_form():
    """Of 40 with the feature 36 are right, of 60 without 12: the weights are their log odds, if hardly penalised."""
    feature = np.repeat([1.0, 0.0], (40, 60))
    right = np.concatenate([np.ones(36), np.zeros(4), np.ones(12), np.zeros(48)])
    weights, _ = fit(np.column_stack([feature, np.zeros((100, 2))]), right)
    sure, unsure = (1 / (1 + np.exp(-(weights[0] * x + weights[3]))) for x in (1, 0))
    assert sure == pytest.approx(0.9, abs=0.02) and unsure == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("right", [np.ones(50), np.zeros(50)])
def test_weights_stay_finite_when_everything_is_right_or_wrong(right):
    weights, loss = fit(examples(50, 0)[0], right)
    assert np.isfinite(weights).all() and np.isfinite(loss)
    separable = np.column_stack([np.where(np.arange(50) < 25, -1.0, 1.0), np.zeros((50, 2))])
    assert np.abs(fit(separable, (np.arange(50) >= 25).astype(float))[0]).max() < 20


def test_calibration_error_falls_on_new_examples():
    """A model three times too sure of itself, fitted on some answers and measured on others."""
    features, right = examples(2000, 1)
    sure = 1 / (1 + np.exp(-3 * (features @ [1.2, -0.8, 0.0] + 0.5)))
    weights, _ = fit(features[:1000], right[:1000])
    fitted = 1 / (1 + np.exp(-(features @ weights[:3] + weights[3])))
    before = expected_calibration_error(sure[1000:], right[1000:])
    after = expected_calibration_error(fitted[1000:], right[1000:])
    assert before > 0.1 and after < 0.05


class Judged(FrozenLake):
    """FrozenLake that calls the answers to half of all boards exact, whatever they say."""

    def verify(self, question, answer):
        exact = int(question.scene.key, 16) % 2 == 0
        return Verdict(exact=exact, progress=0.0, valid=True, success=exact)


@pytest.fixture(scope="module")
def fitted(loaded):
    """The small model, and a copy of it after calibration on a dozen boards."""
    after = dataclasses.replace(loaded, model=copy.deepcopy(loaded.model), world=Judged())
    return loaded, after, calibrate(after, boards=12)


def test_calibrating_changes_the_calibration_alone(fitted):
    loaded, after, _ = fitted
    before = dict(loaded.model.named_parameters())
    changed = [name for name, p in after.model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["calibration"]
    assert not after.model.calibration.requires_grad


def test_calibrating_fits_the_answers_to_validation_boards(fitted):
    """The same boards, dreams and answers once more: the weights are those of the independent fit."""
    loaded, after, loss = fitted
    largest = max(loaded.world.sizes)
    sizes = (*loaded.world.sizes, *(largest + extra for extra in LARGER))
    questions = held_out(after.world, sizes, 12, loaded.run.seed, Split.VALIDATION)
    assert {q.scene.grid[0] for q in questions} == {3, 4, 5, 6}
    imagined = imagine(loaded, questions, 3, loaded.run.seed, loaded.run.eval.temperature)
    answers = answer(loaded, imagined, 3)
    right = np.array([float(after.world.verify(q, "").exact) for q in questions])
    assert 0 < right.mean() < 1
    assert after.model.calibration.numpy() == pytest.approx(newton(answers.evidence, right), abs=0.03)
    confidence = answer(after, imagined, 3).confidence
    likelihood = -np.log(np.where(right == 1, confidence, 1 - confidence)).mean()
    assert likelihood < np.log(2) and likelihood == pytest.approx(loss, abs=0.02)  # the ridge costs a little


def test_the_global_random_numbers_are_left_alone(loaded):
    state = torch.get_rng_state()
    calibrate(dataclasses.replace(loaded, model=copy.deepcopy(loaded.model)), dreams=2, boards=3)
    assert torch.equal(torch.get_rng_state(), state)
