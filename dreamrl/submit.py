"""``dreamrl submit``: run a command as a job of a Ray cluster, follow it, and bring its summary home.

The current directory travels with the job, without what :data:`SECRETS` and :data:`BULKY` name. The results stay on
storage that the cluster's nodes share; only ``summary.json`` comes back, through the end of the job's log. What is not
here: starting clusters (``ray up cluster.yaml`` does it) and resuming after a lost node (``--resume`` does it).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dreamrl import addresses, arguments, settings
from dreamrl.errors import EXIT_INTERRUPTED, EXIT_OK, UserError, nearest
from dreamrl.files import write_atomically

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""The dashboard of a cluster on this machine, or of a remote one through ``ray dashboard cluster.yaml``."""
SECRETS = (
    ".env*", "*.env", ".ssh/", "id_*", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.kdbx", "*.gpg",
    ".aws/", ".azure/", ".config/", ".kube/", "kubeconfig*", ".docker/", ".ray/", ".huggingface/",
    "auth_token*", "*.token", ".netrc", ".pypirc", ".npmrc", ".git-credentials", "credentials*", "client_secret*",
    "service_account*.json", "secrets.*",
)  # fmt: skip
"""Files that never travel, in the patterns of .gitignore; ``.rayignore`` holds the same for ``ray job submit``."""
BULKY = ("runs/", ".venv/", "venv/", ".git/", "__pycache__/", "*.egg-info/", ".pytest_cache/", ".ruff_cache/")
"""Directories that no job needs."""
STOP_SECONDS = 120
"""How long a stopped job may take to save its state before Ray kills it; Ray's own default is 3."""
RETRIES, RETRY_SECONDS = 10, 3.0
"""How often and how far apart the log is asked for again when the connection is lost."""
MARK = "dreamrl-summary-json"
PATHS = ("out", "resume", "data", "model")
"""Arguments of the job's command that name places which must exist on the cluster."""
TRAVELLING = {"config": "--config", "file": "FILE"}
"""Arguments of the job's command that name files which travel with it."""


def submit(args: argparse.Namespace) -> int:
    """Submit the command in ``args`` (see ``arguments``) and return the exit code: that of the job with --wait."""
    command = args.job[1:] if args.job[:1] == ["--"] else args.job
    entrypoint = entrypoint_of(command)
    address = check_dashboard(args.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    check_directory(Path.cwd())
    # Ray lets these overrule the address that has just been checked.
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    if addresses.has_token():
        os.environ.setdefault(addresses.AUTH_MODE, "token")
    client = _connect(address)
    print(f"uploading {Path.cwd()} to {address}", flush=True)
    job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env(Path.cwd()))
    follow = Follower(client, job, address)
    print(f"job {job} submitted; {follow.how}", flush=True)
    return follow.to_the_end(args.out or Path("runs") / job) if args.wait else EXIT_OK


def entrypoint_of(command: list[str]) -> str:
    """The shell command of a job that runs ``dreamrl COMMAND``, which has been checked as far as it can be here.

    >>> entrypoint_of(["collect", "--world", "frozen_lake", "--num", "8", "--out", "/shared/data"])
    'python -m dreamrl collect --address auto --world frozen_lake --num 8 --out /shared/data'
    """
    if not command:
        raise UserError("submit what? for example `dreamrl submit --wait train --out /shared/run`")
    parsed = arguments.parse(command)
    if "address" not in parsed or "job" in parsed:
        raise UserError(f"`{command[0]}` does not use a cluster; {nearest(command[0], CLUSTER_COMMANDS)}")
    if parsed.address not in ("local", "auto"):
        raise UserError(f"drop --address {parsed.address} of `{command[0]}`: the job joins the cluster it runs on")
    _check_paths(parsed)
    if command[0] in arguments.STAGES and not parsed.resume:
        settings.load_settings(parsed.preset, parsed.config, parsed.overrides, parsed.seed)
    rest = [word for word in command[1:] if word not in ("--address=local", "--address=auto")]
    if "--address" in rest:
        at = rest.index("--address")
        del rest[at : at + 2]
    line = shlex.join(["python", "-m", "dreamrl", command[0], "--address", "auto", *rest])
    if "eval" not in arguments.STAGES.get(command[0], ()):
        return line
    summary = shlex.quote(str((parsed.resume or parsed.out) / "summary.json"))
    return f"{line} && echo {MARK} && cat {summary}"


CLUSTER_COMMANDS = [*arguments.STAGES, "collect", "tune"]


def _check_paths(parsed: argparse.Namespace) -> None:
    """Only what lies below the current directory travels; everything else must be on the cluster's own storage."""
    given = vars(parsed)
    if not (given.get("out") or given.get("resume")):
        raise UserError("give --out an absolute path on storage that the cluster's nodes share, such as /shared/run")
    for name in PATHS:
        if given.get(name) is not None and not Path(given[name]).is_absolute():
            where = "must be an absolute path on storage that the cluster's nodes share"
            raise UserError(f"--{name} ({given[name]}) {where}")
    for name, shown in TRAVELLING.items():
        path = given.get(name)
        if path and (path.is_absolute() or ".." in path.parts):
            raise UserError(
                f"{shown} ({path}) must be a relative path below this directory, which travels with the job"
            )


def check_dashboard(address: str) -> str:
    """``address`` of a dashboard without a slash at its end, or a UserError; nothing is sent yet."""
    try:
        parts = urlsplit(address)
        well = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        well, parts = False, urlsplit("")
    if not well or parts.query or parts.fragment:
        raise UserError(f'--address ("{address}") must be the URL of a Ray dashboard, such as {DEFAULT_ADDRESS}')
    if "@" in parts.netloc:
        raise UserError("--address must not hold a name or password; Ray's token is enough")
    addresses.require_token(address)
    if parts.scheme == "http" and not addresses.is_loopback(address):
        print(
            f"dreamrl: warning: http to {parts.hostname} is not encrypted and shows the token to the network; "
            "`ray dashboard cluster.yaml` makes a tunnel",
            file=sys.stderr,
        )
    return address.rstrip("/")


def check_directory(directory: Path) -> None:
    """Raise where uploading ``directory`` can only be a mistake."""
    if directory == Path.home() or directory == Path(directory.anchor):
        raise UserError(f"{directory} travels with the job as a whole; change into the project's directory first")


def runtime_env(directory: Path) -> dict[str, Any]:
    """What the job gets: ``directory`` without secrets, and a stop that lets it save its state."""
    excludes = [*SECRETS, *BULKY]
    token = addresses.token_file().absolute()
    if token.is_relative_to(directory):
        excludes.append(f"/{token.relative_to(directory).as_posix()}")
    variables = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    return {"working_dir": str(directory), "excludes": excludes, "env_vars": variables}


def _connect(address: str) -> Any:
    import logging

    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)  # each took a level of its own when imported
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        file = addresses.token_file()
        raise UserError(f"{address} wants a token and got none or another; put the cluster's into {file}") from error
    except (ConnectionError, RuntimeError, requests.exceptions.RequestException) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"no Ray dashboard answers at {address} ({reason}); start a cluster with `ray start --head`, or reach it "
            "with `ray dashboard cluster.yaml`"
        ) from error


class Follower:
    """Shows the log of a job until it ends, over lost connections too."""

    def __init__(self, client: Any, job: str, address: str):
        """Args: ``client``, a JobSubmissionClient; ``job``, a submission id; ``address`` of the dashboard."""
        self.client, self.job = client, job
        self.shown = 0
        mode = "RAY_AUTH_MODE=token " if os.environ.get(addresses.AUTH_MODE) == "token" else ""
        self.how = f"follow it with `{mode}ray job logs --follow --address {address} {job}`"
        self.stop = f"stop it with `{mode}ray job stop --address {address} {job}`"

    def to_the_end(self, out: Path) -> int:
        """Follow the job, bring its summary to ``out`` and return its exit code."""
        stopping = False
        while True:
            try:
                info = self._ended()
                break
            except KeyboardInterrupt:
                if stopping or not _asks(f"\nstop job {self.job}? [y/N] "):
                    runs = "is still stopping" if stopping else "runs on"
                    raise KeyboardInterrupt(f"job {self.job} {runs}; {self.how}; {self.stop}") from None
                self.client.stop_job(self.job)
                stopping = True
                print(f"stopping job {self.job}, which saves its state first", file=sys.stderr, flush=True)
        log = self.client.get_job_logs(self.job)
        self._show(log)
        if info.status == "STOPPED":
            print(f"dreamrl: job {self.job} was stopped", file=sys.stderr)
            return EXIT_INTERRUPTED
        if info.status == "FAILED":
            code = info.driver_exit_code or 1
            print(f"dreamrl: job {self.job} failed with exit code {code}", file=sys.stderr)
            return code
        _, found, summary = log.partition(f"\n{MARK}\n")
        if found:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / "summary.json", json.dumps(json.loads(summary), indent=1) + "\n")
            print(f"summary of job {self.job} in {out / 'summary.json'}")
        return EXIT_OK

    def _ended(self) -> Any:
        """What Ray knows of the job once it has ended."""
        import asyncio

        import aiohttp
        import requests

        failures = 0
        while True:
            before = self.shown
            try:
                asyncio.run(self._tail())
                info = self.client.get_job_info(self.job)
                if info.status.is_terminal():
                    return info
            except (OSError, RuntimeError, aiohttp.ClientError, requests.exceptions.RequestException) as error:
                failures = 1 if self.shown > before else failures + 1
                if failures > RETRIES:
                    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                    raise UserError(f"lost job {self.job} ({reason}), which may run on; {self.how}") from error
            time.sleep(RETRY_SECONDS)

    async def _tail(self) -> None:
        log = ""
        async for lines in self.client.tail_job_logs(self.job):
            log += lines
            self._show(log)

    def _show(self, log: str) -> None:
        """Print what of ``log`` is new, up to the summary; each connection brings the log from its beginning."""
        before, found, _ = log.partition(f"\n{MARK}\n")
        text = before + "\n" if found else log
        print(text[self.shown :], end="", flush=True)
        self.shown = max(self.shown, len(text))


def _asks(question: str) -> bool:
    """Whether the user says yes; a second Ctrl-C and an input that is closed mean no."""
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return input().strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False
