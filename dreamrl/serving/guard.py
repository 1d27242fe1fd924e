"""Stands before every route: who may ask, in which form, and how much at once.

Without a token only this machine is served, and only under its own names: a page of another site that makes its own
name lead here (DNS rebinding) sends that name as Host and is refused, and so is whatever another site's page posts
(Origin). With a token the name does not matter: no other site knows the token.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from dreamrl.addresses import is_loopback
from dreamrl.serving.limits import (
    BAD_REQUEST,
    FORBIDDEN,
    LIMITS,
    OVERLOADED,
    TOO_LARGE,
    UNAUTHORIZED,
    WRONG_TYPE,
    Limits,
    Refused,
)
from dreamrl.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
BODY_SECONDS = 20.0
"""In which a body must have arrived."""
OPEN_PATHS = ("/", "/web/")
"""The page itself, which holds no secrets, needs no token; it asks for one."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def digest(token: str) -> str:
    """What is kept of a token: enough to know it again."""
    return hashlib.sha256(token.encode()).hexdigest()


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        token_digest: :func:`digest` of the token that clients must send; None: no token, this machine only.
        metrics: counts all requests.
        limits: of a body.
    """

    def __init__(self, app: Any, token_digest: str | None, metrics: Metrics, limits: Limits = LIMITS):
        """See the class."""
        self.app, self.token_digest, self.metrics, self.limits = app, token_digest, metrics, limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 499  # nobody was there to be answered

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        self.metrics.open += 1
        try:
            headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
            self._check(scope, headers)
            if scope["method"] != "POST":
                await self.app(scope, receive, send_guarded)
                return
            if self.metrics.open > self.limits.requests:
                raise Refused(OVERLOADED, f"{self.limits.requests} requests are open already; try again in a moment")
            body = await self._body(headers, receive)
            await _attended(self.app(scope, _replay(body, receive), send_guarded), receive)
        except Refused as refused:
            await _refuse(refused, send_guarded)
        finally:
            self.metrics.open -= 1
            self.metrics.observe(scope["path"], status, time.monotonic() - started)

    def _check(self, scope: Message, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self.token_digest is None and not is_loopback(host):
            raise Refused(FORBIDDEN, f'host "{host[:100]}" is not this machine; open http://127.0.0.1 with the port')
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(FORBIDDEN, f'pages of "{origin[:100]}" may not ask here')
        path = scope["path"]
        if self.token_digest is not None and path != OPEN_PATHS[0] and not path.startswith(OPEN_PATHS[1]):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(digest(token.strip()), self.token_digest):
                raise Refused(UNAUTHORIZED, "send the server's token: Authorization: Bearer TOKEN")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise Refused(WRONG_TYPE, "send JSON with Content-Type: application/json")

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        most = self.limits.body_bytes
        reason = f"the body is larger than {most} bytes"
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise Refused(BAD_REQUEST, "Content-Length is no number")
        if int(length) > most:
            raise Refused(TOO_LARGE, reason)
        body, more, until = b"", True, time.monotonic() + BODY_SECONDS
        while more:
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except asyncio.TimeoutError as error:
                raise Refused(408, f"the body did not arrive within {BODY_SECONDS:g} seconds") from error
            if message["type"] == "http.disconnect":
                raise Refused(BAD_REQUEST, "the client left")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > most:
                raise Refused(TOO_LARGE, reason)
        return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """``receive`` that hands out ``body`` first, and then whatever else comes: that the client has left."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


async def _attended(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Do ``work`` for a request whose body has been read; it ends when the client leaves."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(receive())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait([working, leaving])


async def _refuse(refused: Refused, send: Send) -> None:
    body = json.dumps({"error": refused.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.status == UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status == OVERLOADED:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
