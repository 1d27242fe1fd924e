"""Ray clusters on this machine: a head and nodes in processes of their own, ended without touching any others."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
STARTED = "Ray runtime started"
STORE = 100 * 2**20
"""Object store of a node, in bytes."""


def free_ports(count):
    """Ports that nothing listens to; all are held at once so that they differ."""
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def alive(processes):
    """Those of ``processes`` that still run."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def below(process):
    """``process`` and all that it started, as far as they run."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        return alive([parent, *parent.children(recursive=True)])
    return []


def called(processes, name):
    """Those whose title begins with ``name``; Ray's workers bear the name of their actor or task."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            title = process.cmdline() or [""]
            if Path(title[0]).name.startswith(name) or title[0].startswith(name):
                found.append(process)
    return found


class Cluster:
    """A head on loopback with a home, a token and a temporary directory of its own, and the nodes that join it.

    ``root`` has a short path, because Ray keeps its sockets there.
    """

    def __init__(self, root):
        self.root, self.home, self.project = root, root / "home", root / "project"
        (self.home / ".ray").mkdir(parents=True)
        (self.home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
        self.project.mkdir()
        self.port, self.client_port = free_ports(2)
        self.address = f"127.0.0.1:{self.port}"
        self.nodes, self.drivers = [], []
        """Processes: the head, which is the first, and the others; ``dreamrl`` commands."""

    @property
    def head(self):
        return self.nodes[0]

    def start_head(self, cpus=0, environment=None, **flags):
        """Start the head, with more ``flags`` of ``ray start``; ``_`` stands for ``-``."""
        own = {"port": self.port, "temp_dir": self.root / "ray", "ray_client_server_port": self.client_port}
        own |= {"num_cpus": cpus, "include_dashboard": "false"}
        return self._start("--head", environment=environment, **own | flags)

    def add_node(self, cpus):
        """Start a node that offers ``cpus``."""
        return self._start(address=self.address, num_cpus=cpus)

    def dreamrl(self, *arguments):
        """Start ``dreamrl ARGUMENTS`` on this cluster."""
        return self._drive("-m", "dreamrl", *arguments, "--address", self.address)

    def python(self, program, *arguments, **environment):
        """Start a program in Python that may join this cluster."""
        return self._drive("-c", program, *arguments, **environment)

    def _drive(self, *words, **environment):
        driver = subprocess.Popen(
            [sys.executable, *words],
            cwd=self.project, env=self.environment(**environment), text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.drivers.append(driver)
        return driver

    def environment(self, **more):
        """What a user's shell has who uses this cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept |= {"HOME": str(self.home), "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
        return kept | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"} | more

    def _start(self, *words, environment=None, **flags):
        flags = {
            "node_ip_address": "127.0.0.1", "object_store_memory": STORE, "min_worker_port": 0, "max_worker_port": 0,
            "dashboard_agent_listen_port": 0,
        } | flags  # fmt: skip
        options = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        path = self.root / f"node-{len(self.nodes)}.log"
        with path.open("w") as log:
            node = subprocess.Popen(
                [BIN / "ray", "start", "--block", *words, *options],
                env=self.environment(**environment or {}), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.nodes.append(node)
        wait_until(lambda: STARTED in path.read_text(), lambda: node.poll() is None, path.read_text)
        return node

    def kill(self, node):
        """Let ``node`` vanish, as a machine does that loses its power."""
        for process in below(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def words_of_the_autoscaler(self):
        """What Ray's autoscaler has written about what it did."""
        return "".join(path.read_text() for path in (self.root / "ray").glob("session_2*/logs/monitor.log"))

    def end(self):
        """End what this started and nothing else."""
        tops = [*self.drivers, *reversed(self.nodes)]
        started = [process for top in tops for process in below(top)]
        for top in tops:
            top.terminate()
        psutil.wait_procs(started, timeout=5)
        # A raylet that was just starting its helpers has lost them: they are known by the directory.
        lost = [
            p for p in psutil.process_iter(["cmdline"]) if any(str(self.root) in w for w in p.info["cmdline"] or ())
        ]
        for process in alive([*started, *lost]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for top in tops:
            top.wait()


@contextlib.contextmanager
def cluster():
    """A :class:`Cluster` for a while, its head not started yet; its directory goes with it."""
    root = Path(tempfile.mkdtemp(prefix="dr", dir="/tmp"))
    made = Cluster(root)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(root, ignore_errors=True)


def wait_until(found, going=lambda: True, told=lambda: "", seconds=120):
    """Until ``found()`` is true; fails with what ``told()`` says when it takes too long or no longer goes on."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert going() and time.monotonic() < deadline, told()
        time.sleep(0.2)
    return result
