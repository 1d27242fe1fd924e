"""Which of the settings that varied mattered: numbers from the trials of a search, and a plot.

With many trials PED-ANOVA (arXiv:2304.10255), as Optuna has it: how much the settings of the best trials differ from
those of all. It needs some trials among the best tenth, so with few trials the rank correlation of a setting with the
metric (its square; for settings without an order the correlation ratio of the ranks). Either says what went along
with good trials of this search, not what caused them.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from dreamrl.tune.space import Domain

ENOUGH, AMONG_BEST = 20, 5
"""Trials from which on PED-ANOVA is used, and how many of them are the best ones at the least."""
PED_ANOVA, RANKS = "PED-ANOVA", "squared rank correlation"


def importance(
    space: Sequence[Domain], samples: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> tuple[str, dict[str, float]]:
    """How much each setting of ``space`` mattered.

    Args:
        space: what varied.
        samples: settings of each trial.
        scores: its metric; higher is better.

    Returns:
        name of the method, and a share by key, the largest first; they add up to 1, or are all 0 if nothing mattered.
    """
    use = len(scores) >= ENOUGH and len(set(scores)) > 1 and importlib.util.find_spec("optuna") is not None
    raw = _ped_anova(space, samples, scores) if use else _ranks(space, samples, scores)
    total = sum(raw.values())
    shares = {key: value / total if total > 0 else 0.0 for key, value in raw.items()}
    return PED_ANOVA if use else RANKS, dict(sorted(shares.items(), key=lambda item: -item[1]))


def _ranks(space: Sequence[Domain], samples: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> dict[str, float]:
    """Share of the variance of the scores' ranks that each setting explains by itself."""
    ranks = rankdata(scores)
    if len(scores) < 3 or ranks.std() == 0:
        return {domain.key: 0.0 for domain in space}
    found = {}
    for domain in space:
        values = [sample[domain.key] for sample in samples]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            own = rankdata(values)
            found[domain.key] = float(np.corrcoef(own, ranks)[0, 1] ** 2) if own.std() > 0 else 0.0
        else:
            groups = [ranks[[v == value for v in values]] for value in dict.fromkeys(values)]
            between = sum(len(group) * (group.mean() - ranks.mean()) ** 2 for group in groups)
            found[domain.key] = float(between / (len(ranks) * ranks.var()))
    return found


def _ped_anova(
    space: Sequence[Domain], samples: Sequence[Mapping[str, Any]], scores: Sequence[float]
) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    def distribution(domain: Domain) -> BaseDistribution:
        if domain.listed:
            return CategoricalDistribution(domain.values)
        kind = IntDistribution if isinstance(domain.values[0], int) else FloatDistribution
        return kind(*domain.values, log=domain.kind.startswith("log"))

    distributions = {domain.key: distribution(domain) for domain in space}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental features
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            optuna.trial.create_trial(
                params={domain.key: sample[domain.key] for domain in space}, distributions=distributions, value=score
            )
            for sample, score in zip(samples, scores, strict=True)
        )
        quantile = min(0.5, max(0.1, AMONG_BEST / len(scores)))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def plot(method: str, shares: Mapping[str, float], trials: int, path: Path) -> None:
    """A bar for each setting, the most important one at the top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.34 * len(shares)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    keys = list(shares)[::-1]
    bars = axes.barh(keys, [shares[key] for key in keys], color="#0969da")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_xlim(0, max(0.01, *shares.values()) * 1.15)
    axes.set_xlabel(f"importance ({method}, {trials} measurements)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
