"""``dreamrl submit`` against a real head on this machine, with its dashboard and its token."""

import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from ray_nodes import free_ports

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent
TINY = (
    "ppo.iterations=1", "ppo.questions_per_iteration=8", "ppo.epochs=1", "ppo.minibatch_size=16",
    "ppo.replay_scenes=1",
    "ppo.num_learners=0", "eval.num_items=8", "eval.dreams=[1]", "eval.bootstrap=10",
)  # fmt: skip
LONG = (
    "world.sizes=[2]", "pretrain.steps=100000", "pretrain.scenes_per_step=8", "pretrain.checkpoint_every=4",
    "pretrain.num_workers=1", "model.embedding_dim=16", "model.num_heads=2", "model.codec_hidden=16",
)  # fmt: skip


class Head:
    """A head on loopback with a home, a token and a temporary directory of its own."""

    def __init__(self, root):
        self.root, self.home, self.project = root, root / "home", root / "project"
        self.token = secrets.token_hex(32)
        (self.home / ".ray").mkdir(parents=True)
        (self.home / ".ray" / "auth_token").write_text(self.token)
        self.project.mkdir()
        for name in (".env", "key.pem", "auth_token", "id_rsa"):
            (self.project / name).write_text(self.token)
        (self.project / "notes.txt").write_text("travels")
        gcs, self.port, agent, client = free_ports(4)
        self.address = f"http://127.0.0.1:{self.port}"
        flags = {
            "port": gcs, "dashboard-port": self.port, "dashboard-agent-listen-port": agent,
            "ray-client-server-port": client, "dashboard-host": "127.0.0.1", "node-ip-address": "127.0.0.1",
            "temp-dir": root / "ray", "num-cpus": 4, "object-store-memory": 100 * 2**20, "min-worker-port": 0,
            "max-worker-port": 0,
        }  # fmt: skip
        self.clients = []
        self.log = (root / "head.log").open("w")
        self.process = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in flags.items())],
            env=self.environment(RAY_AUTH_MODE="token"), stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip

    def environment(self, **more):
        """What a user's shell has who uses this head; ``dreamrl submit`` turns authentication on by itself."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept |= {"HOME": str(self.home), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_TMPDIR": str(self.root / "ray")}
        return kept | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"} | more

    def dreamrl(self, *arguments):
        client = subprocess.Popen(
            [sys.executable, "-m", "dreamrl", "submit", "--address", self.address, *arguments],
            cwd=self.project, env=self.environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.clients.append(client)
        return client

    def ray(self, command):
        """Run a command line that a message gave, as a user would paste it."""
        return subprocess.run(
            command, shell=True, env=self.environment(), capture_output=True, text=True, check=True, timeout=400
        ).stdout

    def get(self, path, token=None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.address + path, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def jobs(self):
        return {job["submission_id"]: job for job in self.get("/api/jobs/", self.token)}

    def wait_until_up(self):
        deadline = time.monotonic() + 90
        while True:
            try:
                return self.jobs()
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, (self.root / "head.log").read_text()
                time.sleep(0.5)

    def end(self):
        """End what this started and nothing else."""
        started = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        started += [psutil.Process(client.pid) for client in self.clients if client.poll() is None]
        self.process.terminate()
        _, alive = psutil.wait_procs(started, timeout=5)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in (self.process, *self.clients):
            process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def head():
    root = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))  # Ray's sockets need a short path
    made = Head(root)
    try:
        made.wait_until_up()
        yield made
    finally:
        made.end()
        shutil.rmtree(root, ignore_errors=True)


def read_until(process, pattern, seconds=120):
    """What the process prints up to the line that ``pattern`` is found in."""
    text, deadline = "", time.monotonic() + seconds
    for line in process.stdout:
        text += line
        if re.search(pattern, line):
            return text
        assert time.monotonic() < deadline, text
    raise AssertionError(f"ended with {process.wait()}:\n{text}")


def interrupt(process, answer):
    """Ctrl-C, then ``answer`` to the question that follows; the rest of what it prints."""
    os.kill(process.pid, signal.SIGINT)
    return process.communicate(answer, timeout=400)[0]


def files_with(root, text):
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path for path in found if text.encode() in path.read_bytes()}


def test_a_job_runs_to_its_end_and_its_summary_comes_home(head):
    out = head.root / "shared" / "run"
    process = head.dreamrl(
        "--wait", "--out", str(head.root / "fetched"), "ppo", "--model", "frozen-lake", "--out", str(out), *TINY
    )
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    fetched = json.loads((head.root / "fetched" / "summary.json").read_text())
    assert fetched == json.loads((out / "summary.json").read_text())
    assert fetched["episodes"] == 8
    assert re.search(r"^ppo  1/1 .*EM", output, re.MULTILINE) and "exact match" in output
    assert "\ndreamrl-summary-json\n" not in output
    assert "packaging.py" not in output and "sdk.py" not in output  # Ray's own chatter on this side
    (job,) = head.jobs().values()
    assert job["status"] == "SUCCEEDED"
    assert job["entrypoint"].startswith("python -m dreamrl ppo --address auto --model frozen-lake ")
    packages = [path for path in (head.root / "ray").glob("session_*/runtime_resources/working_dir_files/*/*")]
    assert {path.name for path in packages} == {"notes.txt"}


def test_ctrl_c_leaves_the_job_running_or_stops_it(head):
    out = head.root / "shared" / "long"
    process = head.dreamrl("--wait", "pretrain", "--out", str(out), *LONG)
    read_until(process, r"^pretrain .*\d")
    output = interrupt(process, "n\n")
    assert process.returncode == 130, output
    job = next(name for name, job in head.jobs().items() if job["status"] == "RUNNING")
    assert f"stop job {job}? [y/N]" in output and f"job {job} runs on" in output
    stop = re.search(r"stop it with `([^`]+)`", output)[1]
    assert job in head.ray(stop)
    assert head.jobs()[job]["status"] == "STOPPED"
    log = head.get(f"/api/jobs/{job}/logs", head.token)["logs"]
    assert f"continue with `dreamrl pretrain --resume {out}`" in log  # said after it has saved, not when it is killed
    assert list(out.glob("checkpoints/pretrain-*"))

    process = head.dreamrl("--wait", "pretrain", "--resume", str(out))
    read_until(process, r"Running entrypoint")
    output = interrupt(process, "y\n")
    assert process.returncode == 130, output
    assert re.search(r"job (\S+) was stopped", output)
    assert [job["status"] for job in head.jobs().values() if str(out) in job["entrypoint"]] == ["STOPPED", "STOPPED"]


def test_a_job_that_fails_gives_its_exit_code(head):
    process = head.dreamrl("--wait", "train", "--resume", str(head.root / "missing"))
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 2, output
    assert "nothing to resume" in output and "failed with exit code 2" in output


def test_without_wait_it_says_how_to_follow(head):
    process = head.dreamrl("train", "--resume", str(head.root / "missing"))
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    follow = re.search(r"follow it with `([^`]+)`", output)[1]
    assert (
        "nothing to resume"
        in subprocess.run(
            follow, shell=True, env=head.environment(), capture_output=True, text=True, timeout=100
        ).stdout
    )


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_the_dashboard_refuses_who_has_no_token(head, token):
    with pytest.raises(urllib.error.HTTPError) as refused:
        head.get("/api/jobs/", token)
    assert refused.value.code in (401, 403)
    refused.value.close()
    environment = head.environment(RAY_AUTH_TOKEN=token or "", HOME=str(head.root))
    done = subprocess.run(
        [sys.executable, "-m", "dreamrl", "submit", "--address", head.address, "train", "--out", "/shared/run"],
        cwd=head.project, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"dreamrl: error: {head.address} wants a token and got none or another")
    assert done.stderr.count("\n") == 1


def test_the_token_is_nowhere_but_in_its_file(head):
    """After all of the above: not in logs, job metadata, configurations, checkpoints or what was uploaded."""
    assert len(list((head.root / "shared").rglob("config.yaml"))) == 2
    mine = {head.home / ".ray" / "auth_token", *(p for p in head.project.iterdir() if p.name != "notes.txt")}
    assert files_with(head.root, head.token) == mine
    assert head.token not in json.dumps(head.jobs())
    assert shlex.join(psutil.Process(head.process.pid).cmdline()).count(head.token) == 0
