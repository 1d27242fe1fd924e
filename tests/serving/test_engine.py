"""The engine: it batches, keeps to its limits, and outlives bad requests."""

import threading
import time

import pytest

from dreamrl.generate import question_about
from dreamrl.serving.engine import Engine, Job, as_refused
from dreamrl.serving.limits import Limits, Refused
from dreamrl.serving.requests import Edit
from dreamrl.serving.together import Wish
from envs.world import WorldError


class Inbox:
    """What an engine told about one job."""

    def __init__(self):
        self.told, self.ended = [], threading.Event()

    def __call__(self, kind, data):
        self.told.append((kind, data))
        if kind in ("answer", "error"):
            self.ended.set()

    @property
    def last(self):
        assert self.ended.wait(60)
        return self.told[-1]


@pytest.fixture
def make_engine(loaded):
    made = []

    def make(**limits):
        made.append(Engine(loaded, Limits(**limits)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def make_job(loaded):
    def make(seed=0, dreams=2, **choices):
        question, _ = question_about(loaded, "Give the shortest way to the gift.", None, None, seed)
        return Job(wish=Wish(question=question, seed=seed, dreams=dreams, temperature=3.0), tell=Inbox(), **choices)

    return make


class Gate:
    """A job's ``gone`` that holds the engine until it is opened: what comes meanwhile makes one batch."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def is_set(self):
        self.reached.set()
        assert self.opened.wait(60)
        return False


def test_what_waits_dreams_together(make_engine, make_job):
    engine, gate = make_engine(), Gate()
    first, rest = make_job(gone=gate), [make_job(seed) for seed in range(1, 6)]
    engine.submit(first)
    assert gate.reached.wait(60)
    for job in rest:
        engine.submit(job)
    assert engine.open == 6
    gate.opened.set()
    assert first.tell.last[1]["batch"] == 1
    assert [job.tell.last[1]["batch"] for job in rest] == [5] * 5
    assert engine.batches == [1, 5]


@pytest.mark.parametrize(("limits", "sizes"), [({"batch": 2}, [1, 2, 2, 1]), ({"batch_dreams": 6}, [1, 3, 2])])
def test_batches_are_bounded(make_engine, make_job, limits, sizes):
    engine, gate = make_engine(**limits), Gate()
    jobs = [make_job(gone=gate), *[make_job(seed) for seed in range(1, sum(sizes))]]
    engine.submit(jobs[0])
    assert gate.reached.wait(60)
    for job in jobs[1:]:
        engine.submit(job)
    gate.opened.set()
    assert [job.tell.last[0] for job in jobs] == ["answer"] * len(jobs)
    assert engine.batches == sizes


def test_who_comes_when_the_line_is_full_is_turned_away(make_engine, make_job):
    engine, gate = make_engine(requests=2), Gate()
    first = make_job(gone=gate)
    engine.submit(first)
    assert gate.reached.wait(60)
    engine.submit(make_job(1))
    with pytest.raises(Refused, match="2 requests are waiting") as refused:
        engine.submit(make_job(2))
    assert refused.value.status == 503
    gate.opened.set()
    assert first.tell.last[0] == "answer"
    wait_until(lambda: engine.open == 0)
    engine.submit(make_job(3))


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_left_frees_its_place_at_the_next_step(make_engine, make_job):
    engine = make_engine()
    job = next(job for seed in range(20) if min_steps(make_engine, job := make_job(seed, watch=True)) > 1)
    again = Job(wish=job.wish, tell=Inbox(), watch=True)
    tell = again.tell

    def leave(kind, data):
        tell(kind, data)
        if kind == "steps":
            again.gone.set()

    again.tell = leave
    engine.submit(again)
    assert tell.last[0] == "error"
    assert [kind for kind, _ in tell.told] == ["start", "steps", "error"]
    wait_until(lambda: engine.open == 0)


def min_steps(make_engine, job):
    """Events with steps that the whole job makes."""
    make_engine().submit(job)
    assert job.tell.last[0] == "answer"
    return sum(kind == "steps" for kind, _ in job.tell.told)


def test_who_watches_sees_every_step_once_and_in_order(make_engine, make_job):
    job = make_job(4, dreams=3, watch=True, pictures=True)
    make_engine().submit(job)
    kind, answer = job.tell.last
    assert kind == "answer" and [k for k, _ in job.tell.told][0] == "start"
    steps = [step for k, data in job.tell.told if k == "steps" for step in data["steps"]]
    by_dream = [[step for step in steps if step["dream"] == n] for n in range(3)]
    assert by_dream == [dream["steps"] for dream in answer["dreams"]]
    assert all(step["picture"].startswith("data:image/png;base64,") for step in steps)


def test_time_runs_out_for_one_and_not_for_the_others(make_engine, make_job):
    engine, gate = make_engine(seconds=3), Gate()
    engine.submit(make_job(gone=gate))
    assert gate.reached.wait(60)
    late, other = make_job(1, deadline=time.monotonic()), make_job(2)
    engine.submit(late)
    engine.submit(other)
    gate.opened.set()
    kind, error = late.tell.last
    assert kind == "error" and error.status == 504 and "within 3 seconds" in error.reason
    assert other.tell.last[0] == "answer"


def test_a_bad_request_spoils_nothing(make_engine, make_job):
    engine = make_engine()
    bad = make_job(1, edits=[Edit(dream=1, step=99, action="up")])
    worse = make_job(2)
    worse.wish.question.scene.grid = (0, 0)  # what no checked request can hold
    for job in (bad, worse, good := make_job(3)):
        engine.submit(job)
        assert job.tell.ended.wait(60)
    assert bad.tell.last[1].status == 400 and "edits[0].step (99) must be below" in bad.tell.last[1].reason
    assert as_refused(worse.tell.last[1]).status == 500
    assert good.tell.last[0] == "answer" and engine.alive


def test_reasons_are_told_and_bugs_are_not():
    assert as_refused(WorldError("no path\nfrom S")).reason == "no path from S"
    assert "secret" not in as_refused(KeyError("secret")).reason
