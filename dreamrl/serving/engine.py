"""The engine: one thread that owns the model and dreams for all requests that wait.

While a batch is dreamed, the next one gathers. A request that comes alone starts at once; under load, the engine waits
a few milliseconds for the others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dreamrl.errors import UserError
from dreamrl.imagine import Imagined
from dreamrl.judge import Judge
from dreamrl.pictures import data_url
from dreamrl.saving import Loaded
from dreamrl.serving.edits import edit_dreams, edited_result
from dreamrl.serving.limits import BAD_REQUEST, LIMITS, OVERLOADED, TOO_SLOW, Limits, Refused
from dreamrl.serving.requests import Edit
from dreamrl.serving.results import first_picture, result_of, step_pictures, step_words
from dreamrl.serving.together import Wish, answer_together, imagine_together
from envs.world import WorldError

GATHER_SECONDS = 0.004
"""When the batch before had several requests, the next one begins when no further one has come for this long."""
LONGEST_GATHER_SECONDS = 0.05
"""It waits no longer than this, whatever comes."""


@dataclass(eq=False, kw_only=True)
class Job:
    """One request in the engine.

    Everything is told through ``tell(kind, data)``, called in the engine's thread: ``start``, ``steps`` (only to those
    who ``watch``), and at the end either ``answer`` with the result or ``error`` with a :class:`Refused`.
    """

    wish: Wish
    tell: Callable[[str, Any], None]
    warnings: list[str] = field(default_factory=list)
    output: str = "text"
    pictures: bool = False
    watch: bool = False
    edits: Sequence[Edit] = ()
    deadline: float = float("inf")
    """``time.monotonic()`` after which nobody waits any more."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when the client has left."""
    told: np.ndarray | None = None
    """(N,) steps of each dream that were told."""

    def given_up(self) -> bool:
        """Whether no more work should go into it."""
        return self.gone.is_set() or time.monotonic() > self.deadline


class Engine:
    """Takes jobs from any thread and answers them in batches.

    Args:
        loaded: the model; nobody else may use it meanwhile.
        limits: how many requests may wait and dream together.
    """

    def __init__(self, loaded: Loaded, limits: Limits = LIMITS):
        """See the class."""
        self.loaded, self.limits = loaded, limits
        self.judge = Judge(loaded.model)
        self.batches: list[int] = []
        """Sizes of the latest batches."""
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None ends the thread
        self._kept: Job | None = None
        self._open = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="dreams", daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """Requests that wait or are in work."""
        return self._open

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Put ``job`` in line; :class:`Refused` if the line is full."""
        with self._lock:
            if self._open >= self.limits.requests:
                raise Refused(OVERLOADED, f"{self._open} requests are waiting already; try again in a moment")
            self._open += 1
        self._queue.put(job)

    def close(self) -> None:
        """End the thread after the batch in work."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            jobs = self._gather()
            if not jobs:
                return
            try:
                wanted = [job for job in jobs if not job.given_up()]
                if wanted:
                    self.batches = [*self.batches[-99:], len(wanted)]
                    self._serve(wanted)
                _tell_all([job for job in jobs if job not in wanted], "error", Refused(TOO_SLOW, self._slow))
            except Exception as error:  # one bad request must not end the engine
                _tell_all(jobs, "error", error)
            finally:
                with self._lock:
                    self._open -= len(jobs)

    @property
    def _slow(self) -> str:
        return f"no answer within {self.limits.seconds:g} seconds; ask for fewer dreams, or try again later"

    def _gather(self) -> list[Job]:
        """The next batch, at least one job; none at the end."""
        first = self._kept or self._queue.get()
        self._kept = None
        if first is None:
            return []
        jobs, dreams = [first], first.wish.dreams
        busy = bool(self.batches) and self.batches[-1] > 1
        end = time.monotonic() + (LONGEST_GATHER_SECONDS if busy else 0.0)
        while len(jobs) < self.limits.batch:
            try:
                wait = min(GATHER_SECONDS, end - time.monotonic())
                job = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)
                break
            if dreams + job.wish.dreams > self.limits.batch_dreams:
                self._kept = job
                break
            jobs.append(job)
            dreams += job.wish.dreams
        return jobs

    @torch.inference_mode()
    def _serve(self, jobs: list[Job]) -> None:
        """Dream, tell, answer."""
        started, wishes = time.monotonic(), [job.wish for job in jobs]

        def on_step(imagined: Imagined) -> None:
            for index, job in enumerate(jobs):
                if job.watch and not job.given_up():
                    self._tell_steps(job, imagined, index)

        imagined = imagine_together(
            self.loaded, wishes, self.judge, on_step=on_step, given_up=lambda index: jobs[index].given_up()
        )
        answered = answer_together(self.loaded, imagined, wishes)
        shared = {"batch": len(jobs), "seconds": round(time.monotonic() - started, 4)}
        for index, job in enumerate(jobs):
            if index not in answered:
                job.tell("error", Refused(TOO_SLOW, self._slow))
                continue
            try:
                job.tell("answer", self._result(job, *answered[index]) | shared)
            except (Refused, UserError, WorldError) as error:
                job.tell("error", error)

    def _result(self, job: Job, imagined: Imagined, answers: Any) -> dict[str, Any]:
        choices = {"output": job.output, "pictures": job.pictures}
        before = result_of(self.loaded, imagined, answers, job.warnings, **choices)
        if not job.edits:
            return before
        edited, says, changed = edit_dreams(imagined, self.loaded.world, job.edits, job.wish.seed)
        [(one, new)] = answer_together(self.loaded, edited, [job.wish]).values()
        after = result_of(self.loaded, one, new, job.warnings, **choices, rewarded=False)
        return edited_result(before, after, says, changed)

    def _tell_steps(self, job: Job, imagined: Imagined, index: int) -> None:
        """What a client sees that watches: the first picture, then every new step."""
        lengths = imagined.batch.lengths[index, : job.wish.dreams].copy()
        before, job.told = job.told, lengths
        if before is None:
            before = np.zeros_like(lengths)
            scene = job.wish.question.scene
            start = {"question": job.wish.question.text, "warnings": job.warnings, "dreams": job.wish.dreams}
            start |= {"grid": list(scene.grid), "patch_size": self.loaded.world.patch_size}
            if job.pictures:
                start["picture"] = data_url(first_picture(self.loaded, imagined, index))
            job.tell("start", start)
        steps = []
        for n, (told, length) in enumerate(zip(before.tolist(), lengths.tolist(), strict=True)):
            for t in range(told, length):
                step = step_words(self.loaded, imagined, index, n, t)
                if job.pictures:
                    pictures = step_pictures(self.loaded, imagined, index, n, t)
                    step |= {k: data_url(v) for k, v in pictures.items()}
                steps.append(step)
        if steps:
            job.tell("steps", {"steps": steps})


def _tell_all(jobs: Sequence[Job], kind: str, data: Any) -> None:
    for job in jobs:
        job.tell(kind, data)


def as_refused(error: BaseException) -> Refused:
    """What the client is told: a mistake of its own by name, anything else without details."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, UserError | WorldError):
        return Refused(BAD_REQUEST, " ".join(str(error).split()))
    return Refused(500, "something went wrong inside; the server's log says what")
