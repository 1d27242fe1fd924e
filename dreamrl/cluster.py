"""Start or join Ray, quietly: its chatter goes to files, its dashboard stays off or on loopback."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamrl.config import RunConfig
from dreamrl.errors import UserError

QUIET = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
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
    import ray

    log = logging.FileHandler(out / "ray.log", delay=True)
    for name in ("ray", "ray.rllib", "ray.train", "ray.tune", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers = [log]
        logger.propagate = False
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        if address == "local":
            cpus = max(os.cpu_count() or 1, cpus_needed(run))
            memory = 200 * 1024**2
            ray.init(
                address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=memory, **options
            )
        else:
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"--address {address}: no Ray cluster answers ({reason}); start one with `ray start --head` "
            "or use --address local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
