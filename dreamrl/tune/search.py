"""``dreamrl tune``: check the search, run it on Ray Tune, and leave its results; or go on with one that was ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from dreamrl.errors import UserError
from dreamrl.files import locked
from dreamrl.preflight import check_writable
from dreamrl.tune.plan import PLAN_FILE, TunePlan, read_plan, write_plan

PRETRAINING = "pretraining"
"""Directory of the pretraining that all trials share."""


def checked(file: Path | None, out: Path | None, resume: Path | None) -> tuple[TunePlan, Path]:
    """The search that a command line asks for and its directory, in which nothing has been changed yet."""
    if (file is None) == (resume is None):
        raise UserError("give the file of a search, such as tune_configs/smoke.yaml, or --resume DIR; not both")
    if resume is not None:
        if out is not None:
            raise UserError(f"--resume goes on in {resume}, which --out contradicts; drop one of them")
        if not (resume / PLAN_FILE).is_file():
            raise UserError(f"nothing to resume: {resume / PLAN_FILE} does not exist; give the directory of a search")
        check_writable(resume)
        return read_plan(resume / PLAN_FILE), resume
    assert file is not None
    plan, out = read_plan(file), out or Path("runs") / f"tune-{file.stem}"
    if out.is_symlink() or out.exists() and not (out.is_dir() and not any(out.iterdir())):
        fix = f"pass --resume {out} to go on with it, or choose another --out"
        raise UserError(f"{out} exists and is not an empty directory; {fix}")
    check_writable(out)
    return plan, out


def search(plan: TunePlan, out: Path, address: str) -> None:
    """Run ``plan`` in ``out``, or go on with it; everything that is finished there is kept."""
    out.mkdir(parents=True, exist_ok=True)
    again = f"interrupted; continue with `dreamrl tune --resume {out}`"
    with locked(out, "tune"):
        if not (out / PLAN_FILE).exists():
            write_plan(plan, out / PLAN_FILE)
        try:
            ended = _search(plan, out, address)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(again) from None
    if not ended:
        raise KeyboardInterrupt(again)


def _search(plan: TunePlan, out: Path, address: str) -> bool:
    """Trials, results and what is printed of them; False if there are trials left."""
    from dreamrl.cluster import LOG_FILE, ray_session
    from dreamrl.terminal import result_table
    from dreamrl.tune.report import BEST_MODEL, BEST_RUN, PLOT, TABLE, ranked_cells, write_results
    from dreamrl.tune.trial import save_best

    if plan.stages == "shared":
        _pretrain(plan, out, address)
    with ray_session(plan.run, out, address):
        from dreamrl.tune.on_ray import run_search

        with said_to(out / LOG_FILE):
            outcomes = run_search(plan, out, address)
    ended = len(outcomes) == plan.samples and not any(o.row.status in ("waiting", "running") for o in outcomes)
    best = write_results(plan, outcomes, out, save_best if ended else None)
    if not ended:
        return False
    head, rows = ranked_cells(plan, outcomes)
    result_table([tuple(row) for row in rows], tuple(head))
    for failed in (o.row for o in outcomes if o.row.status == "failed"):
        print(f"trial {failed.name} failed: {failed.reason}")
    if best is None:
        raise UserError(f"all {len(outcomes)} trials failed: see {out / TABLE}")
    print(f"results in {out}: {TABLE}, {PLOT}, {BEST_MODEL}/ and {BEST_RUN}, for `dreamrl train --config`")
    return True


@contextlib.contextmanager
def said_to(file: Path) -> Iterator[None]:
    """Add what Ray prints and logs in this process to ``file``; Ray Tune prints a banner even when it is quiet."""
    handler = logging.FileHandler(file)
    logging.getLogger("ray").addHandler(handler)
    try:
        with file.open("a") as log, contextlib.redirect_stdout(log):
            yield
    finally:
        logging.getLogger("ray").removeHandler(handler)
        handler.close()


def _pretrain(plan: TunePlan, out: Path, address: str) -> None:
    """The model that all trials start from; what an earlier process did is not repeated."""
    from dreamrl.run import train

    where = out / PRETRAINING
    if not (where / "pretrained").exists():
        train(plan.run, where, address, ("pretrain",), (where / "config.yaml").exists(), None)
