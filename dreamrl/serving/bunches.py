"""Requests that come at about the same time go to a replica in one message, and dream together there.

A message between two processes of Ray costs as much processor time as a third of a dreamed answer, one with sixteen
requests hardly more than one with a single request; and sixteen dream together in six times the time of one. So
requests wait while every replica has some, which costs them nothing, and under load a little longer for those whose
clients were answered just now: most of them ask again, and the bunch leaves as soon as as many have come as were
answered. A request that comes while no other is away leaves at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dreamrl.serving.limits import Refused

QUIET_SECONDS = 0.006
"""A bunch leaves when nothing has come or gone for this long, times the requests that are away."""
LONGEST_SHARE = 0.4
"""It waits no longer for further ones than this share of the time that the latest bunch took."""
Reply = dict[str, Any] | Refused


class Bunches:
    """Gathers requests and hands each its own reply.

    Args:
        send: gives the replies to some requests, in their order.
        most: requests of one bunch.
        parts: replicas among which requests are shared out: a bunch never holds more than its share of those that are
            waiting or away, else one replica would have all of them and the others none.
    """

    def __init__(self, send: Callable[[list[dict[str, Any]]], Awaitable[Sequence[Reply]]], most: int, parts: int = 1):
        """See the class."""
        self.send, self.most, self.parts = send, most, parts
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = []
        self._away = self._flights = self._answered = 0
        self._landed, self._arrived = asyncio.Event(), asyncio.Event()
        self._latest = self._took = 0.0
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive
        self._gathering = False

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; raises what it is refused with. Leaving gives the request up."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._latest = time.monotonic()
        self._arrived.set()
        if not self._gathering:
            self._gathering = True
            self._start(self._gather())
        return await future

    def _start(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _gather(self) -> None:
        """Send everything that waits, bunch by bunch, whenever a replica is free and it is quiet."""
        while self._waiting:
            while self._flights >= self.parts:
                self._landed.clear()
                await self._landed.wait()
            await self._wait_for_more()
            waiting = [(request, future) for request, future in self._waiting if not future.done()]
            share = min(self.most, -(-(len(waiting) + self._away) // self.parts))
            bunch, self._waiting = waiting[:share], waiting[share:]
            if bunch:
                self._send(bunch)
        self._gathering = False

    async def _wait_for_more(self) -> None:
        """Until as many wait as were answered last, it is quiet, or those who wait have waited long enough."""
        until = time.monotonic() + LONGEST_SHARE * self._took
        while len(self._waiting) < self._answered:
            left = min(self._latest + QUIET_SECONDS * self._away, until) - time.monotonic()
            if left <= 0:
                return
            self._arrived.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _send(self, bunch: list[tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]]) -> None:
        requests, futures = [request for request, _ in bunch], [future for _, future in bunch]
        self._away += len(bunch)
        self._flights += 1
        task = self._start(self._carry(requests, futures))
        for future in futures:
            future.add_done_callback(lambda _: _give_up(task, futures))

    async def _carry(self, requests: list[dict[str, Any]], futures: Sequence[asyncio.Future[dict[str, Any]]]) -> None:
        started = time.monotonic()
        try:
            replies = await self.send(requests)
        except Exception as error:
            replies = [error] * len(requests)
        finally:
            self._latest = time.monotonic()
            self._took, self._answered = self._latest - started, len(requests)
            self._away -= len(requests)
            self._flights -= 1
            self._landed.set()
        for future, reply in zip(futures, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)


def _give_up(task: asyncio.Task[None], futures: Sequence[asyncio.Future[dict[str, Any]]]) -> None:
    """Nobody works for a bunch that all have left."""
    if all(future.cancelled() for future in futures):
        task.cancel()
