"""What a search may not say although each of its fields is of the right kind: names, ranges, and what goes together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from dreamrl.errors import UserError

if TYPE_CHECKING:
    from dreamrl.tune.plan import TunePlan

ALGORITHMS = ("random", "optuna")
SCHEDULERS = ("none", "asha", "pbt")
STAGES = ("pretrain-and-ppo", "shared")
METRICS = {
    "exact_match": "share of held-out boards that are answered exactly",
    "progress_rate": "mean share of leading steps of the answers that are right, on the held-out boards",
    "valid": "share of held-out boards that are answered in the right form",
    "exact_frame": "share of dreamed pictures that equal the simulator's, on the held-out boards",
    "faithfulness": "mean share of changed patches that a sampled dream step gets right",
    "coherence": "mean agreement of the claimed actions with the inferred ones, in sampled dreams",
    "correctness": "mean score by the verifier of what a sampled dream leads to",
    "progress": "mean sum of the progress over a sampled dream",
}
"""What a search may maximise. Sums of weighted rewards are left out: their weights may be part of the space."""
AFTER_PRETRAINING = ("ppo.", "reward.", "curriculum.")
PPO_FIELDS = ("model.ppo_clip_epsilon", "model.ppo_gae_lambda", "model.reward_components")
"""Settings of the model that play no part before PPO."""
MUTABLE = (
    "ppo.lr",
    "ppo.gamma",
    "ppo.epochs",
    "ppo.minibatch_size",
    "ppo.value_weight",
    "ppo.entropy_weight",
    "ppo.replay_weight",
    "ppo.replay_scenes",
    "ppo.answer_weight",
    "ppo.grad_clip",
    "ppo.predict_share",
    "model.ppo_clip_epsilon",
    "model.ppo_gae_lambda",
    "reward.faithfulness",
    "reward.coherence",
    "reward.correctness",
    "reward.creativity",
    "reward.progress",
)
"""What population-based training may change in the middle of PPO: learning settings, no shape and no schedule."""


def check_plan(plan: TunePlan, origin: str) -> None:
    """Names and ranges, and what only some of them allow."""

    def require(ok: bool, name: str, value: object, rule: str) -> None:
        if not ok:
            raise UserError(f"{name} ({value}) in {origin} must {rule}")

    search, scheduler, trial, measure = plan.search, plan.scheduler, plan.trial, plan.measure
    for name, value, known in (
        ("search.algorithm", search.algorithm, ALGORITHMS),
        ("scheduler.name", scheduler.name, SCHEDULERS),
        ("stages", plan.stages, STAGES),
        ("metric", plan.metric, tuple(METRICS)),
    ):
        require(value in known, name, value, f"be one of {', '.join(known)}")
    for name, value, low, high in (
        ("search.trials", search.trials, 1, 10_000),
        ("search.seed", search.seed, 0, 2**31 - 1),
        ("scheduler.grace", scheduler.grace, 1, 10**7),
        ("scheduler.reduction", scheduler.reduction, 1.1, 100),
        ("scheduler.interval", scheduler.interval, 1, 10**7),
        ("scheduler.quantile", scheduler.quantile, 0.01, 0.5),
        ("scheduler.resample", scheduler.resample, 0, 1),
        ("trial.cpus", trial.cpus, 0.1, 1024),
        ("trial.gpus", trial.gpus, 0, 64),
        ("trial.concurrent", trial.concurrent, 1, 1024),
        ("measure.boards", measure.boards, 1, 10**6),
        ("measure.every", measure.every, 1, 10**7),
        ("measure.dreams", measure.dreams, 1, 1024),
    ):
        require(low <= value <= high, name, value, f"be between {low:g} and {high:g}")
    whole = trial.gpus <= 1 or trial.gpus == int(trial.gpus)
    require(whole, "trial.gpus", trial.gpus, "be a share of one GPU or a whole number of them")
    _check_iterations(plan, require)
    if search.algorithm == "optuna":
        missing = importlib.util.find_spec("optuna") is None
        require(not missing, "search.algorithm", "optuna", "be random, or install it: pip install optuna")
        require(scheduler.name != "pbt", "search.algorithm", "optuna", "be random with pbt, which searches by itself")
    for domain in plan.space:
        name, where = f"space.{domain.key}", f"{{{domain.kind}: ...}}"
        grid = domain.kind == "grid"
        if grid and (search.algorithm == "optuna" or scheduler.name == "pbt"):
            who = "optuna" if search.algorithm == "optuna" else "pbt"
            raise UserError(f"{name} ({where}) in {origin} must be a choice: {who} does not go through a grid")
    _check_keys(plan, origin)


def _check_iterations(plan: TunePlan, require: Callable[[bool, str, object, str], None]) -> None:
    """The scheduler must get to compare something before the trials end."""
    scheduler, every = plan.scheduler, plan.measure.every
    iterations = plan.base["ppo.iterations"]
    varied = next((d for d in plan.space if d.key == "ppo.iterations"), None)
    if varied is not None:
        require(scheduler.name == "none", "scheduler.name", scheduler.name, "be none: trials of different "
                "ppo.iterations are not comparable at the same one")  # fmt: skip
        iterations = min(varied.examples())
    limit = f"ppo.iterations ({iterations})"
    require(iterations >= 1, "ppo.iterations", iterations, "be >= 1: there is nothing to compare")
    require(every <= iterations, "measure.every", every, f"be <= {limit}")
    if scheduler.name == "none":
        return
    name, value = ("grace", scheduler.grace) if scheduler.name == "asha" else ("interval", scheduler.interval)
    require(every <= value, "measure.every", every, f"be <= scheduler.{name} ({value}), where trials are compared")
    rule = f"be < {limit}: {scheduler.name} would end before it compares anything; lower it or train longer"
    require(value < iterations, f"scheduler.{name}", value, rule)
    require(plan.samples >= 2, "search.trials", plan.search.trials, f"be >= 2: {scheduler.name} compares trials")


def _check_keys(plan: TunePlan, origin: str) -> None:
    """Shared pretraining and population-based training allow some settings only."""
    for domain in plan.space:
        key = domain.key
        if plan.stages == "shared" and not key.startswith(AFTER_PRETRAINING) and key not in PPO_FIELDS:
            why = "the pretrained model that all trials share depends on it"
            raise UserError(f"{key} in space in {origin}: {why}; use stages: {STAGES[0]}, or move it to settings")
        if plan.scheduler.name == "pbt" and key not in MUTABLE:
            shape = key.startswith(("model.", "world."))
            why = "it belongs to the model's shape" if shape else "it is fixed once a trial has begun"
            raise UserError(
                f"{key} in space in {origin}: pbt cannot change it in training, {why}; use asha, or drop it"
            )
