"""The real server: Ray Serve in processes of its own, under load, and robbed of a replica."""

import contextlib
import http.client
import json
import re
import signal
import threading
import time

import psutil
import pytest
from programs import finish, start

from dreamrl.bench.serve import REPLICA, _ask, load
from dreamrl.generate import generate
from dreamrl.saving import save_pretrained
from dreamrl.serving.launch import free_port

pytestmark = [pytest.mark.slow, pytest.mark.ray]
PLAN = "Find the shortest safe path to the gift."


@pytest.fixture
def server(loaded, tmp_path):
    """The process of ``dreamrl serve`` with two replicas, its port, what it prints, and the thread that reads that."""
    save_pretrained(loaded, tmp_path / "model")
    port, printed = free_port("127.0.0.1", 0), []
    process = start("serve", str(tmp_path / "model"), "--port", str(port), "--replicas", "2")

    def read():
        for line in process.stdout:
            printed.append(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        wait_until(lambda: any(line.startswith("serving") for line in printed), process, printed)
        yield process, port, printed, reader
    finally:
        if process.poll() is None:
            kill_all(process)


def wait_until(found, process, printed, seconds=500):
    """Until ``found()`` is true; fails with what the process has ``printed`` if it ends before."""
    deadline = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, "".join(printed)
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def kill_all(process):
    """The server and what it has started, some of which is in sessions of its own."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(60)


def replicas_of(process):
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if REPLICA in "".join(child.cmdline())]


def test_it_answers_loses_nothing_with_a_replica_and_stops_when_told(server, loaded):
    process, port, printed, reader = server
    assert f"http://127.0.0.1:{port}" in "".join(printed)
    assert len(replicas_of(process)) == 2
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/generate", json.dumps({"seed": 5, "prompt": PLAN, "dreams": 2}), headers)
    body = json.loads(connection.getresponse().read())
    assert body["text"] == generate(loaded, PLAN, scene=drawn(loaded, 5), seed=5, num_dreams=2)["text"]

    victim = replicas_of(process)[0]
    result = load(port, clients=8, requests=48, dreams=2, seed=0, meanwhile=victim.kill)
    assert result.faults == [] and len(result.latencies) == 48
    assert not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE

    leaving = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    leaving.request("POST", "/v1/stream", json.dumps({"seed": 1, "dreams": 32}), headers)
    assert leaving.getresponse().read(7) == b"event: "
    leaving.close()
    # The one that is open is this question itself.
    wait_until(lambda: metric(connection, "dreamrl_open_requests") == 1, process, printed)
    fault, _ = _ask(connection, {"dreams": 99})
    assert fault.startswith("422: dreams: Input should be less than or equal to 32")

    process.send_signal(signal.SIGINT)
    process.wait(120)
    reader.join(60)
    assert process.returncode == 0 and printed[-1] == "stopping\n"


def drawn(loaded, seed):
    from envs.questions import stream
    from envs.world import Split

    rng = stream(seed, 10)
    return loaded.world.sample_scene(rng, Split.TEST, int(rng.choice(loaded.world.sizes)))


def metric(connection, name):
    connection.request("GET", "/v1/metrics")
    return int(re.search(rf"^{name} (\d+)$", connection.getresponse().read().decode(), re.MULTILINE)[1])


def test_it_does_not_start_for_other_machines_without_a_token(loaded, tmp_path):
    save_pretrained(loaded, tmp_path / "model")
    process = start("serve", str(tmp_path / "model"), "--host", "0.0.0.0")
    assert "which needs a token" in finish(process, code=2)
