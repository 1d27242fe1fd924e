"""A whole run: pretrain, PPO, evaluate; every stage goes on where an earlier process stopped."""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamrl.checkpoint import newest_checkpoint
from dreamrl.config import DreamingConfig, RunConfig
from dreamrl.errors import UserError
from dreamrl.files import locked, write_atomically
from dreamrl.manifest import remember_data
from dreamrl.process import settle
from dreamrl.saving import load_pretrained, save_pretrained
from dreamrl.settings import write_yaml
from dreamrl.stop import StopRequest, stoppable
from dreamrl.storage import Mirror
from dreamrl.terminal import StageProgress


def train(
    settings: RunConfig,
    out: Path,
    address: str,
    stages: tuple[str, ...],
    resume: bool,
    model_dir: Path | None,
    collected: Path | None = None,
) -> None:
    """Run ``stages`` ("pretrain", "ppo", "eval") into ``out``; a finished stage is not repeated on ``resume``.

    ``model_dir`` is the pretrained model that PPO starts from when "pretrain" is not among the stages. ``collected``
    is what ``dreamrl collect`` wrote, to pretrain on; None: random play on the fly.
    """
    run = _adopt(settings, model_dir)
    settle(run.deterministic)
    fresh = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        write_yaml(run, out / "config.yaml")
        if collected is not None:
            remember_data(out, collected)
    try:
        _run_stages(run, out, address, stages, resume, model_dir, collected)
    except UserError:
        if fresh and not (out / "metrics.jsonl").exists():
            shutil.rmtree(out)  # nothing was learned: leave no trace of a start that failed
        raise


def _run_stages(
    run: RunConfig,
    out: Path,
    address: str,
    stages: tuple[str, ...],
    resume: bool,
    model_dir: Path | None,
    collected: Path | None,
) -> None:
    seconds = _read_seconds(out)
    with locked(out, "train"), Mirror(run.storage, out) as mirror, stoppable(out) as stop:
        if "pretrain" in stages:
            _timed(seconds, "pretrain", out, lambda: _pretrain(run, out, address, stop, resume, collected, mirror))
        elif not (out / "pretrained").exists():
            assert model_dir is not None
            save_pretrained(replace(load_pretrained(model_dir), run=run), out / "pretrained")
        if "ppo" in stages:
            _timed(seconds, "ppo", out, lambda: _ppo(run, out, address, stop, resume, mirror))
        else:
            shutil.copytree(out / "pretrained", out / "model", dirs_exist_ok=True)
        if "eval" in stages:
            from dreamrl.report.page import write_report
            from dreamrl.summary import write_summary

            _timed(seconds, "eval", out, lambda: write_summary(run, out, seconds, stop))
            write_report(out, out / "report.html")
            print(f"results in {out}: report.html, model/, summary.json, metrics.jsonl, tensorboard/, dreams/")
        else:
            print(f"pretrained model in {out / 'model'}")


def _adopt(settings: RunConfig, model_dir: Path | None) -> RunConfig:
    """PPO on an existing model takes the architecture and the world from that model."""
    if model_dir is None:
        return settings
    given = load_pretrained(model_dir).run
    if settings.model not in (DreamingConfig(), given.model):
        raise UserError(f"model.* settings differ from those of {model_dir}; leave them out, the model brings its own")
    return replace(settings, model=given.model, world=given.world)


def _pretrain(
    run: RunConfig,
    out: Path,
    address: str,
    stop: StopRequest,
    resume: bool,
    collected: Path | None,
    mirror: Mirror,
) -> None:
    if (out / "pretrained").exists():
        _say("pretrain: finished before, not repeated")
        return
    from dreamrl.cluster import ray_session
    from dreamrl.pretrain import STAGE, pretrain_on_ray

    done = _resumed_at(out, STAGE, resume)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            pretrain_on_ray(run, out, collected)
        except BaseException as error:  # handed to the main thread below
            failure.append(error)

    # Ray Train takes over Ctrl-C when it runs in the main thread.
    thread = threading.Thread(target=work, name="pretrain", daemon=True)
    # A session of its own: what Ray Train leaves running would cost PPO memory.
    with ray_session(run, out, address), StageProgress("pretrain", run.pretrain.steps, done=done) as progress:
        stop.listen()
        thread.start()
        while thread.is_alive():
            thread.join(timeout=1.0)
            mirror.look()
            step, shown = _last_metrics(out, STAGE)
            if 0 < step < progress.done:
                _say(f"pretrain: a worker died; going on from update {step}")
            if step and step != progress.done:
                progress.advance(step - progress.done, **shown)
    if stop.asked:
        raise KeyboardInterrupt
    if failure:
        raise failure[0]


def _ppo(run: RunConfig, out: Path, address: str, stop: StopRequest, resume: bool, mirror: Mirror) -> None:
    from dreamrl.cluster import ray_session
    from dreamrl.rl.train import STAGE, ppo_on_ray

    done = _resumed_at(out, STAGE, resume)
    if done >= run.ppo.iterations and (out / "model").exists():
        _say("ppo: finished before, not repeated")
        return
    with ray_session(run, out, address), StageProgress("ppo", run.ppo.iterations, done=done) as progress:
        stop.listen()

        def show(**values: float) -> None:
            names = {"ppo/exact_match": "EM", "ppo/exact_frame": "frame", "ppo/faithfulness": "faithful"}
            names |= {"ppo/curriculum/stage": "stage", "ppo/curriculum/success": "success"}
            shown = {label: values[name] for name, label in names.items() if name in values}
            progress.advance(int(values["step"]) - progress.done, **shown)  # back, where processes died
            mirror.look()

        trained = ppo_on_ray(run, out, out / "pretrained", show, stop)
    if trained is None:
        raise KeyboardInterrupt


def _resumed_at(out: Path, stage: str, resume: bool) -> int:
    """The step that the newest checkpoint of ``stage`` holds; said aloud when resuming."""
    found = newest_checkpoint(out / "checkpoints", stage)
    done = 0 if found is None else int(found[2].get("iteration", found[2].get("step", 0)))
    if resume:
        where = f"from {found[0].name}" if found else "from its beginning (no checkpoint yet)"
        _say(f"{stage}: resuming {where}")
    return done


def _last_metrics(out: Path, stage: str) -> tuple[int, dict[str, float]]:
    """Step and what to show of the newest metrics line of ``stage``."""
    path = out / "metrics.jsonl"
    if not path.exists():
        return 0, {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        lines = file.read().decode(errors="ignore").splitlines()
    step, shown = 0, {}
    names = {"pretrain/exact_frame": "frame", "pretrain/answer_accuracy": "answers", "pretrain/loss/total": "loss"}
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the first line may be cut, the last one half-written
        if record.get("stage") == stage:
            step = int(record["step"])
            values = record.get("values", record)
            shown |= {label: values[name] for name, label in names.items() if values.get(name) is not None}
    return step, shown


def _timed(seconds: dict[str, float], stage: str, out: Path, work: Any) -> None:
    """Add the wall time of ``work`` to ``seconds[stage]``, kept on disk over restarts."""
    started = time.perf_counter()
    try:
        work()
    finally:
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - started, 2)
        write_atomically(out / "seconds.json", json.dumps(seconds))


def _read_seconds(out: Path) -> dict[str, float]:
    path = out / "seconds.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _say(text: str) -> None:
    print(text, flush=True)
