"""The server under load: one client against many, and what a killed replica costs.

Clients are threads of this process, each with one connection over which it asks one question after the other. Every
question is about another held-out scene. Client, gateway and replicas share the machine.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from dreamrl.bench.run import at_least_one
from dreamrl.errors import UserError
from dreamrl.printing import markdown_table

REPLICA = "ray::ServeReplica:dreamrl:Dreamer"
"""Name of the processes that hold the model."""
TIMEOUT_SECONDS = 600.0
"""Of one request: on a machine that is busy with other things, slow is not lost."""
WARM_SEED = 10**6
"""Seeds of the requests that do not count begin here."""


@dataclass(kw_only=True)
class Load:
    """What one load was answered with."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Processor time of clients, gateway and replicas; a replica that was killed is not in it."""
    faults: list[str] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Latency in seconds below which ``share`` of the requests stay."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def bench(
    model_dir: str = "frozen-lake",
    clients: int = 32,
    requests: int = 320,
    alone: int = 40,
    dreams: int = 4,
    replicas: int = 2,
    kill: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Throughput and latency of one client and of many at a time.

    Args:
        model_dir: the model, or the name of a shipped one.
        clients: that ask at the same time.
        requests: of all clients together.
        alone: requests of the one client.
        dreams: of each request.
        replicas: processes that hold the model.
        kill: as a third load, that of many clients again, with one replica killed (SIGKILL) after a third of it.
        seed: of the scenes.

    Returns:
        ``one``, ``many`` and, with ``kill``, ``robbed``: ``throughput`` in answers per second, ``p50_ms``, ``p95_ms``,
        ``batch`` (mean number of requests that dreamed together), ``cpu_ms`` (processor time of an answer, whoever
        else keeps the machine busy); ``speedup`` and ``cpu_speedup``; ``lost``, the requests that were not answered,
        and their ``faults``; with ``kill`` also ``retries``.
    """
    at_least_one(clients=clients, requests=requests, alone=alone, replicas=replicas)
    from dreamrl.serving.launch import free_port, serving
    from dreamrl.serving.limits import Limits
    from dreamrl.shipped import model_directory

    directory = model_directory(model_dir)
    port = free_port("127.0.0.1", 0)
    limits = Limits(seconds=TIMEOUT_SECONDS)
    with serving(directory, str(model_dir), None, "127.0.0.1", port, replicas, None, limits):
        load(port, clients, clients * replicas, dreams, WARM_SEED)
        alone_load = load(port, 1, alone, dreams, seed)
        loads = {"one": alone_load, "many": load(port, clients, requests, dreams, seed + alone)}
        if kill:
            loads["robbed"] = load(port, clients, requests, dreams, seed + alone + requests, _kill_one)
        retries = _metric(port, "dreamrl_retries_total")
    result: dict[str, Any] = {name: _summary(one) for name, one in loads.items()}
    result["speedup"] = round(loads["many"].throughput / alone_load.throughput, 2)
    result["cpu_speedup"] = round(result["one"]["cpu_ms"] / result["many"]["cpu_ms"], 2)
    result["lost"] = sum(len(one.faults) for one in loads.values())
    result["faults"] = sorted({fault for one in loads.values() for fault in one.faults})
    if kill:
        result["retries"] = retries
    columns = ("throughput", "p50_ms", "p95_ms", "batch", "cpu_ms")
    rows = [[name, *(f"{result[name][column]:.1f}" for column in columns)] for name in loads]
    print(
        "\n".join(
            markdown_table(["load", "answers/s", "p50 ms", "p95 ms", "dreamed together", "cpu ms an answer"], rows)
        )
    )
    return result


def load(
    port: int, clients: int, requests: int, dreams: int, seed: int, meanwhile: Callable[[], None] | None = None
) -> Load:
    """``requests`` of ``clients`` at a time; ``meanwhile`` is called once, when a third of them is answered."""
    result, numbers, lock = Load(), itertools.count(), threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        while (number := next(numbers)) < requests:
            started = time.perf_counter()
            fault, batch = _ask(connection, {"seed": seed + number, "dreams": dreams})
            with lock:
                if fault:
                    result.faults.append(fault)
                else:
                    result.latencies.append(time.perf_counter() - started)
                    result.batches.append(batch)
                due = not fault and len(result.latencies) == max(1, requests // 3)
            if due and meanwhile is not None:
                meanwhile()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    started, before = time.perf_counter(), _cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds, after = time.perf_counter() - started, _cpu_seconds()
    result.cpu_seconds = sum(after[pid] - before.get(pid, 0.0) for pid in after)
    return result


def _cpu_seconds() -> dict[int, float]:
    """Processor time so far of this process and of each that it has started, by process id."""
    used = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[process.pid] = times.user + times.system
    return used


def _ask(connection: http.client.HTTPConnection, request: dict[str, Any]) -> tuple[str, int]:
    """What went wrong, if anything, and how many requests dreamed together."""
    try:
        connection.request("POST", "/v1/generate", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        return f"{type(error).__name__}: {error}", 0
    if response.status != 200:
        return f"{response.status}: {body.get('error')}", 0
    return "", body["batch"]


def _kill_one() -> None:
    """Kill one replica, as the kernel would."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::") and REPLICA in "".join(process.cmdline()):
            process.kill()
            return
    raise RuntimeError("no replica found")


def _metric(port: int, name: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    connection.request("GET", "/v1/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return int(next(line.split()[-1] for line in lines if line.startswith(name + " ")))


def _summary(result: Load) -> dict[str, float]:
    if not result.latencies:
        raise UserError(f"no request was answered: {result.faults[:1]}")
    return {
        "throughput": round(result.throughput, 2),
        "p50_ms": round(1000 * result.quantile(0.5), 1),
        "p95_ms": round(1000 * result.quantile(0.95), 1),
        "batch": round(statistics.mean(result.batches), 2),
        "cpu_ms": round(1000 * result.cpu_seconds / len(result.latencies), 1),
    }
