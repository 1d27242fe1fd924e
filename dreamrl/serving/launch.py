"""``dreamrl serve``: start Ray and Ray Serve for one model, say where it listens, stop on Ctrl-C."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamrl.addresses import AUTH_MODE, has_token, is_loopback
from dreamrl.cluster import LOG_FILE, QUIET, start_local, stderr_to
from dreamrl.errors import UserError

if TYPE_CHECKING:
    from dreamrl.serving.limits import Limits

TOKEN = "DREAMRL_TOKEN"
LEAST_TOKEN = 16
"""Characters; fewer can be guessed."""


def read_token(host: str, file: Path | None) -> str | None:
    """The token that clients must send: from ``file`` or the environment; required for other hosts than this one."""
    token, where = os.environ.get(TOKEN, ""), f"the environment variable {TOKEN}"
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where} cannot be read: {error}") from error
    if not token and file is None:
        if is_loopback(host):
            return None
        fix = f"export {TOKEN}=$(openssl rand -hex 32), or give --token-file FILE"
        raise UserError(f"--host {host} lets other machines in, which needs a token: {fix}")
    if len(token) < LEAST_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        rule = f"at least {LEAST_TOKEN} ASCII characters without spaces"
        raise UserError(f"{where} must hold a token of {rule}")
    return token


def free_port(host: str, port: int) -> int:
    """``port`` if nobody listens there; for 0 any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"cannot listen on {host} port {port} ({reason}); choose another --port") from error
        return probe.getsockname()[1]


@contextmanager
def serving(
    directory: Path,
    name: str,
    world: str | None,
    host: str,
    port: int,
    replicas: int,
    token: str | None,
    limits: Limits | None = None,
) -> Iterator[str]:
    """The application as long as the context lasts; gives its address.

    Args:
        directory: of the model.
        name: what clients see.
        world: that is asked about; None: the model's first.
        host: to listen on.
        port: to listen on.
        replicas: processes that hold the model.
        token: that clients must send, or None.
        limits: of requests; None: the usual ones.
    """
    from dreamrl.serving.guard import digest

    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    if "ray" not in sys.modules and has_token():  # once imported, Ray has made up its mind
        os.environ.setdefault(AUTH_MODE, "token")
    warnings.filterwarnings("ignore")
    logs = Path(tempfile.mkdtemp(prefix="dreamrl-serve-"))
    try:
        with stderr_to(logs / LOG_FILE):
            ray, serve = _start(replicas)
            from dreamrl.serving.deployment import application
            from dreamrl.serving.limits import LIMITS

            token_digest = digest(token) if token else None
            app = application(directory, name, world, replicas, token_digest, (host, port), limits or LIMITS)
            serve.start(proxy_location="Disabled")  # the gateway listens itself
            serve.run(app, name="dreamrl", route_prefix=None, logging_config=_quiet_logs(), _local_testing_mode=False)
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{port}"
    finally:
        if "ray" in sys.modules:
            # Ray's own report of what it kills comes on either stream.
            with stderr_to(logs / LOG_FILE), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                _stop()
        shutil.rmtree(logs, ignore_errors=True)


def _start(replicas: int) -> tuple[Any, Any]:
    import ray
    from ray import serve

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    cpus = max(os.cpu_count() or 1, replicas)
    start_local(ray, cpus, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    return ray, serve


def _quiet_logs() -> Any:
    from ray.serve.schema import LoggingConfig

    return LoggingConfig(log_level="WARNING", enable_access_log=False)


def _stop() -> None:
    import ray
    from ray import serve

    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()


def serve_command(
    directory: Path, name: str, world: str | None, host: str, port: int, replicas: int, token: str | None
) -> None:
    """What ``dreamrl serve`` does until it is told to stop."""
    from dreamrl.saving import load_pretrained, named_world
    from envs.registry import make_world

    if world is not None:
        make_world(world)
    loaded = load_pretrained(directory)  # every mistake in it is told before anything starts
    if world is not None:
        named_world(loaded, world)
    del loaded
    port = free_port(host, port)
    print(f"starting {replicas} replica{'s' * (replicas > 1)} of {name}; this takes some seconds", flush=True)
    with serving(directory, name, world, host, port, replicas, token) as address, _until_told() as done:
        print(f"serving {name} at {address}   (API: {address}/openapi.json, Ctrl-C stops)", flush=True)
        if token:
            print("clients must send the token: Authorization: Bearer ...", flush=True)
        done.wait()
        print("stopping", flush=True)


@contextmanager
def _until_told() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; Ray has put up handlers of its own before, which end the process."""
    done = threading.Event()
    before = {number: signal.signal(number, lambda *_: done.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield done
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
