"""Start or join Ray, quietly: its chatter goes to files, its dashboard stays off or on loopback."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from dreamrl.addresses import AUTH_MODE, has_token, is_loopback, make_token, require_token
from dreamrl.config import RunConfig
from dreamrl.errors import UserError

QUIET = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # Ray's default of 15 lets anything else on a laptop starve the workers
    "TENSORBOARDX_DISABLE_WARNING": "1",
}
"""Set for the driver and its workers unless the user already set them."""


def cpus_needed(run: RunConfig) -> int:
    """Logical CPUs that the busiest stage reserves."""
    return max(run.pretrain.num_workers, run.ppo.num_env_runners + run.ppo.num_learners, 1)


@contextmanager
def ray_session(run: RunConfig, out: Path, address: str) -> Iterator[None]:
    """Ray for the time of a run: a local one of its own, or a running cluster.

    A local Ray that this started is stopped at the end; a cluster is only left.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    require_token(address)
    if "ray" not in sys.modules and has_token():  # once imported, Ray has made up its mind
        os.environ.setdefault(AUTH_MODE, "token")
    import ray
    import ray.rllib
    import ray.train  # both set up loggers of their own when imported

    log = logging.FileHandler(out / LOG_FILE)
    for name in [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "ray"]:
        logger = logging.getLogger(name)
        logger.handlers = [log] if name == "ray" else []
        logger.propagate = name != "ray"
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        with stderr_to(out / LOG_FILE):
            _connect(ray, run, address, options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"--address {address}: no Ray cluster answers ({reason}); start one with `ray start --head` "
            "or use --address local"
        ) from error
    try:
        if address == "auto":
            check_found(ray.get_runtime_context().gcs_address)
        yield
    finally:
        with stderr_to(out / LOG_FILE):
            ray.shutdown()
        log.close()


LOG_FILE = "ray.log"
ATTEMPTS = 3
TOO_SLOW = "timed out during startup"
"""What Ray says when its processes were not there in time."""


def _connect(ray, run: RunConfig, address: str, options: dict) -> None:
    if address == "local":
        start_local(ray, max(os.cpu_count() or 1, cpus_needed(run)), **options)
    else:
        ray.init(address=address, **options)


def start_local(ray: Any, cpus: int, **options: Any) -> None:
    """Start a Ray of this process's own with ``cpus`` CPUs; on a machine that is too busy for it, a few times.

    Ray gives its processes half a minute, which nothing changes, and leaves them behind when that is over.
    """
    make_token()
    for attempt in range(1, ATTEMPTS + 1):
        before = {child.pid for child in psutil.Process().children()}
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **options,
            )
            return
        except Exception as error:  # what Ray raises here is a bare one
            if TOO_SLOW not in str(error):
                raise
            for child in psutil.Process().children():
                if child.pid not in before:
                    end_tree(child)
            if attempt == ATTEMPTS:
                raise UserError(
                    f"Ray did not start within half a minute, {ATTEMPTS} times: close other programs and try again; "
                    "a run goes on with --resume"
                ) from error
            print(f"Ray did not start within half a minute; trying again ({attempt + 1} of {ATTEMPTS})", flush=True)


def end_tree(process: psutil.Process) -> None:
    """Kill ``process`` and everything that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def check_found(address: str) -> None:
    """Raise unless ``address``, which Ray found on this machine, is closed to others or wants a token."""
    if not is_loopback(address) and os.environ.get(AUTH_MODE, "").lower() != "token":
        fix = f"restart the cluster after `export {AUTH_MODE}=token`, or with --node-ip-address=127.0.0.1"
        raise UserError(f"--address auto: {address} can be reached from other machines and has no token; {fix}")


OBJECT_STORE_BYTES = 200 * 1024**2
"""Room for episodes on their way to the learners; a few MB are used."""


@contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Send what this process and its C++ parts write to stderr into ``path`` for a while."""
    sys.stderr.flush()
    saved = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
