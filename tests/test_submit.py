"""What ``dreamrl submit`` refuses, what the job runs, and what is uploaded, with Ray's own packaging."""

import io
import json
import shlex
import socket
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private.runtime_env.packaging import create_package
from ray.job_submission import JobStatus
from ray_tokens import without_token, write_token

from dreamrl.errors import UserError
from dreamrl.submit import (
    BULKY,
    MARK,
    RETRIES,
    SECRETS,
    Follower,
    check_dashboard,
    check_directory,
    entrypoint_of,
    runtime_env,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_token(monkeypatch, tmp_path):
    return without_token(monkeypatch, tmp_path / "home")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("", "submit what?"),
        ("trian --out /shared/run", 'unknown command "trian"; did you mean "train"?'),
        ("train --presett nano --out /shared/run", 'dreamrl train has no flag "--presett"; did you mean "--preset"?'),
        ("train --out /shared/run ppo.lrr=1", 'unknown key "ppo.lrr"'),
        ("train", "give --out an absolute path"),
        ("train --out run", "--out (run) must be an absolute path"),
        ("ppo --model my-model --out /shared/run", "--model (my-model) must be an absolute path"),
        ("train --out /shared/run --data data", "--data (data) must be an absolute path"),
        ("train --out /shared/run --config /etc/c.yaml", "--config (/etc/c.yaml) must be a relative path"),
        ("train --out /shared/run --config ../c.yaml", "--config (../c.yaml) must be a relative path"),
        ("tune /etc/search.yaml --out /shared/search", "FILE (/etc/search.yaml) must be a relative path"),
        ("train --out /shared/run --address ray://10.0.0.5:10001", "drop --address ray://10.0.0.5:10001"),
        ("eval frozen-lake --world frozen_lake", "`eval` does not use a cluster"),
        ("submit train --out /shared/run", "`submit` does not use a cluster"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_sent(no_token, refused, monkeypatch, command, told):
    monkeypatch.chdir(no_token)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert told in refused("submit", "--address", address, "--wait", *command.split())
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            "train --preset nano --out /shared/run ppo.lr=1e-3",
            "train --address auto --preset nano --out /shared/run ppo.lr=1e-3",
        ),
        ("pretrain --address local --out /shared/run", "pretrain --address auto --out /shared/run"),
        ("pretrain --address=auto --out /shared/run", "pretrain --address auto --out /shared/run"),
        ("collect --world minigrid --num 8 --out /d", "collect --address auto --world minigrid --num 8 --out /d"),
    ],
)
def test_the_job_runs_the_same_command_on_the_cluster(command, line):
    done, _, summary = entrypoint_of(command.split()).partition(" && ")
    assert done == f"python -m dreamrl {line}"
    evaluates = command.startswith("train")
    assert summary.endswith("cat /shared/run/summary.json" if evaluates else "")
    assert bool(summary) == evaluates


def test_what_a_shell_would_change_is_quoted():
    words = shlex.split(entrypoint_of(["train", "--out", "/shared/my run; rm", "world.sizes=[3,4]"]))
    assert words.count("/shared/my run; rm") == 1
    assert "/shared/my run; rm/summary.json" in words
    assert "world.sizes=[3,4]" in words


@pytest.mark.parametrize(
    "address",
    [
        "ray://127.0.0.1:10001",
        "127.0.0.1:8265",
        "auto",
        "http://",
        "http://h:99999",
        "http://h/path",
        "http://[x]:1",
        "http://u:p@h:1",
    ],
)
def test_a_dashboard_has_a_url(no_token, address):
    with pytest.raises(UserError, match="--address"):
        check_dashboard(address)


def test_a_dashboard_of_another_machine_needs_a_token_and_is_warned_of(no_token, monkeypatch, capsys):
    with pytest.raises(UserError, match="export RAY_AUTH_MODE=token"):
        check_dashboard("https://10.0.0.5:8265")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    write_token(no_token)
    assert check_dashboard("https://10.0.0.5:8265/") == "https://10.0.0.5:8265"
    assert capsys.readouterr().err == ""
    check_dashboard("http://10.0.0.5:8265")
    assert "is not encrypted" in capsys.readouterr().err
    check_dashboard("http://127.0.0.1:8265")
    assert capsys.readouterr().err == ""


def test_the_environment_cannot_lead_to_an_unchecked_dashboard(no_token, refused, monkeypatch):
    monkeypatch.chdir(no_token)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://10.0.0.5:8265")
    assert "http://10.0.0.5:8265 is another machine" in refused("submit", "train", "--out", "/shared/run")


def test_a_whole_home_does_not_travel(no_token):
    for directory in (no_token, Path("/")):
        with pytest.raises(UserError, match="change into the project's directory"):
            check_directory(directory)
    check_directory(no_token / "project")


KEPT = ["train.py", "package/__init__.py", "package/environment.py", "data/tokens.json", "envs/world.py", "keys.py"]
LEFT = [
    ".env", ".env.local", ".envrc", "prod.env", "package/.env", "id_rsa", "id_ed25519.pub", ".ssh/config", "server.pem",
    "package/deep/private.key", "auth_token", ".ray/auth_token", "my.token", ".netrc", ".pypirc", ".aws/credentials",
    "credentials.json", "client_secret_1.json", "service_account-x.json", "secrets.yaml", ".kube/config", "a.p12",
    "runs/train/model.bin", ".venv/bin/python", "venv/x", ".git/config", "package/__pycache__/a.pyc", "x.egg-info/PKG",
    "b.pfx",
]  # fmt: skip


def packed(directory, archive, excludes):
    """Names of what Ray would upload of ``directory``."""
    create_package(str(directory), archive, include_gitignore=True, excludes=excludes)
    return {name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")}


@pytest.fixture
def project(tmp_path):
    """A directory with everything that people keep beside their code."""
    directory = tmp_path / "project"
    for name in [*KEPT, *LEFT, "odd"]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return directory


def test_secrets_do_not_travel_with_submit(no_token, project, monkeypatch, tmp_path):
    assert packed(project, tmp_path / "all.zip", []) == {*KEPT, *LEFT, "odd"}  # Ray by itself sends everything
    assert packed(project, tmp_path / "a.zip", runtime_env(project)["excludes"]) == {*KEPT, "odd"}
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(project / "odd"))
    assert packed(project, tmp_path / "b.zip", runtime_env(project)["excludes"]) == set(KEPT)


def test_secrets_do_not_travel_with_ray_job_submit(project, tmp_path):
    (project / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    assert packed(project, tmp_path / "a.zip", []) == {*KEPT, "odd", ".rayignore"}


def test_both_lists_are_one():
    lines = (ROOT / ".rayignore").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [*SECRETS, *BULKY]


def test_this_repository_travels_without_what_no_job_needs(tmp_path):
    names = packed(ROOT, tmp_path / "a.zip", [])
    assert names >= {
        p.relative_to(ROOT).as_posix() for part in ("dreamrl", "envs") for p in (ROOT / part).rglob("*.py")
    }
    assert names >= {p.relative_to(ROOT).as_posix() for p in (ROOT / "dreamrl/models").rglob("*") if p.is_file()}
    assert not [name for name in names if name.split("/")[0] in ("runs", ".venv", ".git")]
    assert sum(zipfile.ZipFile(tmp_path / "a.zip").getinfo(name).file_size for name in names) < 100 * 2**20


class Job:
    """A job's log, read over a connection that breaks: each entry is what one connection brings, and how it ends."""

    def __init__(self, connections, status="SUCCEEDED", code=0):
        self.connections, self.ended = (
            iter(connections),
            SimpleNamespace(status=JobStatus(status), driver_exit_code=code),
        )
        self.log, self.stops = "", 0

    async def tail_job_logs(self, job):
        lines, end = next(self.connections)
        self.log = "".join(lines)
        for line in lines:
            yield line
        if end is not None:
            raise end

    def get_job_info(self, job):
        return self.ended

    def get_job_logs(self, job):
        return self.log

    def stop_job(self, job):
        self.stops += 1


def follow(monkeypatch, job, out, typed=""):
    monkeypatch.setattr("dreamrl.submit.RETRY_SECONDS", 0)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    return Follower(job, "job-1", "http://127.0.0.1:8265").to_the_end(out)


def test_a_lost_connection_is_made_again_and_shows_nothing_twice(monkeypatch, capsys, tmp_path):
    broken = [(["one\n"], RuntimeError("closed")), (["one\n", "two\n"], ConnectionResetError()), ([], OSError("gone"))]
    last = (["one\n", "two\n", "three", f"\n{MARK}\n", '{"seed": ', "3}\n"], None)
    assert follow(monkeypatch, Job([*broken, last]), tmp_path / "new" / "out") == 0
    file = tmp_path / "new" / "out" / "summary.json"
    assert capsys.readouterr().out == f"one\ntwo\nthree\nsummary of job job-1 in {file}\n"
    assert json.loads(file.read_text()) == {"seed": 3}


def test_a_connection_that_stays_lost_is_given_up(monkeypatch, tmp_path):
    job = Job([(["one\n"], RuntimeError("closed\nby peer"))] * (RETRIES + 1))
    with pytest.raises(UserError, match=r"^lost job job-1 \(closed\), which may run on; follow it with"):
        follow(monkeypatch, job, tmp_path)
    assert next(job.connections, None) is None


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 130), ("SUCCEEDED", 0, 0)],
)
def test_the_exit_code_is_that_of_the_job(monkeypatch, tmp_path, status, code, exit_code):
    assert follow(monkeypatch, Job([(["log\n"], None)], status, code), tmp_path / "out") == exit_code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("typed", "stops"), [("y\n", 1), ("YES\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
def test_ctrl_c_asks_before_it_stops_the_job(monkeypatch, capsys, tmp_path, typed, stops):
    job = Job([(["log\n"], KeyboardInterrupt()), (["log\n", "saved\n"], None)], "STOPPED")
    if stops:
        assert follow(monkeypatch, job, tmp_path, typed) == 130
        assert capsys.readouterr().out == "log\nsaved\n"
    else:
        with pytest.raises(KeyboardInterrupt, match="job job-1 runs on; follow it with .* stop it with"):
            follow(monkeypatch, job, tmp_path, typed)
    assert job.stops == stops
    assert "stop job job-1? [y/N]" in capsys.readouterr().err or stops


def test_a_second_ctrl_c_leaves_a_job_that_is_stopping(monkeypatch, tmp_path):
    job = Job([([], KeyboardInterrupt())] * 2)
    with pytest.raises(KeyboardInterrupt, match="job job-1 is still stopping"):
        follow(monkeypatch, job, tmp_path, "y\n")
    assert job.stops == 1
