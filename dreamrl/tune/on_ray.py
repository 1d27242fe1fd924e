"""A search over settings as Ray Tune sees it: its trials, samplers, schedulers, and what it knows of each trial.

The only part of a search that imports Ray; it is imported once Ray is up. Public interfaces of Ray Tune only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from dreamrl.errors import UserError
from dreamrl.process import release_memory
from dreamrl.tune.live import LiveTable, TrialRow
from dreamrl.tune.plan import TunePlan
from dreamrl.tune.report import Outcome
from dreamrl.tune.space import Domain, resolve, run_of
from dreamrl.tune.trial import TrialFailed, run_trial

PRETRAINED, TRIALS, RAY, EXPERIMENT = "pretraining/pretrained", "trials", "ray", "search"
FAILED, ENDED, MEASURED = "failed.txt", "ended", "measurements.jsonl"
"""In a trial's directory: why it failed; that it ran to its end or was stopped by the scheduler; all it reported."""
SETTINGS = "settings"
"""Where a measurement says what it was made with: population-based training changes a trial's settings."""
CRASHES = 2
"""Times that a trial whose process died goes on from its checkpoint; one that failed by itself does not."""


def run_search(plan: TunePlan, out: Path, address: str) -> list[Outcome]:
    """Run all trials of ``plan``, or those that are left in ``out``; Ctrl-C ends it early, with what there is."""
    if address == "local":  # a cluster may grow
        check_resources(plan)
    return [outcome(plan, out, result) for result in tuner(plan, out).fit()]


def check_resources(plan: TunePlan) -> None:
    """Raise unless Ray has what one trial reserves; it would wait forever."""
    have = ray.cluster_resources()
    for name, kind, need in (("cpus", "CPU", plan.trial.cpus), ("gpus", "GPU", plan.trial.gpus)):
        if need > have.get(kind, 0):
            raise UserError(f"trial.{name} ({need:g}) must be <= {have.get(kind, 0):g}, which is what Ray has here")


def tuner(plan: TunePlan, out: Path) -> tune.Tuner:
    """A new search, or the one in ``out`` as far as it has come."""
    share, pbt = plan.trial.cpus, plan.scheduler.name == "pbt"
    if pbt:  # its members wait for each other: only resources bound how many run at a time
        share = max(share, ray.cluster_resources().get("CPU", 0) // plan.trial.concurrent)
    function = tune.with_parameters(trial_function, plan=plan, out=str(out.resolve()))
    trainable = tune.with_resources(function, {"cpu": share, "gpu": plan.trial.gpus})
    storage = out.resolve() / RAY
    if tune.Tuner.can_restore(str(storage / EXPERIMENT)):
        return tune.Tuner.restore(str(storage / EXPERIMENT), trainable=trainable, resume_unfinished=True)
    shutil.rmtree(storage, ignore_errors=True)
    # Population-based training draws from the global generators of this process.
    random.seed(plan.search.seed)
    np.random.seed(plan.search.seed)
    keep = 2 + plan.scheduler.interval // plan.measure.every if pbt else 2
    limit = 0 if pbt else plan.trial.concurrent
    by_optuna = plan.search.algorithm == "optuna"
    if by_optuna:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        algorithm: Any = OptunaSearch(seed=plan.search.seed)
    else:
        algorithm = BasicVariantGenerator(max_concurrent=limit, random_state=plan.search.seed)
    return tune.Tuner(
        trainable,
        param_space={domain.key: ray_domain(domain) for domain in plan.space},
        tune_config=tune.TuneConfig(
            metric=plan.metric,
            mode="max",
            search_alg=algorithm,
            scheduler=ray_scheduler(plan),
            num_samples=plan.search.trials,
            max_concurrent_trials=limit if by_optuna else None,
            reuse_actors=True,
            trial_dirname_creator=trial_directory,
        ),
        run_config=tune.RunConfig(
            name=EXPERIMENT,
            storage_path=str(storage),
            verbose=0,
            callbacks=[Watch(plan, str(out.resolve()))],
            stop={"iteration": plan.base["ppo.iterations"]} if pbt else None,  # or its last act would be a copy
            failure_config=tune.FailureConfig(max_failures=CRASHES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=keep),
        ),
    )


def trial_directory(trial: Any) -> str:
    """Where Ray Tune keeps a trial."""
    return trial.trial_id


def ray_domain(domain: Domain) -> Any:
    """``domain`` as Ray Tune samples it; its integers leave out the upper end."""
    if domain.listed:
        return {"choice": tune.choice, "grid": tune.grid_search}[domain.kind](list(domain.values))
    low, high = domain.values
    if domain.kind.endswith("uniform"):
        return {"uniform": tune.uniform, "loguniform": tune.loguniform}[domain.kind](low, high)
    return {"int": tune.randint, "logint": tune.lograndint}[domain.kind](low, high + 1)


def ray_scheduler(plan: TunePlan) -> TrialScheduler:
    """What decides which trials go on; time is counted in PPO iterations."""
    chosen = plan.scheduler
    if chosen.name == "asha":
        most = int(plan.base["ppo.iterations"])
        return ASHAScheduler("iteration", max_t=most, grace_period=chosen.grace, reduction_factor=chosen.reduction)
    if chosen.name == "pbt":
        return PopulationBasedTraining(
            "iteration",
            perturbation_interval=chosen.interval,
            hyperparam_mutations={d.key: list(d.values) if d.listed else ray_domain(d) for d in plan.space},
            quantile_fraction=chosen.quantile,
            resample_probability=chosen.resample,
            custom_explore_fn=functools.partial(held_within, space=plan.space),
            log_config=False,
        )
    return FIFOScheduler()


def held_within(sample: dict[str, Any], space: Sequence[Domain]) -> dict[str, Any]:
    """A shifted ``sample`` back inside the space: population-based training multiplies without looking."""
    return sample | {domain.key: domain.clip(sample[domain.key]) for domain in space}


def trial_function(config: dict[str, Any], plan: TunePlan, out: str) -> None:
    """One trial, in a process of Ray Tune."""
    release_memory()  # the process may have had another one, in another thread
    name = tune.get_context().get_trial_id()
    assert name is not None
    work = Path(out) / TRIALS / name
    work.mkdir(parents=True, exist_ok=True)
    failed = work / FAILED
    if failed.exists():  # Ray Tune starts it again as if its process had died
        raise TrialFailed(failed.read_text())

    def report(numbers: dict[str, float], folder: Path) -> None:
        with (work / MEASURED).open("a") as file:  # Ray Tune's own log begins anew when a trial is paused
            file.write(json.dumps({**numbers, SETTINGS: settings}) + "\n")
        tune.report({**numbers, SETTINGS: settings}, checkpoint=tune.Checkpoint.from_directory(str(folder)))

    pretrained = Path(out) / PRETRAINED if plan.stages == "shared" else None
    restored = tune.get_checkpoint()
    settings = resolve(plan.base, plan.space, config)
    try:
        run = run_of(plan.base, settings)
        with restored.as_directory() if restored else contextlib.nullcontext() as folder:
            begin = Path(folder) if folder else None
            run_trial(run, plan.measure, work, report, pretrained, begin, plan.trial.gpus)
    except Exception as error:
        failed.write_text(" ".join(f"{type(error).__name__}: {error}".removeprefix("TrialFailed: ").split())[:500])
        raise


class Watch(tune.Callback):
    """Keeps the live table; pickled by Ray Tune with the search, the table itself is made anew."""

    def __init__(self, plan: TunePlan, out: str):
        """Args: ``plan`` of the search and its directory."""
        self.plan, self.out = plan, out
        self.table: LiveTable | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what is on the screen."""
        return {"plan": self.plan, "out": self.out, "table": None}

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """Show how far all trials are."""
        if self.table is None:
            keys = [domain.key for domain in self.plan.space]
            self.table = LiveTable(keys, self.plan.metric, self.plan.samples)
        self.table.update([self._row(trial) for trial in trials])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Remember that ``trial`` is over: what Ray Tune says of it later does not tell it from an interrupted one."""
        (Path(self.out) / TRIALS / trial.trial_id / ENDED).touch()

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        """Show the end and leave it standing; also after Ctrl-C."""
        if self.table is not None:
            self.table.update([self._row(trial) for trial in trials], last=True)
            self.table.close()
            self.table = None

    def _row(self, trial: Any) -> TrialRow:
        last = trial.last_result or {}
        names = {"RUNNING": "running", "PAUSED": "paused", "ERROR": "failed", "TERMINATED": "finished"}
        status = names.get(trial.status, "waiting")
        if status == "finished" and not (Path(self.out) / TRIALS / trial.trial_id / ENDED).exists():
            status = "running"  # Ctrl-C: it goes on with --resume
        return row(self.plan, Path(self.out), trial.trial_id, status, trial.config, last)


def row(
    plan: TunePlan, out: Path, trial_id: str, status: str, sample: dict[str, Any], last: dict[str, Any]
) -> TrialRow:
    """One trial as it is shown; one that ended before its last iteration was stopped."""
    settings = last.get(SETTINGS) or resolve(plan.base, plan.space, sample)
    done = int(last.get("iteration", 0))
    if status == "finished" and done < (plan.base | settings)["ppo.iterations"]:
        status = "stopped"
    reason = out / TRIALS / trial_id / FAILED
    return TrialRow(
        name=trial_id.split("_")[-1],
        status=status,
        iteration=done,
        score=float(last[plan.metric]) if plan.metric in last else None,
        settings=settings,
        reason=(reason.read_text() if reason.exists() else "its process died") if status == "failed" else "",
    )


def outcome(plan: TunePlan, out: Path, result: tune.Result) -> Outcome:
    """How a trial went, from what Ray Tune knows of it."""
    metrics = result.metrics or {}
    ended = (out / TRIALS / Path(result.path).name / ENDED).exists()
    status = "failed" if result.error else "finished" if ended else "running" if "iteration" in metrics else "waiting"
    return Outcome(
        row=row(plan, out, Path(result.path).name, status, result.config or {}, metrics),
        history=measurements(out / TRIALS / Path(result.path).name / MEASURED),
        seconds=float(metrics.get("time_total_s", 0.0)),
        checkpoint=result.checkpoint.path if result.checkpoint else "",
    )


def measurements(file: Path) -> list[dict[str, Any]]:
    """What a trial reported, by iteration; of one that was repeated after a kill the last, a half line not at all."""
    found: dict[int, dict[str, Any]] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            found[record["iteration"]] = record
    return [found[iteration] for iteration in sorted(found)]
