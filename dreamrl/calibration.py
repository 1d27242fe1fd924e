"""Confidence that means something: the probability that an answer is exact, fitted on validation boards.

Logistic regression (Platt 1999) on three things that the model knows of its own answer. Boards larger than those
trained on are among the validation boards, so that unfamiliar sizes get the lower confidence that they deserve.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from dreamrl.evaluate import CHUNK, held_out
from dreamrl.imagine import answer, imagine
from dreamrl.saving import Loaded
from envs.world import Split

BOARDS = 240
"""Validation boards to fit on."""
LARGER = (1, 2)
"""Cells a side by which some of them exceed the largest size trained on."""
RIDGE = 1e-3
"""Penalty on the squared weights: keeps them finite when the features separate right from wrong."""


def calibrate(loaded: Loaded, dreams: int | None = None, boards: int = BOARDS) -> float:
    """Fit ``loaded.model.calibration`` in place.

    Args:
        loaded: a trained model.
        dreams: number of dreams to answer from; by default the model's own.
        boards: how many validation boards.

    Returns:
        the mean negative log-likelihood after the fit, in nats.
    """
    count = dreams or loaded.run.model.num_dream_sequences
    largest = max(loaded.world.sizes)
    sizes = (*loaded.world.sizes, *(s for s in (largest + extra for extra in LARGER) if s <= loaded.world.max_size))
    questions = held_out(loaded.world, sizes, boards, loaded.run.seed, Split.VALIDATION)
    features, right = [], []
    for first in range(0, len(questions), CHUNK):
        chunk = questions[first : first + CHUNK]
        imagined = imagine(loaded, chunk, count, loaded.run.seed, loaded.run.eval.temperature, first=first)
        answers = answer(loaded, imagined, count)
        features.append(answers.evidence)
        verdicts = [loaded.world.verify(q, t) for q, t in zip(chunk, answers.texts, strict=True)]
        right += [float(v.exact) for v in verdicts]
    weights, loss = fit(np.concatenate(features), np.array(right))
    with torch.no_grad():
        loaded.model.calibration.copy_(torch.from_numpy(weights))
    return loss


def fit(features: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge logistic regression of ``right`` (Q,) on ``features`` (Q, F): weights (F + 1,), bias last; and loss."""
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    sign = 2 * right - 1

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (design @ weights)
        value = np.logaddexp(0, -margin).mean() + RIDGE * weights @ weights
        slope = -(design * (sign / (1 + np.exp(margin)))[:, None]).mean(0) + 2 * RIDGE * weights
        return float(value), slope

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B")
    return found.x.astype(np.float32), float(found.fun)
