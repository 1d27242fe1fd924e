"""Server-sent events: what a stream of dreams looks like on the wire (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from dreamrl.serving.limits import Refused

HEARTBEAT_SECONDS = 10.0
"""After so long without an event a comment is sent, so that nobody in between takes the line for dead."""
HEARTBEAT = b": still dreaming\n\n"


def as_event(name: str, data: Any) -> bytes:
    r"""One event.

    Example:
        >>> as_event("start", {"dreams": 4})
        b'event: start\ndata: {"dreams":4}\n\n'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return f"event: {name}\ndata: {text}\n\n".encode()


async def event_stream(
    events: AsyncGenerator[dict[str, Any], None], heartbeat: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[bytes, None]:
    """``events``, each a dict with its name under ``event``, as bytes; what goes wrong is the last event, ``error``.

    Closing this closes ``events``, which gives the request up.
    """
    pending: asyncio.Task[Any] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([pending], timeout=heartbeat)
            if not done:
                yield HEARTBEAT
                continue
            event = dict(pending.result())
            pending = None
            yield as_event(event.pop("event"), event)
    except StopAsyncIteration:
        return
    except Refused as refused:
        yield as_event("error", {"error": refused.reason, "status": refused.status})
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Refused):
                await pending
        await events.aclose()
