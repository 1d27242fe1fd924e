"""Starting a Ray of one's own on a machine that is too busy for it."""

import subprocess
import sys
import time

import psutil
import pytest

from dreamrl import cluster
from dreamrl.errors import UserError

SLEEP = [sys.executable, "-c", "import subprocess, time; p = subprocess.Popen(['sleep', '300']); time.sleep(300)"]


class SlowRay:
    """Is not up in time for some attempts, and leaves behind what it started, as Ray does."""

    def __init__(self, failures, message="The current node timed out during startup. This could happen because"):
        self.failures, self.message, self.started, self.asked = failures, message, [], []

    def init(self, **options):
        self.asked.append(options)
        self.started.append(process := subprocess.Popen(SLEEP))
        while not psutil.Process(process.pid).children():
            time.sleep(0.01)
        self.below = [*getattr(self, "below", []), *psutil.Process(process.pid).children()]
        if len(self.asked) <= self.failures:
            raise Exception(self.message)

    def ended(self):
        return [process.poll() is not None for process in self.started]

    def close(self):
        for process in self.started:
            cluster.end_tree(psutil.Process(process.pid)) if process.poll() is None else None
            process.wait()


@pytest.fixture
def slow_ray(monkeypatch):
    monkeypatch.setattr(cluster, "make_token", lambda: None)
    made = []

    def make(*args):
        made.append(SlowRay(*args))
        return made[-1]

    yield make
    for ray in made:
        ray.close()


def wait_until(found):
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_tried_again_and_what_was_left_behind_is_ended(slow_ray, capsys):
    ray = slow_ray(2)
    cluster.start_local(ray, 3, log_to_driver=False)
    assert [(asked["num_cpus"], asked["address"], asked["log_to_driver"]) for asked in ray.asked] == [
        (3, "local", False)
    ] * 3
    wait_until(lambda: ray.ended() == [True, True, False])
    wait_until(
        lambda: [p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in ray.below] == [False, False, True]
    )
    assert capsys.readouterr().out.splitlines() == [
        f"Ray did not start within half a minute; trying again ({n} of 3)" for n in (2, 3)
    ]


def test_it_is_given_up_with_one_line(slow_ray, capsys):
    ray = slow_ray(9)
    with pytest.raises(UserError, match=r"3 times: close other programs and try again; a run goes on with --resume$"):
        cluster.start_local(ray, 1)
    wait_until(lambda: ray.ended() == [True] * 3)


def test_other_errors_are_raised_at_once(slow_ray):
    ray = slow_ray(9, "no space left")
    with pytest.raises(Exception, match="no space left"):
        cluster.start_local(ray, 1)
    assert len(ray.asked) == 1


def test_ending_what_is_gone_already_is_no_error():
    process = subprocess.Popen(["true"])
    gone = psutil.Process(process.pid)
    process.wait()
    cluster.end_tree(gone)
    assert not gone.is_running()
