"""The application on Ray Serve: a gateway that speaks HTTP, and replicas that hold the model.

A replica that dies takes nothing with it: what a request leads to depends on the request alone, so the gateway asks
another replica (or the same, once Serve has started it anew) and goes on where the events stopped. What the gateway
itself loses when it is killed are the connections that it held, and those of the seconds until Serve has started it
anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from dreamrl.serving.app import make_app
from dreamrl.serving.bunches import Bunches, Reply
from dreamrl.serving.limits import LIMITS, OVERLOADED, TOO_SLOW, Limits, Refused
from dreamrl.serving.listener import Listener
from dreamrl.serving.metrics import Metrics

RETRY_SECONDS = 0.25
"""Between two attempts."""
REFUSED = "refused"
"""Key of a reply that stands for a :class:`Refused`; an exception would be wrapped in ones of Ray."""
HEALTH_SECONDS = 10.0
GRACE_SECONDS = 2.0
"""Beyond its time, in which a request is otherwise refused with a better reason."""


class Dreamer:
    """A replica: the model, and the engine that dreams for all requests that reach it."""

    def __init__(self, directory: str, name: str, world: str | None, limits: Limits = LIMITS):
        """Args: the model's ``directory``, what it is called, the ``world`` that is asked about, ``limits``."""
        from dreamrl.process import settle
        from dreamrl.saving import load_pretrained
        from dreamrl.serving.service import Service
        from envs.registry import make_world

        settle()
        if world is not None:
            make_world(world)  # imports a user's own module, which the command line named
        self.service = Service(load_pretrained(Path(directory)), name, world, limits)

    def check_health(self) -> None:
        """Asked by Ray Serve: a replica whose engine has stopped is replaced."""
        if not self.service.engine.alive:
            raise RuntimeError("the engine has stopped")

    async def call(self, method: str, *arguments: dict[str, Any]) -> dict[str, Any]:
        """The reply of one of the service's methods."""
        try:
            return await getattr(self.service, method)(*arguments)
        except Refused as refused:
            return {REFUSED: [refused.status, refused.reason]}

    async def calls(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The replies to several requests for an answer."""
        replies = await self.service.generate_all(requests)
        return [{REFUSED: [r.status, r.reason]} if isinstance(r, Refused) else r for r in replies]

    async def stream(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The service's events."""
        events = self.service.stream(request)
        try:
            async for event in events:
                yield event
        except Refused as refused:
            yield {REFUSED: [refused.status, refused.reason]}
        finally:
            await events.aclose()


class Replicas:
    """The backend of :func:`make_app` behind which replicas answer."""

    def __init__(self, handle: Any, metrics: Metrics, limits: Limits = LIMITS, replicas: int = 1):
        """Args: the deployment's ``handle``, ``metrics`` that count retries, ``limits``, how many ``replicas``."""
        self.handle, self.metrics, self.limits = handle, metrics, limits
        self.bunches = Bunches(self._generate, limits.batch, replicas)

    async def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """See :class:`Service`."""
        try:
            return await asyncio.wait_for(self.bunches.ask(request), self.limits.seconds + GRACE_SECONDS)
        except asyncio.TimeoutError as error:
            raise Refused(TOO_SLOW, f"no answer within {self.limits.seconds:g} seconds; try again later") from error

    async def edit(self, request: dict[str, Any]) -> dict[str, Any]:
        """See :class:`Service`."""
        return await self._call("edit", request)

    async def scene(self, request: dict[str, Any]) -> dict[str, Any]:
        """See :class:`Service`."""
        return await self._call("scene", request)

    async def worlds(self) -> dict[str, Any]:
        """See :class:`Service`."""
        return await self._call("worlds")

    async def health(self) -> dict[str, Any]:
        """See :class:`Service`; no answer within seconds is none."""
        try:
            return await asyncio.wait_for(self._call("health"), HEALTH_SECONDS)
        except asyncio.TimeoutError as error:
            raise Refused(OVERLOADED, f"no replica answered within {HEALTH_SECONDS:g} seconds") from error

    async def stream(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """See :class:`Service`. After a retry, events that were sent before are left out."""
        until, sent = time.monotonic() + self.limits.seconds, 0
        while True:
            response = self.handle.options(stream=True).stream.remote(request)
            number = 0
            try:
                async for event in response:
                    if REFUSED in event:
                        raise Refused(*event[REFUSED])
                    number += 1
                    if number > sent:
                        sent = number
                        yield event
                return
            except (RayError, RayServeException) as error:
                await self._again(error, until)
            finally:
                response.cancel()

    async def _generate(self, requests: list[dict[str, Any]]) -> list[Reply]:
        if len(requests) == 1:
            return [await self._call("generate", *requests)]
        replies = await self._reply(lambda: self.handle.calls.remote(requests), len(requests))
        return [Refused(*reply[REFUSED]) if REFUSED in reply else reply for reply in replies]

    async def _call(self, method: str, *arguments: dict[str, Any]) -> dict[str, Any]:
        reply = await self._reply(lambda: self.handle.call.remote(method, *arguments))
        if REFUSED in reply:
            raise Refused(*reply[REFUSED])
        return reply

    async def _reply(self, ask: Callable[[], Any], requests: int = 1) -> Any:
        """What a replica replies to some ``requests``; another one is asked if it dies."""
        until = time.monotonic() + self.limits.seconds
        while True:
            response = ask()
            try:
                return await response
            except (RayError, RayServeException) as error:
                await self._again(error, until, requests)
            except asyncio.CancelledError:
                response.cancel()
                raise

    async def _again(self, error: Exception, until: float, requests: int = 1) -> None:
        """Wait for the next attempt; raises if ``error`` would come again or time is up."""
        if isinstance(error, RayTaskError):  # raised by our own code
            raise error
        if time.monotonic() > until:
            raise Refused(OVERLOADED, "no replica answers; try again in a moment") from error
        self.metrics.retries += requests
        await asyncio.sleep(RETRY_SECONDS)


class Gateway:
    """Speaks HTTP; checks requests and hands them to the replicas."""

    def __init__(
        self,
        dreamers: Any,
        token_digest: str | None,
        address: tuple[str, int],
        limits: Limits = LIMITS,
        replicas: int = 1,
    ):
        """Listen.

        Args:
            dreamers: handle of the replicas.
            token_digest: :func:`dreamrl.serving.guard.digest` of the token, or None.
            address: host and port.
            limits: of requests.
            replicas: how many there are.
        """
        metrics = Metrics()
        app = make_app(Replicas(dreamers, metrics, limits, replicas), token_digest, metrics, limits)
        self.listener = Listener(app, *address)

    def check_health(self) -> None:
        """Asked by Ray Serve: a gateway that listens no more is replaced."""
        if not self.listener.alive:
            raise RuntimeError("the gateway has stopped listening")

    def __del__(self):
        """Called by Ray Serve when the gateway is to end, and by Python when it could not begin."""
        if hasattr(self, "listener"):
            self.listener.stop()


def application(
    directory: Path,
    name: str,
    world: str | None,
    replicas: int,
    token_digest: str | None,
    address: tuple[str, int],
    limits: Limits = LIMITS,
) -> Any:
    """What ``serve.run`` takes.

    Args:
        directory: of the model.
        name: what clients see.
        world: that is asked about; None: the model's first.
        replicas: processes that hold the model.
        token_digest: of the token; None: no token.
        address: host and port to listen on.
        limits: of requests.
    """
    common: dict[str, Any] = {
        "max_ongoing_requests": limits.requests,
        "graceful_shutdown_timeout_s": 2.0,
        "health_check_period_s": 2.0,
    }
    dreamers = serve.deployment(
        Dreamer, name="Dreamer", num_replicas=replicas, ray_actor_options={"num_cpus": 1}, **common
    ).bind(str(directory), name, world, limits)
    gateway = serve.deployment(Gateway, name="Gateway", num_replicas=1, ray_actor_options={"num_cpus": 0}, **common)
    return gateway.bind(dreamers, token_digest, address, limits, replicas)
